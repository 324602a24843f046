//! People, programs, second factors and second persons, by commands alone.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::binary;
use crate::support::run::{Cmd, Ran};

const FIRST: &str = "a long enough password";
const SECOND: &str = "another long password";

/// `sluice server`; killed when dropped.
pub struct Server {
    child: Child,
    ready: Value,
}

impl Server {
    pub fn start(state: &Path, database: Option<&str>) -> Self {
        let mut command = Command::new(binary::path());
        command.args(["server", "--json", "--listen", "127.0.0.1:0", "--state"]);
        command.arg(state).env("HOME", state).stdin(Stdio::null()).stdout(Stdio::piped());
        if let Some(database) = database {
            command.env("SLUICE_DATABASE", database);
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).expect("it says that it is ready");
        Self { child, ready }
    }

    pub fn word(&self, name: &str) -> &str {
        self.ready[name].as_str().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Somebody at a terminal of their own.
pub struct Person<'s> {
    pub folder: &'s Path,
    pub server: &'s Server,
    pub name: &'static str,
}

impl Person<'_> {
    pub fn file(&self, what: &str) -> PathBuf {
        self.folder.join(format!("{}-{what}", self.name))
    }

    pub fn write(&self, what: &str, text: &str) {
        std::fs::write(self.file(what), format!("{text}\n")).unwrap();
    }

    pub fn cmd(&self, words: &[&str]) -> Cmd {
        Cmd::new(binary::path())
            .env("HOME", self.folder)
            .env("SLUICE_LOGIN", self.file("login.json"))
            .env("SLUICE_PASSWORD_FILE", self.file("password"))
            .env("SLUICE_NEW_PASSWORD_FILE", self.file("new"))
            .env("SLUICE_CODE_FILE", self.file("code"))
            .arg("--json")
            .args(words)
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> Ran {
        self.cmd(words).ok()
    }

    fn login(&self, more: &[&str]) -> Cmd {
        let (url, print) = (self.server.word("url"), self.server.word("fingerprint"));
        let words = ["login", url, "--fingerprint", print, "--user", self.name];
        self.cmd(&[&words[..], more].concat())
    }

    /// The first administrator.
    pub fn set_up(&self) {
        self.write("password", FIRST);
        self.login(&["--setup-token-file", self.server.word("setup_token_file")]).ok();
    }

    /// Makes another administrator, who changes the password and is logged in afterwards.
    fn another<'s>(&'s self, name: &'static str, server: &'s Server) -> Person<'s> {
        let other = Person { folder: self.folder, server, name };
        self.write("new", FIRST);
        self.ok(&["user", "add", name, "--role", "admin"]);
        other.write("password", FIRST);
        other.write("new", SECOND);
        other.login(&[]).ok().says(&["choose another"]);
        other.write("password", SECOND);
        other
    }
}

/// The code of a secret, so many steps from now, by somebody else's hand.
fn code(secret: &str, steps: i32) -> String {
    let script = "import base64,hashlib,hmac,struct,sys,time\n\
        s=sys.argv[1]; k=base64.b32decode(s+'='*(-len(s)%8))\n\
        c=struct.pack('>Q',int(time.time())//30+int(sys.argv[2]))\n\
        h=hmac.new(k,c,hashlib.sha1).digest()\n\
        o=h[-1]&15; print('%06d'%((struct.unpack('>I',h[o:o+4])[0]&0x7fffffff)%10**6))";
    let ran = Command::new("python3").args(["-c", script, secret, &steps.to_string()]).output();
    String::from_utf8(ran.unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn a_password_is_changed_first_and_a_second_factor_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("state"), None);
    let admin = Person { folder: folder.path(), server: &server, name: "admin" };
    admin.set_up();
    let anna = admin.another("anna", &server);
    let told = anna.ok(&["user", "totp", "enrol"]).json();
    let secret = told["secret"].as_str().unwrap();
    anna.write("code", &code(secret, 0));
    let codes = anna.ok(&["user", "totp", "confirm"]).json()["recovery_codes"].clone();
    anna.login(&[]).fails(1);
    // The next one: that of now is used up. Should the clock move on meanwhile, both are good.
    anna.write("code", &code(secret, 1));
    anna.login(&[]).ok();
    anna.write("code", codes[3].as_str().unwrap());
    anna.login(&[]).ok();
    let sessions = anna.ok(&["user", "session", "list"]).json();
    assert_eq!(sessions["items"].as_array().unwrap().len(), 3);
    let first = sessions["items"][0]["id"].as_str().unwrap();
    anna.ok(&["user", "session", "end", first]);
    let users = admin.ok(&["user", "list"]).json();
    let of_anna = users["items"].as_array().unwrap().iter().find(|one| one["login"] == "anna");
    assert_eq!(of_anna.unwrap()["second_factor"], true);
    // What people see has the secret as a picture, and nothing of it is left in files.
    admin.ok(&["user", "totp", "disable", "anna"]);
    anna.cmd(&["user", "list"]).fails(1);
    anna.login(&[]).ok();
    anna.ok(&["user", "list"]);
    // Passkeys are made by browsers; there are none to be seen to.
    assert_eq!(anna.ok(&["user", "passkey", "list"]).json()["items"], json!([]));
    let told = anna.cmd(&["user", "passkey", "rename", "laptop", "old laptop"]).fails(1).json();
    assert_eq!(told["error"]["message"], "you have no passkey laptop");
    let told = admin.cmd(&["user", "passkey", "remove", "--user", "anna"]).fails(1).json();
    assert!(told["error"]["message"].as_str().unwrap().contains("no such passkey"), "{told}");
}

#[test]
fn groups_and_programs_have_roles() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("state"), None);
    let admin = Person { folder: folder.path(), server: &server, name: "admin" };
    admin.set_up();
    admin.ok(&["project", "set", "shop"]);
    admin.ok(&["user", "add", "ci", "--service"]);
    admin.ok(&["group", "set", "team", "--member", "ci", "--role", "viewer@shop"]);
    let token = admin.ok(&["user", "token", "add", "nightly", "--user", "ci"]).json();
    let login = json!({"server": server.word("url"), "fingerprint": server.word("fingerprint"),
        "token": token["token"]});
    std::fs::write(folder.path().join("ci-login.json"), login.to_string()).unwrap();
    let program = Person { folder: folder.path(), server: &server, name: "ci" };
    let seen = program.ok(&["project", "list"]).json();
    assert_eq!(seen["items"][0]["name"], "shop");
    program.cmd(&["project", "remove", "shop"]).fails(1);
    admin.ok(&["group", "set", "team"]);
    program.cmd(&["project", "list"]).fails(1);
    let group = admin.ok(&["group", "show", "team"]).json();
    assert_eq!((&group["revision"], &group["members"]), (&2.into(), &json!([])));
    admin.cmd(&["user", "grant", "ci", "king@shop"]).fails(2);
    admin.ok(&["group", "remove", "team"]);
    admin.ok(&["user", "remove", "ci"]);
}

/// A database of its own on the lab's PostgreSQL.
fn database() -> Option<String> {
    if std::env::var("SLUICE_SKIP_POSTGRES").is_ok_and(|skip| skip == "1") {
        eprintln!("skipped: SLUICE_SKIP_POSTGRES=1");
        return None;
    }
    let up = Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/postgres/postgres-up");
    let ran = Command::new(up).output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let env = std::fs::read_to_string(String::from_utf8(ran.stdout).unwrap().trim()).unwrap();
    let server = env.split('\'').nth(1).unwrap();
    let name = format!("access_{}", std::process::id());
    for sql in [format!("DROP DATABASE IF EXISTS {name}"), format!("CREATE DATABASE {name}")] {
        Cmd::new("psql").args([server, "-qc", &sql]).ok();
    }
    Some(format!("{}/{name}", server.rsplit_once('/').unwrap().0))
}

#[test]
fn two_people_at_two_servers_approve_once() {
    let Some(database) = database() else { return };
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let first = Server::start(&one, Some(&database));
    let admin = Person { folder: folder.path(), server: &first, name: "admin" };
    admin.set_up();
    std::fs::create_dir(&two).unwrap();
    // Servers of one database have one key for its secrets.
    std::fs::copy(one.join("secrets.key"), two.join("secrets.key")).unwrap();
    let second = Server::start(&two, Some(&database));
    let anna = admin.another("anna", &first);
    let otto = admin.another("otto", &second);
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, "approvals: {actions: [remove-project]}\n").unwrap();
    admin.ok(&["access", "set", "--spec", rules.to_str().unwrap()]);
    for round in 0..5 {
        let name = format!("shop-{round}");
        admin.ok(&["project", "set", &name]);
        let told = admin.ok(&["project", "remove", &name]).json();
        assert_eq!(told["change"], "waits", "{told}");
        let id = told["approval"].as_str().unwrap();
        admin.cmd(&["approval", "approve", id]).fails(1);
        let approve = ["approval", "approve", id, "--reason", "fine"];
        let both = [anna.cmd(&approve).spawn(), otto.cmd(&approve).spawn()].map(|one| one.wait());
        let done = both.iter().filter(|ran| ran.json()["state"] == "done").count();
        // Whoever comes right behind the first may be shown what came of it.
        assert!(done >= 1, "{} {}", both[0].text(), both[1].text());
        let shown = admin.ok(&["approval", "show", id]).json();
        assert_eq!(shown["state"], "done", "{shown}");
        admin.cmd(&["project", "show", &name]).fails(1);
    }
    let login: Value =
        serde_json::from_slice(&std::fs::read(admin.file("login.json")).unwrap()).unwrap();
    let header =
        format!("header = \"Authorization: Bearer {}\"\n", login["token"].as_str().unwrap());
    let url = format!("{}/api/v1/audit?limit=1000", first.word("url"));
    let audit = Cmd::new("curl").args(["-skK-", &url]).input(header).ok().json();
    let many = |action: &str| {
        audit["items"].as_array().unwrap().iter().filter(|row| row["action"] == action).count()
    };
    assert_eq!((many("project.remove"), many("approval.approve")), (5, 5), "each once");
    assert_eq!(many("approval.fail"), 0);
    drop((first, second));
    let name = database.rsplit_once('/').unwrap();
    let server = format!("{}/postgres", name.0);
    Cmd::new("psql").args([&server, "-qc", &format!("DROP DATABASE {}", name.1)]).ok();
}

#[test]
fn a_role_on_one_instance_shows_that_one() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("state"), None);
    let admin = Person { folder: folder.path(), server: &server, name: "admin" };
    admin.set_up();
    admin.ok(&["project", "set", "shop"]);
    for name in ["shop/web-1", "shop/web-2"] {
        admin.ok(&["instance", "set", name, "--disk", "/images/disk.raw"]);
    }
    let role = "operator@instance:shop/web-1";
    admin.ok(&["user", "add", "ci", "--service", "--role", role]);
    let users = admin.cmd(&["user", "list"]).ok().json();
    let grants = &users["items"][1]["grants"];
    assert_eq!((&grants[0]["role"], &grants[0]["project"]), (&json!("operator"), &Value::Null));
    assert_eq!(grants[0]["resource"]["kind"], "instance");
    let token = admin.ok(&["user", "token", "add", "nightly", "--user", "ci"]).json();
    let login = json!({"server": server.word("url"), "fingerprint": server.word("fingerprint"),
        "token": token["token"]});
    std::fs::write(folder.path().join("ci-login.json"), login.to_string()).unwrap();
    let program = Person { folder: folder.path(), server: &server, name: "ci" };
    let seen = program.ok(&["instance", "list"]).json();
    let names: Vec<&Value> =
        seen["items"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert_eq!(names, ["web-1"]);
    // Its project has a name, and is not there otherwise.
    assert_eq!(seen["items"][0]["project_name"], "shop");
    program.ok(&["instance", "show", "shop/web-1"]);
    program.cmd(&["instance", "show", "shop/web-2"]).fails(1);
    program.cmd(&["instance", "remove", "shop/web-1"]).fails(1);
    program.cmd(&["project", "show", "shop"]).fails(1);
    // Files name roles as people do, and are told them so.
    let spec = folder.path().join("company.yaml");
    let text = format!(
        "via: {{kind: oidc, issuer: 'https://id.example.org', client_id: x}}\n\
         mappings: [{{group: web, roles: ['{role}']}}]\n"
    );
    std::fs::write(&spec, text).unwrap();
    admin.ok(&["identity-provider", "set", "company", "--spec", spec.to_str().unwrap()]);
    let kept = admin.ok(&["config", "export"]).json();
    let roles = &kept["identity-providers"]["company"]["mappings"][0]["roles"];
    assert_eq!(roles, &json!([role]));
    admin.cmd(&["user", "grant", "ci", "operator@instance:shop/web-3"]).fails(1);
    admin.ok(&["user", "grant", "ci", "viewer@shop"]);
    assert_eq!(program.ok(&["instance", "list"]).json()["items"].as_array().unwrap().len(), 2);
}

#[test]
fn a_file_makes_identity_providers_after_what_their_mappings_name() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(&folder.path().join("state"), None);
    let admin = Person { folder: folder.path(), server: &server, name: "admin" };
    admin.set_up();
    let file = folder.path().join("config.yaml");
    let text = "identity-providers:\n  company:\n    \
        via: {kind: oidc, issuer: 'https://id.example.org', client_id: x}\n    mappings:\n    \
        - {group: all, roles: [viewer@shop]}\n    \
        - {group: web, roles: ['operator@instance:shop/web-1', 'operator@plan:shop/flood']}\n\
        plans:\n  shop/flood: {groups: []}\n\
        instances:\n  shop/web-1: {source: {kind: device, path: /dev/x}}\n\
        projects:\n  shop:\n";
    std::fs::write(&file, text).unwrap();
    let apply =
        |more: &[&str]| admin.cmd(&[&["apply", "-f", file.to_str().unwrap()][..], more].concat());
    let told = |ran: Value| -> Vec<(String, String)> {
        let changes = ran["changes"].as_array().unwrap();
        let word = |one: &Value, name: &str| one[name].as_str().unwrap().to_owned();
        changes.iter().map(|one| (word(one, "kind"), word(one, "change"))).collect()
    };
    let all = |change: &str| {
        ["projects", "instances", "plans", "identity-providers"]
            .map(|kind| (kind.to_owned(), change.to_owned()))
    };
    // Nothing is there yet, and looking makes nothing.
    for _ in 0..2 {
        assert_eq!(told(apply(&["--plan"]).ok().json()), all("created"));
    }
    assert_eq!(told(apply(&[]).ok().json()), all("created"));
    assert_eq!(told(apply(&["--check"]).ok().json()), all("unchanged"));
    let kept = admin.ok(&["config", "export"]).json();
    let mappings = &kept["identity-providers"]["company"]["mappings"];
    assert_eq!(mappings[0]["roles"], json!(["viewer@shop"]));
    let roles = json!(["operator@instance:shop/web-1", "operator@plan:shop/flood"]);
    assert_eq!(mappings[1]["roles"], roles);
    // What is no role is none, whatever is made first.
    std::fs::write(&file, text.replace("viewer@shop", "owner@shop")).unwrap();
    apply(&["--plan"]).fails(2);
}

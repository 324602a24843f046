//! Logging in with the names and passwords of a real directory.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;
use tempfile::TempDir;

use crate::support::{Lab, make, status};

const PEOPLE: &str = "ou=people,dc=example,dc=org";
const GROUPS: &str = "ou=groups,dc=example,dc=org";

#[path = "../../../tests/lab/ldap/directory.rs"]
mod directory;

#[path = "../../../tests/lab/port.rs"]
mod port;

/// A directory that ends with the test.
struct Directory {
    own: directory::Directory,
    _folder: TempDir,
}

impl std::ops::Deref for Directory {
    type Target = directory::Directory;

    fn deref(&self) -> &Self::Target {
        &self.own
    }
}

impl Directory {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/lab/ldap");
        let ports = [port::free(), port::free()];
        let own = directory::Directory::start(&lab, folder.path().join("directory"), ports);
        Self { own, _folder: folder }
    }

    fn plain(&self) -> String {
        format!("ldap://localhost:{}", self.port)
    }

    fn spec(&self) -> Value {
        let via = json!({"kind": "ldap", "urls": [self.tls()], "ca": self.certificate("ca.pem"),
            "bind_dn": "cn=search,dc=example,dc=org", "user_base": PEOPLE});
        json!({"via": via, "create_users": true})
    }

    /// The same, with groups that are looked for.
    fn spec_by_search(&self) -> Value {
        let mut spec = self.spec();
        spec["via"]["groups"] = json!({"from": "search", "base": GROUPS});
        spec
    }

    /// Changes what is in it.
    fn change(&self, program: &str, ldif: &str) {
        let mut ran = Command::new(program)
            .args(["-x", "-H", &format!("ldap://127.0.0.1:{}", self.port)])
            .args(["-D", "cn=root,dc=example,dc=org", "-w", "secret of root"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .expect("the package ldap-utils is installed");
        ran.stdin.take().unwrap().write_all(ldif.as_bytes()).unwrap();
        assert!(ran.wait().unwrap().success(), "{ldif}");
    }

    /// Puts somebody out of a group.
    fn put_out(&self, user: &str, group: &str) {
        self.change(
            "ldapmodify",
            &format!(
                "dn: cn={group},{GROUPS}\nchangetype: modify\ndelete: member\n\
                 member: uid={user},{PEOPLE}\n"
            ),
        );
    }
}

fn grant(role: &str) -> Value {
    json!([{"role": role, "project": null}])
}

/// A record of a directory, with the password of who searches.
async fn record(admin: &Client, name: &str, spec: &Value) -> String {
    let id = make(admin, "identity-providers", json!({"name": name, "spec": spec})).await;
    let path = format!("/api/v1/identity-providers/{id}/secret");
    let secret = json!({"secret": "secret of search"});
    admin.send(Method::PUT, &path, Some(&secret), &[]).await.unwrap();
    id
}

async fn try_login(
    lab: &Lab,
    provider: &str,
    login: &str,
    password: &str,
) -> Result<Client, (u16, String)> {
    let body = json!({"provider": provider, "login": login, "password": password});
    let told = lab.anybody.post::<Value>("/api/v1/directory-logins", &body).await;
    let session = told.map_err(|error| (error.status().unwrap(), error.to_string()))?;
    Ok(lab.anybody.clone().with_token(session["token"].as_str().unwrap()))
}

/// Logs in with the right password.
async fn login(lab: &Lab, provider: &str, login: &str) -> Result<Client, (u16, String)> {
    try_login(lab, provider, login, &format!("secret of {login}")).await
}

async fn refused(lab: &Lab, provider: &str, login: &str, password: &str) -> (u16, String) {
    try_login(lab, provider, login, password).await.map(drop).unwrap_err()
}

async fn me(client: &Client) -> (String, String) {
    let me: Value = client.get("/api/v1/me").await.unwrap();
    let roles = me["grants"].as_array().unwrap().iter().map(|grant| grant["role"].as_str());
    let mut roles: Vec<&str> = roles.flatten().collect();
    roles.sort_unstable();
    (me["login"].as_str().unwrap().to_owned(), roles.join(" "))
}

/// What the log says of refused logins, the last one first.
async fn refusals(admin: &Client) -> Vec<(String, String)> {
    let log: Value = admin.get("/api/v1/audit?limit=1000").await.unwrap();
    let items = log["items"].as_array().unwrap().iter();
    let refused = items.filter(|entry| entry["action"] == "session.refused");
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    refused.map(|entry| (text(&entry["actor"]), text(&entry["detail"]["why"]))).collect()
}

async fn test(admin: &Client, id: &str, body: Value) -> Value {
    admin.post(&format!("/api/v1/identity-providers/{id}/test"), &body).await.unwrap()
}

/// What was tried, and whether it went well: `connect tls bind! ...`.
fn steps(tried: &Value) -> String {
    let steps = tried["steps"].as_array().unwrap().iter();
    let words = steps.map(|step| {
        let sign = if step["ok"] == true { "" } else { "!" };
        format!("{}{sign}", step["step"].as_str().unwrap())
    });
    words.collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn groups_of_the_directory_say_what_one_may_each_time_anew() {
    let directory = Directory::start();
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let group = make(&admin, "groups", json!({"name": "g", "grants": grant("operator")})).await;
    let mut spec = directory.spec();
    spec["mappings"] = json!([
        {"group": format!("CN=Backup-Admins, {GROUPS}"), "grants": grant("admin"),
            "groups": [group]},
        {"group": format!("cn=staff,{GROUPS}"), "grants": grant("viewer")}]);
    let of_user = record(&admin, "of-user", &spec).await;
    let anna = login(&lab, "of-user", "anna").await.unwrap();
    assert_eq!(me(&anna).await, ("anna".into(), "admin operator viewer".into()));
    // His group of that name is another one.
    let otto = login(&lab, "of-user", "otto").await.unwrap();
    assert_eq!(me(&otto).await, ("otto".into(), "viewer".into()));
    directory.put_out("anna", "backup-admins");
    let again = login(&lab, "of-user", "anna").await.unwrap();
    assert_eq!(me(&again).await.1, "viewer");
    assert_eq!(me(&anna).await.1, "viewer", "what one may is of the user");

    // Who is gone from the directory cannot log in; sessions last until they are ended.
    directory.change("ldapdelete", &format!("uid=anna,{PEOPLE}\n"));
    assert_eq!(refused(&lab, "of-user", "anna", "secret of anna").await.0, 401);
    assert_eq!(me(&again).await.0, "anna");
    let users: Value = admin.get("/api/v1/users").await.unwrap();
    let users = users["items"].as_array().unwrap();
    let found = users.iter().find(|user| user["login"] == "anna").unwrap();
    assert_eq!(found["provider"], of_user.as_str());
    let path = format!("/api/v1/users/{}/sessions", found["id"].as_str().unwrap());
    admin.send(Method::DELETE, &path, None, &[]).await.unwrap();
    assert_eq!(status(&again.get::<Value>("/api/v1/me").await), 401);
    // Somebody new of the same name is somebody else.
    directory.change(
        "ldapadd",
        &format!(
            "dn: uid=anna,{PEOPLE}\nobjectClass: inetOrgPerson\ncn: a\nsn: a\nuid: anna\n\
             userPassword: secret of anna\n"
        ),
    );
    let told = refused(&lab, "of-user", "anna", "secret of anna").await;
    assert!(told.0 == 401 && told.1.contains("another user"), "{}", told.1);
}

#[tokio::test]
async fn groups_are_found_by_their_members_too() {
    let directory = Directory::start();
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let mut spec = directory.spec_by_search();
    spec["only_mapped"] = json!(true);
    spec["mappings"] = json!([{"group": "Staff", "grants": grant("viewer")},
        {"group": "backup-admins", "grants": grant("admin")}]);
    record(&admin, "lab", &spec).await;
    assert_eq!(me(&login(&lab, "lab", "anna").await.unwrap()).await.1, "admin viewer");
    // A group that lies elsewhere is not one of those.
    assert_eq!(me(&login(&lab, "lab", "otto").await.unwrap()).await.1, "viewer");
    // His name has all that could mean something in a filter, and in a name.
    let eve = try_login(&lab, "lab", "eve,x(*)\\", "secret of eve").await.unwrap();
    assert_eq!(me(&eve).await, ("eve,x(*)\\".into(), "viewer".into()));
    directory.put_out("otto", "staff");
    let told = refused(&lab, "lab", "otto", "secret of otto").await;
    assert!(told.0 == 401 && told.1.contains("no group"), "{}", told.1);
}

#[tokio::test]
async fn only_a_name_and_its_password_let_in() {
    let directory = Directory::start();
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let id = record(&admin, "lab", &directory.spec()).await;
    // The directory itself lets in names without a password.
    let cases = [
        ("anna", ""),
        ("anna", "wrong"),
        ("anna", "\0"),
        ("nobody", "secret of anna"),
        ("*", "secret of anna"),
        ("ann*", "secret of anna"),
        ("anna)(uid=*", "secret of anna"),
        ("*)(|(uid=anna", "secret of anna"),
        ("\\61nna", "secret of anna"),
        ("anna\0", "secret of anna"),
        ("", ""),
        ("twin", "secret of twin1"),
    ];
    let mut answers = Vec::new();
    for (login, password) in cases {
        answers.push(refused(&lab, "lab", login, password).await);
    }
    assert!(
        answers.iter().all(|one| one == &answers[0]),
        "which was wrong is not told: {answers:?}"
    );
    assert_eq!(answers[0].0, 401);
    let log = refusals(&admin).await;
    assert_eq!(log.len(), cases.len());
    assert!(log.iter().any(|(_, why)| why.contains("several")), "{log:?}");
    assert!(log.iter().all(|(actor, _)| actor == "?"), "a name may be a password: {log:?}");
    assert!(!format!("{log:?}").contains("secret of"));
    // One person, whichever name is typed.
    let otto = try_login(&lab, "lab", "Ottokar", "secret of otto").await.unwrap();
    let same = try_login(&lab, "lab", "otto", "secret of otto").await.unwrap();
    let ids = [&otto, &same].map(|one| one.get::<Value>("/api/v1/me"));
    let [one, two] = ids;
    assert_eq!(one.await.unwrap()["id"], two.await.unwrap()["id"]);
    let body = json!({"login": "ottokar", "password": "secret of otto"});
    assert_eq!(status(&lab.anybody.post::<Value>("/api/v1/sessions", &body).await), 401);
    // A name of a user here is not enough, and a login of another kind is none.
    directory.change(
        "ldapadd",
        &format!(
            "dn: uid=admin,{PEOPLE}\nobjectClass: inetOrgPerson\ncn: a\nsn: a\nuid: admin\n\
             userPassword: secret of admin\n"
        ),
    );
    let told = refused(&lab, "lab", "admin", "secret of admin").await;
    assert!(told.0 == 401 && told.1.contains("another user"), "{}", told.1);
    let body = json!({"provider": "lab", "redirect_uri": "http://127.0.0.1:9/callback"});
    assert_eq!(status(&lab.anybody.post::<Value>("/api/v1/oidc-logins", &body).await), 422);
    let ways: Value = lab.anybody.get("/api/v1/login-providers").await.unwrap();
    assert_eq!(ways, json!([{"name": "lab", "kind": "ldap"}]));
    // Neither the record nor the log has the password of who searches.
    let record: Value = admin.get(&format!("/api/v1/identity-providers/{id}")).await.unwrap();
    let log: Value = admin.get("/api/v1/audit?limit=1000").await.unwrap();
    assert!(!format!("{record} {log}").contains("secret of"));
}

#[tokio::test]
async fn guessing_becomes_slow_however_the_name_is_written() {
    let directory = Directory::start();
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    record(&admin, "lab", &directory.spec()).await;
    // The directory takes all of these for one name: wide letters, narrow ones and blanks.
    let wide = ['\u{ff41}', '\u{ff4e}', '\u{ff4e}', '\u{ff41}'];
    let mut told = Vec::new();
    for pattern in 0..16 {
        let letters = "anna".chars().zip(wide).enumerate();
        let name = letters.map(|(at, (narrow, wide))| match pattern >> at & 1 {
            0 => narrow,
            _ => wide,
        });
        told.push(refused(&lab, "lab", &name.collect::<String>(), "wrong").await.0);
    }
    assert_eq!(told[..5], [401; 5]);
    assert!(told.contains(&429), "{told:?}");
    let log = refusals(&admin).await;
    assert!(log.iter().all(|(_, why)| why.contains("uid=anna") || why.contains("wait")), "{log:?}");
    login(&lab, "lab", "otto").await.unwrap();
}

#[tokio::test]
async fn servers_are_asked_until_one_answers() {
    let directory = Directory::start();
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    // Nobody listens at the first, and the second says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = format!("ldaps://localhost:{}", port::free());
    let hanging = format!("ldaps://localhost:{}", silent.local_addr().unwrap().port());
    let mut spec = directory.spec();
    spec["via"]["timeout_seconds"] = json!(3);
    spec["via"]["urls"] = json!([closed, hanging, directory.tls()]);
    let id = record(&admin, "lab", &spec).await;
    login(&lab, "lab", "anna").await.unwrap();
    let tried = test(&admin, &id, json!({})).await;
    assert_eq!(steps(&tried), "connect! connect tls! connect tls bind user");
    assert_eq!(tried["ok"], false, "not all of them answer");
    let tried = test(&admin, &id, json!({"login": "anna", "password": "secret of anna"})).await;
    let all = "connect! connect tls! connect tls bind user password groups mapping";
    assert_eq!((steps(&tried), &tried["ok"]), (all.to_owned(), &json!(true)));
    assert!(!tried.to_string().contains("secret of"));
    // A wrong password is shown to one server only.
    spec["via"]["urls"] = json!([directory.tls(), directory.tls()]);
    let twice = record(&admin, "twice", &spec).await;
    let tried = test(&admin, &twice, json!({"login": "anna", "password": "x"})).await;
    assert_eq!(steps(&tried), "connect tls bind user password!");
    // Without any of them nobody gets in, and who tries is not blamed for it.
    spec["via"]["urls"] = json!([closed, closed]);
    record(&admin, "down", &spec).await;
    for _ in 0..6 {
        let told = refused(&lab, "down", "anna", "secret of anna").await;
        assert_eq!(told.0, 424);
        assert!(!told.1.contains("localhost"), "{}", told.1);
    }
    let (_, why) = refusals(&admin).await.into_iter().find(|(_, why)| why.contains("; ")).unwrap();
    assert!(why.contains(&closed), "{why}");
}

#[tokio::test]
async fn passwords_are_shown_to_the_right_server_only() {
    let directory = Directory::start();
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let of = async |name: &str, change: &dyn Fn(&mut Value)| {
        let mut spec = directory.spec();
        change(&mut spec["via"]);
        let id = record(&admin, name, &spec).await;
        let body = json!({"login": "anna", "password": "secret of anna"});
        steps(&test(&admin, &id, body).await)
    };
    let rest = "bind user password groups mapping";
    let told = of("tls", &|_| ()).await;
    assert_eq!(told, format!("connect tls {rest}"));
    let told = of("start-tls", &|via| via["urls"] = json!([directory.plain()])).await;
    assert_eq!(told, format!("connect start-tls tls {rest}"));
    let told = of("plain", &|via| {
        via["urls"] = json!([directory.plain()]);
        via["plaintext"] = json!(true);
    })
    .await;
    assert_eq!(told, format!("connect {rest}"));
    let told = of("other-ca", &|via| via["ca"] = json!(directory.certificate("other.pem"))).await;
    assert_eq!(told, "connect tls!");
    let told = of("no-ca", &|via| via["ca"] = json!("")).await;
    assert_eq!(told, "connect tls!");
    let url = format!("ldaps://127.0.0.1:{}", directory.tls_port);
    let told = of("other-name", &|via| via["urls"] = json!([url])).await;
    assert_eq!(told, "connect tls!");
    let told = of("start-tls-other-ca", &|via| {
        via["urls"] = json!([directory.plain()]);
        via["ca"] = json!(directory.certificate("other.pem"));
    })
    .await;
    assert_eq!(told, "connect start-tls tls!");
    let told = of("no-tls-there", &|via| {
        via["urls"] = json!([format!("ldaps://localhost:{}", directory.port)]);
    })
    .await;
    assert_eq!(told, "connect tls!");
    for name in ["tls", "start-tls", "plain"] {
        login(&lab, name, "anna").await.map(drop).unwrap_or_else(|told| {
            // One provider has made her; for the others she is somebody else.
            assert!(told.1.contains("another user"), "{}", told.1);
        });
    }
    assert_eq!(refused(&lab, "other-ca", "anna", "secret of anna").await.0, 424);
}

#[tokio::test]
async fn what_is_wrong_with_a_directory_is_told_step_by_step() {
    let directory = Directory::start();
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let of = async |name: &str, body: Value, change: &dyn Fn(&mut Value)| {
        let mut spec = directory.spec_by_search();
        change(&mut spec);
        let id = record(&admin, name, &spec).await;
        let tried = test(&admin, &id, body).await;
        assert_eq!(tried["ok"], false, "{name}");
        let last = tried["steps"].as_array().unwrap().last().unwrap();
        (steps(&tried), last["detail"].as_str().unwrap().to_owned())
    };
    let anna = || json!({"login": "anna"});
    let told = of("a", json!({}), &|spec| spec["via"]["bind_dn"] = json!("cn=no,dc=x")).await;
    assert!(told.0 == "connect tls bind!" && told.1.contains("bind_dn"), "{told:?}");
    let far = "ou=no,dc=example,dc=org";
    let told = of("b", json!({}), &|spec| spec["via"]["user_base"] = json!(far)).await;
    assert!(told.0 == "connect tls bind user!" && told.1.contains("result 32"), "{told:?}");
    let told = of("c", json!({}), &|spec| spec["via"]["groups"]["base"] = json!("dc=no")).await;
    assert_eq!(told.0, "connect tls bind user groups!");
    let told = of("d", json!({"login": "nobody"}), &|_| ()).await;
    assert!(told.0 == "connect tls bind user!" && told.1.contains("nobody there"), "{told:?}");
    let told = of("e", anna(), &|spec| spec["via"]["id_attribute"] = json!("objectGUID")).await;
    assert!(told.0 == "connect tls bind user!" && told.1.contains("objectGUID"), "{told:?}");
    let told = of("f", anna(), &|spec| spec["via"]["name_attribute"] = json!("mail")).await;
    assert!(told.0 == "connect tls bind user!" && told.1.contains("mail"), "{told:?}");
    let told = of("g", anna(), &|spec| spec["only_mapped"] = json!(true)).await;
    assert_eq!(told.0, "connect tls bind user groups mapping!");
    let told = of("h", json!({"login": "anna", "password": ""}), &|_| ()).await;
    assert_eq!(told.0, "user!");

    // Without the password of who searches nothing is asked; an empty one is not taken.
    let spec = directory.spec();
    let id = make(&admin, "identity-providers", json!({"name": "bare", "spec": spec})).await;
    let tried = test(&admin, &id, anna()).await;
    assert_eq!(steps(&tried), "connect tls bind!");
    let path = format!("/api/v1/identity-providers/{id}/secret");
    let empty = json!({"secret": ""});
    assert_eq!(status(&admin.send(Method::PUT, &path, Some(&empty), &[]).await), 422);
    // What cannot be is refused at once; and what would make others of its users.
    for (name, value) in [
        ("user_filter", json!("(uid={username}")),
        ("user_filter", json!("(uid=anna)")),
        ("urls", json!(["https://localhost"])),
        ("ca", json!("nonsense")),
    ] {
        let mut spec = directory.spec();
        spec["via"][name] = value;
        let body = json!({"name": "bad", "spec": spec});
        let told = admin.post::<Value>("/api/v1/identity-providers", &body).await;
        assert_eq!(status(&told), 422, "{name}");
    }
    let id = record(&admin, "lab", &directory.spec()).await;
    let anna = login(&lab, "lab", "anna").await.unwrap();
    let path = format!("/api/v1/identity-providers/{id}");
    let mut spec = directory.spec();
    spec["via"]["id_attribute"] = json!("uid");
    let change = json!({"name": "lab", "spec": spec});
    let based = [("if-match", "\"1\"")];
    assert_eq!(status(&admin.send(Method::PUT, &path, Some(&change), &based).await), 409);
    // Another server of the same directory may be named; sessions end.
    let mut spec = directory.spec();
    spec["via"]["urls"] = json!([directory.plain(), directory.tls()]);
    let change = json!({"name": "lab", "spec": spec});
    admin.send(Method::PUT, &path, Some(&change), &based).await.unwrap();
    assert_eq!(status(&anna.get::<Value>("/api/v1/me").await), 401);
    login(&lab, "lab", "anna").await.unwrap();
}

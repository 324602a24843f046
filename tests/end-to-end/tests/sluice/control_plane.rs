//! The control plane by its commands alone: server, node and destination on one machine.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::binary;
use crate::support::disk;
use crate::support::port;
use crate::support::run::{Cmd, Ran, wait_until};

/// `sluice up` with a folder of its own; killed when dropped.
pub struct Up {
    child: Child,
    pub ready: Value,
}

impl Up {
    pub fn start(place: &Place) -> Self {
        Self::start_in(place, &[])
    }

    /// The same, with more in its environment.
    pub fn start_in(place: &Place, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary::path())
            .args(["up", "--json", "--lease", "30s", "--state"])
            .arg(&place.state)
            .args(["--listen", &format!("127.0.0.1:{}", place.port)])
            .env("HOME", place.folder.path())
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line).expect("it says that it is ready");
        Self { child, ready }
    }

    /// Ends it as a power cut would.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub struct Place {
    folder: tempfile::TempDir,
    pub state: PathBuf,
    port: u16,
}

impl Place {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        // Nobody else is given it while we start again and again.
        Self { folder, state, port: port::free() }
    }

    /// What is `HOME` to all that runs here.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    pub fn cmd(&self, words: &[&str]) -> Cmd {
        self.plain(&["--json"]).args(words)
    }

    /// The same with the output that people see.
    pub fn plain(&self, words: &[&str]) -> Cmd {
        Cmd::new(binary::path())
            .env("HOME", self.folder.path())
            .env("SLUICE_LOGIN", self.path("login.json"))
            .env("SLUICE_PASSWORD_FILE", self.path("password"))
            .args(words)
    }

    #[track_caller]
    pub fn ok(&self, words: &[&str]) -> Ran {
        self.cmd(words).ok()
    }

    pub fn log_in(&self, up: &Up) {
        self.write("password", "a long enough password\n");
        let word = |name: &str| up.ready[name].as_str().unwrap().to_owned();
        let words = ["login", &word("url"), "--fingerprint", &word("fingerprint")];
        let token = word("setup_token_file");
        let more = ["--user", "admin", "--setup-token-file", &token];
        self.ok(&[&words[..], &more[..]].concat());
    }

    /// Tasks of a kind that were done.
    pub fn done(&self, kind: &str) -> Vec<Value> {
        let tasks = self.ok(&["task", "list", "--state", "succeeded"]).json();
        let items = tasks["items"].as_array().unwrap().clone();
        items.into_iter().filter(|task| task["kind"] == kind).collect()
    }

    /// Makes `shop/web` and the policy `shop/often` that backs it up each two seconds, and returns
    /// what it says.
    pub fn back_up_often(&self, image: &Path, keep: Value) -> Value {
        self.ok(&["project", "set", "shop"]);
        self.ok(&["instance", "set", "shop/web", "--disk", text(image), "--tag", "gold"]);
        let policy = json!({
            "assign": {"tags": ["gold"]},
            "rules": [{
                "name": "main",
                "destination": "local",
                "keep": keep,
                "schedules": [{"name": "often", "when": {"kind": "every", "seconds": 2}}],
            }],
        });
        let spec = self.write("policy.json", &policy.to_string());
        let set = self.ok(&["policy", "set", "shop/often", "--spec", text(&spec)]).json();
        assert_eq!(set["change"], "created");
        policy
    }

    /// Whether no task is left to do.
    pub fn is_idle(&self) -> bool {
        let none = |state| {
            let tasks = self.ok(&["task", "list", "--state", state]).json();
            tasks["items"].as_array().unwrap().is_empty()
        };
        none("queued") && none("running")
    }

    /// A command on the repository itself, with no server, that succeeds.
    pub fn repository(&self, words: &[&str]) -> Ran {
        self.on_repository(words).ok()
    }

    /// The same, whatever comes of it.
    pub fn on_repository(&self, words: &[&str]) -> Cmd {
        Cmd::new(binary::path())
            .env("HOME", self.folder.path())
            .env("SLUICE_REPO", self.state.join("repository"))
            .env("SLUICE_PASSPHRASE_FILE", self.state.join("local-passphrase"))
            .arg("--json")
            .args(words)
    }
}

pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn backups_happen_by_policy_and_go_on_after_the_server_was_killed() {
    let place = Place::new();
    let image = place.path("disk.raw");
    disk::sample(&image);
    let up = Up::start(&place);
    place.cmd(&["project", "list"]).fails(1);
    place.log_in(&up);
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.state), 0o700);
    assert_eq!(mode(&place.state.join("catalog.sqlite")), 0o600);

    let policy = place.back_up_often(&image, json!({"last": 2}));

    wait_until("two backups", || place.done("backup").len() >= 2);
    wait_until("a prune", || !place.done("prune").is_empty());
    let before = place.done("backup").len();
    up.kill();
    let up = Up::start(&place);
    assert_eq!(up.ready["setup_token_file"], Value::Null, "it is set up");
    wait_until("backups go on", || place.done("backup").len() >= before + 2);

    // What the configuration says is a file, and applying it again changes nothing.
    let file = json!({"projects": {"shop": {}}, "policies": {"shop/often": policy}});
    let file = place.write("sluice.json", &file.to_string());
    let plan = place.ok(&["apply", "-f", text(&file), "--plan"]).json();
    let said: Vec<_> = plan["changes"].as_array().unwrap().iter().map(|c| &c["change"]).collect();
    assert_eq!(said, ["unchanged", "unchanged"]);

    // What would be passed over is refused.
    let list = place.write("list.json", &json!({"projects": [{"name": "shop"}]}).to_string());
    place.plain(&["apply", "-f", text(&list)]).fails(2).says(&["projects", "by their names"]);

    // What the server exports is such a file; what is different from it is told, and drift found.
    let exported = place.plain(&["config", "export"]).ok().text();
    assert!(exported.contains("shop/often:") && !exported.contains("priority"), "{exported}");
    let file = place.write("sluice.yaml", &exported);
    place.ok(&["apply", "-f", text(&file), "--check"]);
    let file = place.write("sluice.yaml", &exported.replace("last: 2", "last: 3"));
    let drift = place.plain(&["apply", "-f", text(&file), "--check"]).fails(3);
    assert!(drift.text().contains("rules[0].keep.last: 2 -> 3"), "{}", drift.text());
    let policies = place.ok(&["policy", "show", "shop/often"]).json();
    assert_eq!(policies["revision"], 1);

    // What was used is told, and a hard limit stops backups.
    let usage = place.ok(&["usage", "--by", "instance", "--project", "shop"]).json();
    let row = &usage["items"][0];
    assert_eq!(row["name"], "web");
    assert!(row["usage"]["tasks"]["backup"].as_u64().unwrap() >= 2, "{usage}");
    let size = image.metadata().unwrap().len();
    assert_eq!(row["usage"]["front_end_bytes"].as_u64(), Some(size));
    let report = place.ok(&["report", "protection"]).json();
    assert_eq!((&report["total"], &report["late"]), (&json!(1), &json!(0)), "{report}");
    let limits = json!({"project": {"backups": {"hard": 1, "window": "24h"}}});
    let limits = place.write("quota.json", &limits.to_string());
    let quota = place.ok(&["quota", "set", "shop", "--spec", text(&limits)]).json();
    assert_eq!(quota["quota"]["project"]["backups"]["hard"], 1);
    place.cmd(&["task", "backup", "shop/web", "--to", "local"]).fails(1);

    // Nothing was lost: what the server called done is in the repository, or was pruned.
    place.ok(&["policy", "remove", "shop/often"]);
    wait_until("nothing runs", || place.is_idle());
    let listed = place.repository(&["list", "shop.web"]).json();
    assert!(!listed["points"].as_array().unwrap().is_empty(), "{listed}");
    let out = place.path("out.raw");
    place.repository(&["restore", "shop.web@latest", text(&out)]);
    disk::assert_same(&image, &out);
    place.repository(&["verify", "--data"]);
}

#[test]
fn a_second_node_joins_with_a_token_and_does_what_it_is_asked() {
    let place = Place::new();
    let image = place.path("disk.raw");
    disk::sample(&image);
    let up = Up::start(&place);
    place.log_in(&up);
    let token = place.ok(&["node", "token"]).json();
    let token = place.write("join.txt", token["token"].as_str().unwrap());
    let state = place.path("mover");
    let join = ["node", "join", "mover", "--token-file", text(&token), "--state", text(&state)];
    place.ok(&join);
    place.cmd(&join).fails(1);
    let node = place.cmd(&["node", "run", "--state", text(&state)]).spawn();
    let nodes = place.ok(&["node", "list"]).json();
    let named = |name: &str| {
        let all = nodes["items"].as_array().unwrap();
        all.iter().find(|node| node["name"] == name).unwrap()["id"].clone()
    };
    place.ok(&["project", "set", "shop"]);
    let spec = json!({
        "source": {"kind": "disk-files", "images": [{"name": "root", "path": image}]},
        "node": "mover",
    });
    let spec = place.write("instance.json", &spec.to_string());
    place.ok(&["instance", "set", "shop/web", "--spec", text(&spec)]);
    assert_eq!(place.ok(&["instance", "show", "shop/web"]).json()["spec"]["node"], named("mover"));
    // A file has its name, by which another server finds it; an id is the same to this one.
    let exported = place.ok(&["config", "export"]).json();
    assert_eq!(exported["instances"]["shop/web"]["node"], "mover", "{exported}");
    for node in [json!("mover"), named("mover")] {
        let mut file = exported.clone();
        file["instances"]["shop/web"]["node"] = node;
        let file = place.write("export.json", &file.to_string());
        place.ok(&["apply", "-f", text(&file), "--check"]);
    }
    place.ok(&["task", "backup", "shop/web", "--to", "local"]);
    wait_until("the backup", || !place.done("backup").is_empty());
    let task = &place.done("backup")[0];
    assert_eq!((&task["node"], &task["result"]), (&named("mover"), &Value::Null));
    let task = place.ok(&["task", "show", task["id"].as_str().unwrap()]).json();
    assert_eq!(task["result"]["point"]["images"][0]["name"], "root");
    drop(node);
}

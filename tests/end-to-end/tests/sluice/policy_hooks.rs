//! Commands around backups of a rule, on the node.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::control_plane::{Place, Up, text};
use crate::support::disk;
use crate::support::port;
use crate::support::run::{Cmd, wait_until};

fn script(path: &Path, lines: &str) {
    std::fs::write(path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// A server whose node may run what lies in a folder, and an instance; the folder.
fn set_up(place: &Place) -> PathBuf {
    let hooks = place.path("hooks");
    std::fs::create_dir(&hooks).unwrap();
    let image = place.path("disk.raw");
    disk::sample(&image);
    place.ok(&["project", "set", "shop"]);
    place.ok(&["instance", "set", "shop/web", "--disk", text(&image), "--tag", "gold"]);
    let spec = place.write("node.json", &json!({"commands": [hooks]}).to_string());
    place.ok(&["node-config", "set", "default", "--spec", text(&spec)]);
    let note = "echo \"$(basename $0) $SLUICE_INSTANCE $SLUICE_RESULT ${SLUICE_POINT%@*}\"";
    let log = place.path("log");
    script(&hooks.join("note"), &format!("{note} >>{}", text(&log)));
    script(&hooks.join("fail"), "echo no such database >&2; exit 7");
    script(&hooks.join("slow"), &format!("echo slow >>{}; sleep 60", text(&log)));
    hooks
}

/// Lets one backup become due with these commands around it.
fn run(place: &Place, hooks: &Value) {
    let schedule = json!({"name": "often", "when": {"kind": "every", "seconds": 2}});
    let policy = json!({
        "assign": {"tags": ["gold"]},
        "rules": [{"name": "main", "destination": "local", "schedules": [schedule],
            "keep": {"last": 9}, "hooks": hooks}],
    });
    let spec = place.write("policy.json", &policy.to_string());
    place.ok(&["policy", "set", "shop/often", "--spec", text(&spec)]);
}

/// The first backup in a final state, or in this one; then nothing more becomes due.
fn backup(place: &Place, state: &str) -> Value {
    let find = || {
        let all = place.ok(&["task", "list"]).json();
        let items = all["items"].as_array().unwrap().clone();
        items.into_iter().find(|task| task["kind"] == "backup" && task["state"] == state)
    };
    wait_until(&format!("a backup that is {state}"), || find().is_some());
    let found = find().unwrap();
    place.ok(&["policy", "remove", "shop/often"]);
    // One that became due meanwhile runs commands, too.
    wait_until("nothing runs", || place.is_idle());
    place.ok(&["task", "show", found["id"].as_str().unwrap()]).json()
}

fn log_of(place: &Place, task: &Value) -> String {
    place.plain(&["task", "log", task["id"].as_str().unwrap()]).ok().text()
}

fn noted(place: &Place) -> String {
    std::fs::read_to_string(place.path("log")).unwrap_or_default()
}

#[test]
fn commands_run_before_and_after_a_backup_and_know_of_it() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    let hooks = set_up(&place);
    let note = json!({"command": [hooks.join("note")]});
    run(&place, &json!({"before": [note], "after": [note]}));
    backup(&place, "succeeded");
    let noted = noted(&place);
    let lines: Vec<&str> = noted.lines().take(2).collect();
    assert_eq!(lines, ["note web  ", "note web succeeded shop.web"], "{noted}");

    // What fails before stops the backup, and what comes after runs all the same.
    std::fs::remove_file(place.path("log")).unwrap();
    let fail = json!({"command": [hooks.join("fail")]});
    run(&place, &json!({"before": [fail], "after": [note]}));
    let task = backup(&place, "failed");
    let message = task["message"].as_str().unwrap();
    assert!(message.contains("before the backup") && message.contains("7"), "{message}");
    assert!(log_of(&place, &task).contains("no such database"));
    assert!(self::noted(&place).starts_with("note web failed"), "{}", self::noted(&place));

    // Unless it may fail: then the backup is made, with a warning.
    let goes_on = json!({"command": [hooks.join("fail")], "on_failure": "continue"});
    run(&place, &json!({"before": [goes_on]}));
    let task = backup(&place, "warnings");
    assert!(task["result"]["point"]["point"].is_string(), "{task}");

    // What no configuration allows is not run.
    run(&place, &json!({"before": [{"command": ["/bin/true"]}]}));
    let refused = json!("failed");
    let all = || place.ok(&["task", "list"]).json()["items"].as_array().unwrap().clone();
    let why = |task: &Value| task["message"].as_str().unwrap().contains("/bin/true is not allowed");
    wait_until("a refusal", || all().iter().any(|task| task["state"] == refused && why(task)));
}

#[test]
fn what_comes_after_a_backup_runs_when_its_node_was_killed_in_it() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    let hooks = set_up(&place);
    let (slow, note) = (hooks.join("slow"), hooks.join("note"));
    run(&place, &json!({"before": [{"command": [slow]}], "after": [{"command": [note]}]}));
    wait_until("the command before", || noted(&place).contains("slow"));
    up.kill();
    // It does not hang a second time.
    script(&slow, "true");
    let _up = Up::start(&place);
    wait_until("what comes after", || noted(&place).contains("note web lost"));
}

#[test]
fn a_backup_by_hand_has_the_commands_of_its_rule_unless_they_are_left_out() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    let hooks = set_up(&place);
    let note = json!({"command": [hooks.join("note")]});
    let policy = json!({
        "assign": {"tags": ["gold"]},
        "rules": [{"name": "main", "destination": "local", "schedules": [],
            "hooks": {"before": [note], "after": [note]}}],
    });
    let spec = place.write("policy.json", &policy.to_string());
    place.ok(&["policy", "set", "shop/by-hand", "--spec", text(&spec)]);
    let back_up = |more: &[&str]| {
        let before = place.done("backup").len();
        place.ok(&[&["task", "backup", "shop/web", "--to", "local"], more].concat());
        wait_until("the backup", || place.done("backup").len() > before);
    };
    back_up(&["--no-hooks"]);
    assert_eq!(noted(&place), "", "they were left out");
    back_up(&[]);
    assert_eq!(noted(&place), "note web  \nnote web succeeded shop.web\n");
}

/// OpenSSH's server on loopback, for whoever runs this, with keys of its own.
struct Guest {
    child: std::process::Child,
    port: u16,
}

impl Guest {
    fn start(place: &Place) -> Self {
        let at = |name: &str| place.path(name).to_str().unwrap().to_owned();
        for name in ["guest-host", "guest-user"] {
            let words = ["-q", "-t", "ed25519", "-N", "", "-f", &at(name)];
            Cmd::new("ssh-keygen").args(words).ok();
        }
        let port = port::free();
        let host = std::fs::read_to_string(at("guest-host.pub")).unwrap();
        place.write("guest-hosts", &format!("[127.0.0.1]:{port} {host}"));
        // Where a server that root starts puts its unprivileged half.
        let _ = std::fs::create_dir_all("/run/sshd");
        let conf = format!(
            "ListenAddress 127.0.0.1:{port}\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\n\
             StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n",
            at("guest-host"),
            at("guest-user.pub"),
        );
        let conf = place.write("guest.conf", &conf);
        let child = std::process::Command::new("/usr/sbin/sshd")
            .args(["-D", "-e", "-f", text(&conf)])
            // Sessions outlive the server for a moment, and must not hold the test's own output.
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(place.path("sshd.log")).unwrap())
            .spawn()
            .expect("sshd is there: apt install openssh-server");
        let listens = || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok();
        wait_until("sshd", listens);
        Self { child, port }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn commands_run_on_a_guest_that_the_node_may_reach() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    let hooks = set_up(&place);
    let guest = Guest::start(&place);
    let user = Cmd::new("id").args(["-un"]).ok().text().trim().to_owned();
    let name = format!("{user}@127.0.0.1:{}", guest.port);
    let config = json!({"commands": [hooks], "guest_ssh": {"key_file": place.path("guest-user"),
        "known_hosts": place.path("guest-hosts"), "guests": [name]}});
    let spec = place.write("node.json", &config.to_string());
    place.ok(&["node-config", "set", "default", "--spec", text(&spec)]);
    let out = place.path("on the guest");
    let words = ["sh", "-c", "echo \"$SLUICE_INSTANCE $1\" >\"$2\"", "sh", "it's me", text(&out)];
    run(&place, &json!({"before": [{"command": words, "guest": name}]}));
    backup(&place, "succeeded");
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "web it's me\n");

    // Another key than the one that is known: nobody is asked, and nothing runs.
    let other = place.write("guest-hosts", "");
    assert!(other.exists());
    run(&place, &json!({"before": [{"command": ["true"], "guest": name}]}));
    let task = backup(&place, "failed");
    assert!(task["message"].as_str().unwrap().contains("before the backup"), "{task}");
}

#[test]
fn what_a_program_on_a_node_prints_is_backed_up_where_it_is_allowed() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    let programs = set_up(&place);
    script(&programs.join("dump"), "echo \"$1\"; env | grep SLUICE_; exit ${2:-0}");
    let dump = |name: &str, command: &str| {
        place.ok(&["instance", "set", name, "--output-of", command]);
        let task = place.ok(&["task", "backup", name, "--to", "local"]).json();
        let show = || place.ok(&["task", "show", task["id"].as_str().unwrap()]).json();
        // One that fails says why, and is tried again later.
        let said = |task: &Value| task["finished_ms"].is_u64() || task["message"] != "";
        wait_until("an attempt ends", || said(&show()));
        show()
    };
    let program = text(&programs.join("dump")).to_owned();
    let made = dump("shop/db", &format!("app={program} 'two words'"));
    assert_eq!(made["state"], "succeeded", "{made}");
    let point = made["result"]["point"]["point"].as_str().unwrap();
    assert_eq!(place.repository(&["cat", point]).text(), "two words\n");

    // Not where it fails, nor where nobody allowed it.
    for (name, command, why) in [
        ("shop/broken", format!("{program} x 4"), "exit status: 4"),
        ("shop/other", "/bin/cat /etc/passwd".to_owned(), "/bin/cat is not allowed"),
    ] {
        let task = dump(name, &command);
        assert_ne!(task["state"], "succeeded", "{task}");
        assert!(task["message"].as_str().unwrap().contains(why), "{task}");
    }
    for point in place.repository(&["list"]).json()["points"].as_array().unwrap() {
        assert_eq!(point["instance"], "shop.db", "{point}");
    }
}

//! Restore points that are booted to see whether they would come back.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::control_plane::{Place, Up, text};
use crate::support::binary;
use crate::support::repo::Repo;
use crate::support::run::wait_until;

/// Machine code of a boot sector that writes the text behind it to the screen and to the first
/// serial port, and stops.
const SPEAKS: &[u8] = b"\xfa\x31\xc0\x8e\xd8\xbe\x27\x7c\xac\x84\xc0\x74\x17\xb4\x0e\xbb\x07\
    \x00\x50\xcd\x10\xba\xfd\x03\xec\xa8\x20\x74\xfb\x58\xba\xf8\x03\xee\xeb\xe4\xf4\xeb\xfd\
    web-1 login: \0";
/// One that only stops.
const MUTE: &[u8] = b"\xf4\xeb\xfd";

/// A disk that boots: a sector of code, and nothing.
fn bootable(path: &Path, code: &[u8]) {
    let mut disk = vec![0; 1 << 20];
    disk[..code.len()].copy_from_slice(code);
    disk[510..512].copy_from_slice(b"\x55\xaa");
    std::fs::write(path, disk).unwrap();
}

pub fn speaking(place: &Place) -> PathBuf {
    bootable(&place.path("speaks.raw"), SPEAKS);
    place.path("speaks.raw")
}

/// Whether guests can be run here.
pub fn has_qemu() -> bool {
    let there = Command::new("qemu-system-x86_64").arg("--version").output().is_ok();
    if !there {
        eprintln!("SKIPPED: no qemu-system-x86_64 (package qemu-system-x86)");
    }
    there
}

/// The guests that nodes of this place run. Other tests run some at the same time: these are
/// told by the home folder that they were given.
fn guests(place: &Place) -> usize {
    let own = format!("HOME={}\0", text(place.folder()));
    let is_own = |process: &Path| -> Option<bool> {
        let words = std::fs::read(process.join("cmdline")).ok()?;
        let environment = std::fs::read(process.join("environ")).ok()?;
        let says = |bytes: &[u8], what: &str| String::from_utf8_lossy(bytes).contains(what);
        Some(says(&words, "sluice-boot-test\0-no-user-config") && says(&environment, &own))
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    all.filter(|entry| is_own(&entry.path()) == Some(true)).count()
}

/// A repository with points of such disks.
fn repository_of(disks: &[(&str, &[u8])]) -> Repo {
    let repo = Repo::new();
    for (name, code) in disks {
        let image = repo.path("disk.raw");
        bootable(&image, code);
        repo.sluice(["backup", name, text(&image)]).ok();
    }
    repo
}

/// A server with a restore point of `shop/web`, a disk that speaks.
fn server_with_a_point(more: &[&str]) -> (Place, Up) {
    let place = Place::new();
    let image = speaking(&place);
    let up = Up::start(&place);
    place.log_in(&up);
    place.ok(&["project", "set", "shop"]);
    let set = ["instance", "set", "shop/web", "--disk", text(&image)];
    place.ok(&[&set[..], more].concat());
    place.ok(&["task", "backup", "shop/web", "--to", "local"]);
    wait_until("the backup", || !place.done("backup").is_empty());
    (place, up)
}

#[test]
fn a_guest_that_answers_is_told_from_one_that_does_not() {
    if !has_qemu() {
        return;
    }
    let repo = repository_of(&[("speaks", SPEAKS), ("mute", MUTE)]);
    let test = |words: &[&str]| {
        let words = [&["--json", "--no-progress", "boot-test"], words].concat();
        repo.sluice(words)
    };
    let screen = repo.path("screen.png");
    let told = test(&["speaks", "--screenshot", screen.to_str().unwrap()]).ok().json();
    assert_eq!(told["verdict"], "ok", "{told}");
    assert!(told["console"].as_str().unwrap().contains("web-1 login:"));
    let time = |name: &str| told["timings"][name].as_u64().unwrap();
    assert!(time("export_ms") <= time("start_ms") && time("start_ms") <= time("answer_ms"));
    assert!(std::fs::read(screen).unwrap().starts_with(b"\x89PNG"));

    let told = test(&["mute", "--timeout", "2s"]).fails(3).json();
    assert_eq!(told["verdict"], "failed", "{told}");
    assert!(told["reason"].as_str().unwrap().contains("login:"), "{told}");
    assert_eq!(told["timings"]["answer_ms"], Value::Null);
    // All that is asked for must answer: this guest has neither an agent nor a network.
    let told = test(&["speaks", "--console", "login", "--guest-agent", "--tcp", "22"]);
    let told = told.args(["--timeout", "20s"]).fails(3).json();
    let answered = |at: usize| told["checks"][at]["answered_ms"].is_u64();
    assert_eq!([answered(0), answered(1), answered(2)], [true, false, false], "{told}");
    // Nobody has written to the restore point.
    let (verify, out) = (["verify", "--data"], repo.path("out.raw"));
    repo.sluice(verify).ok();
    repo.sluice(["restore", "speaks", out.to_str().unwrap()]).ok();
    assert!(std::fs::read(out).unwrap().starts_with(SPEAKS));
}

/// A program that tells how often it was run, and what it was given.
fn program(path: &Path, body: &str) -> String {
    std::fs::write(path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    text(path).to_owned()
}

#[test]
fn commands_of_the_node_tell_whether_a_guest_answers() {
    if !has_qemu() {
        return;
    }
    let repo = repository_of(&[("speaks", SPEAKS)]);
    let within = |timeout: &str, script: String| {
        let words = ["--json", "--no-progress", "boot-test", "speaks", "--timeout", timeout];
        repo.sluice(words).args(["--script", &script])
    };
    let test = |script: String| within("60s", script);
    // Twice it says not yet; it finds the guest's ports, and none of what opens the repository.
    let log = repo.path("log");
    let again = program(
        &repo.path("again"),
        &format!(
            "env >> {0}; echo run \"$1\"; [ $(grep -c ^SLUICE_GUEST_HOST= {0}) -ge 3 ]",
            text(&log)
        ),
    );
    let told = test(format!("80,443={again} 'two words'")).ok().json();
    let check = &told["checks"][0];
    assert_eq!((&told["verdict"], &check["runs"]), (&json!("ok"), &json!(3)), "{told}");
    assert_eq!(check["said"], "run two words\n", "{told}");
    let given = std::fs::read_to_string(&log).unwrap();
    let ports = |port: &str| given.matches(&format!("SLUICE_GUEST_PORT_{port}=")).count();
    assert_eq!((ports("80"), ports("443")), (3, 3), "{given}");
    assert!(!given.contains("SLUICE_PASSPHRASE") && !given.contains("SLUICE_REPO"), "{given}");

    // One that says never is believed at once, and other codes can be good.
    let three = program(&repo.path("three"), "exit 3");
    let told = test(json!({"command": [three], "reject": [3]}).to_string()).fails(3).json();
    assert_eq!((&told["verdict"], &told["checks"][0]["runs"]), (&json!("failed"), &json!(1)));
    assert!(told["reason"].as_str().unwrap().contains("exit status: 3"), "{told}");
    test(json!({"command": [three], "accept": [3]}).to_string()).ok();

    // What takes too long is ended with all that it has started, and so is what runs at the end.
    let mark = format!("{}.5", 86_400 + std::process::id());
    let hangs = program(&repo.path("hangs"), &format!("sleep {mark} & sleep {mark}"));
    let script = json!({"command": [hangs], "limit_seconds": 1}).to_string();
    let told = within("4s", script).fails(3).json();
    assert!(told["checks"][0]["runs"].as_u64().unwrap() >= 1, "{told}");
    let sleeps = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        lines.filter(|line| String::from_utf8_lossy(line).contains(&mark)).count()
    };
    wait_until("nothing that it has started is left", || sleeps() == 0);
}

#[test]
fn what_is_missing_or_mistyped_is_told_before_a_guest_is_booted() {
    let repo = Repo::new();
    let boot = |words: &[&str]| repo.fails(1, [&["boot-test", "web"], words].concat());
    boot(&["--script", "22=/opt/none/check"]).says(&["/opt/none/check", "no program"]);
    boot(&["--script", "no-such-program-anywhere x"]).says(&["no program of this machine"]);
    let no_ssh = repo.sluice(["boot-test", "web", "--ssh", "root", "--ssh-key", "/none"]);
    no_ssh.env("PATH", "/none").fails(1).says(&["openssh-client"]);
    let key = repo.path("none");
    boot(&["--ssh", "root", "--ssh-key", text(&key)]).says(&["cannot read the key"]);
    for spec in [
        json!({"guests": [{"point": "web", "checks": [{"kind": "tcp", "ports": 22}]}]}),
        json!({"guests": [{"point": "web", "ssh": [{"users": "root"}]}]}),
    ] {
        // Also where there is no QEMU.
        let spec = spec.to_string();
        repo.sluice(["boot-together", &spec]).env("PATH", "/none").fails(2);
    }
    let script = json!({"kind": "script", "command": ["/opt/none/check"]});
    let spec = json!({"guests": [{"point": "web", "checks": [script]}]}).to_string();
    repo.fails(1, ["boot-together", &spec]).says(&["no program of this machine"]);
}

#[test]
fn a_release_that_is_installed_meanwhile_does_not_end_a_test() {
    if !has_qemu() {
        return;
    }
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    bootable(&image, SPEAKS);
    repo.sluice(["backup", "speaks", image.to_str().unwrap()]).ok();
    // As a package does it: another file gets the name.
    let own = repo.path("sluice");
    std::fs::copy(binary::path(), &own).unwrap();
    let again = program(
        &repo.path("again"),
        &format!(
            "[ -e {0}.done ] || {{ cp {0} {0}.new; mv {0}.new {0}; touch {0}.done; exit 1; }}",
            text(&own)
        ),
    );
    let words = ["--json", "--no-progress", "boot-test", "speaks", "--timeout", "60s"];
    let told = repo.sluice_at(&own, words).args(["--script", &again]).ok().json();
    assert_eq!((&told["verdict"], &told["checks"][0]["runs"]), (&json!("ok"), &json!(2)), "{told}");
}

#[test]
fn guests_of_a_network_are_booted_one_stage_after_the_other() {
    if !has_qemu() {
        return;
    }
    let repo = repository_of(&[("speaks", SPEAKS), ("mute", MUTE)]);
    let together = |guests: Value| {
        let spec = json!({"subnet": "192.168.7.0/24", "guests": guests});
        let words = ["--json", "--no-progress", "boot-together"].map(String::from).to_vec();
        repo.sluice([words, vec![spec.to_string()]].concat())
    };
    let guest = |point: &str, stage: u32| {
        let (timeout, memory) = (60, 32);
        json!({"point": point, "stage": stage, "timeout_seconds": timeout, "memory_mib": memory})
    };
    let told = together(json!([guest("speaks", 1), guest("speaks", 0)])).ok().json();
    let guests = told["guests"].as_array().unwrap();
    let time = |at: usize, name: &str| guests[at]["timings"][name].as_u64().unwrap();
    assert!(guests.iter().all(|guest| guest["verdict"] == "ok"), "{told}");
    assert!(guests.iter().all(|guest| guest["screenshot"].is_string()), "{told}");
    // The second is of the first stage: the other began when it had answered.
    assert!(time(0, "begin_ms") >= time(1, "begin_ms") + time(1, "answer_ms"), "{told}");
    let address = |at: usize| guests[at]["address"].as_str().unwrap();
    assert_eq!([address(0), address(1)], ["192.168.7.15", "192.168.7.16"]);

    // What comes after one that does not answer is not tried, and what has answered has.
    let mut mute = guest("mute", 1);
    mute["timeout_seconds"] = json!(2);
    let told = together(json!([guest("speaks", 0), mute, guest("speaks", 2)])).fails(3).json();
    let verdicts: Vec<_> =
        told["guests"].as_array().unwrap().iter().map(|guest| &guest["verdict"]).collect();
    assert_eq!(verdicts, ["ok", "failed", "undone"], "{told}");
    assert!(told["reason"].as_str().unwrap().contains("login:"), "{told}");
    let odd = together(json!([{"point": "speaks", "address": "10.0.0.1"}])).fails(2).json();
    assert!(odd["error"]["message"].as_str().unwrap().contains("192.168.7.1 to"), "{odd}");
}

#[test]
fn a_server_lets_checks_run_what_the_node_allows() {
    if !has_qemu() {
        return;
    }
    let (place, _up) = server_with_a_point(&[]);
    let check = program(&place.path("check"), "echo fine");
    let boot = json!({"checks": [{"kind": "script", "command": [check]},
        {"kind": "console", "pattern": "login:"}], "timeout_seconds": 60});
    let boot = place.write("boot.json", &boot.to_string());
    let run = ["restore-test", "run", "shop/web", "--spec", boot.to_str().unwrap()];
    let test = place.cmd(&run).fails(1).json();
    assert_eq!(test["state"], "undone", "{test}");
    assert!(test["message"].as_str().unwrap().contains("not allowed"), "{test}");
    let config = place.write("node.json", &json!({"commands": [check]}).to_string());
    place.ok(&["node-config", "set", "default", "--spec", config.to_str().unwrap()]);
    let test = place.ok(&run).json();
    let checks = test["report"]["checks"].as_array().unwrap();
    let script = checks.iter().find(|check| check["kind"] == "script").unwrap();
    assert_eq!((&script["said"], &script["runs"]), (&json!("fine\n"), &json!(1)), "{test}");

    // Logging in takes a key, which the node's configuration names.
    let boot = json!({"checks": [{"kind": "ssh", "user": "root"}], "timeout_seconds": 2});
    let boot = place.write("boot.json", &boot.to_string());
    let run = ["restore-test", "run", "shop/web", "--spec", boot.to_str().unwrap()];
    let test = place.cmd(&run).fails(1).json();
    assert!(test["message"].as_str().unwrap().contains("logging in to guests"), "{test}");
    let ssh = json!({"key_file": place.path("key"), "known_hosts": "/dev/null", "guests": []});
    let config = place.write("node.json", &json!({"guest_ssh": ssh}).to_string());
    place.ok(&["node-config", "set", "default", "--spec", config.to_str().unwrap()]);
    // What is missing on the node says nothing of the guest.
    let test = place.cmd(&run).fails(1).json();
    assert_eq!(test["state"], "undone", "{test}");
    assert!(test["message"].as_str().unwrap().contains("cannot read the key"), "{test}");
    place.write("key", "no key");
    let test = place.cmd(&run).fails(3).json();
    let message = test["message"].as_str().unwrap();
    assert!(message.contains("login of root by SSH: port 22 does not answer"), "{test}");
}

#[test]
fn policies_test_restore_points_and_no_guest_outlives_its_node() {
    if !has_qemu() {
        return;
    }
    let (place, up) = server_with_a_point(&["--tag", "gold"]);

    let tests = json!([{
        "name": "boots",
        "destination": "local",
        "schedules": [{"name": "often", "when": {"kind": "every", "seconds": 2}}],
    }]);
    let policy = json!({"assign": {"tags": ["gold"]}, "rules": [], "tests": tests});
    let spec = place.write("policy.json", &policy.to_string());
    place.ok(&["policy", "set", "shop/tried", "--spec", spec.to_str().unwrap()]);
    let good = || place.ok(&["restore-test", "list", "--state", "ok"]).json();
    wait_until("a test by policy", || !good()["items"].as_array().unwrap().is_empty());
    place.ok(&["policy", "remove", "shop/tried"]);
    let id = good()["items"][0]["id"].as_str().unwrap().to_owned();
    let screen = place.path("screen.png");
    let words = ["restore-test", "show", &id, "--screenshot", screen.to_str().unwrap()];
    let shown = place.ok(&words).json();
    assert!(shown["console"].as_str().unwrap().contains("web-1 login:"), "{shown}");
    assert!(shown["report"]["timings"]["answer_ms"].is_u64(), "{shown}");
    assert!(std::fs::read(screen).unwrap().starts_with(b"\x89PNG"));

    // One that would wait for long, when the machine dies.
    let boot = json!({"checks": [{"kind": "console", "pattern": "never"}], "timeout_seconds": 600});
    let boot = place.write("boot.json", &boot.to_string());
    wait_until("the policy's tests are over", || place.is_idle());
    assert_eq!(guests(&place), 0);
    let run = ["restore-test", "run", "shop/web", "--no-wait", "--spec", boot.to_str().unwrap()];
    let test = place.ok(&run).json();
    wait_until("the guest runs", || guests(&place) > 0);
    up.kill();
    wait_until("nothing is left of it", || guests(&place) == 0);
    let _up = Up::start(&place);
    // It is tried once more, and somebody has enough of it.
    wait_until("it runs again", || guests(&place) > 0);
    place.ok(&["task", "cancel", test["task"].as_str().unwrap()]);
    let show = || place.ok(&["restore-test", "show", test["id"].as_str().unwrap()]).json();
    wait_until("it is cancelled", || show()["state"] == "cancelled");
    wait_until("nothing is left of it", || guests(&place) == 0);
}

//! Restore points that are booted to see whether they would come back.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::control_plane::{Place, Up, text};
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

#[test]
fn a_guest_that_answers_is_told_from_one_that_does_not() {
    if !has_qemu() {
        return;
    }
    let repo = Repo::new();
    for (name, code) in [("speaks", SPEAKS), ("mute", MUTE)] {
        let image = repo.path("disk.raw");
        bootable(&image, code);
        repo.sluice(["backup", name, image.to_str().unwrap()]).ok();
    }
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

#[test]
fn policies_test_restore_points_and_no_guest_outlives_its_node() {
    if !has_qemu() {
        return;
    }
    let place = Place::new();
    let image = speaking(&place);
    let up = Up::start(&place);
    place.log_in(&up);
    place.ok(&["project", "set", "shop"]);
    let set = ["instance", "set", "shop/web", "--tag", "gold", "--disk"];
    place.ok(&[&set[..], &[image.to_str().unwrap()]].concat());
    place.ok(&["task", "backup", "shop/web", "--to", "local"]);
    wait_until("the backup", || !place.done("backup").is_empty());

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

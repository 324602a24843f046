//! A server whose folder is gone comes back from the repository and its key alone.

use serde_json::{Value, json};

use crate::control_plane::{Place, Up, text};
use crate::support::binary;
use crate::support::disk;
use crate::support::run::{Cmd, wait_until};

/// A server with a destination outside of its folder, and an instance.
fn place() -> (Place, Up) {
    let place = Place::new();
    disk::sample(&place.path("disk.raw"));
    place.write("passphrase", "one that is long enough\n");
    let up = Up::start(&place);
    place.log_in(&up);
    vault(&place);
    place.ok(&["project", "set", "shop"]);
    let image = place.path("disk.raw");
    place.ok(&["instance", "set", "shop/web", "--disk", text(&image), "--tag", "gold"]);
    (place, up)
}

fn vault(place: &Place) {
    let (url, pass) = (place.path("vault"), place.path("passphrase"));
    let words = ["--url", text(&url), "--passphrase-file", text(&pass)];
    place.ok(&[&["destination", "set", "vault"], &words[..]].concat());
    // Beside that of the first destination, which every new server makes.
    wait_until("the repository is made", || place.done("init").len() >= 2);
}

/// A command on the repository, which needs its key and no server.
fn repository(place: &Place, words: &[&str]) -> Cmd {
    Cmd::new(binary::path())
        .env("HOME", place.path(""))
        .env("SLUICE_LOGIN", place.path("login.json"))
        .env("SLUICE_REPO", place.path("vault"))
        .env("SLUICE_PASSPHRASE_FILE", place.path("passphrase"))
        .arg("--json")
        .args(words)
}

/// A restore point of the instance is shown to this machine.
fn mounts(place: &Place) {
    let start = ["remote-mount", "start", "shop/web", "--client", "127.0.0.1/32"];
    let mount = place.ok(&start).json()["id"].as_str().unwrap().to_owned();
    wait_until("the mount serves", || {
        let list = place.ok(&["remote-mount", "list"]).json();
        let found =
            list["items"].as_array().unwrap().iter().find(|one| one["id"] == mount.as_str());
        found.is_some_and(|one| one["state"] == "ready")
    });
    place.ok(&["remote-mount", "stop", &mount]);
}

#[test]
fn a_server_that_backs_itself_up_comes_back_and_goes_on() {
    let (place, up) = place();
    let schedule = json!({"name": "often", "when": {"kind": "every", "seconds": 3}});
    let rule = json!({"name": "main", "destination": "vault", "schedules": [schedule]});
    let policy = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    let spec = place.write("policy.json", &policy.to_string());
    place.ok(&["policy", "set", "shop/often", "--spec", text(&spec)]);
    wait_until("a backup", || !place.done("backup").is_empty());
    place.ok(&["self-backup", "set", "--to", "vault", "--every", "1h", "--keep", "2"]);
    let state = || place.ok(&["self-backup", "show"]).json()["state"].clone();
    wait_until("the server is backed up", || state()["good_ms"].is_u64());
    let point = state()["point"].as_str().unwrap().to_owned();
    assert!(point.starts_with("control-plane@"), "{point}");
    let before = place.done("backup").len();
    up.kill();

    // It does not overwrite a server, and needs the key.
    let state = place.state.clone();
    let restore = ["server", "restore", "--state", text(&state)];
    repository(&place, &restore).fails(1);
    std::fs::remove_dir_all(&state).unwrap();
    repository(&place, &restore).env("SLUICE_PASSPHRASE_FILE", "/dev/null").fails(1);
    let told = repository(&place, &restore).ok().json();
    assert_eq!(told["point"], point.as_str());
    for name in ["secrets.key", "key.pem", "catalog.sqlite"] {
        let mode = std::os::unix::fs::PermissionsExt::mode(
            &state.join(name).metadata().unwrap().permissions(),
        );
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }

    // The same certificate, the same session; schedules go on, and points can be used.
    let up = Up::start(&place);
    assert_eq!(up.ready["setup_token_file"], Value::Null, "it is set up");
    assert!(!place.done("backup").is_empty());
    wait_until("backups go on", || place.done("backup").len() > before);
    let report = place.ok(&["report", "protection"]).json();
    assert_eq!((&report["total"], &report["late"]), (&json!(1), &json!(0)), "{report}");
    mounts(&place);

    // What was backed up after the server was is found in the repository.
    place.ok(&["policy", "remove", "shop/often"]);
    wait_until("nothing runs", || {
        let running = place.ok(&["task", "list", "--state", "running"]).json();
        let queued = place.ok(&["task", "list", "--state", "queued"]).json();
        [running, queued].iter().all(|list| list["items"].as_array().unwrap().is_empty())
    });
    let vault = place.path("vault");
    let rebuild = ["catalog", "rebuild", "--repo", text(&vault), "--destination", "vault"];
    let told = repository(&place, &rebuild).ok().json();
    assert_eq!((&told["instances"], &told["projects"]), (&json!(0), &json!(0)), "{told}");
    let again = repository(&place, &rebuild).ok().json();
    assert_eq!(again["points"], 0, "what is known stays as it is");
}

#[test]
fn without_a_backup_of_the_server_the_repository_tells_what_there_is() {
    let (place, up) = place();
    place.ok(&["task", "backup", "shop/web", "--to", "vault"]);
    place.ok(&["task", "backup", "shop/web", "--to", "vault"]);
    wait_until("two backups", || place.done("backup").len() == 2);
    up.kill();
    std::fs::remove_dir_all(&place.state).unwrap();
    std::fs::remove_file(place.path("login.json")).unwrap();

    let up = Up::start(&place);
    place.log_in(&up);
    vault(&place);
    let vault = place.path("vault");
    let rebuild = ["catalog", "rebuild", "--repo", text(&vault), "--destination", "vault"];
    let told = repository(&place, &rebuild).ok().json();
    for (what, many) in [("points", 2), ("instances", 1), ("projects", 1), ("foreign", 0)] {
        assert_eq!(told[what], many, "{told}");
    }
    let instance = place.ok(&["instance", "show", "shop/web"]).json();
    assert_eq!(instance["spec"]["present"], false, "{instance}");
    assert_eq!(instance["spec"]["source"]["images"][0]["path"], text(&place.path("disk.raw")));
    mounts(&place);
    let elsewhere = ["catalog", "rebuild", "--repo", "/nowhere", "--destination", "vault"];
    repository(&place, &elsewhere).fails(2);
}

#[test]
fn a_task_that_is_tried_again_makes_no_second_restore_point() {
    let place = Place::new();
    let image = place.path("disk.raw");
    disk::sample(&image);
    place.write("passphrase", "one that is long enough\n");
    repository(&place, &["init", "--no-recovery-key"]).ok();
    let backup = |more: &[&str]| {
        let words = [&["backup", "web", text(&image)], more].concat();
        let told = repository(&place, &words).ok().json();
        told["point"]["point"].as_str().unwrap().to_owned()
    };
    let first = backup(&["--task", "7", "--again"]);
    assert_eq!(backup(&["--task", "7", "--again"]), first);
    let second = backup(&["--task", "8", "--again"]);
    assert_ne!(second, first, "another task makes its own");
    assert_eq!(backup(&["--task", "7", "--again"]), first);
    assert_ne!(backup(&["--task", "8"]), second, "nobody said that it was tried before");
}

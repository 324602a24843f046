//! Clocks that jump, as they do where machines are paused, moved, or set by hand.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::control_plane::{Place, Up, text};
use crate::support::disk;
use crate::support::run::{Running, wait_until};

/// What lets a process see another time than the rest of the machine.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").unwrap().flatten();
    let mut paths = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = paths.find(|path| path.exists());
    if found.is_none() {
        eprintln!("SKIPPED: no libfaketimeMT.so.1 (package faketime)");
    }
    found
}

/// A server and a node that see the time which the file `clock` says, and none of their tasks.
fn start(place: &Place, library: &Path) -> Up {
    let clock = place.write("clock", "+0\n");
    Up::start_in(
        place,
        &[
            ("LD_PRELOAD", text(library)),
            ("FAKETIME_TIMESTAMP_FILE", text(&clock)),
            ("FAKETIME_NO_CACHE", "1"),
            // Time that only goes forward does so on a real machine, too.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ],
    )
}

/// Backups that are done, of all times.
fn done(place: &Place) -> usize {
    place.done("backup").len()
}

#[test]
fn backups_go_on_while_the_clock_jumps_to_and_fro() {
    let Some(library) = library() else { return };
    let place = Place::new();
    let image = place.path("disk.raw");
    disk::sample(&image);
    let up = start(&place, &library);
    place.log_in(&up);
    place.back_up_often(&image, json!({}));

    // No further than sessions last, so that the command line stays logged in.
    for jump in ["+0", "+6h", "-6h", "-1d", "+0"] {
        place.write("clock", &format!("{jump}\n"));
        let before = done(&place);
        wait_until(&format!("backups at {jump}"), || done(&place) >= before + 2);
    }
    place.ok(&["policy", "remove", "shop/often"]);
    wait_until("nothing runs", || place.is_idle());

    // None failed, and each made one restore point: no lease was lost to the clock.
    let failed = place.ok(&["task", "list", "--state", "failed"]).json();
    assert_eq!(failed["items"], json!([]));
    let points = place.repository(&["list", "shop.web"]).json();
    let points = points["points"].as_array().unwrap().clone();
    assert_eq!(points.len(), done(&place), "{points:?}");
    place.repository(&["verify", "--data"]);
    let out = place.path("out.raw");
    place.repository(&["restore", "shop.web@latest", text(&out)]);
    disk::assert_same(&image, &out);
}

/// An instance of a node of its own, before whose backups a command runs until `go` is there, and
/// writes to `ticks` each second; that node.
fn slow_instance(place: &Place) -> Running {
    let image = place.path("disk.raw");
    disk::sample(&image);
    let (ticks, go) = (place.path("ticks"), place.path("go"));
    let command = place.write(
        "wait",
        &format!(
            "#!/bin/sh\nwhile [ ! -e {} ]; do echo tick >>{}; sleep 1; done\n",
            text(&go),
            text(&ticks)
        ),
    );
    std::fs::set_permissions(&command, PermissionsExt::from_mode(0o755)).unwrap();
    let allowed = place.write("node.json", &json!({"commands": [command]}).to_string());
    place.ok(&["node-config", "set", "default", "--spec", text(&allowed)]);
    let token = place.ok(&["node", "token"]).json();
    let token = place.write("join.txt", token["token"].as_str().unwrap());
    let state = place.path("mover");
    place.ok(&["node", "join", "mover", "--token-file", text(&token), "--state", text(&state)]);
    let node = mover(place);
    let nodes = place.ok(&["node", "list"]).json();
    let nodes = nodes["items"].as_array().unwrap();
    let id = &nodes.iter().find(|node| node["name"] == "mover").unwrap()["id"];
    place.ok(&["project", "set", "shop"]);
    let images = json!([{"path": image}]);
    let source = json!({"kind": "disk-files", "images": images});
    let spec = json!({"source": source, "node": id, "tags": ["gold"]});
    let spec = place.write("instance.json", &spec.to_string());
    place.ok(&["instance", "set", "shop/web", "--spec", text(&spec)]);
    let hooks = json!({"before": [{"command": [command]}]});
    let rule = json!({"name": "main", "destination": "local", "schedules": [], "hooks": hooks});
    let policy = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    let spec = place.write("policy.json", &policy.to_string());
    place.ok(&["policy", "set", "shop/slow", "--spec", text(&spec)]);
    node
}

fn mover(place: &Place) -> Running {
    place.cmd(&["node", "run", "--state", text(&place.path("mover"))]).spawn()
}

/// Waits until what comes before the backup has gone on for longer than leases are.
fn go_on(place: &Place) {
    let ticks = || std::fs::read_to_string(place.path("ticks")).unwrap_or_default().lines().count();
    let before = ticks();
    wait_until("what comes before the backup goes on", || ticks() > before + 8);
}

/// A backup by hand that has begun; its id.
fn begun(place: &Place) -> String {
    let task = place.ok(&["task", "backup", "shop/web", "--to", "local"]).json();
    go_on(place);
    task["id"].as_str().unwrap().to_owned()
}

fn show(place: &Place, id: &str) -> Value {
    place.ok(&["task", "show", id]).json()
}

/// Lets a backup end; the task.
fn ended(place: &Place, id: &str) -> Value {
    wait_until("the backup ends", || show(place, id)["finished_ms"].is_u64());
    show(place, id)
}

#[test]
fn no_lease_is_lost_or_kept_by_a_clock_that_is_set() {
    let Some(library) = library() else { return };
    let place = Place::new();
    let up = start(&place, &library);
    place.log_in(&up);
    let node = slow_instance(&place);

    // Set forward and back while a node is at work: it stays that node's.
    let task = begun(&place);
    for jump in ["+6h", "+0"] {
        place.write("clock", &format!("{jump}\n"));
        go_on(&place);
    }
    place.write("go", "");
    let done = ended(&place, &task);
    assert_eq!((&done["state"], &done["attempt"]), (&json!("succeeded"), &json!(1)), "{done}");

    // A lease that was given by a clock which was ahead ends as soon as any other.
    std::fs::remove_file(place.path("go")).unwrap();
    place.write("clock", "+6h\n");
    let task = begun(&place);
    place.write("clock", "+0\n");
    drop(node);
    wait_until("the task is taken back", || show(&place, &task)["state"] == "queued");
    place.write("go", "");
    let _node = mover(&place);
    let done = ended(&place, &task);
    assert_eq!((&done["state"], &done["attempt"]), (&json!("succeeded"), &json!(2)), "{done}");
}

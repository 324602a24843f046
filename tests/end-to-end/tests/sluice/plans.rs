//! Recovery plans: groups in order, scripts around them, and a server that dies in between.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::control_plane::{Place, Up};
use crate::restore_tests::{has_qemu, speaking};
use crate::support::disk;
use crate::support::run::wait_until;

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A server with two instances that were backed up.
fn world(place: &Place) -> Up {
    let (speaks, data) = (speaking(place), place.path("data.raw"));
    disk::sample(&data);
    let up = Up::start(place);
    place.log_in(&up);
    place.ok(&["project", "set", "shop"]);
    for (name, image) in [("shop/web", &speaks), ("shop/data", &data)] {
        place.ok(&["instance", "set", name, "--disk", text(image)]);
        place.ok(&["task", "backup", name, "--to", "local"]);
    }
    wait_until("two backups", || place.done("backup").len() == 2);
    up
}

fn states(run: &Value) -> Vec<&str> {
    run["steps"].as_array().unwrap().iter().map(|step| step["state"].as_str().unwrap()).collect()
}

#[test]
fn a_plan_goes_on_where_it_was_when_the_server_is_killed() {
    let place = Place::new();
    let up = world(&place);
    // A script that waits until the test lets it go, so that there is a middle to be killed in.
    let gate = place.write(
        "gate.sh",
        "#!/bin/sh\necho waiting\nuntil [ -e \"$1\" ]; do sleep 0.1; \
                           done\necho \"$SLUICE_PLAN_MODE $2\" >> \"$3\"\nexit 7\n",
    );
    std::fs::set_permissions(&gate, PermissionsExt::from_mode(0o755)).unwrap();
    let (open, log) = (place.path("open"), place.path("log"));
    let plan = json!({
        "parameters": {"where": text(&place.path("nowhere"))},
        "groups": [
            {"name": "data", "items": [{"instance": "data", "target":
                {"kind": "file", "node": "local", "path": "${where}/data.raw"}}]},
            {"name": "web",
             "before": [{"name": "gate", "node": "local", "accept": [7], "attempts": 3,
                "command": [gate, open, "${where}", log]}],
             "items": [{"instance": "shop/web", "target":
                {"kind": "qcow2", "node": "local", "path": "${where}/web.qcow2"}}]},
        ],
    });
    let spec = place.write("plan.json", &plan.to_string());
    place.ok(&["plan", "set", "shop/flood", "--spec", text(&spec)]);
    let again = place.ok(&["plan", "set", "shop/flood", "--spec", text(&spec)]).json();
    assert_eq!(again["change"], "unchanged");

    let out = place.path("out");
    std::fs::create_dir(&out).unwrap();
    let to = format!("where={}", text(&out));
    let words = ["plan", "run", "shop/flood", "--no-wait", "--parameter", &to];
    let id = place.ok(&words).json()["id"].as_str().unwrap().to_owned();
    let show = || place.ok(&["plan", "runs", &id]).json();
    wait_until("the first group", || states(&show())[0] == "done");
    up.kill();
    let _up = Up::start(&place);
    let run = show();
    assert_eq!((&run["state"], states(&run)[0]), (&json!("running"), "done"), "{run}");
    std::fs::write(&open, "").unwrap();
    wait_until("the end", || show()["state"] != "running");
    let run = show();
    assert_eq!(states(&run), ["done", "done", "done"], "{run}");
    // The first one died with its node, and the second one had it open.
    let logged = std::fs::read_to_string(&log).unwrap();
    assert_eq!(logged, format!("run {}\n", text(&out)));
    disk::assert_same(&place.path("data.raw"), &out.join("data.raw"));

    // What a file says is what the server says, by names.
    let exported = place.plain(&["config", "export"]).ok().text();
    assert!(exported.contains("node: local") && exported.contains("shop/flood"), "{exported}");
    let file = place.write("sluice.yaml", &exported);
    place.ok(&["apply", "-f", text(&file), "--check"]);
    place.ok(&["plan", "remove", "shop/flood"]);
    let runs = place.ok(&["plan", "runs"]).json();
    assert!(!runs["items"].as_array().unwrap().is_empty(), "history stays");
}

#[test]
fn a_test_of_a_plan_boots_and_mounts_and_leaves_nothing() {
    if !has_qemu() {
        return;
    }
    let place = Place::new();
    let _up = world(&place);
    let target = |name: &str| {
        let path = place.path(name);
        json!({"kind": "file", "node": "local", "path": path})
    };
    let plan = json!({"groups": [
        {"name": "first", "items": [
            {"instance": "web", "target": target("web.out"), "test": {"timeout_seconds": 60}},
            {"instance": "data", "target": target("data.out")},
        ]},
        {"name": "second", "concurrency": 1,
         "before": [{"name": "only in runs", "node": "local", "command": ["/bin/false"]}],
         "items": [{"instance": "web", "target": {"kind": "boot-test", "boot":
            {"checks": [{"kind": "console", "pattern": "never"}], "timeout_seconds": 1}}}]},
        {"name": "third", "items": [{"instance": "data", "target": target("more.out")}]},
    ]});
    let spec = place.write("plan.json", &plan.to_string());
    place.ok(&["plan", "set", "shop/flood", "--spec", text(&spec)]);
    let run = place.cmd(&["plan", "run", "shop/flood", "--test"]).fails(1).json();
    assert_eq!(states(&run), ["done", "done", "failed", "skipped"], "{run}");
    assert!(run["message"].as_str().unwrap().contains("never"), "{run}");
    for name in ["web.out", "data.out", "more.out"] {
        assert!(!place.path(name).exists(), "{name}: a test restores nothing");
    }
    let mounts = || place.ok(&["remote-mount", "list"]).json();
    wait_until("no mount is left", || mounts()["items"].as_array().unwrap().is_empty());
}

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
fn tiers_of_a_plan_are_tested_in_one_network() {
    if !has_qemu() {
        return;
    }
    let place = Place::new();
    let _up = world(&place);
    let log = place.path("asked");
    let script = place.write("asks.sh", "#!/bin/sh\necho \"$1 at $SLUICE_GUEST_HOST\" >> \"$2\"\n");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    let config = place.write("node.json", &json!({"commands": [script]}).to_string());
    place.ok(&["node-config", "set", "default", "--spec", text(&config)]);
    let target = json!({"kind": "boot-test"});
    let asks = json!({"kind": "script", "command": [script, "${who}", log]});
    let seen = json!({"kind": "console", "pattern": "login:"});
    let boot = |checks: Value| json!({"timeout_seconds": 60, "memory_mib": 32, "checks": checks});
    let mut plan = json!({"parameters": {"who": "orders"}, "groups": [{
    "name": "shop", "network": {"subnet": "192.168.7.0/24", "node": "local"},
    "items": [
        {"instance": "web", "target": target, "test": boot(json!([seen]))},
        {"instance": "web", "target": target, "stage": 1, "address": "192.168.7.40",
         "test": boot(json!([seen, asks]))},
    ]}]});
    let set = |plan: &Value| {
        let spec = place.write("plan.json", &plan.to_string());
        place.cmd(&["plan", "set", "shop/flood", "--spec", text(&spec)])
    };
    set(&plan).ok();
    let run = place.ok(&["plan", "run", "shop/flood", "--test"]).json();
    assert_eq!(states(&run), ["done", "done"], "{run}");
    let task = |at: usize| run["steps"][at]["task"].as_str().unwrap().to_owned();
    let test = |at: usize| run["steps"][at]["test"].as_str().unwrap().to_owned();
    assert!(task(0) == task(1) && test(0) != test(1), "one task, and a proof of each: {run}");
    let shown = place.ok(&["restore-test", "show", &test(1)]).json();
    assert_eq!(shown["report"]["address"], "192.168.7.40", "{shown}");
    assert!(shown["console"].as_str().unwrap().contains("login:"), "{shown}");
    assert_eq!(std::fs::read_to_string(&log).unwrap(), "orders at 127.0.0.1\n");
    let exported = place.plain(&["config", "export"]).ok().text();
    assert!(exported.contains("192.168.7.40") && exported.contains("node: local"), "{exported}");

    // The first tier does not answer: the second was not tried.
    plan["groups"][0]["items"][0]["test"] = boot(json!([{"kind": "console", "pattern": "never"}]));
    plan["groups"][0]["items"][0]["test"]["timeout_seconds"] = json!(2);
    set(&plan).ok();
    let run = place.cmd(&["plan", "run", "shop/flood", "--test"]).fails(1).json();
    assert_eq!(states(&run), ["failed", "failed"], "{run}");
    let why = |at: usize| run["steps"][at]["message"].as_str().unwrap().to_owned();
    assert!(why(0).contains("never") && why(1).contains("not tried"), "{run}");
    plan["groups"][0]["items"][1]["address"] = json!("10.0.0.1");
    assert_ne!(set(&plan).run().code, Some(0), "it is of another network");
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

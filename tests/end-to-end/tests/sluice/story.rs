//! The whole story, by commands alone: from nothing to backups that are mounted elsewhere, limited,
//! accounted for, and go on after the server was killed.

use serde_json::{Value, json};

use crate::iscsi::qemu;
use crate::mounted::Lab;
use crate::support::run::{Cmd, wait_until};

/// Backups to a destination that were done.
fn done(lab: &Lab, destination: &Value) -> usize {
    let tasks = lab.ok(&["task", "list", "--state", "succeeded"]).json();
    let items = tasks["items"].as_array().unwrap();
    let wanted = |task: &&Value| task["kind"] == "backup" && task["destination"] == *destination;
    items.iter().filter(wanted).count()
}

fn write(lab: &Lab, name: &str, value: &Value) -> String {
    let path = lab.path(name);
    std::fs::write(&path, value.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn from_nothing_to_backups_that_survive_everything() {
    let lab = Lab::new();
    let server = lab.serve();
    lab.set_up(&server);
    let mover = lab.mover();

    // A destination, and a policy that is due each hour and, so that time passes, each two seconds.
    let passphrase = lab.path("passphrase");
    std::fs::write(&passphrase, "a passphrase of this test\n").unwrap();
    let store = lab.path("store");
    let url = ["--url", store.to_str().unwrap()];
    let secret = ["--passphrase-file", passphrase.to_str().unwrap()];
    lab.ok(&[&["destination", "set", "store"][..], &url, &secret].concat());
    let destination = lab.ok(&["destination", "show", "store"]).json()["id"].clone();
    let policy = json!({
        "assign": {"tags": ["gold"]},
        "rules": [{
            "name": "main",
            "destination": "store",
            "keep": {"last": 5},
            "schedules": [
                {"name": "hourly", "when": {"kind": "every", "seconds": 3600}},
                {"name": "often", "when": {"kind": "every", "seconds": 2}},
            ],
        }],
    });
    let image = lab.path("disk.raw");
    lab.ok(&["instance", "set", "shop/web", "--disk", image.to_str().unwrap(), "--tag", "gold"]);
    let spec = write(&lab, "policy.json", &policy);
    lab.ok(&["policy", "set", "shop/hourly", "--spec", &spec]);
    wait_until("two backups", || done(&lab, &destination) >= 2);

    // A point is shown by the node at the other end of the wire, to an initiator there.
    let mount = lab.mount(&["--protocol", "iscsi", "--client", &lab.network.there]);
    let uri = mount["uri"].as_str().expect("it is ready").to_owned();
    let portal = uri.split_once("://").unwrap().1.split('/').next().unwrap().to_owned();
    let list = Cmd::new("iscsi-ls").arg(format!("iscsi://{portal}"));
    let listed = lab.network.far(list).ok().text();
    assert!(listed.contains("iqn."), "{listed}");
    let same = |uri: &str| {
        let compare =
            qemu("qemu-img").args(["compare", "-f", "raw", uri]).arg(lab.path("disk.raw"));
        lab.network.far(compare).run().code == Some(0)
    };
    assert!(same(&uri), "{uri} is another disk");

    // A hard limit refuses a run, and says so.
    let quota = json!({"project": {"backups": {"hard": 1, "window": "24h"}}});
    lab.ok(&["quota", "set", "shop", "--spec", &write(&lab, "quota.json", &quota)]);
    let refused = lab.cmd(&["task", "backup", "shop/web", "--to", "store"]).fails(1).text();
    assert!(refused.contains("backups"), "{refused}");
    lab.ok(&["quota", "set", "shop", "--spec", &write(&lab, "quota.json", &json!({}))]);

    // What was used is told, for who pays.
    let usage = lab.ok(&["usage", "--by", "destination", "--project", "shop"]).json();
    let rows = usage["items"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == "store").expect("the destination is told of");
    assert!(row["usage"]["tasks"]["backup"].as_u64().unwrap() >= 2, "{usage}");
    assert!(row["usage"]["stored_bytes"].as_u64().unwrap() > 0, "{usage}");
    let size = lab.path("disk.raw").metadata().unwrap().len();
    let usage = lab.ok(&["usage", "--by", "instance", "--project", "shop"]).json();
    let rows = usage["items"].as_array().unwrap();
    let row = rows.iter().find(|row| row["name"] == "web").expect("the instance is told of");
    assert_eq!(row["usage"]["front_end_bytes"].as_u64(), Some(size), "{usage}");

    // The server is killed; everything goes on when it is back.
    let before = done(&lab, &destination);
    drop(server);
    assert!(same(&uri), "a node serves without its server");
    let _server = lab.serve();
    wait_until("backups go on", || done(&lab, &destination) >= before + 2);
    wait_until("the mount is known", || lab.shown(&mount)["state"] == "ready");
    assert!(same(&uri));
    let ended = lab.ok(&["remote-mount", "stop", mount["id"].as_str().unwrap()]).json();
    assert_eq!(ended["state"], "gone");
    let entries = lab.ok(&["node", "show", "mover"]).json();
    assert!(entries["certificate_expires_ms"].as_u64().is_some(), "{entries}");
    drop(mover);
}

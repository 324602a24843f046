//! Restore points that become new instances.

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::control_plane::{Place, Up, text};
use crate::support::disk::{self, MIB, assert_same};
use crate::support::run::wait_until;

/// `shop/web` with a restore point, and what `more` says of the node; its image.
fn set_up(place: &Place, more: &Value) -> PathBuf {
    let image = place.path("disk.raw");
    disk::create(&image, 50 * MIB);
    disk::fill(&image, 0, 24 * MIB, 1);
    place.ok(&["project", "set", "shop"]);
    place.ok(&["instance", "set", "shop/web", "--disk", text(&image)]);
    place.ok(&["task", "backup", "shop/web", "--to", "local"]);
    wait_until("the backup", || place.done("backup").len() == 1);
    let mut spec = json!({"import_folders": [place.path("imports/{project}")]});
    for (name, value) in more.as_object().unwrap() {
        spec[name] = value.clone();
    }
    let spec = place.write("node.json", &spec.to_string());
    place.ok(&["node-config", "set", "default", "--spec", text(&spec)]);
    image
}

fn import(place: &Place, name: &str, more: &[&str]) -> String {
    let nodes = place.ok(&["node", "list"]).json();
    let node = nodes["items"][0]["name"].as_str().unwrap();
    let words = ["task", "import", "shop/web", "--name", name, "--node", node];
    let task = place.ok(&[&words, more].concat()).json();
    task["id"].as_str().unwrap().to_owned()
}

fn task(place: &Place, id: &str) -> Value {
    place.ok(&["task", "show", id]).json()
}

fn spec(place: &Place, name: &str) -> Value {
    place.ok(&["instance", "show", name]).json()["spec"].clone()
}

/// What lies in the project's folder.
fn made(place: &Place) -> Vec<String> {
    let entries = place.path("imports/shop").read_dir().into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_restore_point_becomes_an_instance_and_nothing_is_written_over() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    let image = set_up(&place, &json!({}));
    import(&place, "shop/copy", &["--tag", "gold"]);
    wait_until("the instance", || spec(&place, "shop/copy")["present"] == true);
    let copy = spec(&place, "shop/copy");
    assert_eq!((&copy["paused"], &copy["tags"]), (&Value::Null, &json!(["gold"])), "{copy}");
    assert_same(&place.path("imports/shop/copy/disk.raw"), &image);
    // It is an instance as any other.
    place.ok(&["task", "backup", "shop/copy", "--to", "local"]);
    wait_until("its backup", || place.done("backup").len() == 2);

    import(&place, "shop/other", &["--format", "qcow2"]);
    wait_until("the other instance", || spec(&place, "shop/other")["present"] == true);
    let other = place.path("imports/shop/other/disk.qcow2");
    disk::assert_qemu_same(&image, "qcow2", text(&other));

    let nodes = place.ok(&["node", "list"]).json();
    let node = nodes["items"][0]["name"].as_str().unwrap();
    let again = ["task", "import", "shop/web", "--name", "shop/copy", "--node", node];
    place.plain(&again).fails(1).says(&["there is an instance copy already"]);
    // What lies there and is no instance is nobody's to write over, either.
    std::fs::create_dir(place.path("imports/shop/mine")).unwrap();
    std::fs::write(place.path("imports/shop/mine/disk.raw"), "precious").unwrap();
    let id = import(&place, "shop/mine", &[]);
    wait_until("the refusal", || task(&place, &id)["state"] == "failed");
    let why = task(&place, &id)["message"].clone();
    assert!(why.as_str().unwrap().contains("exists already"), "{why}");
    let gone = || place.cmd(&["instance", "show", "shop/mine"]).run().code == Some(1);
    wait_until("the record goes", gone);
    wait_until("nothing runs", || place.is_idle());
    let kept = std::fs::read(place.path("imports/shop/mine/disk.raw")).unwrap();
    assert_eq!(kept, b"precious");
    assert_eq!(made(&place), ["copy", "mine", "other"]);
}

#[test]
fn an_import_goes_on_after_a_death_and_leaves_nothing_when_it_is_cancelled() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    // So slow that it is in its middle for seconds.
    let image = set_up(&place, &json!({"bandwidth": {"limit": 4 * MIB}}));
    import(&place, "shop/copy", &[]);
    let part = || {
        let begun = made(&place).into_iter().find(|name| name.starts_with(".copy."));
        let part = begun.map(|name| place.path("imports/shop").join(name).join("disk.raw.part"));
        part.is_some_and(|part| part.exists() && disk::allocated(&part) > 0)
    };
    wait_until("it has begun", part);
    up.kill();
    assert_eq!(made(&place).len(), 1, "it has no name before it is whole");
    let up = Up::start(&place);
    wait_until("the instance", || spec(&place, "shop/copy")["present"] == true);
    assert_same(&place.path("imports/shop/copy/disk.raw"), &image);
    assert_eq!(made(&place), ["copy"]);

    let id = import(&place, "shop/late", &[]);
    wait_until("it has begun", || made(&place).iter().any(|name| name.starts_with(".late.")));
    place.ok(&["task", "cancel", &id]);
    wait_until("nothing is left", || made(&place) == ["copy"]);
    place.cmd(&["instance", "show", "shop/late"]).fails(1);
    drop(up);
}

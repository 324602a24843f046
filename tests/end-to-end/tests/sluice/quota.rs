//! A hard quota that is reached in the middle of a backup.

use std::path::Path;

use serde_json::{Value, json};

use crate::control_plane::{Place, Up, text};
use crate::support::disk::{self, MIB};
use crate::support::run::wait_until;

/// What packs add to what is metered: headers, tables and footers.
const OVERHEAD: u64 = MIB;

fn quota(place: &Place, hard: u64) {
    let quota = json!({"project": {"stored_bytes": {"hard": hard}}});
    let spec = place.write("quota.json", &quota.to_string());
    place.ok(&["quota", "set", "shop", "--spec", text(&spec)]);
}

fn used(place: &Place) -> u64 {
    let shown = place.ok(&["quota", "show", "shop"]).json();
    shown["used"]["stored_bytes"].as_u64().unwrap()
}

/// Bytes of all packs of blocks in the repository.
fn stored(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let about = entry.metadata().unwrap();
        bytes += if about.is_dir() { stored(&entry.path()) } else { about.len() };
    }
    bytes
}

fn task(place: &Place, id: &Value) -> Value {
    place.ok(&["task", "show", id.as_str().unwrap()]).json()
}

/// Backs the instance up; the task once it has ended.
fn back_up(place: &Place) -> Value {
    let begun = place.ok(&["task", "backup", "shop/web", "--to", "local"]).json();
    let ended = || !task(place, &begun["id"])["finished_ms"].is_null();
    wait_until("the end of the backup", ended);
    task(place, &begun["id"])
}

#[test]
fn a_backup_stops_at_a_hard_quota_and_the_next_one_goes_on_once_there_is_room() {
    let place = Place::new();
    let up = Up::start(&place);
    place.log_in(&up);
    let image = place.path("disk.raw");
    disk::create(&image, 120 * MIB);
    disk::fill(&image, 0, 100 * MIB, 1);
    place.ok(&["project", "set", "shop"]);
    place.ok(&["instance", "set", "shop/web", "--disk", text(&image)]);
    let hard = 50 * MIB;
    quota(&place, hard);

    let stopped = back_up(&place);
    assert_eq!((&stopped["state"], &stopped["attempt"]), (&json!("failed"), &json!(1)));
    let message = stopped["message"].as_str().unwrap();
    let limit = format!("hard limit of {hard}; raise the limit");
    assert!(message.starts_with("quota: the project") && message.contains(&limit), "{message}");
    let packs = place.state.join("repository/d");
    let left = stored(&packs);
    assert!(left <= hard + OVERHEAD && left > hard / 2, "{left}");
    assert!(place.ok(&["point", "list"]).json()["items"].as_array().unwrap().is_empty());
    assert_eq!(used(&place), hard, "what was stored counts");
    // Nothing is left of it: the next one does not begin.
    place.cmd(&["task", "backup", "shop/web", "--to", "local"]).fails(1);

    quota(&place, 200 * MIB);
    let done = back_up(&place);
    assert_eq!(done["state"], "succeeded", "{done}");
    assert!(done["result"]["resumed_packs"].as_u64().unwrap() > 0, "{done}");
    let all = stored(&packs);
    assert!(all < 100 * MIB + 2 * OVERHEAD, "nothing was sent twice: {all}");
    let used = used(&place);
    assert!(used > 100 * MIB && used < 102 * MIB, "{used}");
    let out = place.path("out.raw");
    place.repository(&["restore", "shop.web@latest", text(&out)]);
    disk::assert_same(&image, &out);
    drop(up);
}

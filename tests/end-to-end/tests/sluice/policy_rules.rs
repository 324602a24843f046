//! What rules of policies say beside when and where: events, backup types, verification.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::control_plane::{Place, Up, text};
use crate::support::disk;
use crate::support::run::wait_until;

/// A server with `shop/web`, and a policy whose only rule says this beside.
fn set_up(place: &Place, up: &Up, rule: &Value) -> PathBuf {
    place.log_in(up);
    let image = place.path("disk.raw");
    disk::sample(&image);
    place.ok(&["project", "set", "shop"]);
    place.ok(&["instance", "set", "shop/web", "--disk", text(&image), "--tag", "gold"]);
    let mut full = json!({"name": "main", "destination": "local", "schedules": []});
    for (name, value) in rule.as_object().unwrap() {
        full[name] = value.clone();
    }
    let policy = json!({"assign": {"tags": ["gold"]}, "rules": [full]});
    let spec = place.write("policy.json", &policy.to_string());
    place.ok(&["policy", "set", "shop/ruled", "--spec", text(&spec)]);
    wait_until("the repository", || !place.done("init").is_empty());
    // What the server says is a file that changes nothing.
    let file = place.write("sluice.yaml", &place.plain(&["config", "export"]).ok().text());
    place.ok(&["apply", "-f", text(&file), "--check"]);
    image
}

fn back_up(place: &Place, more: &[&str]) {
    let before = place.done("backup").len();
    let words = ["task", "backup", "shop/web", "--to", "local"];
    place.ok(&[&words[..], more].concat());
    wait_until("the backup", || place.done("backup").len() > before);
}

fn points(place: &Place) -> Vec<Value> {
    let all = place.ok(&["point", "list", "--instance", "shop/web"]).json();
    all["items"].as_array().unwrap().clone()
}

/// What the repository itself has.
fn stored(place: &Place) -> usize {
    place.repository(&["list"]).json()["points"].as_array().unwrap().len()
}

#[test]
fn restore_points_wait_for_an_event_and_go_when_the_time_after_it_is_over() {
    let place = Place::new();
    let up = Up::start(&place);
    set_up(&place, &up, &json!({"keep": {"last": 1, "after_event": {"sold": 30}}}));
    for _ in 0..3 {
        back_up(&place, &[]);
    }
    let all = points(&place);
    assert_eq!((all.len(), stored(&place)), (3, 3));
    assert_eq!(all[0]["events"][0]["until_ms"], Value::Null, "{all:?}");
    let shown = place.plain(&["point", "list"]).ok().text();
    assert!(shown.contains("sold: waits, then 30 days"), "{shown}");

    // Nor does a prune by hand remove any, and the repository itself knows of no events.
    wait_until("nothing runs", || place.is_idle());
    let before = place.done("prune").len();
    place.ok(&["task", "prune", "local", "--keep-last", "1"]);
    wait_until("the prune", || place.done("prune").len() > before);
    let one = all[0]["point"].as_str().unwrap();
    for words in [&["prune", "--keep-last", "1"][..], &["forget", one]] {
        let told = place.on_repository(words).fails(1).json().to_string();
        for said in ["of-server", one, "sluice task prune", "--even-of-server"] {
            assert!(told.contains(said), "{words:?}: no {said} in {told}");
        }
    }
    let waits = ["prune", "--keep-last", "1", "--even-of-server", "--keep-until", "shop.web=event"];
    assert_eq!(place.repository(&waits).json()["removed"], 0);
    assert_eq!((points(&place).len(), stored(&place)), (3, 3));
    place.cmd(&["task", "prune", "local"]).fails(1);

    // To one of them it happened long ago; the others wait.
    let first = all[0]["point"].as_str().unwrap().to_owned();
    // As much of its name as is unique.
    let short = &first[..first.len() - 1];
    assert_eq!(place.ok(&["point", "show", short]).json()["point"], *first);
    let none = place.plain(&["point", "show", "shop.web@none"]).fails(1);
    none.says(&["no restore point shop.web@none"]);
    place.ok(&["point", "event", "sold", "--point", short, "--at", "2001-02-03"]);
    wait_until("the first point goes", || points(&place).len() == 2);
    assert_eq!(stored(&place), 2);
    assert!(points(&place).iter().all(|point| point["point"] != *first));

    // To all it happened just now: thirty days are not over.
    place.ok(&["point", "event", "sold", "--instance", "shop/web"]);
    let until = points(&place)[0]["events"][0]["until_ms"].as_u64();
    assert!(until.is_some(), "it does not wait any more");
    place.ok(&["point", "event", "sold", "--instance", "shop/web", "--take-back"]);
    place.cmd(&["point", "event", "sold", "--instance", "shop/web", "--take-back"]).fails(1);
    assert_eq!(points(&place)[0]["events"][0]["until_ms"], Value::Null);

    // After a restart, and long ago: what the other rules keep is left.
    up.kill();
    let up = Up::start(&place);
    place.ok(&["point", "event", "sold", "--instance", "shop/web", "--at", "2001-02-03"]);
    wait_until("one point is left", || points(&place).len() == 1);
    assert_eq!(stored(&place), 1);
    let events = place.ok(&["point", "events", "--instance", "shop/web"]).json();
    assert_eq!(events["items"].as_array().unwrap().len(), 2, "{events}");

    // Who means it removes also what a server has made.
    let last = points(&place)[0]["point"].as_str().unwrap().to_owned();
    place.repository(&["forget", "--even-of-server", &last]);
    assert_eq!(stored(&place), 0);

    // The same without a server: what is waited for is kept, and the simulation says so.
    let dry = ["prune", "--keep-last", "1", "--keep-until", "event", "--dry-run"];
    assert_eq!(place.repository(&dry).json()["removed"], 0);
    let simulate = ["prune", "--keep-last", "1", "--simulate", "9d", "--from", "2026-01-01"];
    let most =
        |more: &[&str]| place.repository(&[&simulate[..], more].concat()).json()["most"].clone();
    assert_eq!(most(&[]), 1);
    assert_eq!(most(&["--keep-until", "event"]), 10);
    assert_eq!(most(&["--keep-until", "2026-01-05"]), 4);

    // Where a second person decides, programs are told so, and nobody under -q.
    place.ok(&["point", "event", "sold", "--instance", "shop/web", "--take-back"]);
    let rules = place.write("rules.yaml", "approvals: {actions: [shorten-retention]}");
    place.ok(&["access", "set", "--spec", text(&rules)]);
    let tell = ["point", "event", "sold", "--instance", "shop/web"];
    let told = place.ok(&tell).json();
    assert_eq!(told["change"], "waits", "{told}");
    assert!(told["approval"].is_string(), "{told}");
    let quiet = place.plain(&[&["-q"], &tell[..]].concat()).ok();
    assert_eq!((quiet.text().as_str(), quiet.err.as_str()), ("", ""));
    // And lists are those of their kind.
    let listed = place.ok(&["instance", "list", "--policy", "shop/ruled", "--name", "w*"]).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    let none = place.ok(&["instance", "list", "--present", "--paused", "true"]).json();
    assert_eq!(none["items"], json!([]));
    place.plain(&["policy", "list", "--cluster", "x"]).fails(2).says(&["--cluster"]);
    let nothing = place.plain(&["node", "upgrade", "--all", "--cancel"]).fails(1);
    nothing.says(&["no node is being upgraded"]);
    place.plain(&["plan", "runs", "x", "--since", "2026-01-01"]).fails(2);
    drop(up);
}

#[test]
fn a_full_backup_trusts_nothing_and_says_so() {
    let place = Place::new();
    let up = Up::start(&place);
    let image = set_up(&place, &up, &json!({"type": "incremental"}));
    back_up(&place, &[]);
    disk::modify(&image, 1);
    back_up(&place, &[]);
    disk::modify(&image, 2);
    back_up(&place, &["--full"]);
    let all = points(&place);
    let types: Vec<_> = all.iter().map(|point| &point["type"]).collect();
    assert_eq!(types, ["full", "incremental", "full"], "the first had nothing to build on");
    let method = |at: usize| {
        let name = all[at]["point"].as_str().unwrap();
        place.repository(&["show", name]).json()["method"].clone()
    };
    assert_eq!((method(1), method(2)), (json!("regions"), json!("rescan")));
    let tasks = place.plain(&["task", "list"]).ok().text();
    assert!(tasks.contains("backup (full)"), "{tasks}");
    let report = place.ok(&["report", "protection"]).json();
    assert_eq!(report["items"][0]["last_full_ms"], all[2]["taken_ms"], "{report}");
    let out = place.path("out.raw");
    place.ok(&["task", "restore", "shop/web", text(&out), "--node", "local"]);
    wait_until("the restore", || !place.done("restore").is_empty());
    disk::assert_same(&image, &out);

    // A schedule says its own type.
    let often = json!({"name": "often", "type": "full", "when": {"kind": "every", "seconds": 1}});
    let rule = json!({"name": "main", "destination": "local", "schedules": [often]});
    let policy = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    let spec = place.write("policy.json", &policy.to_string());
    place.ok(&["policy", "set", "shop/ruled", "--spec", text(&spec)]);
    wait_until("a backup by schedule", || points(&place).len() > 3);
    assert_eq!(points(&place)[3]["type"], "full");
    drop(up);
}

/// The largest object of the data of a repository.
pub fn largest_pack(folder: &Path) -> PathBuf {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut folders = vec![folder.join("d")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.into_iter().max_by_key(|path| fs::metadata(path).unwrap().len()).unwrap()
}

#[test]
fn what_a_policy_verifies_is_proven_found_damaged_and_healed() {
    let place = Place::new();
    let up = Up::start(&place);
    let verify = json!([{"name": "each", "depth": "data"}]);
    let image = set_up(&place, &up, &json!({ "verify": verify }));
    let proof = |at: usize| points(&place)[at]["proof"]["state"].clone();
    back_up(&place, &[]);
    wait_until("a proof", || proof(0) == "sound");
    let report = place.ok(&["report", "protection", "--late"]).json();
    assert_eq!(report["items"], json!([]), "{report}");

    // Bytes all over a pack are changed, as by a bad disk. What is taken over from the
    // first point makes the second one damaged too.
    let pack = largest_pack(&place.state.join("repository"));
    let sound = fs::read(&pack).unwrap();
    let mut bytes = sound.clone();
    let end = bytes.len() - 4096;
    bytes[4096..end].iter_mut().step_by(8192).for_each(|byte| *byte ^= 0x5a);
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, &bytes).unwrap();
    disk::modify(&image, 1);
    back_up(&place, &[]);
    wait_until("the damage is found", || proof(1) == "damaged");
    let report = place.ok(&["report", "protection", "--late"]).json();
    assert_eq!((&report["damaged"], &report["unproven"]), (&json!(1), &json!(0)), "{report}");
    let shown = place.plain(&["report", "protection"]).ok().text();
    assert!(shown.contains("damaged"), "{shown}");

    // The next backup stores again what its source has; the one before stays as it is until the
    // pack is brought back, as from a copy, and all of it was read again.
    back_up(&place, &[]);
    wait_until("the newest is sound", || proof(2) == "sound");
    assert_eq!(proof(1), "damaged");
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, &sound).unwrap();
    let check = json!({"name": "all", "depth": "data",
        "schedules": [{"name": "often", "when": {"kind": "every", "seconds": 1}}]});
    let rule = json!({"name": "main", "destination": "local", "schedules": [], "verify": [check]});
    let policy = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    let spec = place.write("policy.json", &policy.to_string());
    place.ok(&["policy", "set", "shop/ruled", "--spec", text(&spec)]);
    wait_until("what was damaged is sound", || proof(1) == "sound");
    let report = place.ok(&["report", "protection"]).json();
    assert_eq!(report["damaged"], 0, "{report}");
    let one = place.repository(&["verify", "--instance", "shop.web", "--data"]).json();
    assert_eq!((&one["depth"], &one["damaged"]), (&json!("data"), &json!(false)), "{one}");
    drop(up);
}

#[test]
fn an_instance_is_stored_in_blocks_of_its_size_and_another_one_waits_for_a_full_backup() {
    let place = Place::new();
    let up = Up::start(&place);
    let image = set_up(&place, &up, &json!({}));
    let set = |size: &str| {
        let words = ["instance", "set", "shop/web", "--disk", text(&image), "--tag", "gold"];
        place.ok(&[&words[..], &["--block-size", size]].concat());
    };
    set("16KiB");
    let file = place.write("sized.yaml", &place.plain(&["config", "export"]).ok().text());
    assert!(fs::read_to_string(&file).unwrap().contains("block_size: 16KiB"));
    place.ok(&["apply", "-f", text(&file), "--check"]);
    let stored_in = |at: usize| {
        let name = points(&place)[at]["point"].as_str().unwrap().to_owned();
        place.repository(&["show", &name]).json()["images"][0]["block_size"].clone()
    };
    back_up(&place, &[]);
    assert_eq!(stored_in(0), 16 << 10);
    set("256KiB");
    back_up(&place, &[]);
    assert_eq!(stored_in(1), 16 << 10, "nothing is stored anew by the way");
    disk::modify(&image, 1);
    back_up(&place, &["--full"]);
    back_up(&place, &[]);
    assert_eq!((stored_in(2), stored_in(3)), (json!(256 << 10), json!(256 << 10)));
    place.repository(&["verify", "--data"]);
    let out = place.path("out.raw");
    place.ok(&["task", "restore", "shop/web", text(&out), "--node", "local"]);
    wait_until("the restore", || !place.done("restore").is_empty());
    disk::assert_same(&image, &out);
    place.plain(&["instance", "set", "shop/odd", "--disk", "/x", "--block-size", "8KiB"]).fails(2);
    drop(up);
}

//! Keys: checking, changing, and new ones for the data.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::Value;

use crate::support::disk::{self, MIB};
use crate::support::repo::{PASSPHRASE, Repo};

/// A repository with a recovery key, and a point of a disk.
fn kept() -> (Repo, PathBuf, PathBuf) {
    let repo = Repo::without();
    let recovery = repo.path("recovery");
    repo.ok(["init", "--recovery-key-out", recovery.to_str().unwrap()]);
    let image = repo.path("disk.raw");
    disk::create(&image, 2 * MIB);
    disk::fill(&image, 0, 500_000, 1);
    repo.backup(&image);
    (repo, recovery, image)
}

fn slots(repo: &Repo) -> Vec<Value> {
    repo.json(["key", "list"])["keys"].as_array().unwrap().clone()
}

fn secret(repo: &Repo, name: &str, text: &str) -> String {
    let path = repo.path(name);
    fs::write(&path, format!("{text}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_check_names_the_slot_and_proves_it_or_fails() {
    let (repo, recovery, _) = kept();
    let recovery = recovery.to_str().unwrap();
    let objects = repo.objects("").len();
    let mine = repo.json(["key", "check"]);
    let theirs = repo.json(["key", "check", "--recovery-key-file", recovery]);
    assert_eq!((&mine["kind"], &theirs["kind"]), (&"passphrase".into(), &"recovery".into()));
    let list = slots(&repo);
    for found in [&mine, &theirs] {
        assert!(list.iter().any(|slot| slot["id"] == found["id"] && slot["kind"] == found["kind"]));
        assert_eq!(found["proven"].as_array().unwrap().len(), 2, "{found}");
    }
    assert!(repo.ok(["key", "check"]).text().contains(mine["id"].as_str().unwrap()));
    let wrong = secret(&repo, "wrong", "not the passphrase");
    let cmd = repo.sluice(["key", "check"]).env("SLUICE_PASSPHRASE_FILE", wrong);
    cmd.fails(1).says(&["passphrase"]);
    let other = Repo::without();
    let foreign = other.path("foreign");
    other.ok(["init", "--recovery-key-out", foreign.to_str().unwrap()]);
    let foreign = ["key", "check", "--recovery-key-file", foreign.to_str().unwrap()];
    repo.fails(1, foreign).says(&["recovery key"]);
    assert_eq!(repo.objects("").len(), objects, "a check changes nothing");
}

#[test]
fn a_passphrase_is_changed_in_one_step() {
    let (repo, recovery, image) = kept();
    let new = secret(&repo, "new", "another one entirely");
    let old = repo.json(["key", "check"])["id"].clone();
    let change = repo.sluice(["key", "rotate", "--json"]);
    let changed = change.env("SLUICE_NEW_PASSPHRASE_FILE", &new).ok().json();
    assert_eq!(changed["removed"], old);
    repo.fails(1, ["list"]).says(&["passphrase"]);
    let by_new = |args: &[&str]| repo.sluice(args).env("SLUICE_PASSPHRASE_FILE", &new);
    let check = by_new(&["key", "check", "--json"]).ok().json();
    assert_eq!(check["id"], changed["added"]);
    by_new(&["backup", "vm", image.to_str().unwrap()]).ok();
    // The same again is a mistake, and changes nothing.
    by_new(&["key", "rotate", "--new-passphrase-file", &new]).fails(2).says(&["the old one"]);
    // A forgotten one is replaced with the recovery key, by name.
    let recovery = recovery.to_str().unwrap();
    let lost = ["key", "rotate", "--recovery-key-file", recovery, "--new-passphrase-file"];
    let last = secret(&repo, "last", "the third");
    repo.fails(2, lost.iter().chain(&[last.as_str()])).says(&["--id"]);
    let id = check["id"].as_str().unwrap();
    repo.ok(lost.iter().chain(&[last.as_str(), "--id", id]));
    by_new(&["list"]).fails(1).says(&["passphrase"]);
    repo.sluice(["list"]).env("SLUICE_PASSPHRASE_FILE", &last).ok();
    repo.ok(["key", "check", "--recovery-key-file", recovery]);
}

#[test]
fn new_data_is_sealed_under_a_new_key_and_everything_reads() {
    let (repo, recovery, image) = kept();
    let first = repo.points("vm").remove(0);
    let before = repo.path("before.raw");
    fs::copy(&image, &before).unwrap();
    // The variable is for other commands, and does not get in the way of this one.
    let rotate = repo.sluice(["key", "rotate", "--data", "--json"]);
    let rotated = rotate.env("SLUICE_NEW_PASSPHRASE_FILE", "/nowhere").ok().json();
    assert_eq!((&rotated["epoch"], rotated["kept"].as_array().unwrap().len()), (&1.into(), 2));
    disk::fill(&image, 700_000, 500_000, 2);
    repo.backup_with(&image, &["--rescan"]);
    for (point, content) in [(first.as_str(), &before), ("vm@latest", &image)] {
        repo.assert_restores(point, content);
        let target = repo.path("recovered.raw");
        let args = ["restore", point, target.to_str().unwrap(), "--overwrite"];
        let cmd = repo.sluice(args).arg("--recovery-key-file").arg(&recovery);
        cmd.without_env("SLUICE_PASSPHRASE_FILE").ok();
        disk::assert_same(content, &target);
    }
    repo.assert_sound();
    let format = fs::read_to_string(repo.folder().join("format")).unwrap();
    let format: Value = serde_json::from_str(&format).unwrap();
    // What an earlier program looks at: it refuses.
    assert_eq!((&format["min_reader"], &format["minor"]), (&2.into(), &1.into()));
    assert!(slots(&repo).iter().all(|slot| slot["epoch"] == 1));
    repo.ok(["key", "check"]);
}

#[test]
fn other_passphrases_are_kept_when_given_and_dropped_when_asked_for() {
    let (repo, _, _) = kept();
    let night = secret(&repo, "night", "night shift");
    repo.ok(["key", "add", "--label", "night", "--new-passphrase-file", &night]);
    let id = slots(&repo).iter().find(|slot| slot["label"] == "night").unwrap()["id"].clone();
    let refused = repo.fails(1, ["key", "rotate", "--data"]);
    refused.says(&[id.as_str().unwrap(), "help:", "--drop-other-slots"]);
    let by_night = |args: &[&str]| repo.sluice(args).env("SLUICE_PASSPHRASE_FILE", &night);
    by_night(&["list"]).ok();
    repo.ok(["key", "rotate", "--data", "--keep-passphrase-file", &night]);
    by_night(&["key", "check"]).ok();
    assert_eq!(slots(&repo).len(), 3);
    let dropped = repo.json(["key", "rotate", "--data", "--drop-other-slots"]);
    assert_eq!((&dropped["epoch"], dropped["dropped"].as_array().unwrap().len()), (&2.into(), 1));
    by_night(&["list"]).fails(1).says(&["passphrase"]);
    repo.ok(["key", "check"]);
    // Without encryption there is no key to change.
    let open = Repo::without();
    let bare = |args: &[&str]| open.sluice(args).without_env("SLUICE_PASSPHRASE_FILE");
    bare(&["init", "--encryption", "none"]).ok();
    bare(&["key", "rotate", "--data"]).fails(2).says(&["not encrypted"]);
}

#[test]
fn a_slot_that_a_crash_left_behind_is_passed_over_and_named() {
    let (repo, _, image) = kept();
    let old: Vec<(PathBuf, Vec<u8>)> = repo
        .objects("keys")
        .into_iter()
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    repo.ok(["key", "rotate", "--data"]);
    // As if the rotation had died before it removed them.
    for (path, bytes) in &old {
        fs::write(path, bytes).unwrap();
    }
    disk::fill(&image, 700_000, 500_000, 3);
    repo.backup(&image);
    repo.assert_restores("vm@latest", &image);
    let left = repo.sluice(["key", "check", "--json"]).run().ended(3).json();
    assert_eq!(left["left_behind"].as_array().unwrap().len(), 2);
    // The last slot that opens stays, however many there are that do not.
    let ids: Vec<String> = (slots(&repo).iter())
        .filter(|slot| slot["epoch"] == 1)
        .map(|slot| slot["id"].as_str().unwrap().to_owned())
        .collect();
    let recovery = slots(&repo)
        .iter()
        .find(|slot| slot["kind"] == "recovery" && slot["epoch"] == 1)
        .map(|slot| slot["id"].as_str().unwrap().to_owned())
        .unwrap();
    repo.ok(["key", "remove", &recovery]);
    let last = ids.iter().find(|id| **id != recovery).unwrap();
    repo.fails(1, ["key", "remove", last]).says(&["last key slot"]);
    repo.ok(["key", "rotate", "--data"]);
    assert_eq!(slots(&repo).len(), 1);
    repo.ok(["key", "check"]);
}

#[test]
fn a_recovery_key_comes_as_text_and_as_a_picture() {
    let (repo, _, _) = kept();
    let (text, picture) = (repo.path("r.txt"), repo.path("r.svg"));
    let args = ["--out", text.to_str().unwrap(), "--qr", picture.to_str().unwrap()];
    repo.ok(["key", "recovery"].iter().chain(&args));
    for path in [&text, &picture] {
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert!(fs::read_to_string(&picture).unwrap().contains("<svg"));
    repo.ok(["key", "check", "--recovery-key-file", text.to_str().unwrap()]);
    // Existing files stay, and no slot without an owner is left.
    let before = slots(&repo).len();
    repo.fails(1, ["key", "recovery"].iter().chain(&args)).says(&["exists"]);
    assert_eq!(slots(&repo).len(), before);
    // Shown once, where nobody keeps it: text and blocks.
    let shown = repo.ok(["key", "recovery"]);
    assert!(!shown.text().contains(PASSPHRASE));
    assert!(shown.err.contains("SLUICE-RECOVERY-") && shown.err.contains('█'), "{}", shown.err);
}

#[test]
fn slots_that_a_stranger_puts_there_are_named_and_not_counted_on() {
    let (repo, _, image) = kept();
    let strange = Repo::new();
    for (number, path) in strange.objects("keys").iter().enumerate() {
        fs::copy(path, repo.folder().join(format!("keys/00000000000{number}"))).unwrap();
    }
    let told = repo.sluice(["key", "list"]).run().ended(3);
    told.says(&["000000000000", "without the key"]);
    repo.fails(3, ["key", "check"]).says(&["000000000000"]);
    let told = repo.fails(3, ["doctor"]).text();
    for word in ["keys/000000000000", "without the key", "key remove"] {
        assert!(told.contains(word), "no {word:?} in {told}");
    }
    let listed = repo.sluice(["key", "list", "--json"]).run().ended(3).json();
    let by = |made: &str| -> Vec<String> {
        let all = listed["keys"].as_array().unwrap().iter();
        let these = all.filter(|slot| slot["made_by_holder"] == made);
        these.map(|slot| slot["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(by("forged").len(), strange.objects("keys").len());
    let own = by("vouched");
    assert_eq!(own.len(), 2);
    let current = |slot: &&Value| slot["current"] == true;
    let current = listed["keys"].as_array().unwrap().iter().find(current).unwrap()["id"].clone();
    let other = own.iter().find(|id| **id != current).unwrap();
    repo.ok(["key", "remove", other]);
    let last = current.as_str().unwrap();
    repo.fails(1, ["key", "remove", last]).says(&["last key slot", "000000000000", "key vouch"]);
    repo.assert_restores("vm@latest", &image);
    for id in by("forged") {
        repo.ok(["key", "remove", &id]);
    }
    repo.ok(["key", "check"]);
}

#[test]
fn slots_of_an_earlier_version_are_vouched_for_by_a_command() {
    let (repo, _, image) = kept();
    for path in repo.objects("keys") {
        let mut slot: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let fields = slot.as_object_mut().unwrap();
        fields.remove("voucher").expect("slots are vouched for when they are made");
        fields.remove("check");
        fs::write(&path, slot.to_string()).unwrap();
    }
    repo.ok(["key", "list"]).says(&["earlier version", "key vouch"]);
    repo.ok(["key", "check"]);
    let done = repo.json(["key", "vouch"]);
    assert_eq!(done["renewed"].as_array().unwrap().len(), 2, "{done}");
    let slots = slots(&repo);
    assert!(slots.iter().all(|slot| slot["made_by_holder"] == "vouched"), "{slots:?}");
    assert_eq!(slots.len(), 2);
    repo.ok(["key", "vouch"]).says(&["all key slots"]);
    repo.assert_restores("vm@latest", &image);
}

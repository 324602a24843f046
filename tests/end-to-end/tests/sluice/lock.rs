//! Immutability: backups that their own credentials cannot remove.

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;

const SETTING: [&str; 4] = ["--object-lock", "governance", "--lock-days", "1"];

#[test]
fn a_folder_has_no_locks_and_says_so() {
    let repo = Repo::without();
    repo.fails(1, [&["init"], &SETTING[..]].concat()).says(&["cannot lock objects"]);
    assert!(!repo.folder().join("format").exists());
    repo.ok(["init"]);
    repo.fails(1, [&["lock", "set"], &SETTING[..]].concat()).says(&["cannot lock objects"]);
    repo.fails(1, ["lock", "extend"]).says(&["sluice lock set"]);
    let status = repo.json(["lock", "status"]);
    assert!(status["lock"].is_null(), "{status}");
}

#[test]
fn a_bucket_without_locks_says_so() {
    let repo = Repo::without_on_s3();
    repo.fails(1, [&["init"], &SETTING[..]].concat()).says(&["cannot lock objects"]);
    assert!(repo.prefix().objects().is_empty());
}

#[test]
fn nobody_removes_a_locked_backup_and_a_removed_tombstone_brings_it_back() {
    let Some(repo) = Repo::without_on_locked_s3() else { return };
    repo.ok([&["init"], &SETTING[..]].concat());
    let image = repo.path("disk.raw");
    disk::create(&image, 4 * MIB);
    disk::fill(&image, MIB, 2 * MIB, 1);
    let point = repo.backup(&image);
    let status = repo.json(["lock", "status", "--recheck"]);
    assert_eq!(status["lock"]["mode"], "governance");
    assert_eq!(status["points"][0]["point"], point.as_str());
    assert_eq!(status["points"][0]["objects_without_lock"], 0, "{status}");
    assert!(status["points"][0]["locked_until"].is_string(), "{status}");
    assert_eq!(status["next_backup_extends"], 0);

    let needed = |key: &str| {
        let part = |part: &str| key.contains(part);
        part("/d/") || part("/m/") || part("/r/") || part("/keys/") || key.ends_with("/format")
    };
    let versions = repo.prefix().versions();
    let kept: Vec<_> = versions.iter().filter(|(key, _)| needed(key)).collect();
    assert!(kept.len() >= 5, "{versions:?}");
    for version in kept {
        assert!(!repo.prefix().remove_version(version, false), "{version:?} was removed");
    }
    repo.assert_restores(&point, &image);

    repo.ok(["forget", &point]).says(&["the destination locks them until 20"]);
    assert!(repo.points("vm").is_empty());
    let tombstone = repo.prefix().versions().into_iter().find(|(key, _)| key.contains("/t/"));
    assert!(repo.prefix().remove_version(&tombstone.unwrap(), false));
    repo.assert_restores(&point, &image);
}

#[test]
fn points_are_locked_for_longer_when_the_setting_grows() {
    let Some(repo) = Repo::without_on_locked_s3() else { return };
    repo.ok(["init"]);
    let image = repo.path("disk.raw");
    disk::create(&image, 2 * MIB);
    disk::fill(&image, 0, MIB, 2);
    repo.backup(&image);
    let before = repo.json(["lock", "status"]);
    assert!(before["points"][0]["locked_until"].is_null(), "{before}");
    repo.ok([&["lock", "set"], &SETTING[..]].concat());
    repo.fails(3, ["lock", "status"]).says(&["1 restore point locked for less", "lock extend"]);
    let objects = repo.prefix().versions();
    let plan = repo.json(["lock", "extend", "--plan"]);
    let planned = plan["would_extend"].as_u64().unwrap();
    assert!(planned >= 2, "{plan}");
    assert_eq!((&plan["points"], &plan["packs"]), (&1.into(), &planned.into()));
    repo.fails(3, ["lock", "status"]); // a plan changes nothing
    assert_eq!(repo.prefix().versions(), objects);
    let done = repo.json(["lock", "extend"]);
    // Its manifest, the descriptor and the key slots come on top.
    assert!(done["requests"]["extended"].as_u64().unwrap() > planned, "{done}");
    let after = repo.json(["lock", "status", "--recheck"]);
    assert!(after["points"][0]["locked_until"].is_string(), "{after}");
    assert_eq!(after["next_extend_extends"], 0, "{after}");
    // Shorter comes later.
    let off = repo.json(["lock", "set", "--off"]);
    assert_eq!(off["lock"]["for_seconds"], 86_400, "{off}");
    assert!(off["later"]["from"].is_string() && off["later"]["lock"].is_null(), "{off}");
}

#[test]
fn what_is_locked_stays_and_everybody_says_until_when() {
    let Some(repo) = Repo::without_on_locked_s3() else { return };
    repo.ok([&["init"], &SETTING[..]].concat());
    let image = repo.path("disk.raw");
    disk::create(&image, 2 * MIB);
    disk::fill(&image, 0, MIB, 3);
    repo.backup(&image);
    disk::fill(&image, 0, MIB, 4);
    let newest = repo.backup(&image);
    let pruned = repo.json(["prune", "--keep-last", "1"]);
    assert_eq!(pruned["removed"], 1);
    assert!(pruned["locked_until"].is_string(), "{pruned}");
    let plan = repo.json(["collect", "--plan"]);
    assert_eq!((&plan["dead_packs"], &plan["locked_packs"]), (&0.into(), &2.into()), "{plan}");
    let before = packs(&repo);
    repo.ok(["collect"]).says(&["2 packs", "locked: the first until 20"]);
    assert_eq!(packs(&repo), before);

    let id = repo.json(["stat"])["repository"].as_str().unwrap().to_owned();
    let asked = repo.json(["destroy", "--yes", &id, "--delay", "1s"]);
    let locked = repo.json(["lock", "status"])["points"][0]["locked_until"].clone();
    assert_eq!(asked["effective"], locked, "{asked}");
    repo.fails(1, ["destroy", "--yes", &id]).says(&["can be done from", "--cancel"]);
    repo.ok(["destroy", "--cancel"]);
    repo.assert_restores(&newest, &image);
}

fn packs(repo: &Repo) -> Vec<String> {
    let names = repo.prefix().objects().into_iter().map(|(key, _)| key);
    let mut names: Vec<String> =
        names.filter(|key| key.contains("/d/") || key.contains("/m/")).collect();
    names.sort();
    names
}

#[test]
fn a_pack_whose_lock_is_gone_is_told_and_locked_again() {
    let Some(repo) = Repo::without_on_locked_s3() else { return };
    repo.ok([&["init"], &SETTING[..]].concat());
    let image = repo.path("disk.raw");
    disk::create(&image, 2 * MIB);
    disk::fill(&image, 0, MIB, 5);
    let point = repo.backup(&image);
    let told = repo.ok(["doctor"]).text();
    assert!(told.contains("governance, 1 day"), "{told}");
    repo.ok(["scrub"]);
    let pack = packs(&repo).into_iter().find(|key| key.contains("/d/")).unwrap();
    repo.prefix().put_again(&pack);
    let told = repo.fails(3, ["doctor"]).text();
    for word in ["locked for less", &point, "lock extend --recheck"] {
        assert!(told.contains(word), "no {word:?} in: {told}");
    }
    repo.fails(3, ["scrub"]).says(&["1 pack without the lock they", "lock extend --recheck"]);
    repo.ok(["lock", "extend", "--recheck"]);
    repo.ok(["doctor"]);
    repo.ok(["scrub"]);
}

#[test]
fn what_is_retained_is_locked_as_long() {
    let Some(repo) = Repo::without_on_locked_s3() else { return };
    repo.ok([&["init"], &SETTING[..]].concat());
    let image = repo.path("disk.raw");
    disk::create(&image, MIB);
    disk::fill(&image, 0, MIB, 6);
    let point = repo.backup(&image);
    repo.ok(["retain", &point, "--for", "90d"]);
    let kept = repo.json(["list", "vm"])["points"][0]["retain_until"].clone();
    let locked = repo.json(["lock", "status", "--recheck"])["points"][0]["locked_until"].clone();
    // Both are RFC 3339 in UTC: they sort as text.
    assert!(locked.as_str().unwrap() >= kept.as_str().unwrap(), "{locked} {kept}");
}

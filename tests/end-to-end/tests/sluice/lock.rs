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

    let ran = repo.ok(["forget", &point]);
    assert!(ran.err.contains("locks"), "{}", ran.err);
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
    let planned = repo.json(["lock", "status"])["next_extend_extends"].as_u64().unwrap();
    assert!(planned >= 2, "{planned}");
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

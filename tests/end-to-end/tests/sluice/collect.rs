//! Collections, by the built executable.

use std::path::Path;

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;

/// Five points of `vm`, each with other content, and one of `other`; two of `vm` are left.
fn pruned(repo: &Repo) -> std::path::PathBuf {
    let image = repo.path("disk.raw");
    disk::create(&image, 16 * MIB);
    for day in 0..5 {
        disk::fill(&image, 0, 8 * MIB, day);
        disk::fill(&image, 12 * MIB, MIB, 99);
        repo.backup(&image);
    }
    repo.ok(["backup", "other", image.to_str().unwrap()]);
    repo.ok(["prune", "vm", "--keep-last", "2"]);
    image
}

fn check(repo: &Repo, image: &Path) {
    let before = repo.points("vm");
    let plan = repo.json(["collect", "--plan"]);
    assert_eq!(plan["pruned_points"], 3, "{plan}");
    assert!(plan["freed_bytes"].as_u64().is_some_and(|bytes| bytes > 16 * MIB), "{plan}");
    assert!(plan["dead_packs"].as_u64().is_some_and(|n| n >= 3), "{plan}");
    assert!(plan["planned_requests"]["delete"].as_u64().is_some_and(|n| n > 0), "{plan}");
    repo.ok(["collect", "--plan"]).says(&["nothing was changed"]);
    let done = repo.json(["collect", "--min-saving", "64KiB", "--compact-below", "80%"]);
    assert_eq!(done["finished"], true, "{done}");
    assert!(done["freed_bytes"].as_u64().is_some_and(|bytes| bytes > 16 * MIB), "{done}");
    assert!(done["compacted_packs"].as_u64().is_some_and(|packs| packs > 0), "{done}");
    assert_eq!(repo.points("vm"), before);
    repo.assert_restores("vm@latest", image);
    repo.assert_restores("other@latest", image);
    repo.assert_sound();
    // What is found again in a compacted pack is not stored again.
    let again = repo.path("again.raw");
    disk::create(&again, 16 * MIB);
    disk::fill(&again, 12 * MIB, MIB, 99);
    repo.ok(["backup", "third", again.to_str().unwrap()]);
    repo.assert_restores("third@latest", &again);
    let nothing = repo.json(["collect"]);
    assert_eq!((&nothing["removed_packs"], &nothing["rescued_packs"]), (&0.into(), &0.into()));
}

#[test]
fn a_collection_gives_space_back_in_a_folder() {
    let repo = Repo::new();
    let image = pruned(&repo);
    let before = disk::folder_size(&repo.folder());
    check(&repo, &image);
    assert!(disk::folder_size(&repo.folder()) + 16 * MIB < before);
}

#[test]
fn a_collection_gives_space_back_on_s3() {
    let repo = Repo::on_s3();
    let image = pruned(&repo);
    check(&repo, &image);
}

#[test]
fn an_open_backup_is_asked_and_waited_for() {
    let repo = Repo::new();
    let image = pruned(&repo);
    // A backup that waits for its source: it holds both ends of its pipe.
    let pipe = repo.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let pipe = std::fs::OpenOptions::new().read(true).write(true).open(&pipe).unwrap();
    let mut source =
        repo.sluice(["backup", "slow", "disk=-"]).env("SLUICE_HEARTBEAT", "1h").stdin(pipe).spawn();
    let sessions = || !repo.objects("s").is_empty();
    crate::support::run::wait_until("the backup has begun", sessions);
    let waits = repo.fails(3, ["collect", "--wait", "1s"]);
    waits.says(&["slow", "has not answered", "nothing was removed"]);
    repo.assert_sound();
    assert!(!source.is_over());
    // A dead one on this machine is not waited for.
    source.signal(rustix::process::Signal::KILL);
    source.wait();
    let done = repo.json(["collect"]);
    assert_eq!(done["finished"], true, "{done}");
    assert_eq!(done["plan"]["resumes"], true, "{done}");
    repo.assert_restores("vm@latest", &image);
}

#[test]
fn damage_stops_a_collection_and_the_message_says_what_to_do() {
    let repo = Repo::new();
    pruned(&repo);
    let packs = repo.objects("d").len();
    for pack in repo.objects("m") {
        std::fs::write(pack, b"nothing").unwrap();
    }
    repo.fails(4, ["collect"]).says(&["damaged", "help:"]);
    assert_eq!(repo.objects("d").len(), packs);
}

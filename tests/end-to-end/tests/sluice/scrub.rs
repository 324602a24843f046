//! Scrubs: with and without the passphrase, their coverage, and what they leave for backups.

use std::fs;

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;

fn repo_with_a_point() -> (Repo, std::path::PathBuf) {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 4 * MIB);
    disk::fill(&image, MIB, 2 * MIB, 1);
    repo.backup(&image);
    (repo, image)
}

#[test]
fn a_keyless_scrub_needs_no_passphrase_and_covers_everything() {
    let (repo, _) = repo_with_a_point();
    let keyless = |args: &[&str]| {
        let cmd = repo.sluice([&["scrub", "--json", "--no-progress"], args].concat());
        cmd.without_env("SLUICE_PASSPHRASE_FILE").run()
    };
    let status = keyless(&["--status"]).ended(0).json();
    assert!(status["proven_since"].is_null() && status["never_bytes"].as_u64().unwrap() > 0);
    keyless(&["--status", "--max-age", "90d"]).ended(3);
    let report = keyless(&["--keyless"]).ended(0).json();
    assert_eq!(report["packs"], 2);
    let status = keyless(&["--status", "--max-age", "90d"]).ended(0).json();
    assert!(status["proven_since"].is_string(), "{status}");
    assert_eq!(status["never_bytes"], 0);
    assert_eq!(keyless(&["--keyless", "--max-age", "90d"]).ended(0).json()["packs"], 0);
    let text = repo.ok(["scrub", "--status"]);
    assert!(text.text().contains("every byte proven since 20"), "{}", text.text());
}

#[test]
fn what_a_scrub_finds_the_next_backup_heals_without_a_rescan() {
    let (repo, image) = repo_with_a_point();
    let pack = repo.objects("d").remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    bytes[100] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    let key = pack.strip_prefix(repo.folder()).unwrap().to_str().unwrap().to_owned();
    let ran = repo.fails(4, ["scrub", "--keyless"]);
    assert!(ran.text().contains(&key), "{}", ran.text());
    assert!(repo.objects("b").is_empty(), "without a key nothing can be recorded");
    let ran = repo.fails(4, ["scrub"]);
    assert!(ran.text().contains(&key) && ran.err.contains("recorded"), "{}", ran.err);
    assert_eq!(repo.objects("b").len(), 1);
    // So is what a restore meets, unless it is known.
    let target = repo.path("restored.raw");
    let restore = ["restore", "vm@latest", target.to_str().unwrap(), "--overwrite"];
    assert!(!repo.fails(4, restore).err.contains("recorded"));
    fs::remove_file(repo.objects("b").remove(0)).unwrap();
    assert!(repo.fails(4, restore).err.contains("1 damaged pack recorded"));
    assert_eq!(repo.objects("b").len(), 1);
    // The index on this machine names the damaged chunk as well; it is not taken.
    let point = repo.backup(&image);
    assert_eq!(repo.stats(&point).new, 128 << 10, "one block is stored again");
    repo.assert_restores(&point, &image);
    // A second point has nothing to heal any more.
    let point = repo.backup(&image);
    assert_eq!(repo.stats(&point).new, 0);
    repo.assert_restores(&point, &image);
}

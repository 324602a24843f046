//! What goes wrong around a backup: each gives a clear error that says what to do.

use std::fs;
use std::path::Path;

use crate::support::disk::{self, MIB, folder_size};
use crate::support::namespace::Namespace;
use crate::support::repo::Repo;
use crate::support::run::{Cmd, wait_until};
use crate::support::serve::Source;

/// A repository with a small point of `vm`.
fn small() -> (Repo, String) {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 4 * MIB);
    disk::fill(&image, MIB, MIB, 1);
    let point = repo.backup(&image);
    (repo, point)
}

#[test]
fn a_wrong_passphrase_opens_nothing() {
    let (repo, point) = small();
    let wrong = repo.path("wrong");
    fs::write(&wrong, "not it\n").unwrap();
    for args in [&["list"][..], &["show", &point], &["verify"], &["restore", &point, "x.raw"]] {
        let cmd = repo.sluice(args).env("SLUICE_PASSPHRASE_FILE", &wrong);
        cmd.fails(1).says(&["passphrase", "help:", "SLUICE_PASSPHRASE_FILE"]);
    }
    // The variable is as good as the file.
    let cmd = repo.sluice(["list"]).without_env("SLUICE_PASSPHRASE_FILE");
    cmd.env("SLUICE_PASSPHRASE", crate::support::repo::PASSPHRASE).ok();
}

#[test]
fn what_is_no_repository_is_told_so() {
    let repo = Repo::without();
    let image = repo.path("disk.raw");
    disk::create(&image, MIB);
    let backup = ["backup", "vm", image.to_str().unwrap()];
    // Not there at all: perhaps a disk that is not mounted.
    for args in [&["list"][..], &backup] {
        repo.fails(1, args).says(&["repository", "does not exist", "help:"]);
    }
    assert!(!repo.folder().exists(), "a failed backup made a folder");
    // There, and empty; there, and full of other things.
    fs::create_dir(repo.folder()).unwrap();
    repo.fails(1, backup).says(&["repository", "sluice init"]);
    fs::write(repo.folder().join("holiday.jpg"), "x").unwrap();
    repo.fails(1, ["list"]).says(&["repository", "sluice init"]);
    assert_eq!(fs::read_dir(repo.folder()).unwrap().count(), 1);
    // A file.
    let cmd = repo.sluice(["list"]).env("SLUICE_REPO", &image);
    cmd.fails(1).says(&["disk.raw", "help:"]);
    // A kind of place nobody knows.
    let cmd = repo.sluice(["list"]).env("SLUICE_REPO", "gopher://x/y");
    cmd.fails(1).says(&["gopher", "s3://"]);
    // None named.
    let cmd = repo.sluice(["list"]).without_env("SLUICE_REPO");
    cmd.fails(2).says(&["--repo", "SLUICE_REPO"]);
}

#[test]
fn a_repository_is_created_once() {
    let (repo, point) = small();
    let format = fs::read(repo.folder().join("format")).unwrap();
    repo.fails(1, ["init"]).says(&["already", "help:"]);
    assert_eq!(fs::read(repo.folder().join("format")).unwrap(), format);
    repo.assert_restores(&point, &repo.path("disk.raw"));
}

#[test]
fn a_newer_format_is_refused_and_not_guessed_at() {
    let (repo, point) = small();
    let path = repo.folder().join("format");
    let text = fs::read_to_string(&path).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["major"] = 2.into();
    for field in ["min_reader", "min_writer"] {
        if json[field].is_number() {
            json[field] = 2.into();
        }
    }
    fs::remove_file(&path).unwrap();
    fs::write(&path, json.to_string()).unwrap();
    for args in [&["list"][..], &["verify"], &["restore", &point, "x.raw"]] {
        repo.fails(1, args).says(&["newer", "help:"]);
    }
    // A greater minor version is no obstacle.
    json = serde_json::from_str(&text).unwrap();
    json["minor"] = 7.into();
    json["novelty"] = "of the future".into();
    fs::write(&path, json.to_string()).unwrap();
    repo.assert_restores(&point, &repo.path("disk.raw"));
}

#[test]
fn names_that_lead_nowhere_are_told_with_what_there_is() {
    let (repo, point) = small();
    let image = repo.path("disk.raw");
    repo.fails(1, ["backup", "vm", "/nowhere/disk.raw"]).says(&["/nowhere/disk.raw"]);
    repo.fails(1, ["show", "nobody@latest"]).says(&["nobody", "help:", "sluice list"]);
    repo.fails(1, ["show", "vm@7777777777"]).says(&["7777777777", "help:"]);
    repo.fails(1, ["restore", &format!("{point}:vdz"), "x.raw"]).says(&["vdz", "disk"]);
    let changed = repo.path("changed.json");
    fs::write(&changed, "{ not json").unwrap();
    let args = ["backup", "vm", image.to_str().unwrap(), "--changed"];
    let ran = repo.sluice(args).arg(&changed).run();
    assert!(matches!(ran.code, Some(1 | 2)), "{}", ran.err);
    let ran = ran.says(&["changed.json"]);
    assert!(!ran.err.contains("panicked"));
    fs::write(&changed, r#"[{"offset": 18446744073709551615, "length": 18446744073709551615}]"#)
        .unwrap();
    let ran = repo.sluice(args).arg(&changed).run();
    assert!(matches!(ran.code, Some(1 | 2)), "extents beyond everything: {}", ran.err);
    assert_eq!(repo.points("vm"), [point]);
}

#[test]
fn a_file_that_shrinks_while_it_is_read_makes_no_restore_point() {
    let (repo, point) = small();
    let large = repo.path("large.raw");
    disk::create(&large, 640 * MIB);
    disk::fill(&large, 0, 640 * MIB, 2);
    let before = folder_size(&repo.folder());
    let source = format!("disk={}", large.display());
    let mut running = repo.sluice(["backup", "vm", &source]).spawn();
    wait_until("the first pack", || {
        assert!(!running.is_over(), "the backup ended before the file could shrink");
        folder_size(&repo.folder()) - before > 1000
    });
    fs::OpenOptions::new().write(true).open(&large).unwrap().set_len(MIB).unwrap();
    running.wait().ended(1).says(&["disk", "help:", "earlier restore points"]);
    assert_eq!(repo.points("vm").as_slice(), std::slice::from_ref(&point));
    repo.assert_restores(&point, &repo.path("disk.raw"));
    repo.assert_sound();
}

#[test]
fn a_source_that_dies_in_the_middle_makes_no_restore_point() {
    let (repo, point) = small();
    let large = repo.path("large.raw");
    disk::create(&large, 200 * MIB);
    disk::fill(&large, 0, 200 * MIB, 2);
    let before = folder_size(&repo.folder());
    let server = Source::slow(repo.dir(), &large);
    let source = format!("disk={}", server.uri());
    let mut running = repo.sluice(["backup", "vm", &source]).spawn();
    wait_until("the first pack", || {
        assert!(!running.is_over(), "the backup ended before its source could die");
        folder_size(&repo.folder()) - before > 1000
    });
    server.kill();
    running.wait().ended(1).says(&["disk", "help:"]);
    assert_eq!(repo.points("vm").as_slice(), std::slice::from_ref(&point));
    repo.assert_sound();
    // With the source back, it goes on.
    let server = Source::slow(repo.dir(), &large);
    repo.ok(["backup", "vm", &format!("disk={}", server.uri())]);
    repo.assert_restores("vm@latest", &large);
}

#[test]
fn a_source_with_an_unreadable_sector_makes_no_restore_point() {
    let (repo, point) = small();
    let server = Source::unreadable(repo.dir());
    let source = format!("disk={}", server.uri());
    repo.fails(1, ["backup", "vm", &source]).says(&["disk", "help:"]);
    assert_eq!(repo.points("vm"), [point]);
}

#[test]
fn a_full_destination_says_so_and_keeps_what_was_there() {
    let repo = Repo::without();
    let inside = Namespace::new();
    inside.tmpfs(&repo.path("disk"), 150);
    // Beside the repository lies something large.
    let ballast = repo.path("disk/ballast");
    inside.ok("fallocate", &["--length", "100M", ballast.to_str().unwrap()]);
    let place = repo.path("disk/repository");
    let sluice =
        |args: &[&str]| repo.sluice(args).env("SLUICE_REPO", &place).behind(&inside.enter());
    sluice(&["init"]).ok();
    let (small, large) = (repo.path("small.raw"), repo.path("large.raw"));
    disk::create(&small, 4 * MIB);
    disk::fill(&small, 0, 4 * MIB, 1);
    disk::create(&large, 100 * MIB);
    disk::fill(&large, 0, 100 * MIB, 2);
    let source = |path: &Path| format!("disk={}", path.display());
    sluice(&["backup", "vm", &source(&small)]).ok();
    sluice(&["--retry-for", "5s", "backup", "vm", &source(&large)]).fails(1).says(&[
        "space",
        "help:",
        "make room",
    ]);
    let list = sluice(&["list", "--json"]).ok().json();
    assert_eq!(list["points"].as_array().unwrap().len(), 1);
    sluice(&["verify", "--data"]).ok();
    let target = repo.path("restored.raw");
    sluice(&["restore", "vm@latest", target.to_str().unwrap()]).ok();
    disk::assert_same(&small, &target);
    // With more room the same command succeeds.
    inside.ok("rm", &[ballast.to_str().unwrap()]);
    sluice(&["backup", "vm", &source(&large)]).ok();
    sluice(&["verify", "--data"]).ok();
}

#[test]
fn a_destination_without_any_room_can_be_read_and_emptied() {
    let repo = Repo::without();
    let inside = Namespace::new();
    inside.tmpfs(&repo.path("disk"), 60);
    let place = repo.path("disk/repository");
    let sluice =
        |args: &[&str]| repo.sluice(args).env("SLUICE_REPO", &place).behind(&inside.enter());
    sluice(&["init"]).ok();
    let image = repo.path("image.raw");
    disk::create(&image, 8 * MIB);
    let source = format!("disk={}", image.display());
    for day in 0..4 {
        disk::fill(&image, 0, 8 * MIB, day);
        sluice(&["backup", "vm", &source]).ok();
    }
    // To the last byte.
    let rest = repo.path("disk/rest");
    let fill = ["if=/dev/zero", &format!("of={}", rest.display()), "bs=4k"];
    Cmd::new("dd").args(fill).behind(&inside.enter()).fails(1);
    sluice(&["backup", "vm", &source, "--rescan"]).fails(1).says(&["room", "help:"]);
    let target = repo.path("restored.raw");
    sluice(&["restore", "vm@latest", target.to_str().unwrap()]).ok();
    disk::assert_same(&image, &target);
    sluice(&["prune", "vm", "--keep-last", "1"]).ok();
    let done = sluice(&["collect", "--json", "--no-progress"]).ok().json();
    assert!(done["freed_bytes"].as_u64().is_some_and(|bytes| bytes > 20 * MIB), "{done}");
    sluice(&["verify", "--data"]).ok();
    // Now there is room again, and some is kept for the next time.
    inside.ok("stat", &[place.join("ballast").to_str().unwrap()]);
    disk::fill(&image, 0, 8 * MIB, 9);
    sluice(&["backup", "vm", &source]).ok();
}

#[test]
fn a_full_target_of_a_restore_says_so() {
    let (repo, point) = small();
    let inside = Namespace::new();
    let place = repo.path("full");
    inside.tmpfs(&place, 1);
    let target = place.join("disk.raw");
    let image = repo.path("disk.raw");
    disk::fill(&image, 0, 4 * MIB, 5);
    repo.ok(["backup", "vm", image.to_str().unwrap()]);
    let args = ["restore", "vm@latest", target.to_str().unwrap()];
    repo.sluice(args).behind(&inside.enter()).fails(1).says(&["disk.raw", "help:"]);
    assert_eq!(repo.points("vm")[0], point);
}

#[test]
fn a_read_only_destination_serves_readers_and_refuses_writers() {
    let (repo, point) = small();
    let image = repo.path("disk.raw");
    let inside = Namespace::new();
    inside.read_only(&repo.folder());
    let sluice = |args: &[&str]| repo.sluice(args).behind(&inside.enter());
    let backup = ["--retry-for", "5s", "backup", "vm", image.to_str().unwrap()];
    sluice(&backup).fails(1).says(&["read-only", "help:"]);
    sluice(&["--retry-for", "5s", "forget", &point]).fails(1).says(&["read-only", "help:"]);
    sluice(&["list"]).ok();
    sluice(&["verify", "--data"]).ok();
    let target = repo.path("restored.raw");
    sluice(&["restore", &point, target.to_str().unwrap()]).ok();
    disk::assert_same(&image, &target);
    assert_eq!(repo.points("vm"), [point]);
}

//! Backups that are killed or stopped: the repository stays valid, and the next run goes on.

use std::fs;
use std::io::Write;
use std::path::Path;

use rustix::process::Signal;

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;
use crate::support::run::{Running, wait_until};
use crate::support::serve::Source;

/// Incompressible, so that what is stored is what is read.
const SIZE: u64 = 320 * MIB;

/// An earlier point of another small disk, and a large disk to be killed over.
fn prepared(repo: Repo, size: u64) -> (Repo, String) {
    let (small, large) = (repo.path("small.raw"), repo.path("disk.raw"));
    disk::create(&small, 4 * MIB);
    disk::fill(&small, MIB, MIB, 1);
    let point = repo.backup(&small);
    disk::create(&large, size + 4 * MIB);
    disk::fill(&large, 2 * MIB, size, 2);
    (repo, point)
}

/// Starts a backup of the large disk and waits until this much more data is stored. The source
/// is slow: there is always more to come.
fn under_way(repo: &Repo, bytes: u64) -> (Running, Source) {
    let before = repo.data();
    let source = Source::slow(repo.dir(), &repo.path("disk.raw"));
    let running = repo.sluice(["backup", "vm", &format!("disk={}", source.uri())]).spawn();
    (wait_for_data(repo, running, before + bytes), source)
}

fn wait_for_data(repo: &Repo, mut running: Running, bytes: u64) -> Running {
    wait_until("something is stored", || {
        assert!(!running.is_over(), "the backup ended before it could be killed");
        repo.data() >= bytes
    });
    running
}

fn check_after(repo: &Repo, earlier: &str, small: &Path) {
    assert_eq!(repo.points("vm"), [earlier]);
    repo.assert_sound();
    repo.assert_restores(earlier, small);
}

/// Runs the backup again and checks that it went on from what was stored.
fn go_on(repo: &Repo, size: u64) {
    // All but what the small disk has.
    let kept = repo.data().saturating_sub(2 * MIB);
    assert!(kept >= 30 * MIB, "only {kept} bytes survived");
    let image = repo.path("disk.raw");
    let point = repo.backup(&image);
    let stats = repo.stats(&point);
    // What is under way when it dies is lost: some packs of 32 MiB in the making.
    assert!(
        stats.new <= size - kept + 4 * MIB,
        "{} MiB were there and {} MiB were sent again",
        kept / MIB,
        stats.new / MIB
    );
    assert!(
        repo.data() <= size + size / 20 + 2 * MIB,
        "{} MiB are stored for {} MiB",
        repo.data() / MIB,
        size / MIB
    );
    repo.assert_sound();
    repo.assert_restores(&point, &image);
}

#[test]
fn a_backup_killed_several_times_goes_on_each_time() {
    let (repo, earlier) = prepared(Repo::new(), SIZE);
    let small = repo.path("small.raw");
    for part in [1, 40 * MIB, 80 * MIB] {
        let (running, _source) = under_way(&repo, part);
        running.signal(Signal::KILL);
        assert_eq!(running.wait().signal, Some(9));
        check_after(&repo, &earlier, &small);
    }
    go_on(&repo, SIZE);
    assert_eq!(repo.points("vm").len(), 2);
}

#[test]
fn a_killed_backup_to_s3_goes_on() {
    let size = 160 * MIB;
    let (repo, earlier) = prepared(Repo::on_s3(), size);
    let (running, _source) = under_way(&repo, 40 * MIB);
    running.signal(Signal::KILL);
    assert_eq!(running.wait().signal, Some(9));
    check_after(&repo, &earlier, &repo.path("small.raw"));
    go_on(&repo, size);
}

#[test]
fn a_backup_that_is_interrupted_says_how_to_go_on_and_loses_nothing_stored() {
    let (repo, earlier) = prepared(Repo::new(), SIZE);
    let (running, _source) = under_way(&repo, 30 * MIB);
    running.signal(Signal::INT);
    running.wait().ended(1).says(&["run", "again"]);
    check_after(&repo, &earlier, &repo.path("small.raw"));
    go_on(&repo, SIZE);
}

#[test]
fn a_backup_of_a_pipe_that_stands_still_can_be_told_to_end() {
    let (repo, earlier) = prepared(Repo::new(), 100 * MIB);
    let (reader, mut writer) = std::io::pipe().unwrap();
    let content = fs::read(repo.path("disk.raw")).unwrap();
    let before = repo.data();
    let running = repo.sluice(["backup", "vm", "disk=-"]).stdin(reader).spawn();
    // All of it is written, and the pipe is not closed.
    writer.write_all(&content).unwrap();
    let running = wait_for_data(&repo, running, before + 1);
    running.signal(Signal::TERM);
    running.wait().ended(1).says(&["run", "again"]);
    drop(writer);
    check_after(&repo, &earlier, &repo.path("small.raw"));
}

#[test]
fn what_a_killed_backup_left_is_told_by_the_next_one() {
    let (repo, _) = prepared(Repo::new(), SIZE);
    let (running, _source) = under_way(&repo, 100 * MIB);
    running.signal(Signal::KILL);
    running.wait();
    let image = repo.path("disk.raw");
    let args = ["backup".as_ref(), "vm".as_ref(), image.as_os_str()];
    let done = repo.json(args);
    assert!(done["resumed_packs"].as_u64().unwrap() > 0, "{done}");
}

#[test]
fn two_backups_of_one_instance_at_once_both_stand_or_one_says_why() {
    let repo = Repo::new();
    let images = ["a.raw", "b.raw"].map(|name| repo.path(name));
    for (number, image) in images.iter().enumerate() {
        disk::create(image, 64 * MIB);
        disk::fill(image, 0, 60 * MIB, number as u64);
    }
    let start =
        |image: &Path| repo.sluice(["backup", "vm", &format!("disk={}", image.display())]).spawn();
    let both = [start(&images[0]), start(&images[1])].map(Running::wait);
    let done = both.iter().filter(|ran| matches!(ran.code, Some(0 | 3))).count();
    assert!(done >= 1, "{} {}", both[0].err, both[1].err);
    for ran in both.iter().filter(|ran| !matches!(ran.code, Some(0 | 3))) {
        assert_eq!(ran.code, Some(1));
        assert!(ran.err.contains("help:"), "{}", ran.err);
    }
    let points = repo.points("vm");
    assert_eq!(points.len(), done);
    repo.assert_sound();
    let target = repo.path("restored.raw");
    for point in points {
        repo.ok(["restore", &point, target.to_str().unwrap()]);
        let restored = fs::read(&target).unwrap();
        assert!(images.iter().any(|image| fs::read(image).unwrap() == restored), "{point}");
        fs::remove_file(&target).unwrap();
    }
}

/// Backs up `disk.raw`, begins to restore it to `target.raw`, and kills that; returns the point.
fn killed_restore(repo: &Repo) -> String {
    let (image, target) = (repo.path("disk.raw"), repo.path("target.raw"));
    disk::create(&image, SIZE);
    disk::fill(&image, 0, SIZE, 2);
    let point = repo.backup(&image);
    let mut running = repo.sluice(["restore", &point, target.to_str().unwrap()]).spawn();
    wait_until("the restore has begun", || {
        assert!(!running.is_over(), "the restore ended before it could be killed");
        target.exists() && disk::allocated(&target) > 10 * MIB
    });
    running.signal(Signal::KILL);
    running.wait();
    point
}

#[test]
fn a_killed_restore_goes_on_with_resume() {
    let repo = Repo::new();
    let point = killed_restore(&repo);
    let target = repo.path("target.raw");
    let args = ["restore", &point, target.to_str().unwrap()];
    repo.sluice(args).arg("--resume").ok();
    disk::assert_same(&repo.path("disk.raw"), &target);
}

#[test]
fn a_file_that_took_the_place_of_an_interrupted_restore_is_not_written_over() {
    let repo = Repo::new();
    let point = killed_restore(&repo);
    let target = repo.path("target.raw");
    let args = ["restore", &point, target.to_str().unwrap()];
    fs::rename(&target, repo.path("elsewhere.raw")).unwrap();
    fs::write(&target, "precious").unwrap();
    repo.fails(1, args).says(&["exists already", "--overwrite"]);
    repo.sluice(args).arg("--resume").fails(1).says(&["no interrupted restore"]);
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    // Back in its place it is gone on with.
    fs::rename(repo.path("elsewhere.raw"), &target).unwrap();
    repo.ok(args);
    disk::assert_same(&repo.path("disk.raw"), &target);
}

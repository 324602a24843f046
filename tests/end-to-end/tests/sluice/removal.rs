//! Forget and prune.

use std::fs;

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;

/// Points of `vm` with one image that changes each time, and of `other`.
fn points(count: u64) -> (Repo, Vec<String>) {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, MIB);
    for day in 0..count {
        disk::fill(&image, 0, 10_000, day);
        repo.backup(&image);
    }
    repo.ok(["backup", "other", image.to_str().unwrap()]);
    let points = repo.points("vm");
    assert_eq!(points.len() as u64, count);
    (repo, points)
}

fn tombstones(repo: &Repo) -> usize {
    repo.objects("t").len()
}

#[test]
fn a_dry_run_shows_the_verdicts_and_changes_nothing() {
    let (repo, points) = points(4);
    let objects = repo.objects("");
    let table = repo.ok(["prune", "--keep-last", "2", "--dry-run"]).text();
    assert!(table.contains("vm") && table.contains("other"), "{table}");
    let plan = repo.json(["prune", "--keep-last", "2", "--dry-run"]);
    let verdicts = plan["points"].as_array().unwrap_or_else(|| panic!("no points in {plan}"));
    let keeps = |point: &str| {
        let of = |verdict: &&serde_json::Value| {
            verdict["point"].as_str().is_some_and(|name| name == point)
        };
        verdicts.iter().find(of).expect("a verdict for each point")["keep"].as_bool().unwrap()
    };
    let kept: Vec<_> = points.iter().map(|point| keeps(point)).collect();
    assert_eq!(kept, [false, false, true, true]);
    assert!(keeps(&repo.points("other")[0]));
    assert_eq!(repo.objects("").len(), objects.len());
    assert_eq!(tombstones(&repo), 0);
    assert_eq!(repo.points("vm"), points);
}

#[test]
fn prune_hides_what_no_rule_keeps_and_nothing_else() {
    let (repo, points) = points(4);
    let image = repo.path("disk.raw");
    let packs = repo.objects("d").len();
    repo.ok(["prune", "vm", "--keep-last", "2"]);
    assert_eq!(repo.points("vm"), points[2..]);
    assert_eq!(repo.points("other").len(), 1);
    assert_eq!(tombstones(&repo), 2);
    assert_eq!(repo.objects("d").len(), packs, "no space is given back yet");
    repo.fails(1, ["show", &points[0]]).says(&["help:"]);
    repo.fails(1, ["restore", &points[1], "x.raw"]);
    repo.assert_restores("vm@latest", &image);
    repo.assert_sound();
    // Again: nothing is left to do.
    repo.ok(["prune", "vm", "--keep-last", "2"]);
    assert_eq!(tombstones(&repo), 2);
    // The points of one year: the newest stands for all.
    repo.ok(["prune", "--keep-yearly", "7"]);
    assert_eq!(repo.points("vm"), points[3..]);
    // A backup goes on from what is left.
    repo.backup(&image);
    assert_eq!(repo.points("vm").len(), 2);
}

#[test]
fn prune_without_a_rule_is_refused() {
    let (repo, points) = points(2);
    let ran = repo.sluice(["prune"]).run();
    assert!(matches!(ran.code, Some(1 | 2)), "{:?}", ran.code);
    ran.says(&["--keep"]);
    assert_eq!(repo.points("vm"), points);
}

#[test]
fn forget_removes_the_named_points_only() {
    let (repo, points) = points(3);
    repo.ok(["forget", &points[0], &points[2]]);
    assert_eq!(repo.points("vm"), points[1..2]);
    repo.fails(1, ["forget", &points[0]]).says(&["help:"]);
    assert_eq!(tombstones(&repo), 2);
    repo.assert_sound();
}

#[test]
fn a_point_under_retention_stays() {
    let (repo, _) = points(1);
    let image = repo.path("disk.raw");
    let kept = repo.backup_with(&image, &["--retain", "30d"]);
    disk::fill(&image, 0, 500, 77);
    repo.backup(&image);
    repo.ok(["prune", "vm", "--keep-last", "1"]);
    assert!(repo.points("vm").contains(&kept));
    repo.fails(1, ["forget", &kept]).says(&[&kept, "retention"]);
    assert!(repo.points("vm").contains(&kept));
}

#[test]
fn a_damaged_tombstone_does_not_bring_trouble() {
    let (repo, points) = points(3);
    repo.ok(["forget", &points[0]]);
    let path = repo.objects("t").remove(0);
    fs::remove_file(&path).unwrap();
    fs::write(&path, "rubbish").unwrap();
    let ran = repo.sluice(["list", "vm"]).run();
    assert!(!ran.err.contains("panicked"));
    repo.assert_restores("vm@latest", &repo.path("disk.raw"));
}

//! What keeps restore points: holds, retention, events; and the end of a repository.

use std::fs;

use serde_json::Value;

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;
use crate::support::run::wait_until;

/// Points of `vm` with one image that changes each time.
fn points(count: u64) -> (Repo, Vec<String>) {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, MIB);
    for day in 0..count {
        disk::fill(&image, 0, 10_000, day);
        repo.backup(&image);
    }
    let points = repo.points("vm");
    (repo, points)
}

fn shown(repo: &Repo, point: &str) -> Value {
    repo.json(["show", point])
}

fn id(repo: &Repo) -> String {
    repo.json(["stat"])["repository"].as_str().unwrap().to_owned()
}

#[test]
fn a_held_point_survives_forget_and_prune_until_released() {
    let (repo, points) = points(3);
    repo.ok(["hold", &points[0], "--reason", "case 17"]);
    assert_eq!(shown(&repo, &points[0])["protection"]["hold_reason"], "case 17");
    assert!(repo.ok(["list"]).text().contains("on hold (case 17)"));
    assert!(repo.ok(["show", &points[0]]).text().contains("case 17"));
    let refused = repo.fails(1, ["forget", &points[1], &points[0]]);
    refused.says(&[&points[0], "hold", "case 17", "help:", "sluice release"]);
    assert_eq!(repo.points("vm"), points, "nothing goes when one has to stay");
    let plan = repo.ok(["prune", "--keep-last", "1", "--dry-run"]).text();
    assert!(plan.contains("on hold (case 17)"), "{plan}");
    repo.ok(["prune", "--keep-last", "1"]);
    assert_eq!(repo.points("vm"), [points[0].clone(), points[2].clone()]);
    repo.ok(["release", &points[0]]);
    repo.ok(["forget", &points[0]]);
    assert_eq!(repo.points("vm"), points[2..]);
    repo.fails(2, ["hold", "vm"]).says(&["vm@latest"]);
}

#[test]
fn a_backup_can_begin_on_hold_and_under_retention() {
    let (repo, _) = points(1);
    let image = repo.path("disk.raw");
    let held = repo.backup_with(&image, &["--hold", "--retain-for", "30d"]);
    let document = shown(&repo, &held);
    assert_eq!(document["hold"], true);
    assert!(document["retain_until"].is_string());
    repo.fails(1, ["forget", &held]).says(&["hold"]);
    repo.ok(["release", &held]);
    let until = document["retain_until"].as_str().unwrap();
    repo.fails(1, ["forget", &held]).says(&["retention", until, "help:", "sluice show"]);
}

#[test]
fn retention_grows_at_once_and_shrinks_after_its_delay() {
    let (repo, points) = points(2);
    repo.ok(["retain", &points[0], "--until", "2999-01-01"]);
    assert_eq!(shown(&repo, &points[0])["retain_until"], "2999-01-01T00:00:00Z");
    let refused = repo.fails(1, ["retain", &points[0], "--until", "2998-01-01"]);
    refused.says(&["2999-01-01", "help:", "--shorten"]);
    repo.ok(["retain", &points[0], "--until", "2998-01-01", "--shorten"]);
    let document = shown(&repo, &points[0]);
    assert_eq!(document["retain_until"], "2999-01-01T00:00:00Z", "not yet");
    assert_eq!(document["protection"]["shorten"]["to"], "2998-01-01T00:00:00Z");
    assert!(repo.ok(["list"]).text().contains("2998-01-01"), "everybody sees it coming");
    repo.fails(1, ["forget", &points[0]]).says(&["2999-01-01"]);
    // Wanting it longer takes that back.
    repo.ok(["retain", &points[0], "--until", "2999-01-01"]);
    assert_eq!(shown(&repo, &points[0])["protection"]["shorten"], Value::Null);
    // Without a date it ends; here after the shortest delay there is.
    repo.ok(["retain", &points[0], "--shorten", "--delay", "1s"]);
    wait_until("the shortening counts", || {
        repo.sluice(["forget", &points[0]]).run().code == Some(0)
    });
    assert_eq!(repo.points("vm"), points[1..]);
    repo.fails(1, ["retain", &points[1], "--shorten"]).says(&["not kept for longer"]);
    repo.fails(2, ["retain", &points[1], "--until", "soon"]).says(&["soon"]);
}

#[test]
fn an_instance_is_kept_until_an_event_and_some_time_after_it() {
    let (repo, points) = points(2);
    repo.ok(["retain", "vm", "--after-event", "contract-17-ended", "--for", "70y"]);
    let list = repo.ok(["list"]).text();
    assert_eq!(list.matches("until event contract-17-ended and 70y").count(), 2, "{list}");
    repo.fails(1, ["forget", &points[0]]).says(&["contract-17-ended"]);
    repo.ok(["prune", "--keep-last", "1"]);
    assert_eq!(repo.points("vm"), points);
    // Another event, or another instance, does not begin it.
    repo.fails(3, ["event", "other"]).says(&["no restore point waits"]);
    repo.fails(3, ["event", "contract-17-ended", "--instance", "db"]);
    let done = repo.json(["event", "contract-17-ended", "--at", "2020-03-01"]);
    assert_eq!(done["points"].as_array().unwrap().len(), 2);
    // Years of 366 days: seventy of the calendar are not cut short.
    let until = "2090-04-23T00:00:00Z";
    for point in &points {
        let document = shown(&repo, point);
        assert_eq!(document["retain_until"], until);
        assert_eq!(document["protection"]["event"]["happened"], "2020-03-01T00:00:00Z");
    }
    repo.fails(1, ["forget", &points[0]]).says(&[until]);
    // An event long ago: the time after it is over.
    let image = repo.path("disk.raw");
    let last = repo.backup(&image);
    repo.ok(["retain", &last, "--after-event", "sold", "--for", "1d"]);
    repo.ok(["event", "sold", "--at", "2020-01-01T12:00"]);
    repo.ok(["forget", &last]);
}

#[test]
fn a_minimum_age_keeps_what_is_young() {
    let (repo, points) = points(3);
    let plan = repo.json(["prune", "--keep-last", "1", "--min-age", "14d", "--dry-run"]);
    for verdict in plan["points"].as_array().unwrap() {
        assert!(verdict["reasons"].as_array().unwrap().contains(&"min-age".into()), "{plan}");
    }
    repo.ok(["prune", "--keep-last", "1", "--min-age", "14d"]);
    assert_eq!(repo.points("vm"), points);
    repo.fails(2, ["prune", "--min-age", "14d"]).says(&["--keep"]);
}

#[test]
fn a_policy_is_played_without_a_repository() {
    let repo = Repo::without();
    let rules = ["prune", "--keep-daily", "7", "--keep-monthly", "12"];
    let more = ["--simulate", "2y", "--every", "1d", "--from", "2026-01-01"];
    let cmd = || repo.sluice(rules.iter().chain(&more)).without_env("SLUICE_REPO");
    let played = cmd().args(["--json"]).without_env("SLUICE_PASSPHRASE_FILE").ok().json();
    assert_eq!(played["backups"], 731);
    let left = played["left"].as_array().unwrap();
    assert_eq!(left.len() as u64, played["kept"][730]["kept"].as_u64().unwrap());
    let dates: Vec<&str> = left.iter().map(|one| one["created"].as_str().unwrap()).collect();
    let kept = |day: &str| dates.iter().any(|date| date.starts_with(day));
    for day in ["2027-02-28", "2027-11-30", "2027-12-26", "2028-01-01"] {
        assert!(kept(day), "{day}: {dates:?}");
    }
    for day in ["2027-01-31", "2027-12-25"] {
        assert!(!kept(day), "{day}: {dates:?}");
    }
    let text = cmd().ok();
    assert!(text.text().contains("daily") && text.text().contains("monthly"), "{}", text.text());
    assert!(text.text().lines().count() < 60);
    repo.fails(2, ["prune", "--simulate", "2y"]).says(&["--keep"]);
    repo.fails(2, ["prune", "--keep-last", "1", "--simulate", "9y", "--every", "1s"])
        .says(&["at most"]);
}

#[test]
fn a_repository_is_destroyed_late_by_name_and_never_against_a_hold() {
    let (repo, points) = points(2);
    let id = id(&repo);
    let objects = repo.objects("").len();
    repo.fails(2, ["destroy"]).says(&[&id, "--yes"]);
    repo.fails(2, ["destroy", "--yes", "0123"]).says(&[&id]);
    repo.ok(["hold", &points[0]]);
    repo.fails(1, ["destroy", "--yes", &id]).says(&[&points[0], "hold", "help:"]);
    repo.ok(["release", &points[0]]);
    let asked = repo.json(["destroy", "--yes", &id]);
    assert_eq!(asked["state"], "requested");
    repo.ok(["stat"]).says(&["destroyed", "--cancel"]);
    // A week to think about it, during which everything works.
    repo.fails(1, ["destroy", "--yes", &id]).says(&["asked for", "--cancel"]);
    repo.assert_restores("vm@latest", &repo.path("disk.raw"));
    repo.ok(["destroy", "--cancel"]);
    assert_eq!(repo.objects("").len(), objects + 1, "the hold's record, and no wish");
    assert_eq!(repo.json(["destroy", "--cancel"])["state"], "none");
    fs::write(repo.folder().join("notes.txt"), "mine").unwrap();
    repo.ok(["destroy", "--yes", &id, "--delay", "1s"]);
    let mut done = Value::Null;
    wait_until("the delay is over", || {
        let ran = repo.sluice(["destroy", "--yes", &id, "--json"]).run();
        let over = ran.code == Some(0);
        if over {
            done = ran.json();
        }
        over
    });
    assert_eq!((&done["state"], &done["left"]), (&"destroyed".into(), &1.into()));
    repo.fails(1, ["list"]).says(&["no repository"]);
    let left: Vec<_> = repo.objects("");
    assert_eq!(left.len(), 1, "{left:?}");
    // The place can be used again.
    repo.ok(["init"]);
    assert!(repo.points("vm").is_empty());
}

/// A repository whose destruction was killed when the keys were gone, and its name; nothing when
/// all was over before.
fn half_destroyed() -> Option<(Repo, String)> {
    let (repo, _) = points(1);
    let id = id(&repo);
    repo.ok(["destroy", "--yes", &id, "--delay", "1s"]);
    // Enough to remove that there is time to kill it when the keys are gone.
    let folder = repo.folder().join("d/00");
    fs::create_dir_all(&folder).unwrap();
    for number in 0..20_000 {
        fs::write(folder.join(format!("{number}.0")), "").unwrap();
    }
    let mut killed = false;
    wait_until("it was killed after the keys were gone", || {
        let mut running = repo.sluice(["destroy", "--yes", &id]).spawn();
        while !running.is_over() {
            if repo.objects("keys").is_empty() {
                running.signal(rustix::process::Signal::KILL);
                killed = running.wait().signal.is_some();
                return true;
            }
        }
        // Refused, as the delay is not over; or it was too fast.
        running.wait().code == Some(0)
    });
    killed.then_some((repo, id))
}

#[test]
fn a_destruction_that_was_killed_goes_on_without_a_key() {
    let (repo, id) = (0..5).find_map(|_| half_destroyed()).expect("one of five can be killed");
    assert!(repo.folder().join("destroy").exists());
    repo.fails(1, ["list"]).says(&["passphrase"]);
    repo.fails(1, ["destroy", "--cancel"]).says(&["has begun"]);
    repo.fails(2, ["destroy", "--yes", "0123"]).says(&[&id]);
    let bare = repo.sluice(["destroy", "--yes", &id]).without_env("SLUICE_PASSPHRASE_FILE");
    bare.ok();
    repo.fails(1, ["list"]).says(&["no repository"]);
    assert!(repo.objects("").is_empty());
}

#[test]
fn a_point_that_is_kept_may_be_named_as_lists_show_it_and_must_be_there() {
    let (repo, points) = points(3);
    let short = &points[0][..points[0].len() - 1];
    let keep = |point: &str| format!("--keep-until={point}=2200-01-01");
    for (wrong, says) in
        [("vm@vvvvvvvv", "fits"), ("other@vvvvvvvv", "no restore point"), ("v", "no such instance")]
    {
        repo.fails(2, ["prune", "--keep-last", "1", &keep(wrong)]).says(&[wrong, says]);
    }
    let simulate = ["prune", "--keep-last", "1", "--simulate", "9d", &keep(short)];
    repo.fails(2, simulate).says(&["simulation"]);
    let twice = ["prune", "--keep-last", "1", &keep(short), &keep(&points[0])];
    repo.fails(2, twice).says(&["another time"]);
    assert_eq!(repo.points("vm"), points, "nothing goes while something is mistyped");
    repo.ok(["prune", "--keep-last", "1", &keep(short)]);
    assert_eq!(repo.points("vm"), [points[0].clone(), points[2].clone()]);
}

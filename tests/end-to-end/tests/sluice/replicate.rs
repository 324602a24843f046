//! A second place: replicas in folders and on S3, seeded by hand, killed, damaged, promoted, and
//! copies into repositories with other keys.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::Value;

use crate::support::disk::{self, MIB};
use crate::support::repo::{PASSPHRASE, Repo};
use crate::support::run::{Cmd, wait_until};

/// A repository with two points of `vm`, and the disks as they were.
fn source() -> (Repo, [std::path::PathBuf; 2]) {
    let repo = Repo::new();
    let days = [repo.path("day-0.raw"), repo.path("day-1.raw")];
    disk::sample(&days[0]);
    fs::copy(&days[0], &days[1]).unwrap();
    disk::modify(&days[1], 1);
    for day in &days {
        repo.ok(["backup", "vm", &format!("disk={}", day.display())]);
    }
    (repo, days)
}

/// Replication from one repository to another, which has no passphrase.
fn keyless(from: &Repo, to: &Repo) -> Cmd {
    let cmd = to.sluice(["replicate", "--to", to.url(), "--json", "--no-progress"]);
    cmd.env("SLUICE_REPO", from.url()).without_env("SLUICE_PASSPHRASE_FILE")
}

fn assert_replica(of: &Repo, replica: &Repo, days: &[std::path::PathBuf]) {
    let points = of.points("vm");
    assert_eq!(replica.points("vm"), points);
    replica.assert_sound();
    for (point, day) in points.iter().zip(days) {
        replica.assert_restores(point, day);
    }
}

fn figure(document: &Value, name: &str) -> u64 {
    document[name].as_u64().unwrap_or_else(|| panic!("no {name} in {document}"))
}

fn requests(document: &Value) -> u64 {
    let sides = document["requests"].as_object().unwrap().values();
    let kinds = sides.flat_map(|side| side.as_object().unwrap().values());
    kinds.map(|kind| figure(kind, "requests")).sum()
}

#[test]
fn a_replica_needs_no_key_and_is_a_repository_that_takes_no_backups() {
    let (repo, days) = source();
    let far = Repo::without();
    let dry = keyless(&repo, &far).arg("--dry-run").ok().json();
    assert_eq!(dry["points"].as_array().unwrap().len(), 2);
    assert!(!far.folder().exists(), "a dry run changes nothing");
    let first = keyless(&repo, &far).ok().json();
    assert_eq!(figure(&first, "bytes"), figure(&dry, "bytes"));
    assert_eq!(figure(&first, "packs"), figure(&dry, "packs"));
    assert_replica(&repo, &far, &days);
    for kind in ["d", "m", "r", "x", "keys", "format"] {
        Cmd::new("diff").arg("-r").arg(repo.folder().join(kind)).arg(far.folder().join(kind)).ok();
    }
    let refused = far.fails(1, ["backup", "vm", days[0].to_str().unwrap()]);
    refused.says(&["replica", repo.url(), "promote", "help:"]);
    assert_eq!(far.points("vm").len(), 2);
    let status = far.json(["replicate", "status"]);
    assert_eq!((&status["role"], &status["replica"]["state"]), (&"replica".into(), &"done".into()));

    // Unchanged: listings, and nothing that grows with what is stored.
    let second = keyless(&repo, &far).ok().json();
    assert_eq!((figure(&second, "packs"), figure(&second, "present")), (0, 2));
    assert!(requests(&second) <= 40, "{second}");
    let day = repo.path("day-2.raw");
    fs::copy(&days[1], &day).unwrap();
    disk::fill(&day, 25 * MIB, MIB, 77);
    repo.ok(["backup", "vm", &format!("disk={}", day.display())]);
    let third = keyless(&repo, &far).ok().json();
    assert_eq!(third["points"].as_array().unwrap().len(), 1);
    assert!(figure(&third, "bytes") < 3 * MIB, "{third}");
    assert_replica(&repo, &far, &[&days[..], &[day]].concat());
}

#[test]
fn a_replica_on_s3_is_pushed_and_pulled_back() {
    let (repo, days) = source();
    let far = Repo::without_on_s3();
    let pushed = keyless(&repo, &far).ok().json();
    assert_eq!(pushed["points"].as_array().unwrap().len(), 2);
    assert_replica(&repo, &far, &days);
    let again = keyless(&repo, &far).ok().json();
    assert!(figure(&again, "packs") == 0 && requests(&again) <= 40, "{again}");
    // The first place has burnt.
    let back = Repo::without();
    let folder = back.url().to_owned();
    let pull = ["replicate", "--from", far.url(), "--instance", "vm", "--latest", "1"];
    far.sluice(pull).env("SLUICE_REPO", &folder).ok();
    assert_eq!(back.points("vm"), repo.points("vm")[1..]);
    far.sluice(["replicate", "--from", far.url()]).env("SLUICE_REPO", &folder).ok();
    assert_replica(&repo, &back, &days);
}

#[test]
fn a_disk_carried_by_courier_seeds_the_far_place() {
    let (repo, days) = source();
    let (disk, far) = (Repo::without(), Repo::without_on_s3());
    keyless(&repo, &disk).ok();
    let carried = disk.path("carried");
    fs::rename(disk.folder(), &carried).unwrap();
    far.sluice(["replicate", "--to", far.url()]).env("SLUICE_REPO", &carried).ok();
    fs::remove_dir_all(&carried).unwrap();
    let direct = keyless(&repo, &far).ok().json();
    assert_eq!((figure(&direct, "bytes"), figure(&direct, "present")), (0, 2));
    disk::fill(&days[1], 0, 1000, 5);
    repo.ok(["backup", "vm", &format!("disk={}", days[1].display())]);
    let next = keyless(&repo, &far).ok().json();
    assert_eq!(next["points"].as_array().unwrap().len(), 1);
    assert!(figure(&next, "bytes") < MIB, "{next}");
    far.assert_restores("vm@latest", &days[1]);
}

#[test]
fn a_killed_replication_goes_on_where_it_was() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 200 * MIB);
    disk::fill(&image, 0, 200 * MIB, 1);
    repo.backup(&image);
    let far = Repo::without();
    // One pack of 32 MiB goes, and then nothing for a long while.
    let slow = ["--limit", "1MiB/s", "--parallel", "1"];
    let mut running = keyless(&repo, &far).args(slow).spawn();
    wait_until("a pack is there", || {
        assert!(!running.is_over(), "the replication ended before it could be killed");
        far.data() > 0
    });
    running.signal(Signal::KILL);
    running.wait();
    let before = far.data();
    assert!(before < repo.data());
    assert_eq!(far.points("vm").len(), 0, "no point is there before all of it is");
    far.ok(["verify", "--data"]);
    // Nobody makes a primary of it while it may be written to; the killed process is known to be
    // gone.
    let status = far.json(["replicate", "status"]);
    assert_eq!(status["replica"]["state"], "running");
    let rest = keyless(&repo, &far).ok().json();
    assert!(figure(&rest, "bytes") < repo.data(), "{rest}");
    assert_eq!(far.data(), repo.data());
    assert_replica(&repo, &far, &[image]);
    assert!(far.objects("c").is_empty());
}

#[test]
fn a_damaged_pack_is_named_and_only_its_points_stay_behind() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 4 * MIB);
    for day in 1..4 {
        disk::fill(&image, 0, 4 * MIB, day);
        repo.backup(&image);
    }
    let points = repo.points("vm");
    let mut packs = repo.objects("d");
    packs.sort_by_key(|path| path.file_name().unwrap().to_owned());
    let key = packs[1].strip_prefix(repo.folder()).unwrap().to_str().unwrap().to_owned();
    let good = fs::read(&packs[1]).unwrap();
    let mut bad = good.clone();
    bad[good.len() / 2] ^= 1;
    replace(&packs[1], &bad);
    let far = Repo::without();
    let blind = keyless(&repo, &far).run().ended(4).json();
    assert_eq!(blind["points"].as_array().unwrap().len(), 0, "{blind}");
    assert!(blind["damage"].to_string().contains(&key));
    let ran = repo.fails(4, ["replicate", "--to", far.url()]);
    ran.says(&[&key, &points[1], "help:"]);
    assert_eq!(far.points("vm"), [points[0].clone(), points[2].clone()]);
    far.assert_sound();
    far.assert_restores("vm@latest", &image);
    replace(&packs[1], &good);
    keyless(&repo, &far).ok();
    assert_eq!(far.points("vm"), points);
    far.assert_sound();
}

fn replace(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn roles_are_switched_and_replication_flows_back() {
    let (repo, days) = source();
    let far = Repo::without();
    keyless(&repo, &far).ok();
    repo.fails(1, ["replicate", "promote"]).says(&["no replica"]);
    far.ok(["replicate", "promote"]).says(&["demote", repo.url()]);
    far.ok(["backup", "vm", &format!("disk={}", days[0].display())]);
    let newest = far.points("vm").pop().unwrap();
    // Two primaries: neither overwrites the other.
    repo.fails(1, ["replicate", "--to", far.url()]).says(&["demote"]);
    far.fails(1, ["replicate", "--to", repo.url()]).says(&["demote"]);
    let other = Repo::new();
    repo.fails(1, ["replicate", "demote", "--to", other.url()]).says(&["no copy"]);
    repo.ok(["replicate", "demote", "--to", far.url()]);
    far.ok(["replicate", "--to", repo.url()]);
    repo.assert_restores(&newest, &days[0]);
    repo.fails(1, ["backup", "vm", days[1].to_str().unwrap()]).says(&["replica"]);
    assert_eq!(repo.json(["replicate", "status"])["role"], "replica");
    assert_eq!(far.json(["replicate", "status"])["role"], "primary");
}

#[test]
fn the_second_place_keeps_by_rules_of_its_own() {
    let (repo, days) = source();
    let far = Repo::without();
    keyless(&repo, &far).ok();
    let points = repo.points("vm");
    let kept = repo.json(["replicate", "--to", far.url(), "--keep-last", "1"]);
    assert_eq!(kept["pruned"].as_array().unwrap().len(), 1);
    assert_eq!((far.points("vm"), repo.points("vm").len()), (points[1..].to_vec(), 2));
    // What was removed there does not come back; but to know what it needs takes the key.
    keyless(&repo, &far).run().ended(1);
    let again = repo.json(["replicate", "--to", far.url()]);
    assert_eq!((figure(&again, "packs"), again["points"].as_array().unwrap().len()), (0, 0));
    far.assert_restores("vm@latest", &days[1]);
    repo.fails(2, ["replicate", "--to", far.url(), "--keep-last", "0"]);
    repo.fails(2, ["replicate", "--to", far.url(), "--latest", "1", "--without-key"]);
    repo.fails(2, ["replicate", "--to", repo.url()]);
    // As at the source, when that is asked for.
    let near = Repo::without();
    keyless(&repo, &near).ok();
    repo.ok(["forget", &points[0]]);
    let mirrored = keyless(&repo, &near).arg("--mirror-prunes").ok().json();
    assert_eq!(mirrored["pruned"].as_array().unwrap().len(), 1);
    assert_eq!(near.points("vm"), points[1..]);
}

#[test]
fn a_replica_keeps_its_key_slots_and_what_is_on_hold_there() {
    let (repo, days) = source();
    let far = Repo::without();
    keyless(&repo, &far).ok();
    let points = repo.points("vm");
    far.ok(["hold", &points[0]]);
    repo.ok(["forget", &points[0]]);
    // Whoever may write to the source takes the ways in, there and at the second place.
    let slots = repo.objects("keys");
    for slot in &slots {
        fs::remove_file(slot).unwrap();
    }
    fs::write(repo.folder().join("keys/junk"), "junk").unwrap();
    for _night in 0..2 {
        let told = keyless(&repo, &far).arg("--mirror-prunes").ok().json();
        assert_eq!(told["kept"].as_array().unwrap().len(), 1, "{told}");
        assert_eq!(told["pruned"].as_array().unwrap().len(), 0, "{told}");
        assert_eq!(told["kept_key_slots"].as_array().unwrap().len(), slots.len(), "{told}");
    }
    far.assert_restores(&points[0], &days[0]);
    far.ok(["release", &points[0]]);
    let told = keyless(&repo, &far).arg("--mirror-prunes").ok().json();
    assert_eq!(told["pruned"].as_array().unwrap().len(), 1, "{told}");
    assert_eq!(far.points("vm"), points[1..]);
}

#[test]
fn points_are_copied_into_a_repository_with_other_keys() {
    let (repo, days) = source();
    let meta = repo.path("meta.json");
    fs::write(&meta, r#"{"cpus": 3}"#).unwrap();
    let disk = format!("disk={}", days[0].display());
    repo.ok(["backup", "vm", &disk, "--meta", meta.to_str().unwrap()]);
    let other = Repo::without();
    let passphrase = other.path("passphrase");
    fs::write(&passphrase, "another one\n").unwrap();
    other.ok(["init"]);
    let pass = passphrase.to_str().unwrap();
    let copy = ["replicate", "--to", other.url(), "--dest-passphrase-file", pass];
    repo.fails(1, ["replicate", "--to", other.url()]).says(&["passphrase"]);
    let dry = repo.json([&copy[..], &["--dry-run"]].concat());
    assert_eq!((&dry["mode"], dry["points"].as_array().unwrap().len()), (&"copy".into(), 3));
    assert_eq!(other.points("vm").len(), 0);
    let done = repo.json(copy);
    assert_eq!(done["points"].as_array().unwrap().len(), 3);
    other.assert_sound();
    let copies = other.points("vm");
    for (copied, day) in copies.iter().zip([&days[0], &days[1], &days[0]]) {
        other.assert_restores(copied, day);
    }
    let shown = |repo: &Repo, point: &str| {
        let shown = repo.json(["show", point]);
        let point = shown.get("point").filter(|point| point.is_object()).unwrap_or(&shown).clone();
        ["created", "metadata", "stats", "method", "host"].map(|name| point[name].clone())
    };
    assert_eq!(shown(&repo, "vm@latest"), shown(&other, "vm@latest"));
    // Again: nothing; and it takes backups of its own all the while.
    assert_eq!(repo.json(copy)["points"].as_array().unwrap().len(), 0);
    other.ok(["backup", "own", days[0].to_str().unwrap()]);
    repo.ok(["backup", "vm", &format!("disk={}", days[1].display())]);
    assert_eq!(repo.json(copy)["points"].as_array().unwrap().len(), 1);
    other.assert_restores("vm@latest", &days[1]);
    // Pulled, the passphrases change sides.
    let here = repo.path("passphrase");
    let pull = ["replicate", "--from", repo.url(), "--dest-passphrase-file"];
    let pulled = other.json([&pull[..], &[here.to_str().unwrap()]].concat());
    assert_eq!(figure(&pulled, "present"), 4);
    let text =
        other
            .ok([&copy[..1], &["--from", repo.url()], &copy[3..4], &[here.to_str().unwrap()]]
                .concat());
    assert!(!format!("{}{}", text.text(), text.err).contains(PASSPHRASE));
}

/// A command on a repository that is not encrypted.
fn bare(repo: &Repo, args: &[&str]) -> Cmd {
    repo.sluice(args).without_env("SLUICE_PASSPHRASE_FILE")
}

#[test]
fn copies_are_not_made_readable_because_the_other_place_says_so() {
    let (repo, _) = source();
    let other = Repo::new();
    // Whoever can write there puts a key of their own, and says that no other is needed.
    for slot in other.objects("keys") {
        fs::remove_file(slot).unwrap();
    }
    let slot = concat!(
        r#"{"kind": "open", "label": "", "created": "2026-01-01T00:00:00Z", "#,
        r#""key": "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="}"#
    );
    fs::write(other.folder().join("keys/000000000000"), slot).unwrap();
    let format = other.folder().join("format");
    let text = fs::read_to_string(&format).unwrap().replace("aes-256-gcm", "open");
    fs::write(&format, text).unwrap();
    let told = [other.url(), "not encrypted", "help:", "--dest-unencrypted", "do not copy"];
    repo.fails(1, ["replicate", "--to", other.url()]).says(&told);
    repo.fails(1, ["replicate", "--to", other.url(), "--dry-run"]).says(&told);
    bare(&other, &["replicate", "--from", repo.url()])
        .env("SLUICE_DEST_PASSPHRASE", PASSPHRASE)
        .fails(1)
        .says(&told);
    // Who has a passphrase for it is told, whatever else is said.
    repo.sluice(["replicate", "--to", other.url(), "--dest-unencrypted"])
        .env("SLUICE_DEST_PASSPHRASE", PASSPHRASE)
        .fails(1)
        .says(&["not encrypted", "passphrase is given", "help:"]);
    for kind in ["d", "m", "r"] {
        assert!(other.objects(kind).is_empty(), "something was written to {kind}/");
    }
}

#[test]
fn copies_go_into_a_repository_without_encryption_when_that_is_said() {
    let (repo, days) = source();
    let other = Repo::without();
    bare(&other, &["init", "--encryption", "none"]).ok();
    let push = ["replicate", "--to", other.url(), "--dest-unencrypted"];
    assert_eq!(repo.json(push)["points"].as_array().unwrap().len(), 2);
    repo.ok(["backup", "vm", &format!("disk={}", days[1].display())]);
    let pull = ["replicate", "--from", repo.url(), "--dest-unencrypted", "--json"];
    let pulled = bare(&other, &pull).env("SLUICE_DEST_PASSPHRASE", PASSPHRASE).ok().json();
    assert_eq!(pulled["points"].as_array().unwrap().len(), 1);
    let target = other.path("restored.raw");
    bare(&other, &["restore", "vm@latest", target.to_str().unwrap()]).ok();
    disk::assert_same(&days[1], &target);
    // Where it is only read, nothing need be said.
    let third = Repo::new();
    let read = third.json(["replicate", "--from", other.url()]);
    assert_eq!(read["points"].as_array().unwrap().len(), 3);
}

#[test]
fn a_replication_that_cannot_be_is_refused_with_what_to_do() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, MIB);
    repo.backup(&image);
    let other = Repo::new();
    let (here, there) = (repo.url(), other.url());
    let nowhere = repo.path("nowhere");
    let nowhere = nowhere.to_str().unwrap();
    let refused: [(i32, &[&str], &[&str]); 9] = [
        (2, &["--to", here], &["the repository itself"]),
        (2, &["--to", there, "--mirror-prunes"], &["another repository", "--keep-"]),
        (2, &["--to", there, "--since", "yesterday"], &["no time", "2026-11-21"]),
        (2, &["--to", there, "--keep-last", "0"], &["keep"]),
        (2, &["--to", there, "--instance", "vm", "--without-key"], &["need the key"]),
        (2, &["--to", there, "--limit", "0"], &["move nothing"]),
        (2, &["--to", there, "--from", there], &["cannot be used with"]),
        (1, &["--to", there, "--instance", "nobody"], &["no restore point of", "nobody"]),
        (1, &["--from", nowhere], &["nowhere", "does not exist"]),
    ];
    for (code, words, told) in refused {
        repo.fails(code, [&["replicate"], words].concat()).says(told);
    }
    assert!(other.points("vm").is_empty(), "a refused replication copies nothing");
    // A copy by a node does not make a repository: its disk may be away.
    let empty = Repo::without();
    let told = ["replicate", "--to", empty.url(), "--instance", "vm", "--tell-copies"];
    repo.fails(1, told).says(&["does not exist", "mounted"]);
    fs::create_dir(empty.folder()).unwrap();
    repo.fails(1, told).says(&["no repository", "removed"]);
}

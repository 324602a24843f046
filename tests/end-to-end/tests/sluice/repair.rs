//! Damaged records by which programs speak to each other, by the built executable.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;
use crate::support::run::wait_until;
use crate::support::serve::Source;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Lets an object look as if it was written so long ago.
fn age(object: &Path, by: Duration) {
    let file = fs::File::open(object).unwrap();
    let written = file.metadata().unwrap().modified().unwrap();
    file.set_modified(written - by).unwrap();
}

/// Objects are read-only: replaced, as a careless program or disk would.
fn replace(object: &Path, bytes: &[u8]) {
    fs::remove_file(object).unwrap();
    fs::write(object, bytes).unwrap();
}

/// A repository with two points of `vm`, of which one was pruned, and the record of a backup
/// that was killed.
fn killed(repo: &Repo) -> std::path::PathBuf {
    let image = repo.path("disk.raw");
    disk::create(&image, 4 * MIB);
    for day in 0..2 {
        disk::fill(&image, 0, 2 * MIB, day);
        repo.backup(&image);
    }
    repo.ok(["prune", "vm", "--keep-last", "1"]);
    let big = repo.path("big.raw");
    disk::create(&big, 200 * MIB);
    disk::fill(&big, 0, 200 * MIB, 7);
    let (source, before) = (Source::slow(repo.dir(), &big), repo.data());
    let mut running = repo.sluice(["backup", "big", &format!("disk={}", source.uri())]).spawn();
    wait_until("a session with data", || {
        assert!(!running.is_over(), "the backup ended before it could be killed");
        repo.data() > before
    });
    running.signal(Signal::KILL);
    running.wait();
    image
}

#[test]
fn a_damaged_session_is_named_kept_while_it_may_live_and_removed_when_it_is_old() {
    let repo = Repo::new();
    let image = killed(&repo);
    let session = repo.objects("s").remove(0);
    let name = format!("s/{}", session.file_name().unwrap().to_str().unwrap());
    replace(&session, b"not a record");

    let refused = repo.fails(4, ["collect"]);
    assert!(refused.err.contains("sluice doctor --repair"), "{}", refused.err);
    assert!(refused.err.contains(&name), "{}", refused.err);
    let told = repo.fails(3, ["doctor", "--json"]).json();
    let finding = told["findings"].as_array().unwrap().iter().find(|f| f["object"] == *name);
    let remedies = finding.expect("the session is named")["remedies"].to_string();
    assert!(remedies.contains("sluice doctor --repair"), "{remedies}");

    let waits = repo.fails(3, ["doctor", "--repair", "--json"]).json();
    assert_eq!(waits["records"][0]["object"], *name, "{waits}");
    assert_eq!(waits["records"][0]["outcome"], "waits", "{waits}");
    assert!(session.exists());
    age(&session, DAY);
    let rehearsed = repo.json(["doctor", "--repair", "--dry-run"]);
    assert_eq!(rehearsed["records"][0]["outcome"], "forgotten", "{rehearsed}");
    assert_eq!(rehearsed["dry_run"], true);
    assert!(session.exists());
    let told = repo.ok(["doctor", "--repair"]).text();
    assert!(told.contains(&name) && told.contains("is removed"), "{told}");
    assert!(!session.exists());

    let done = repo.json(["collect"]);
    assert!(done["removed_packs"].as_u64().is_some_and(|packs| packs > 0), "{done}");
    repo.assert_restores("vm@latest", &image);
    repo.assert_sound();
    let nothing = repo.ok(["doctor", "--repair"]).text();
    assert!(nothing.contains("no damaged record"), "{nothing}");
}

#[test]
fn one_flipped_bit_of_a_session_is_put_back() {
    let repo = Repo::new();
    let image = killed(&repo);
    let session = repo.objects("s").remove(0);
    let sound = fs::read(&session).unwrap();
    let mut harmed = sound.clone();
    harmed[sound.len() / 2] ^= 0x20;
    replace(&session, &harmed);
    repo.fails(4, ["collect"]);
    let told = repo.ok(["doctor", "--repair"]).text();
    assert!(told.contains("one bit had flipped"), "{told}");
    assert_eq!(fs::read(&session).unwrap(), sound);
    repo.ok(["collect"]);
    repo.assert_restores("vm@latest", &image);
    repo.assert_sound();
}

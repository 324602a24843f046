//! Stored bytes that are not what was written: found, named, and never returned.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::Signal;
use serde_json::Value;

use crate::mount::folder_of;
use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;
use crate::support::run::{Cmd, wait_until};
use crate::support::serve::{Export, Mount, Source};

/// What happens to an object.
#[derive(Debug, Clone, Copy)]
enum Harm {
    /// One bit at this share of its length, in percent.
    Flip(u64),
    /// Cut to this share of its length, in percent.
    Cut(u64),
    Gone,
}

/// An object that is harmed; healed when dropped.
struct Harmed {
    path: PathBuf,
    bytes: Vec<u8>,
}

impl Harmed {
    fn new(path: &Path, harm: Harm) -> Self {
        let bytes = fs::read(path).unwrap();
        let mut bad = bytes.clone();
        match harm {
            Harm::Flip(percent) => {
                let at = (bad.len() as u64 - 1) * percent / 100;
                bad[at as usize] ^= 0x10;
            }
            Harm::Cut(percent) => bad.truncate((bytes.len() as u64 * percent / 100) as usize),
            Harm::Gone => {}
        }
        // Objects are read-only: replaced, as a careless program or disk would.
        fs::remove_file(path).unwrap();
        if !matches!(harm, Harm::Gone) {
            fs::write(path, bad).unwrap();
        }
        Self { path: path.to_owned(), bytes }
    }
}

impl Drop for Harmed {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        fs::write(&self.path, &self.bytes).unwrap();
    }
}

/// Two points of a disk; nothing of the first's data is in the second.
struct Patient {
    repo: Repo,
    points: [(String, PathBuf); 2],
}

impl Patient {
    fn new() -> Self {
        let repo = Repo::new();
        let mut points = Vec::new();
        for day in 0..2 {
            let image = repo.path(&format!("day-{day}.raw"));
            disk::create(&image, 40 * MIB + 5);
            disk::fill(&image, MIB, 2 * MIB, day + 1);
            disk::fill(&image, 35 * MIB, MIB, day + 10);
            repo.ok(["backup", "vm", &format!("disk={}", image.display())]);
            points.push((repo.points("vm").pop().unwrap(), image));
        }
        Self { repo, points: points.try_into().unwrap() }
    }

    /// The first point's object of a kind: sessions, and so names, start with the time.
    fn first(&self, kind: &str) -> PathBuf {
        let mut found = self.repo.objects(kind);
        found.sort_by_key(|path| path.file_name().unwrap().to_owned());
        found.remove(0)
    }

    fn key(&self, path: &Path) -> String {
        path.strip_prefix(self.repo.folder()).unwrap().to_str().unwrap().to_owned()
    }

    /// Every way to read the first point gives its bytes or an error. Returns whether it failed.
    fn restore_is_right_or_fails(&self, what: &str) -> bool {
        let (point, expected) = &self.points[0];
        let target = self.repo.path("restored.raw");
        let ran = self.repo.sluice(["restore", point, target.to_str().unwrap()]).run();
        if ran.code == Some(0) {
            disk::assert_same(expected, &target);
        } else {
            assert!(matches!(ran.code, Some(1 | 4)), "{what}: {:?} {}", ran.code, ran.err);
            assert!(ran.err.contains("error:") && !ran.err.contains("panicked"), "{}", ran.err);
        }
        let _ = fs::remove_file(&target);
        let cat = self.repo.sluice(["cat", point]).run();
        let expected = fs::read(expected).unwrap();
        assert!(expected.starts_with(&cat.out), "{what}: cat wrote wrong bytes");
        assert_eq!(cat.code == Some(0), cat.out.len() == expected.len(), "{what}");
        ran.code != Some(0)
    }

    fn second_is_intact(&self) {
        let (point, expected) = &self.points[1];
        self.repo.assert_restores(point, expected);
    }
}

const ALL: [Harm; 8] = [
    Harm::Flip(0),
    Harm::Flip(30),
    Harm::Flip(60),
    Harm::Flip(100),
    Harm::Cut(0),
    Harm::Cut(50),
    Harm::Cut(99),
    Harm::Gone,
];

/// Each harm to the object is found by `verify --data`, which names it and the point.
fn every_harm_is_found(kind: &str) {
    let patient = Patient::new();
    let object = patient.first(kind);
    let key = patient.key(&object);
    let mut failed = 0;
    for harm in ALL {
        let what = format!("{harm:?} of {key}");
        let harmed = Harmed::new(&object, harm);
        let ran = patient.repo.sluice(["verify", "--data", "--json", "--no-progress"]).run();
        assert_eq!(ran.code, Some(4), "{what}: {} {}", ran.text(), ran.err);
        let found = ran.json();
        let damage = found["damage"].as_array().unwrap();
        let about = |one: &&Value| one["object"].as_str().unwrap().starts_with(&key);
        let named = damage.iter().find(about);
        let named = named.unwrap_or_else(|| panic!("{what} is not named in {found}"));
        let points = named["points"].to_string();
        let id = patient.points[0].0.split_once('@').unwrap().1;
        assert!(points.contains(id) && !points.contains(&patient.points[1].0), "{what}: {points}");
        failed += usize::from(patient.restore_is_right_or_fails(&what));
        patient.second_is_intact();
        drop(harmed);
    }
    assert!(failed >= 4, "most harms keep a point from being restored");
    // Text for people names it too.
    let harmed = Harmed::new(&object, Harm::Flip(30));
    let ran = patient.repo.fails(4, ["verify", "--data"]);
    assert!(format!("{}{}", ran.text(), ran.err).contains(&key), "{}{}", ran.text(), ran.err);
    drop(harmed);
    patient.repo.assert_sound();
}

#[test]
fn damaged_data_packs_are_named_and_their_bytes_never_returned() {
    every_harm_is_found("d");
}

#[test]
fn damaged_meta_packs_are_named_and_never_trusted() {
    every_harm_is_found("m");
}

#[test]
fn damaged_manifests_are_named_and_the_other_points_stay() {
    let patient = Patient::new();
    let object = patient.first("r");
    let key = patient.key(&object);
    for harm in ALL {
        let what = format!("{harm:?} of {key}");
        let harmed = Harmed::new(&object, harm);
        let listed = patient.repo.sluice(["list", "--json"]).run();
        let verify = patient.repo.sluice(["verify", "--data", "--json", "--no-progress"]).run();
        let point = &patient.points[0].0;
        let target = patient.repo.path("x.raw");
        let restore = patient.repo.sluice(["restore", point, target.to_str().unwrap()]).run();
        if matches!(harm, Harm::Gone) {
            // A manifest that is not there is a point that does not exist.
            assert_eq!((listed.code, verify.code, restore.code), (Some(0), Some(0), Some(1)));
        } else {
            assert_eq!(verify.code, Some(4), "{what}: {}", verify.text());
            assert!(verify.text().contains(&key), "{what}: {}", verify.text());
            assert!(
                listed.json()["damaged"].to_string().contains(&key),
                "{what}: {}",
                listed.text()
            );
            assert!(matches!(restore.code, Some(1 | 4)), "{what}: {}", restore.err);
            assert!(restore.err.contains("error:"), "{what}: {}", restore.err);
        }
        assert!(!target.exists() || fs::metadata(&target).unwrap().len() == 0, "{what}");
        patient.second_is_intact();
        drop(harmed);
    }
    // A backup beside a damaged manifest goes on.
    let harmed = Harmed::new(&object, Harm::Flip(60));
    let image = &patient.points[1].1;
    let ran = patient.repo.sluice(["backup", "vm", &format!("disk={}", image.display())]).run();
    assert!(matches!(ran.code, Some(0 | 3)), "{}", ran.err);
    patient.repo.assert_restores("vm@latest", image);
    drop(harmed);
}

#[test]
fn a_damaged_descriptor_or_key_slot_is_an_error_that_names_it() {
    let repo = Repo::without();
    repo.ok(["init", "--no-recovery-key"]);
    for kind in ["format", "keys"] {
        let object = repo.objects(kind).remove(0);
        let key = object.strip_prefix(repo.folder()).unwrap().to_str().unwrap().to_owned();
        for harm in [Harm::Flip(1), Harm::Flip(50), Harm::Flip(97), Harm::Cut(0), Harm::Cut(50)] {
            let harmed = Harmed::new(&object, harm);
            let ran = repo.sluice(["list"]).run();
            // A bit in a date, or in an unknown field's name, may well change nothing.
            if ran.code != Some(0) {
                assert!(matches!(ran.code, Some(1 | 4)), "{harm:?} of {key}: {}", ran.err);
                assert!(ran.err.contains("error:") && ran.err.contains("help:"), "{}", ran.err);
            } else {
                assert!(matches!(harm, Harm::Flip(_)), "{harm:?} of {key} went unnoticed");
            }
            if matches!(harm, Harm::Cut(_)) {
                assert!(ran.err.contains(&key), "{harm:?} of {key}: {}", ran.err);
            }
            drop(harmed);
        }
    }
    repo.ok(["list"]);
}

#[test]
fn damaged_index_segments_cost_nothing_but_space() {
    let patient = Patient::new();
    let (_, image) = &patient.points[1];
    for (number, harm) in [Harm::Flip(50), Harm::Cut(10), Harm::Gone].into_iter().enumerate() {
        let harmed = Harmed::new(&patient.first("x"), harm);
        let cache = patient.repo.path(&format!("fresh-cache-{number}"));
        let name = format!("twin-{number}");
        let disk = format!("disk={}", image.display());
        let ran = patient.repo.sluice(["backup", &name, &disk]).env("XDG_CACHE_HOME", cache).run();
        assert!(matches!(ran.code, Some(0 | 3)), "{harm:?}: {}", ran.err);
        patient.repo.assert_restores(&format!("{name}@latest"), image);
        match harm {
            Harm::Gone => patient.repo.assert_sound(),
            // Said, and no more than a warning: every point is sound.
            _ => {
                let ran = patient.repo.fails(3, ["verify", "--data"]);
                let key = patient.key(&harmed.path);
                assert!(ran.err.contains(&key), "{harm:?}: {}", ran.err);
            }
        }
        drop(harmed);
    }
}

#[test]
fn a_damaged_session_stops_nobody() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 200 * MIB);
    disk::fill(&image, 0, 200 * MIB, 1);
    let source = Source::slow(repo.dir(), &image);
    let mut running = repo.sluice(["backup", "vm", &format!("disk={}", source.uri())]).spawn();
    wait_until("a session with data", || {
        assert!(!running.is_over(), "the backup ended before it could be killed");
        repo.data() > 0
    });
    running.signal(Signal::KILL);
    running.wait();
    drop(source);
    disk::fill(&image, 0, MIB, 2);
    fs::OpenOptions::new().write(true).open(&image).unwrap().set_len(2 * MIB).unwrap();
    let session = repo.objects("s").remove(0);
    for harm in [Harm::Flip(50), Harm::Cut(0), Harm::Cut(60)] {
        let harmed = Harmed::new(&session, harm);
        let name = format!("{harm:?}").replace(['(', ')'], "-");
        let ran = repo.sluice(["backup", &name]).arg(&image).run();
        assert!(matches!(ran.code, Some(0 | 3)), "{harm:?}: {}", ran.err);
        repo.assert_restores(&name, &image);
        drop(harmed);
    }
}

/// Reads an export block by block in the given order; exactly one block must fail, whichever it
/// is: which one was hit depends on the order they were stored in.
fn one_block_fails(patient: &Patient, blocks: impl Iterator<Item = u64>) {
    let export = Export::unix(&patient.repo, &patient.points[0].0);
    let reads: Vec<_> =
        blocks.flat_map(|block| ["-c".to_owned(), format!("read {}k 128k", block * 128)]).collect();
    let count = reads.len() / 2;
    let ran = Cmd::new("qemu-io").args(["-r", "-f", "raw"]).args(reads).arg(export.uri()).run();
    let told = format!("{}{}", ran.text(), ran.err);
    assert_eq!(told.matches("Input/output error").count(), 1, "{told}");
    assert_eq!(told.matches("read 131072/131072 bytes").count(), count - 1, "{told}");
    export.stop();
}

#[test]
fn an_export_fails_the_damaged_block_and_serves_the_others() {
    let patient = Patient::new();
    let harmed = Harmed::new(&patient.first("d"), Harm::Flip(20));
    one_block_fails(&patient, (0..320).rev());
    drop(harmed);
}

#[test]
fn reading_ahead_does_not_spread_damage_to_sound_blocks() {
    let patient = Patient::new();
    let harmed = Harmed::new(&patient.first("d"), Harm::Flip(20));
    // Where reading ahead and reading meet is a matter of luck.
    for _ in 0..8 {
        one_block_fails(&patient, 0..320);
    }
    drop(harmed);
}

#[test]
fn a_mount_fails_the_damaged_blocks_with_an_input_output_error() {
    let patient = Patient::new();
    let harmed = Harmed::new(&patient.first("d"), Harm::Flip(20));
    let mount = Mount::detached(&patient.repo);
    let file = folder_of(&mount, &patient.points[0].0).join("disk.raw");
    let error = fs::read(&file).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(rustix::io::Errno::IO.raw_os_error()));
    let second = folder_of(&mount, &patient.points[1].0).join("disk.raw");
    disk::assert_same(&patient.points[1].1, &second);
    mount.unmount(false);
    drop(harmed);
}

#[test]
fn a_rescan_heals_what_the_source_still_has() {
    let patient = Patient::new();
    let (_, image) = &patient.points[1];
    let mut packs = patient.repo.objects("d");
    packs.sort_by_key(|path| path.file_name().unwrap().to_owned());
    fs::remove_file(packs.last().unwrap()).unwrap();
    patient.repo.fails(4, ["verify"]);
    let disk = format!("disk={}", image.display());
    let ran = patient.repo.sluice(["backup", "vm", &disk, "--rescan"]).run();
    assert!(matches!(ran.code, Some(0 | 3)), "{}", ran.err);
    let point = patient.repo.points("vm").pop().unwrap();
    patient.repo.ok(["verify", &point, "--data"]);
    patient.repo.assert_restores(&point, image);
}

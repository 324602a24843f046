//! Damage of any kind is explained by `doctor` and undone by `heal` from a copy.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::disk::{self, MIB};
use crate::support::repo::Repo;
use crate::support::run::Cmd;

/// Numbers that look random and are the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}

/// A repository with three points and a copy of it.
struct Patient {
    repo: Repo,
    copy: PathBuf,
    points: Vec<(String, PathBuf)>,
}

const KINDS: [&str; 6] = ["format", "keys", "r", "d", "m", "x"];

impl Patient {
    fn new() -> Self {
        let repo = Repo::without();
        repo.ok(["init", "--no-recovery-key"]);
        let mut points = Vec::new();
        for day in 0..3 {
            let image = repo.path(&format!("day-{day}.raw"));
            disk::create(&image, 40 * MIB + 5);
            disk::fill(&image, 0, MIB, 1);
            disk::fill(&image, 3 * MIB, MIB, day + 10);
            disk::fill(&image, 35 * MIB, MIB, day / 2 + 20);
            repo.ok(["backup", "vm", &format!("disk={}", image.display())]);
            points.push((repo.points("vm").pop().unwrap(), image));
        }
        let copy = repo.path("copy");
        Cmd::new("cp").arg("-a").arg(repo.folder()).arg(&copy).run().ended(0);
        Self { repo, copy, points }
    }

    /// Flips bits of one byte of an object of a kind, drawn at random.
    fn flip(&self, random: &mut Random, kind: &str) -> PathBuf {
        let mut objects = self.repo.objects(kind);
        objects.sort();
        let path = objects.swap_remove(random.below(objects.len() as u64) as usize);
        let mut bytes = fs::read(&path).unwrap();
        let at = random.below(bytes.len() as u64) as usize;
        bytes[at] ^= random.below(255) as u8 + 1;
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn key(&self, path: &Path) -> String {
        path.strip_prefix(self.repo.folder()).unwrap().to_str().unwrap().to_owned()
    }

    /// Objects that differ from the copy's.
    fn harmed(&self) -> BTreeSet<String> {
        let all = KINDS.iter().flat_map(|kind| self.repo.objects(kind)).map(|path| self.key(&path));
        let read = |folder: &Path, key: &str| fs::read(folder.join(key)).unwrap();
        all.filter(|key| read(&self.repo.folder(), key) != read(&self.copy, key)).collect()
    }

    /// What a command says in its document.
    fn document(&self, code: i32, args: &[&str]) -> Value {
        self.repo.sluice(args).args(["--json", "--no-progress"]).run().ended(code).json()
    }

    fn heal(&self) -> Value {
        self.document(0, &["heal", "--data", "--from", self.copy.to_str().unwrap()])
    }

    fn is_whole(&self) {
        assert!(self.harmed().is_empty());
        self.repo.assert_sound();
        for (point, image) in &self.points {
            self.repo.assert_restores(point, image);
        }
        let found = self.document(0, &["doctor", "--data"]);
        assert_eq!(found["findings"].as_array().unwrap().len(), 0, "{found}");
    }
}

/// The objects that a list of findings names, without slots.
fn objects(list: &Value) -> BTreeSet<String> {
    let object = |one: &Value| one["object"].as_str().unwrap().to_owned();
    let object = |one: &Value| object(one).split(' ').next().unwrap_or_default().to_owned();
    list.as_array().unwrap().iter().map(object).collect()
}

fn a_hundred_flipped_bytes(seed: u64) {
    let patient = Patient::new();
    let mut random = Random(seed);
    for _ in 0..100 {
        let kind = KINDS[random.below(KINDS.len() as u64) as usize];
        patient.flip(&mut random, kind);
    }
    let harmed = patient.harmed();
    assert!(harmed.len() > 5, "{harmed:?}");
    // Without a sound key slot or descriptor, doctor tells of what it can reach.
    let found = patient.document(4, &["doctor", "--data"]);
    let named = objects(&found["findings"]);
    let outer = |key: &&String| key.starts_with("format") || key.starts_with("keys/");
    for key in harmed.iter().filter(outer) {
        assert!(named.contains(key), "{key} is not named in {found}");
    }
    let healed = patient.heal();
    assert_eq!(objects(&healed["healed"]), harmed, "{healed}");
    assert_eq!(healed["failed"].as_array().unwrap().len(), 0, "{healed}");
    patient.is_whole();
}

#[test]
fn a_hundred_flipped_bytes_are_diagnosed_and_healed() {
    a_hundred_flipped_bytes(1);
}

#[test]
fn a_hundred_other_flipped_bytes_are_diagnosed_and_healed() {
    a_hundred_flipped_bytes(2);
}

#[test]
fn yet_a_hundred_other_flipped_bytes_are_diagnosed_and_healed() {
    a_hundred_flipped_bytes(3);
}

#[test]
fn each_single_flipped_byte_is_named_with_what_it_touches() {
    let patient = Patient::new();
    let mut random = Random(77);
    for round in 0..4 {
        for kind in KINDS {
            let path = patient.flip(&mut random, kind);
            let key = patient.key(&path);
            let code = if kind == "x" { 3 } else { 4 };
            let found = patient.document(code, &["doctor", "--data"]);
            let what = format!("{key} in round {round}");
            assert!(objects(&found["findings"]).contains(&key), "{what}: {found}");
            let one = &found["findings"].as_array().unwrap()[0];
            let remedies = one["remedies"].to_string();
            assert!(remedies.contains("sluice heal --from"), "{what}: {remedies}");
            if kind == "d" || kind == "m" {
                let points = one["points"].to_string();
                assert!(points.contains("vm@"), "{what}: {one}");
                assert!(!one["touched"].as_array().unwrap().is_empty(), "{what}: {one}");
                assert!(remedies.contains("sluice backup vm disk="), "{what}: {remedies}");
            }
            fs::remove_file(&path).unwrap();
            fs::copy(patient.copy.join(&key), &path).unwrap();
        }
    }
}

#[test]
fn what_is_gone_comes_back_and_a_dry_run_changes_nothing() {
    let patient = Patient::new();
    for kind in ["d", "m", "keys", "format"] {
        for path in patient.repo.objects(kind) {
            fs::remove_file(path).unwrap();
        }
    }
    let copy = patient.copy.to_str().unwrap();
    let left = patient.repo.objects("").len();
    patient.repo.ok(["heal", "--from", copy, "--dry-run"]);
    assert_eq!(patient.repo.objects("").len(), left);
    patient.repo.ok(["heal", "--from", copy]);
    patient.is_whole();
}

#[test]
fn another_repository_is_no_copy() {
    let patient = Patient::new();
    let other = Repo::new();
    let ran = patient.repo.fails(1, ["heal", "--from", other.url()]);
    assert!(ran.err.contains("error:"), "{}", ran.err);
}

#[test]
fn doctor_tells_which_partition_is_touched() {
    let repo = Repo::new();
    let image = repo.path("disk.raw");
    disk::create(&image, 8 * MIB);
    disk::fill(&image, 4 * MIB, MIB, 3);
    let mut table = [0u8; 512];
    table[510..].copy_from_slice(&[0x55, 0xAA]);
    for (number, first) in [(0, 2048u32), (1, 8192)] {
        let entry = &mut table[446 + number * 16..462 + number * 16];
        entry[4] = 0x83;
        entry[8..12].copy_from_slice(&first.to_le_bytes());
        entry[12..16].copy_from_slice(&4096u32.to_le_bytes());
    }
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &table, 0).unwrap();
    repo.backup(&image);
    // The first slot is that of the table, whichever thread was first: take a byte further on.
    let pack = repo.objects("d").remove(0);
    let mut bytes = fs::read(&pack).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::remove_file(&pack).unwrap();
    fs::write(&pack, bytes).unwrap();
    let ran = repo.fails(4, ["doctor", "--data"]);
    assert!(ran.text().contains("partition 2"), "{}", ran.text());
    assert!(ran.text().contains("sluice heal --from"), "{}", ran.text());
}

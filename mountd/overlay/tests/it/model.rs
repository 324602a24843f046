//! An overlay against a plain vector of bytes: writes, zeroes, flushes, kills, crashes, commits.
//!
//! A process that is killed loses nothing that was answered, wherever in a flush it is.
//!
//! A crash keeps what was durable at the last flush, and of everything since any part: of the data
//! any cells, of a log that was being written any prefix. Afterwards, each cell must read as it did
//! at the last flush or at some moment since.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use proptest::prelude::{Just, ProptestConfig, Strategy, any, prop, prop_oneof, proptest};
use sluice_block::{BlockWrite, MemoryDisk, coalesce};
use sluice_overlay::{CELL, Frozen, OpenOptions, Overlay, OverlayDisk};

use crate::support::{CREATE, base, content, origin, read_all};

const CELLS: usize = 40;
const SIZE: usize = CELLS * CELL as usize - 1000;

#[derive(Debug, Clone)]
enum Step {
    Write {
        offset: usize,
        length: usize,
        fill: u8,
    },
    Zero {
        offset: usize,
        length: usize,
    },
    Flush,
    /// The process is killed.
    Kill,
    /// The same in the middle of a flush, after more was written; how far it came follows from the
    /// number.
    KillInFlush {
        seed: u64,
        offset: usize,
        length: usize,
    },
    /// The machine dies; of what was not durable, a part that follows from the number stays.
    Crash(u64),
    /// The same in the middle of a flush.
    CrashInFlush(u64),
    Freeze,
    Thaw,
    Rebase,
    Hydrate,
}

fn step() -> impl Strategy<Value = Step> {
    let range = (0..SIZE, prop_oneof![1..600usize, 1..20_000usize]);
    let cells = (0..CELLS, 1..8usize).prop_map(|(at, count)| (at * 4096, count * 4096));
    let range = prop_oneof![range, cells];
    prop_oneof![
        8 => (range.clone(), 1..=255u8)
            .prop_map(|((offset, length), fill)| Step::Write { offset, length, fill }),
        3 => range.clone().prop_map(|(offset, length)| Step::Zero { offset, length }),
        2 => Just(Step::Flush),
        1 => Just(Step::Kill),
        2 => (any::<u64>(), range).prop_map(|(seed, (offset, length))| Step::KillInFlush {
            seed,
            offset,
            length
        }),
        1 => any::<u64>().prop_map(Step::Crash),
        1 => any::<u64>().prop_map(Step::CrashInFlush),
        1 => Just(Step::Freeze),
        1 => Just(Step::Thaw),
        1 => Just(Step::Rebase),
        1 => Just(Step::Hydrate),
    ]
}

type Files = BTreeMap<String, Vec<u8>>;

fn files(folder: &Path) -> Files {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    let read = |entry: std::fs::DirEntry| {
        (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap())
    };
    entries.map(read).collect()
}

/// Small, and good enough to choose what a crash keeps.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        ((self.0 >> 33) as usize) % sides
    }
}

struct World {
    folder: tempfile::TempDir,
    overlay: Option<Arc<Overlay>>,
    disk: Option<Arc<OverlayDisk>>,
    frozen: Option<(Frozen, Vec<u8>)>,
    /// What lies under the overlay, and its name.
    under: (Vec<u8>, u32),
    model: Vec<u8>,
    /// The disk at the last flush, and after each step since.
    since: Vec<Vec<u8>>,
    durable: Files,
    /// How often the machine was started.
    boot: u8,
}

impl World {
    fn new() -> Self {
        let under = content(SIZE, 5);
        let mut world = Self {
            folder: tempfile::tempdir().unwrap(),
            overlay: None,
            disk: None,
            frozen: None,
            model: under.clone(),
            since: vec![under.clone()],
            under: (under, 0),
            durable: Files::new(),
            boot: 1,
        };
        world.open();
        world.durable = files(world.folder.path());
        world
    }

    fn names(number: u32) -> (String, String) {
        (format!("p{number}"), format!("root{number}"))
    }

    fn open(&mut self) {
        let (point, root) = Self::names(self.under.1);
        let device = Arc::new(MemoryDisk::from_bytes(&self.under.0));
        let bases = vec![base("vda", device, &root)];
        let options = OpenOptions { boot: Some([self.boot; 16]), ..CREATE };
        let opened = Overlay::open(self.folder.path(), &origin(&point), bases, options).unwrap();
        self.disk = Some(opened.disks().remove(0));
        self.overlay = Some(opened);
    }

    fn close(&mut self) {
        (self.frozen, self.disk, self.overlay) = (None, None, None);
    }

    fn disk(&self) -> &OverlayDisk {
        self.disk.as_ref().unwrap()
    }

    fn flushed(&mut self) {
        self.durable = files(self.folder.path());
        self.since = vec![self.model.clone()];
    }

    /// What is put into the copy of the base is durable at once.
    fn copied(&mut self) {
        let copy = files(self.folder.path()).into_iter();
        self.durable.extend(copy.filter(|(name, _)| name.starts_with("disk-0.layer-0.")));
    }

    /// Puts a state of the files in place that a crash may leave.
    fn lose(&self, dice: &mut Dice, data_is_synced: bool) {
        for (name, now) in files(self.folder.path()) {
            let before = self.durable.get(&name).cloned().unwrap_or_default();
            let left = if name.ends_with(".data") && !data_is_synced {
                let mut left = now.clone();
                for (index, cell) in left.chunks_mut(4096).enumerate() {
                    if dice.roll(2) == 0 {
                        let at = index * 4096;
                        let old = before.get(at..at + cell.len());
                        cell.copy_from_slice(old.unwrap_or(&vec![0; cell.len()]));
                    }
                }
                left
            } else if name.ends_with(".log") && now.len() > before.len() && !before.is_empty() {
                let cut = before.len() + dice.roll(now.len() - before.len() + 1);
                let mut left = now[..cut].to_vec();
                if dice.roll(2) == 0 {
                    // The file had grown before its bytes arrived.
                    left.resize(now.len(), 0);
                }
                left
            } else {
                continue;
            };
            std::fs::write(self.folder.path().join(name), left).unwrap();
        }
    }

    /// Opens the overlay of a process that was killed: it is as it was.
    async fn go_on(&mut self) {
        self.open();
        let found = read_all(self.disk()).await;
        for (index, (found, then)) in found.chunks(4096).zip(self.model.chunks(4096)).enumerate() {
            assert!(found == then, "cell {index} is not what was written");
        }
        self.overlay.as_ref().unwrap().flush().unwrap();
        self.flushed();
    }

    async fn kill_in_flush(&mut self, seed: u64, offset: usize, length: usize) {
        let before = files(self.folder.path());
        self.overlay.as_ref().unwrap().flush().unwrap();
        let after = files(self.folder.path());
        // As if written between what the flush took and what it did.
        self.write(offset, length, seed as u8).await;
        self.close();
        let mut dice = Dice(seed);
        for (name, was) in &before {
            let (then, path) = (&after[name], self.folder.path().join(name));
            if name.contains(".notes-") {
                // Those that were taken go last.
                if then.is_empty() && !was.is_empty() {
                    std::fs::write(path, was).unwrap();
                }
            } else if name.ends_with(".log") && then != was {
                let left = match then.strip_prefix(&was[..]) {
                    Some(grown) => &then[..was.len() + dice.roll(grown.len() + 1)],
                    // Written anew, and put in place or not.
                    None => [was, then][dice.roll(2)],
                };
                std::fs::write(path, left).unwrap();
            }
        }
        self.go_on().await;
    }

    async fn write(&mut self, offset: usize, length: usize, fill: u8) {
        let end = (offset + length).min(SIZE);
        let Some(part) = self.model.get_mut(offset..end) else { return };
        part.iter_mut().enumerate().for_each(|(at, byte)| *byte = fill ^ at as u8);
        let part = part.to_vec();
        self.disk().write_at(offset as u64, &part).await.unwrap();
    }

    async fn crash(&mut self, seed: u64, in_flush: bool) {
        if in_flush {
            self.overlay.as_ref().unwrap().flush().unwrap();
        }
        self.close();
        self.lose(&mut Dice(seed), in_flush);
        self.boot += 1;
        self.open();
        let found = read_all(self.disk()).await;
        for (index, cell) in found.chunks(4096).enumerate() {
            let range = index * 4096..index * 4096 + cell.len();
            let known = self.since.iter().any(|then| &then[range.clone()] == cell);
            assert!(known, "cell {index} is what it never was");
        }
        self.model = found;
        // What survived a crash is as durable as it was; a flush makes it certain.
        self.overlay.as_ref().unwrap().flush().unwrap();
        self.flushed();
    }

    async fn step(&mut self, step: Step) {
        let end = |offset: usize, length: usize| (offset + length).min(SIZE);
        match step {
            Step::Write { offset, length, fill } => self.write(offset, length, fill).await,
            Step::Zero { offset, length } if offset < SIZE => {
                let end = end(offset, length);
                self.model[offset..end].fill(0);
                self.disk().write_zeroes(offset as u64, (end - offset) as u64).await.unwrap();
            }
            Step::Zero { .. } => {}
            Step::Flush => {
                self.disk().flush().await.unwrap();
                self.flushed();
            }
            Step::Kill => {
                self.close();
                self.go_on().await;
            }
            Step::KillInFlush { seed, offset, length } => {
                self.kill_in_flush(seed, offset, length).await;
            }
            Step::Crash(seed) => self.crash(seed, false).await,
            Step::CrashInFlush(seed) => self.crash(seed, true).await,
            Step::Freeze if self.frozen.is_none() => {
                // Too many failed commits need a restart.
                if let Ok(frozen) = self.overlay.as_ref().unwrap().freeze() {
                    self.frozen = Some((frozen, self.model.clone()));
                    self.flushed();
                }
            }
            Step::Thaw => self.frozen = None,
            Step::Rebase if let Some((frozen, then)) = self.frozen.take() => {
                self.check_frozen(&frozen, &then).await;
                let number = self.under.1 + 1;
                let (point, root) = Self::names(number);
                let device = Arc::new(MemoryDisk::from_bytes(&then));
                let bases = vec![base("vda", device, &root)];
                let built_on = origin(&Self::names(self.under.1).0);
                frozen.rebase(&built_on, &origin(&point), bases, false).unwrap();
                self.under = (then, number);
                self.copied();
            }
            Step::Hydrate => {
                // Not while a commit runs, unless it was begun before.
                if self.overlay.as_ref().unwrap().hydrate(None).await.is_ok() {
                    self.copied();
                }
            }
            Step::Freeze | Step::Rebase => {}
        }
        self.since.push(self.model.clone());
        assert!(read_all(self.disk()).await == self.model, "the disk is not what was written");
    }

    /// A frozen view is the disk of its moment, and names what may differ from the base.
    async fn check_frozen(&self, frozen: &Frozen, then: &[u8]) {
        let disk = &frozen.disks()[0];
        assert!(read_all(&*disk.device).await == then, "the frozen disk has changed");
        let named = |at: u64| disk.changed.iter().any(|range| range.contains(&at));
        for at in (0..SIZE).step_by(512) {
            let same = self.under.0[at] == then[at];
            assert!(same || named(at as u64), "a change at {at} is not named");
        }
    }

    async fn check(&self) {
        let mut at = 0;
        for extent in coalesce(self.disk(), 0, SIZE as u64).await.unwrap() {
            let bytes = &self.model[at..extent.end() as usize];
            assert!(!extent.kind.reads_zero() || bytes.iter().all(|byte| *byte == 0));
            at = extent.end() as usize;
        }
        assert_eq!(at, SIZE);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_overlay_is_a_vector_of_bytes(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for step in steps {
                world.step(step).await;
            }
            world.check().await;
        });
    }
}

//! Restoring: whole, in part, and after an interruption.

use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use sluice_engine::{Change, Progress, RestoreOptions, Target, restore};
use tokio_util::sync::CancellationToken;

use crate::support::*;

/// A file that fails after so many bytes, and counts what was written.
struct FileTarget {
    file: std::fs::File,
    written: AtomicU64,
    room: u64,
    zeroed: bool,
    /// What was told beforehand, and what came of it.
    reserved: Mutex<Vec<Range<u64>>>,
    places: Mutex<Vec<Range<u64>>>,
}

impl FileTarget {
    fn new(path: &std::path::Path, size: u64, room: u64, zeroed: bool) -> Arc<Self> {
        let file = std::fs::File::options();
        let mut file = file.clone();
        let file = file.read(true).write(true).create(true).truncate(false).open(path).unwrap();
        file.set_len(size).unwrap();
        let written = AtomicU64::new(0);
        let (reserved, places) = (Mutex::default(), Mutex::default());
        Arc::new(Self { file, written, room, zeroed, reserved, places })
    }
}

impl Target for FileTarget {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let before = self.written.fetch_add(data.len() as u64, Ordering::Relaxed);
        if before + data.len() as u64 > self.room {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.places.lock().unwrap().push(offset..offset + data.len() as u64);
        self.file.write_all_at(data, offset)
    }

    fn reserve(&self, offset: u64, length: u64) {
        self.reserved.lock().unwrap().push(offset..offset + length);
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file.write_all_at(&vec![0; length as usize], offset)
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn starts_zeroed(&self) -> bool {
        self.zeroed
    }
}

fn disk() -> Vec<u8> {
    let mut disk = noise(1, 50 << 20);
    disk[10 << 20..30 << 20].fill(0);
    disk.truncate((50 << 20) - 100);
    disk
}

/// A target that crashes at one of its writes.
struct Crashing(AtomicU64);

impl Target for Crashing {
    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        assert!(self.0.fetch_add(1, Ordering::Relaxed) != 3, "as the test wants it to");
        Ok(())
    }

    fn write_zeroes(&self, _: u64, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn starts_zeroed(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_crashes_fails_the_restore() {
    let (_, repository) = new_repository().await;
    let point = back_up(&repository, &disk(), Change::Regions).await;
    let image = repository.image(&point, None).unwrap();
    let target = Arc::new(Crashing(AtomicU64::new(0)));
    let (options, cancel) = (RestoreOptions::default(), CancellationToken::new());
    let done = restore(&image, repository.pool(), target, options, Progress::new(), cancel).await;
    assert!(done.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_is_whole_and_leaves_holes_alone() {
    let (_, repository) = new_repository().await;
    let disk = disk();
    let point = back_up(&repository, &disk, Change::Regions).await;
    let image = repository.image(&point, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let target = FileTarget::new(&path, disk.len() as u64, u64::MAX, true);
    let progress = Progress::new();
    let options = RestoreOptions::default();
    let cancel = CancellationToken::new();
    let done =
        restore(&image, repository.pool(), target.clone(), options, progress.clone(), cancel)
            .await
            .unwrap();
    assert_eq!(done.written, target.written.load(Ordering::Relaxed));
    assert_eq!(done.written, (30 << 20) - 100);
    assert!(std::fs::read(&path).unwrap() == disk);
    // The target knew of each write beforehand, and of no more than that.
    let (reserved, places) = (target.reserved.lock().unwrap(), target.places.lock().unwrap());
    let bytes = |ranges: &[Range<u64>]| ranges.iter().map(|one| one.end - one.start).sum::<u64>();
    assert_eq!(bytes(&reserved), done.written);
    assert!(places.iter().all(|place| {
        reserved.iter().any(|range| range.start <= place.start && place.end <= range.end)
    }));
    let snapshot = progress.snapshot();
    assert_eq!(snapshot.done, snapshot.total);
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_written_together_however_they_were_stored() {
    let (_, repository) = new_repository().await;
    let bytes = noise(3, 4 << 20);
    back_up(&repository, &bytes, Change::Regions).await;
    // The same blocks from the last to the first, of which none is stored again.
    let mut disk: Vec<u8> = bytes.chunks(BLOCK as usize).rev().flatten().copied().collect();
    // And one that repeats.
    disk.copy_within(..BLOCK as usize, 3 << 20);
    let point = back_up(&repository, &disk, Change::Regions).await;
    let image = repository.image(&point, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let target = FileTarget::new(&path, disk.len() as u64, u64::MAX, true);
    let (options, cancel) = (RestoreOptions::default(), CancellationToken::new());
    let pool = repository.pool();
    restore(&image, pool, target.clone(), options, Progress::new(), cancel).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == disk);
    let places = target.places.lock().unwrap();
    assert!(places.len() <= 8, "{places:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_held_other_data_is_zeroed_where_the_image_is_zero() {
    let (_, repository) = new_repository().await;
    let disk = disk();
    let point = back_up(&repository, &disk, Change::Regions).await;
    let image = repository.image(&point, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    std::fs::write(&path, vec![0xEE; disk.len()]).unwrap();
    let target = FileTarget::new(&path, disk.len() as u64, u64::MAX, false);
    let options = RestoreOptions::default();
    let cancel = CancellationToken::new();
    restore(&image, repository.pool(), target, options, Progress::new(), cancel).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_stopped_while_it_zeroed_is_not_complete() {
    let (_, repository) = new_repository().await;
    let empty = vec![0; 3 << 20];
    let point = back_up(&repository, &empty, Change::Regions).await;
    let image = repository.image(&point, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    std::fs::write(&path, vec![0xEE; empty.len()]).unwrap();
    let target = FileTarget::new(&path, empty.len() as u64, u64::MAX, false);
    let (options, cancel) = (RestoreOptions::default(), CancellationToken::new());
    cancel.cancel();
    let done = restore(&image, repository.pool(), target, options, Progress::new(), cancel).await;
    assert_eq!(done.unwrap_err().kind(), sluice_engine::ErrorKind::Cancelled);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_journal_speaks_of_its_own_target_only() {
    let (_, repository) = new_repository().await;
    let disk = disk();
    let point = back_up(&repository, &disk, Change::Regions).await;
    let image = repository.image(&point, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = |target: &str| RestoreOptions {
        journal: Some(folder.path().join("journal")),
        target: target.into(),
    };
    assert!(!options("one").goes_on(&image));
    let full = FileTarget::new(&folder.path().join("one"), disk.len() as u64, 8 << 20, true);
    let (pool, cancel) = (repository.pool(), CancellationToken::new());
    let failed = restore(&image, pool, full, options("one"), Progress::new(), cancel).await;
    failed.unwrap_err();
    assert!(options("one").goes_on(&image) && !options("two").goes_on(&image));
    // What it says was written is not at another target.
    let journal = options("").journal.unwrap();
    let text = std::fs::read_to_string(&journal).unwrap();
    std::fs::write(&journal, text + "0 0\n1 1\n").unwrap();
    let path = folder.path().join("two");
    let target = FileTarget::new(&path, disk.len() as u64, u64::MAX, true);
    let cancel = CancellationToken::new();
    let done = restore(&image, pool, target, options("two"), Progress::new(), cancel).await;
    assert_eq!(done.unwrap().resumed, 0);
    assert!(std::fs::read(&path).unwrap() == disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_met_a_full_target_says_so_and_can_be_run_again() {
    let (_, repository) = new_repository().await;
    let disk = disk();
    let point = back_up(&repository, &disk, Change::Regions).await;
    let image = repository.image(&point, None).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let options =
        RestoreOptions { journal: Some(folder.path().join("journal")), target: "out".into() };
    let full = FileTarget::new(&path, disk.len() as u64, 8 << 20, true);
    let cancel = CancellationToken::new();
    let pool = repository.pool();
    let failed =
        restore(&image, pool, full, options.clone(), Progress::new(), cancel.clone()).await;
    assert_eq!(failed.unwrap_err().kind(), sluice_engine::ErrorKind::Target);
    let again = FileTarget::new(&path, disk.len() as u64, u64::MAX, true);
    restore(&image, pool, again, options.clone(), Progress::new(), cancel).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == disk);
    assert!(!options.journal.unwrap().exists());
}

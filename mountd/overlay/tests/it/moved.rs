//! Disks that become files of this machine while they are in use.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sluice_block::{BlockRead, BlockWrite, Extent, MemoryDisk, Result, conformance};
use sluice_overlay::{CELL, OpenOptions, Overlay, OverlayError};
use tokio::sync::Semaphore;

use crate::support::{CREATE, base, content, open, origin, read_all};

const SIZE: usize = (21 << 20) + 1234;

#[tokio::test]
async fn a_disk_that_was_moved_is_the_file_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, file) = (folder.path().join("overlay"), folder.path().join("disk.raw"));
    let under = content(SIZE, 7);
    let mut model = under.clone();
    let options = OpenOptions { create: true, limit: Some(64 * CELL), boot: None };
    {
        let (overlay, disk) = open(&dir, &under, options);
        disk.write_at(5000, &[9; 100_000]).await.unwrap();
        disk.write_zeroes(3 << 20, 70_000).await.unwrap();
        disk.write_at(SIZE as u64 - 10, &[8; 10]).await.unwrap();
        overlay.move_to(vec![file.clone()], None).await.unwrap();
        assert!(overlay.status().local);
        assert!(matches!(overlay.freeze(), Err(OverlayError::Local(_))));
        model[5000..105_000].fill(9);
        model[3 << 20..(3 << 20) + 70_000].fill(0);
        model[SIZE - 10..].fill(8);
        conformance::read(&*disk, &model).await;
        assert!(std::fs::read(&file).unwrap() == model);
        // The limit was one of the overlay's folder.
        disk.write_at(4 << 20, &vec![6; 1 << 20]).await.unwrap();
        disk.write_zeroes(4 << 20, 300_001).await.unwrap();
        disk.write_at(77, &[5; 3]).await.unwrap();
        disk.flush().await.unwrap();
        model[4 << 20..5 << 20].fill(6);
        model[4 << 20..(4 << 20) + 300_001].fill(0);
        model[77..80].fill(5);
        assert!(std::fs::read(&file).unwrap() == model);
        overlay.move_to(vec![file.clone()], None).await.unwrap();
        let other = overlay.move_to(vec![folder.path().join("other")], None).await;
        assert!(matches!(other, Err(OverlayError::CopiedElsewhere(_))));
    }
    // Somebody else has used the file meanwhile: what it holds is the disk.
    use std::os::unix::fs::FileExt;
    let opened = std::fs::File::options().write(true).open(&file).unwrap();
    opened.write_all_at(&[4; 100], (4 << 20) + 50).unwrap();
    model[(4 << 20) + 50..(4 << 20) + 150].fill(4);
    let (overlay, disk) = open(&dir, &vec![0; SIZE], OpenOptions::default());
    assert!(overlay.status().local && overlay.status().limit.is_none());
    conformance::read(&*disk, &model).await;
}

#[tokio::test]
async fn a_move_that_was_cut_off_goes_on_and_never_overwrites_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, file) = (folder.path().join("overlay"), folder.path().join("disk.raw"));
    let under = content(SIZE, 3);
    {
        let (overlay, disk) = open(&dir, &under, CREATE);
        disk.write_at(1 << 20, &[9; 4096]).await.unwrap();
        std::fs::write(&file, "precious").unwrap();
        let refused = overlay.move_to(vec![file.clone()], None).await;
        assert!(matches!(refused, Err(OverlayError::TargetNotEmpty(_))));
        std::fs::remove_file(&file).unwrap();
        let slow = overlay.move_to(vec![file.clone()], Some(1 << 20));
        let begun = async {
            while overlay.status().hydration.is_none_or(|copy| copy.done == 0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            moved = slow => panic!("it was not cut off: {moved:?}"),
            () = begun => {}
        }
        let come = overlay.status().hydration.unwrap();
        assert!(come.done < come.total && !overlay.status().local);
        overlay.flush().unwrap();
    }
    let (overlay, disk) = open(&dir, &under, OpenOptions::default());
    disk.write_at(9 << 20, &[8; 4096]).await.unwrap();
    overlay.move_to(vec![file.clone()], None).await.unwrap();
    let mut model = under;
    model[1 << 20..(1 << 20) + 4096].fill(9);
    model[9 << 20..(9 << 20) + 4096].fill(8);
    assert!(std::fs::read(&file).unwrap() == model);
    assert!(read_all(&*disk).await == model);
}

/// Nothing of what is written while the disk moves is lost, wherever it falls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_while_it_moves_is_in_the_file() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..6u8 {
        let dir = folder.path().join(format!("overlay-{round}"));
        let file: PathBuf = folder.path().join(format!("{round}.raw"));
        let (overlay, disk) = open(&dir, &content(SIZE, round), CREATE);
        let over = Arc::new(AtomicBool::new(false));
        let moving = {
            let (overlay, file, over) = (overlay.clone(), file.clone(), over.clone());
            tokio::spawn(async move {
                let moved = overlay.move_to(vec![file], None).await;
                over.store(true, Ordering::Release);
                moved
            })
        };
        let mut model = content(SIZE, round);
        let mut step = 0u64;
        while !over.load(Ordering::Acquire) || step < 50 {
            let at = (step * 7_919_311) % (SIZE as u64 - 50_000);
            let (from, length) = (at as usize, 1 + (step * 977 % 49_000) as usize);
            if step % 5 == 4 {
                disk.write_zeroes(at, length as u64).await.unwrap();
                model[from..from + length].fill(0);
            } else {
                let bytes = vec![1 + step as u8 % 200; length];
                disk.write_at(at, &bytes).await.unwrap();
                model[from..from + length].copy_from_slice(&bytes);
            }
            step += 1;
        }
        moving.await.unwrap().unwrap();
        disk.flush().await.unwrap();
        assert!(std::fs::read(&file).unwrap() == model, "round {round}, {step} steps");
        assert!(read_all(&*disk).await == model);
    }
}

/// A base whose reads wait at a gate until it is opened for good, and are counted.
struct Gated {
    disk: MemoryDisk,
    came: Semaphore,
    gate: Semaphore,
    read: AtomicU64,
}

impl Gated {
    fn new(bytes: &[u8]) -> Arc<Self> {
        let (came, gate, read) = (Semaphore::new(0), Semaphore::new(0), AtomicU64::new(0));
        Arc::new(Self { disk: MemoryDisk::from_bytes(bytes), came, gate, read })
    }

    /// Until a read waits at the gate.
    async fn came(&self) {
        self.came.acquire().await.unwrap().forget();
    }
}

#[async_trait]
impl BlockRead for Gated {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.came.add_permits(1);
        let _open = self.gate.acquire().await.unwrap();
        self.disk.read_at(offset, buf).await
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.disk.extents(offset, length).await
    }
}

/// The command is run again while what it began the first time goes on: both end well, and what is
/// written after the first of them stays.
#[tokio::test]
async fn a_second_move_waits_for_the_first_and_takes_over_from_one_that_is_gone() {
    for given_up in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let (dir, file) = (folder.path().join("overlay"), folder.path().join("disk.raw"));
        let mut model = content(SIZE, 5);
        let far = Gated::new(&model);
        let data = model.chunks(CELL as usize).filter(|cell| cell.iter().any(|byte| *byte != 0));
        let data: usize = data.map(<[u8]>::len).sum();
        let bases = vec![base("vda", far.clone(), "first")];
        let overlay = Overlay::open(&dir, &origin("p"), bases, CREATE).unwrap();
        let disk = overlay.disks().remove(0);
        let moving = |to: &PathBuf| {
            let (overlay, to) = (overlay.clone(), to.clone());
            tokio::spawn(async move { overlay.move_to(vec![to], None).await })
        };
        let first = moving(&file);
        far.came().await;
        let mut second = moving(&file);
        tokio::time::timeout(Duration::from_millis(200), &mut second).await.unwrap_err();
        // It does not wait for what it will never get.
        let elsewhere = moving(&folder.path().join("other")).await.unwrap();
        assert!(matches!(elsewhere, Err(OverlayError::CopiedElsewhere(_))));
        let inside = overlay.hydrate(None).await;
        assert!(matches!(inside, Err(OverlayError::CopiedElsewhere(_))));
        disk.write_at(0, &[9; 8192]).await.unwrap();
        model[..8192].fill(9);
        if given_up {
            first.abort();
            far.came().await;
            far.read.store(0, Ordering::Relaxed);
            far.gate.add_permits(1);
        } else {
            far.gate.add_permits(1);
            first.await.unwrap().unwrap();
            assert_eq!(far.read.load(Ordering::Relaxed), data as u64, "each part is read once");
        }
        disk.write_at(4096, &[8; 8192]).await.unwrap();
        model[4096..12_288].fill(8);
        second.await.unwrap().unwrap();
        disk.flush().await.unwrap();
        assert!(overlay.status().local);
        assert!(read_all(&*disk).await == model);
        assert!(std::fs::read(&file).unwrap() == model);
    }
}

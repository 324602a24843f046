use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use sluice_block::{
    BlockError, BlockRead, BlockWrite, ErrorKind, Extent, MemoryDisk, Result, conformance,
};
use sluice_overlay::{CELL, OpenOptions, Overlay, OverlayDisk};

use crate::support::{CREATE, base, content, origin, read_all};

const SIZE: usize = (13 << 20) + 1234;

/// A base that counts what is read of it, and fails from a place on.
struct Far {
    disk: MemoryDisk,
    read: AtomicU64,
    ends: AtomicU64,
}

impl Far {
    fn new(bytes: &[u8]) -> Arc<Self> {
        let disk = MemoryDisk::from_bytes(bytes);
        Arc::new(Self { disk, read: AtomicU64::new(0), ends: AtomicU64::new(u64::MAX) })
    }

    fn check(&self, end: u64) -> Result<()> {
        if end > self.ends.load(Ordering::Relaxed) {
            return Err(BlockError::new(ErrorKind::Unavailable, "the line is cut"));
        }
        Ok(())
    }
}

#[async_trait]
impl BlockRead for Far {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check(offset + buf.len() as u64)?;
        self.read.fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.disk.read_at(offset, buf).await
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.check(offset + length)?;
        self.disk.extents(offset, length).await
    }
}

fn over(folder: &Path, far: &Arc<Far>, options: OpenOptions) -> (Arc<Overlay>, Arc<OverlayDisk>) {
    let bases = vec![base("vda", far.clone(), "first")];
    let overlay = Overlay::open(folder, &origin("p"), bases, options).unwrap();
    let disk = overlay.disks().remove(0);
    (overlay, disk)
}

#[tokio::test]
async fn a_hydrated_overlay_needs_its_base_no_more_and_goes_on_where_it_was_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let under = content(SIZE, 7);
    let data = under.iter().filter(|byte| **byte != 0).count() as u64;
    let far = Far::new(&under);
    let mut model = under.clone();
    {
        let (overlay, disk) = over(folder.path(), &far, CREATE);
        disk.write_at(5000, &[9; 100_000]).await.unwrap();
        model[5000..105_000].fill(9);
        far.ends.store(9 << 20, Ordering::Relaxed);
        overlay.hydrate(None).await.unwrap_err();
        let come = overlay.status().hydration.unwrap();
        assert_eq!((come.done, come.total), (8 << 20, SIZE as u64));
        overlay.flush().unwrap();
    }
    far.ends.store(u64::MAX, Ordering::Relaxed);
    far.read.store(0, Ordering::Relaxed);
    let (overlay, disk) = over(folder.path(), &far, OpenOptions::default());
    overlay.hydrate(None).await.unwrap();
    let again = far.read.load(Ordering::Relaxed);
    assert!(again > 0 && again < data / 2, "{again} of {data} bytes were read again");
    // What was written is counted and named as before: the copy is neither.
    assert_eq!(overlay.status().written, 25 * CELL);
    far.ends.store(0, Ordering::Relaxed);
    conformance::read(&*disk, &model).await;
    let come = overlay.status().hydration.unwrap();
    assert_eq!(come.done, come.total);
    drop((overlay, disk));
    let (_overlay, disk) = over(folder.path(), &far, OpenOptions::default());
    conformance::read(&*disk, &model).await;
}

#[tokio::test]
async fn what_is_committed_goes_into_the_copy() {
    let folder = tempfile::tempdir().unwrap();
    let under = content(SIZE, 7);
    let far = Far::new(&under);
    let (overlay, disk) = over(folder.path(), &far, CREATE);
    overlay.hydrate(None).await.unwrap();
    far.ends.store(0, Ordering::Relaxed);
    disk.write_at(5000, &[9; 100_000]).await.unwrap();
    disk.write_zeroes(1 << 20, 70_000).await.unwrap();
    let then = read_all(&*disk).await;
    let frozen = overlay.freeze().unwrap();
    disk.write_at(6000, &[8; 10]).await.unwrap();
    let changed: u64 = frozen.disks()[0].changed.iter().map(|range| range.end - range.start).sum();
    assert_eq!(changed, (25 + 18) * CELL);
    let next = Far::new(&then);
    next.ends.store(0, Ordering::Relaxed);
    frozen
        .rebase(&origin("p"), &origin("next"), vec![base("vda", next.clone(), "second")], true)
        .unwrap();
    let mut now = then;
    now[6000..6010].fill(8);
    conformance::read(&*disk, &now).await;
    assert_eq!(overlay.status().written, CELL);
    disk.flush().await.unwrap();
    drop((overlay, disk));
    let bases = vec![base("vda", next, "second")];
    let overlay = Overlay::open(folder.path(), &origin("next"), bases, CREATE).unwrap();
    conformance::read(&*overlay.disks()[0], &now).await;
}

/// Reads of the base that are under way when a commit exchanges it must not reach the copy.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_while_it_hydrates_leaves_nothing_old_in_the_copy() {
    for round in 0..4u8 {
        let folder = tempfile::tempdir().unwrap();
        let far = Far::new(&content(SIZE, round));
        let (overlay, disk) = over(folder.path(), &far, CREATE);
        let begun = overlay.clone();
        let hydrating = tokio::spawn(async move { begun.hydrate(Some(1 << 30)).await });
        while overlay.status().hydration.is_none() {
            tokio::task::yield_now().await;
        }
        for (step, at) in (0..SIZE as u64 - 9000).step_by(900_000).enumerate() {
            disk.write_at(at, &[round ^ step as u8; 9000]).await.unwrap();
        }
        let then = read_all(&*disk).await;
        let committing = overlay.clone();
        let next = Far::new(&then);
        let new = next.clone();
        let done = tokio::task::spawn_blocking(move || {
            let frozen = committing.freeze()?;
            frozen.rebase(&origin("p"), &origin("next"), vec![base("vda", new, "second")], true)
        });
        done.await.unwrap().unwrap();
        hydrating.await.unwrap().unwrap();
        next.ends.store(0, Ordering::Relaxed);
        assert!(read_all(&*disk).await == then);
    }
}

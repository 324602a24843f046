//! Backing up one leaf: 256 blocks that share a page of the block map.

use std::ops::Range;
use std::sync::Arc;

use sluice_block::{BlockRead, coalesce};
use sluice_repository::{BackupSession, ImageWriter, Page};
use tokio::sync::Semaphore;

use crate::buffers::{Buffer, Buffers};
use crate::error::{EngineError, Result};
use crate::progress::Progress;

/// Bytes read at once.
pub(crate) const SEGMENT: u64 = 2 << 20;
/// Leaves larger than this are not held in memory for comparing their checksum first.
pub(crate) const LARGEST_HELD: u64 = 64 << 20;
/// Bytes of segments between the stages.
pub(crate) const IN_FLIGHT: u64 = 96 << 20;
/// The semaphore counts in this unit, for its counter has 32 bits.
const UNIT: u64 = 64 << 10;

/// What every leaf of a run shares.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) session: Arc<BackupSession>,
    pub(crate) image: Arc<ImageWriter>,
    pub(crate) name: Arc<str>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) buffers: Buffers,
    pub(crate) memory: Arc<Semaphore>,
    pub(crate) pool: sluice_repository::Pool,
}

/// A piece of a leaf in memory, on its way through the stages. Gives its memory back when
/// dropped.
#[derive(Debug)]
pub(crate) struct Segment {
    /// Number of its first block in the leaf.
    pub(crate) first: usize,
    pub(crate) bytes: Buffer,
    _permit: Option<tokio::sync::OwnedSemaphorePermit>,
}

/// A semaphore for [`IN_FLIGHT`] bytes.
pub(crate) fn memory() -> Arc<Semaphore> {
    Arc::new(Semaphore::new((IN_FLIGHT / UNIT) as usize))
}

impl Context {
    /// Waits for memory.
    pub(crate) async fn permit(&self, bytes: u64) -> tokio::sync::OwnedSemaphorePermit {
        let units = bytes.div_ceil(UNIT).min(IN_FLIGHT / UNIT) as u32;
        let permit = self.memory.clone().acquire_many_owned(units).await;
        permit.expect("the semaphore is never closed")
    }

    /// Runs of blocks within `within` that may hold data, rounded out to blocks.
    pub(crate) async fn data_runs(
        &self,
        device: &dyn BlockRead,
        within: Range<u64>,
    ) -> Result<Vec<Range<u64>>> {
        let extents = coalesce(device, within.start, within.end - within.start)
            .await
            .map_err(|error| EngineError::source(&self.name, error))?;
        let block = u64::from(self.image.block_size());
        let mut runs: Vec<Range<u64>> = Vec::new();
        for extent in extents.iter().filter(|extent| !extent.kind.reads_zero()) {
            let start = extent.offset / block * block;
            let end = (extent.end().div_ceil(block) * block).min(self.image.size());
            match runs.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(end),
                _ => runs.push(start..end),
            }
        }
        Ok(runs)
    }

    /// Reads a piece of the leaf.
    async fn read(
        &self,
        device: &dyn BlockRead,
        leaf: u64,
        bytes: Range<u64>,
        permit: Option<tokio::sync::OwnedSemaphorePermit>,
    ) -> Result<Segment> {
        let length = bytes.end - bytes.start;
        let mut buffer = self.buffers.get(length as usize);
        device
            .read_at(bytes.start, &mut buffer)
            .await
            .map_err(|error| EngineError::source(&self.name, error))?;
        self.progress.add_read(length);
        let first =
            (bytes.start - leaf * self.image.leaf_span()) / u64::from(self.image.block_size());
        Ok(Segment { first: first as usize, bytes: buffer, _permit: permit })
    }

    /// Backs up a leaf of which `runs` may hold data and all else is zero, comparing its checksum
    /// with the last point's before any single block.
    pub(crate) async fn compare_region(
        &self,
        device: &dyn BlockRead,
        leaf: u64,
        runs: Vec<Range<u64>>,
    ) -> Result<()> {
        // All of the leaf's memory at once: leaves that each hold a part and wait for more
        // would wait for each other.
        let _held = self.permit(runs.iter().map(|run| run.end - run.start).sum()).await;
        let mut hashing = Vec::new();
        for piece in pieces(&runs) {
            let segment = self.read(device, leaf, piece, None).await?;
            let (pool, image) = (self.pool.clone(), self.image.clone());
            let hash = move || {
                let hashes = image.hash(&segment.bytes);
                (segment, hashes)
            };
            hashing.push(tokio::spawn(async move { pool.run(hash).await }));
        }
        let mut hashed = Vec::with_capacity(hashing.len());
        for task in hashing {
            hashed.push(joined(task).await??);
        }
        let mut all = vec![None; sluice_repository::format::FANOUT];
        for (segment, hashes) in &hashed {
            all[segment.first..segment.first + hashes.len()].copy_from_slice(hashes);
        }
        let digest = self.image.digest(&all);
        if self.image.parent_digest(leaf).await? == Some(digest) {
            for (_, hashes) in &hashed {
                self.image.count_unchanged(hashes);
            }
            return Ok(self.image.keep_leaf(leaf, all.iter().flatten().count()).await?);
        }
        let parent = self.image.parent_leaf(leaf).await?;
        let mut page = Page::empty(0);
        let mut storing = Vec::new();
        for (segment, hashes) in hashed {
            self.session.ready().await?;
            storing.push(self.store(segment, parent.clone(), Some(hashes)));
        }
        for task in storing {
            fill(&mut page, joined(task).await??);
        }
        Ok(self.image.set_leaf(leaf, page).await?)
    }

    /// Backs up a leaf whose blocks in `runs` are read and compared one by one; its other blocks
    /// are as in `page`.
    pub(crate) async fn store_runs(
        &self,
        device: &dyn BlockRead,
        leaf: u64,
        runs: Vec<Range<u64>>,
        mut page: Page,
        parent: Option<Arc<Page>>,
    ) -> Result<()> {
        let mut storing = Vec::new();
        for piece in pieces(&runs) {
            self.session.ready().await?;
            let permit = self.permit(piece.end - piece.start).await;
            let segment = self.read(device, leaf, piece, Some(permit)).await?;
            storing.push(self.store(segment, parent.clone(), None));
        }
        for task in storing {
            fill(&mut page, joined(task).await??);
        }
        Ok(self.image.set_leaf(leaf, page).await?)
    }

    fn store(
        &self,
        segment: Segment,
        parent: Option<Arc<Page>>,
        hashes: Option<Vec<Option<sluice_repository::BlockHash>>>,
    ) -> tokio::task::JoinHandle<Result<Stored>> {
        let (pool, image) = (self.pool.clone(), self.image.clone());
        tokio::spawn(async move {
            let work = move || {
                let parent = parent.as_deref();
                let stored = image.store(&segment.bytes, segment.first, parent, hashes.as_deref());
                stored.map(|entries| Stored { first: segment.first, entries })
            };
            Ok(pool.run(work).await??)
        })
    }
}

/// Entries of a stored segment.
pub(crate) struct Stored {
    first: usize,
    entries: Vec<Option<sluice_repository::Entry>>,
}

fn fill(page: &mut Page, stored: Stored) {
    for (at, entry) in stored.entries.into_iter().enumerate() {
        page.set(stored.first + at, entry);
    }
}

/// Runs cut into segments.
fn pieces(runs: &[Range<u64>]) -> impl Iterator<Item = Range<u64>> + '_ {
    runs.iter().flat_map(|run| {
        let run = run.clone();
        (run.start..run.end)
            .step_by(SEGMENT as usize)
            .map(move |start| start..(start + SEGMENT).min(run.end))
    })
}

async fn joined<T>(task: tokio::task::JoinHandle<T>) -> Result<T> {
    task.await.map_err(|error| {
        EngineError::caused(crate::ErrorKind::Cancelled, "a part of the run was stopped", error)
    })
}

//! Backing up one leaf: 256 blocks that share a page of the block map.

use std::cell::RefCell;
use std::ops::Range;
use std::sync::Arc;

use sluice_block::{BlockRead, coalesce};
use sluice_repository::{BackupSession, BlockHash, ImageWriter, Page, RepositoryError};
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
        let first = self.block_in_leaf(leaf, bytes.start);
        Ok(Segment { first, bytes: buffer, _permit: permit })
    }

    /// Backs up a leaf of which `runs` may hold data and all else is zero, comparing its checksum
    /// with the last point's before any single block.
    pub(crate) async fn compare_region(
        &self,
        device: &Arc<dyn BlockRead>,
        leaf: u64,
        runs: Vec<Range<u64>>,
    ) -> Result<()> {
        // All of the leaf's memory at once: leaves that each hold a part and wait for more
        // would wait for each other.
        let _held = self.permit(runs.iter().map(|run| run.end - run.start).sum()).await;
        let mut hashing = Vec::new();
        for piece in pieces(&runs) {
            let (this, device) = (self.clone(), device.clone());
            hashing.push(tokio::spawn(async move { this.hash_piece(&device, leaf, piece).await }));
        }
        let hashed = settled(hashing, Ok(())).await?;
        let hashed: Vec<Hashed> = hashed.into_iter().flatten().collect();
        let mut all = vec![None; sluice_repository::format::FANOUT];
        for part in &hashed {
            all[part.first..part.first + part.hashes.len()].copy_from_slice(&part.hashes);
        }
        let digest = self.image.digest(&all);
        if self.image.parent_digest(leaf).await? == Some(digest) {
            for part in &hashed {
                self.image.count_unchanged(&part.hashes);
            }
            return Ok(self.image.keep_leaf(leaf, all.iter().flatten().count()).await?);
        }
        self.store_hashed(device, leaf, hashed).await
    }

    /// Hashes a piece of a leaf: what the source has at hand is hashed on the way, the rest is read
    /// into memory and held for storing it.
    async fn hash_piece(
        &self,
        device: &Arc<dyn BlockRead>,
        leaf: u64,
        piece: Range<u64>,
    ) -> Result<Vec<Hashed>> {
        let (image, source, bytes) = (self.image.clone(), device.clone(), piece.clone());
        let quick = move || {
            let mut hashes = Vec::new();
            let hash = |block: &[u8]| {
                hashes.extend(image.hash(block));
                Ok::<(), RepositoryError>(())
            };
            let done = each_cached(&*source, bytes, image.block_size(), hash);
            done.map(|done| (done, hashes))
        };
        let (done, hashes) = self.pool.run(quick).await??;
        self.progress.add_read(done - piece.start);
        let mut parts = Vec::with_capacity(1);
        if done > piece.start {
            let first = self.block_in_leaf(leaf, piece.start);
            parts.push(Hashed { first, hashes, held: None });
        }
        if done < piece.end {
            let segment = self.read(&**device, leaf, done..piece.end, None).await?;
            let image = self.image.clone();
            let hash = move || {
                let hashes = image.hash(&segment.bytes);
                Hashed { first: segment.first, hashes, held: Some(segment) }
            };
            parts.push(self.pool.run(hash).await?);
        }
        Ok(parts)
    }

    /// Stores a leaf whose blocks are hashed and of which some differ from the last point's. What
    /// was not held is read again where it differs, and hashed again: a source that changes while
    /// it is read must not be stored under the hash of what it was.
    async fn store_hashed(
        &self,
        device: &Arc<dyn BlockRead>,
        leaf: u64,
        hashed: Vec<Hashed>,
    ) -> Result<()> {
        let parent = self.image.parent_leaf(leaf).await?;
        let (mut page, mut again, mut held) = (Page::empty(0), Vec::new(), Vec::new());
        for part in hashed {
            match part.held {
                Some(segment) => held.push((segment, part.hashes)),
                None => self.sort_out(leaf, &part, parent.as_deref(), &mut page, &mut again),
            }
        }
        let mut storing = Vec::new();
        let started = async {
            for (segment, hashes) in held {
                self.session.ready().await?;
                storing.push(self.store(segment, parent.clone(), Some(hashes)));
            }
            for piece in pieces(&again) {
                self.session.ready().await?;
                let segment = self.read(&**device, leaf, piece, None).await?;
                storing.push(self.store(segment, parent.clone(), None));
            }
            Ok(())
        };
        let started = started.await;
        for stored in settled(storing, started).await? {
            fill(&mut page, stored);
        }
        Ok(self.image.set_leaf(leaf, page).await?)
    }

    /// Takes blocks that are as in the last point over into `page`; those that are not are to be
    /// read `again`.
    fn sort_out(
        &self,
        leaf: u64,
        part: &Hashed,
        parent: Option<&Page>,
        page: &mut Page,
        again: &mut Vec<Range<u64>>,
    ) {
        let block = u64::from(self.image.block_size());
        for (at, hash) in part.hashes.iter().enumerate() {
            let index = part.first + at;
            let known = parent.and_then(|parent| parent.get(index));
            if known.map(|entry| entry.id) == hash.as_ref().map(BlockHash::id) {
                page.set(index, known.copied());
                self.image.count_unchanged(std::slice::from_ref(hash));
                continue;
            }
            let start = leaf * self.image.leaf_span() + index as u64 * block;
            let end = (start + block).min(self.image.size());
            match again.last_mut() {
                Some(last) if last.end == start => last.end = end,
                _ => again.push(start..end),
            }
        }
    }

    /// Backs up a leaf whose blocks in `runs` are read and compared one by one; its other blocks
    /// are as in `page`.
    pub(crate) async fn store_runs(
        &self,
        device: &Arc<dyn BlockRead>,
        leaf: u64,
        runs: Vec<Range<u64>>,
        mut page: Page,
        parent: Option<Arc<Page>>,
    ) -> Result<()> {
        let mut storing = Vec::new();
        let mut started = Ok(());
        for piece in pieces(&runs) {
            if let Err(error) = self.session.ready().await {
                started = Err(error.into());
                break;
            }
            let permit = self.permit(piece.end - piece.start).await;
            let (this, device, parent) = (self.clone(), device.clone(), parent.clone());
            let work = async move { this.store_piece(&device, leaf, piece, parent, permit).await };
            storing.push(tokio::spawn(work));
        }
        for stored in settled(storing, started).await?.into_iter().flatten() {
            fill(&mut page, stored);
        }
        Ok(self.image.set_leaf(leaf, page).await?)
    }

    /// Stores a piece of a leaf: what the source has at hand straight from there, the rest by way
    /// of memory.
    async fn store_piece(
        &self,
        device: &Arc<dyn BlockRead>,
        leaf: u64,
        piece: Range<u64>,
        parent: Option<Arc<Page>>,
        permit: tokio::sync::OwnedSemaphorePermit,
    ) -> Result<Vec<Stored>> {
        let first = self.block_in_leaf(leaf, piece.start);
        let (image, source, bytes) = (self.image.clone(), device.clone(), piece.clone());
        let known = parent.clone();
        let quick = move || {
            let mut entries = Vec::new();
            let store = |block: &[u8]| {
                let at = first + entries.len();
                entries.extend(image.store(block, at, known.as_deref(), None)?);
                Ok::<(), RepositoryError>(())
            };
            let done = each_cached(&*source, bytes, image.block_size(), store);
            done.map(|done| (done, Stored { first, entries }))
        };
        let (done, stored) = self.pool.run(quick).await??;
        self.progress.add_read(done - piece.start);
        let mut all = vec![stored];
        if done < piece.end {
            let segment = self.read(&**device, leaf, done..piece.end, Some(permit)).await?;
            all.push(joined(self.store(segment, parent, None)).await??);
        }
        Ok(all)
    }

    fn block_in_leaf(&self, leaf: u64, offset: u64) -> usize {
        let within = offset - leaf * self.image.leaf_span();
        (within / u64::from(self.image.block_size())) as usize
    }

    fn store(
        &self,
        segment: Segment,
        parent: Option<Arc<Page>>,
        hashes: Option<Vec<Option<BlockHash>>>,
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

/// Hashes of consecutive blocks of a leaf.
struct Hashed {
    /// Number of the first one in the leaf.
    first: usize,
    hashes: Vec<Option<BlockHash>>,
    /// Their bytes, unless they were hashed on the way.
    held: Option<Segment>,
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

thread_local! {
    /// One block, small enough to stay in the core's cache between reading and hashing it.
    static BLOCK: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Hands over block after block as long as the source has them at hand; returns where it ended.
fn each_cached(
    device: &dyn BlockRead,
    bytes: Range<u64>,
    block_size: u32,
    mut each: impl FnMut(&[u8]) -> Result<(), RepositoryError>,
) -> Result<u64, RepositoryError> {
    BLOCK.with_borrow_mut(|scratch| {
        scratch.resize(block_size as usize, 0);
        let mut at = bytes.start;
        while at < bytes.end {
            let take = (bytes.end - at).min(u64::from(block_size));
            let block = &mut scratch[..take as usize];
            if !device.read_cached(at, block) {
                break;
            }
            each(block)?;
            at += take;
        }
        Ok(at)
    })
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

/// Waits for all tasks, also after a failure: they hold the session. The first failure counts.
async fn settled<T>(
    tasks: Vec<tokio::task::JoinHandle<Result<T>>>,
    so_far: Result<()>,
) -> Result<Vec<T>> {
    let (mut all, mut result) = (Vec::with_capacity(tasks.len()), so_far);
    for task in tasks {
        match joined(task).await.flatten() {
            Ok(done) => all.push(done),
            Err(error) if result.is_ok() => result = Err(error),
            Err(_) => {}
        }
    }
    result.map(|()| all)
}

async fn joined<T>(task: tokio::task::JoinHandle<T>) -> Result<T> {
    task.await.map_err(|error| {
        EngineError::caused(crate::ErrorKind::Cancelled, "a part of the run was stopped", error)
    })
}

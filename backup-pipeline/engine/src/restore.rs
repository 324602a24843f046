//! Restoring an image: the engine with its ends swapped.
//!
//! Each leaf's chunks come with few large gets, are decoded and verified on the pool, and written
//! at their place by threads that do only that, in pieces of blocks side by side. Blocks of zeroes
//! are never written to a target that starts zeroed.

mod journal;
mod write_behind;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use sluice_block::{BlockRead, coalesce};
use sluice_repository::{ImageReader, Pool, RunBytes};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use crate::error::{EngineError, ErrorKind, Result};
use crate::progress::{Phase, Progress};

use self::journal::Journal;
use self::write_behind::{Failure, WriteBehind};

/// Leaves under way at the same time.
const LEAVES: usize = 4;
/// Bytes of gets under way.
const IN_FLIGHT_MIB: usize = 64;

/// Where a restore writes. Calls come from several threads at once, at places of their own.
pub trait Target: Send + Sync {
    /// Writes all of `data` at `offset`. The memory of `data` starts at a multiple of
    /// [`ALIGN`](sluice_block::ALIGN), as direct writes want it.
    ///
    /// # Errors
    /// What the target reports.
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes a range read as zeroes.
    ///
    /// # Errors
    /// What the target reports.
    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()>;

    /// Tells that a range will soon be written, all of it, so that its space may be set aside in
    /// one piece. It reads as it did until it is written.
    fn reserve(&self, offset: u64, length: u64) {
        let _ = (offset, length);
    }

    /// Returns once everything written is durable.
    ///
    /// # Errors
    /// What the target reports.
    fn flush(&self) -> io::Result<()>;

    /// Whether what was never written reads as zeroes.
    fn starts_zeroed(&self) -> bool;

    /// How many writes are worth having under way at a time.
    fn writers(&self) -> usize {
        1
    }
}

/// How to run a restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// A file that remembers what is done, so that a restore can go on after an interruption.
    /// It is removed at the end. Without one a restore starts over.
    pub journal: Option<PathBuf>,
    /// What tells the target from others of the same name, on one line: a journal speaks of the
    /// target it was begun with only.
    pub target: String,
}

impl RestoreOptions {
    /// Whether there is a journal of a restore of this image to this target.
    pub fn goes_on(&self, image: &ImageReader) -> bool {
        let journal = self.journal.as_deref();
        journal.is_some_and(|path| journal::begins_with(path, &self.head(image)))
    }

    /// The first line of the journal.
    fn head(&self, image: &ImageReader) -> String {
        let record = image.record();
        format!("sluice restore {} {} {}", record.root, record.size, self.target)
    }
}

/// What a restore came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestoreOutcome {
    /// Bytes written.
    pub written: u64,
    /// Bytes an earlier, interrupted restore had written.
    pub resumed: u64,
}

/// Writes an image to `target`, whose size is the image's.
///
/// # Errors
/// What the repository or the target reports. The target then holds part of the image.
pub async fn restore(
    image: &ImageReader,
    pool: &Pool,
    target: Arc<dyn Target>,
    options: RestoreOptions,
    progress: Arc<Progress>,
    cancel: CancellationToken,
) -> Result<RestoreOutcome> {
    progress.add_total(image.size());
    progress.set_phase(Phase::Running);
    let head = options.head(image);
    let name = options.journal.as_deref().map(|path| path.display().to_string());
    let journal = Journal::open(options.journal, &head).map_err(|error| {
        let text = format!("the restore journal {} failed", name.unwrap_or_default());
        EngineError::caused(ErrorKind::Target, text, error)
    })?;
    let journal = Arc::new(journal);
    let span = image.leaf_span();
    let leaves = image.size().div_ceil(span);
    if !target.starts_zeroed() {
        zero_holes(image, &target, &cancel).await?;
        // There may be no leaf that would notice.
        go_on(&cancel)?;
    }
    let data = image.data_leaves(0..leaves).await?;
    let holes = image.size().saturating_sub(data.len() as u64 * span);
    progress.add_done(holes);
    let resumed = (journal.done.len() as u64 * span).min(image.size());
    let memory = Arc::new(Semaphore::new(IN_FLIGHT_MIB));
    let block_size = image.block_size() as usize;
    let behind = WriteBehind::start(target.clone(), block_size, pool.threads(), progress.clone());
    let shared = Arc::new(Run {
        image: image.clone(),
        pool: pool.clone(),
        target,
        behind: behind.map_err(target_error)?,
        progress: progress.clone(),
        journal,
        memory,
        cancel,
    });
    stream::iter(data)
        .map(|leaf| {
            let run = shared.clone();
            async move {
                let task = tokio::spawn(async move { run.leaf(leaf).await });
                task.await.unwrap_or_else(|error| Err(died(error)))
            }
        })
        .buffer_unordered(LEAVES)
        .try_collect::<()>()
        .await?;
    progress.set_phase(Phase::Finishing);
    shared.flush().await?;
    shared.journal.remove();
    progress.set_phase(Phase::Done);
    Ok(RestoreOutcome { written: progress.snapshot().written, resumed })
}

struct Run {
    image: ImageReader,
    pool: Pool,
    target: Arc<dyn Target>,
    behind: WriteBehind,
    progress: Arc<Progress>,
    journal: Arc<Journal>,
    memory: Arc<Semaphore>,
    cancel: CancellationToken,
}

impl Run {
    async fn leaf(self: &Arc<Self>, leaf: u64) -> Result<()> {
        let span = self.image.leaf_span();
        let bytes = span.min(self.image.size() - leaf * span);
        if self.journal.done.contains(&leaf) {
            self.progress.add_done(bytes);
            return Ok(());
        }
        go_on(&self.cancel)?;
        let runs = self.image.runs(leaf).await?;
        self.reserve(&runs).await?;
        let tasks = runs.into_iter().map(|run| {
            let this = self.clone();
            async move {
                let mib = run.length.div_ceil(1 << 20).clamp(1, IN_FLIGHT_MIB as u64) as u32;
                let permit = this.memory.clone().acquire_many_owned(mib).await;
                let stored = this.image.get_run(&run).await?;
                this.progress.add_read(stored.len() as u64);
                let (pool, worker) = (this.pool.clone(), this.clone());
                let decoded = pool.run(move || worker.decode(&run, &stored)).await?;
                let written = decoded?;
                drop(permit);
                // Each piece that is written or given up has told so by then.
                written
                    .await
                    .unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))
                    .map_err(target_error)
            }
        });
        futures::future::try_join_all(tasks).await?;
        self.progress.add_done(bytes);
        if self.journal.note(leaf, bytes) {
            self.flush().await?;
        }
        Ok(())
    }

    /// Tells the target which ranges the blocks of a leaf will fill.
    async fn reserve(&self, runs: &[sluice_repository::Run]) -> Result<()> {
        let mut blocks: Vec<u64> =
            runs.iter().flat_map(|run| run.wanted.iter().map(|(block, _)| *block)).collect();
        blocks.sort_unstable();
        let (target, size) = (self.target.clone(), self.image.size());
        let block_size = u64::from(self.image.block_size());
        let reserve = move || {
            for run in blocks.chunk_by(|block, next| block + 1 == *next) {
                let offset = run[0] * block_size;
                // The last block is padded beyond the image's end.
                let end = (offset + run.len() as u64 * block_size).min(size);
                target.reserve(offset, end.saturating_sub(offset));
            }
        };
        tokio::task::spawn_blocking(reserve).await.map_err(died)
    }

    /// Decodes a run into pieces that are written behind; the receiver tells when all are.
    fn decode(
        &self,
        run: &sluice_repository::Run,
        stored: &RunBytes,
    ) -> Result<oneshot::Receiver<io::Result<()>>> {
        let (mut pieces, written) = self.behind.pieces(self.image.size());
        match self.image.decode_run(run, stored, &mut pieces) {
            Ok(()) => pieces.finish(),
            Err(Failure::Repository(error)) => return Err(error.into()),
            // What went wrong is told by the piece it happened to.
            Err(Failure::Stopped) => {}
        }
        Ok(written)
    }

    /// Makes what is written durable, then remembers it as done.
    async fn flush(self: &Arc<Self>) -> Result<()> {
        let this = self.clone();
        let flush = move || {
            let leaves = this.journal.take_pending();
            this.target.flush()?;
            this.journal.append(&leaves)
        };
        let flushed = tokio::task::spawn_blocking(flush).await;
        flushed.map_err(died)?.map_err(target_error)
    }
}

/// Fails when the restore is to stop.
fn go_on(cancel: &CancellationToken) -> Result<()> {
    if !cancel.is_cancelled() {
        return Ok(());
    }
    let text = "the restore was stopped before its end; the target is incomplete";
    Err(EngineError::new(ErrorKind::Cancelled, text))
}

fn died(error: JoinError) -> EngineError {
    EngineError::caused(ErrorKind::Cancelled, "a part of the run died", error)
}

fn target_error(error: io::Error) -> EngineError {
    EngineError::caused(ErrorKind::Target, "writing the target failed", error)
}

/// Writes zeroes where a target that held other data needs them.
async fn zero_holes(
    image: &ImageReader,
    target: &Arc<dyn Target>,
    cancel: &CancellationToken,
) -> Result<()> {
    const STEP: u64 = 64 << 30;
    let mut at = 0;
    while at < image.size() && !cancel.is_cancelled() {
        let length = STEP.min(image.size() - at);
        let extents = coalesce(image, at, length).await.map_err(|error| {
            EngineError::caused(ErrorKind::Source, "reading the image's map failed", error)
        })?;
        let target = target.clone();
        let zero = move || {
            let mut zero = extents.iter().filter(|extent| extent.kind.reads_zero());
            zero.try_for_each(|extent| target.write_zeroes(extent.offset, extent.length))
        };
        let done: io::Result<()> = tokio::task::spawn_blocking(zero)
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        done.map_err(target_error)?;
        at += length;
    }
    Ok(())
}

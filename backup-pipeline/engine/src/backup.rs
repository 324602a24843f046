//! Running a backup: walk the source, hand leaves to the stages, commit.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use futures::stream::{FuturesUnordered, StreamExt};
use sluice_block::{BlockRead, coalesce};
use sluice_repository::{
    Allowance, BackupSession, Base, CommitInfo, Defragment, ImageReader, ImageRecord, OtherSession,
    Page, Repository, Reread, RestorePoint, SessionOptions,
};
use tokio_util::sync::CancellationToken;

use crate::buffers::Buffers;
use crate::error::{EngineError, ErrorKind, Result};
use crate::leaf::{Context, LARGEST_HELD, memory};
use crate::progress::{Phase, Progress};
use crate::replicate::CopyOf;
use crate::{Change, Source, SourceImage, stream};

/// Leaves under way at the same time: enough to read, hash and store side by side.
const LEAVES: usize = 4;

/// How to run a backup.
#[derive(Debug, Clone)]
pub struct BackupOptions {
    /// Block size in bytes for a new chain; an existing chain keeps its own when `None`.
    pub block_size: Option<u32>,
    /// The same for images that are not in the chain so far, where `block_size` is `None`.
    pub first_block_size: Option<u32>,
    /// zstd level.
    pub level: i32,
    /// Metadata kept with the point, as JSON text.
    pub metadata: Option<String>,
    /// Consistency of the images, as the caller knows it.
    pub consistency: String,
    /// Not to be pruned before, in ms since 1970.
    pub retain_until_ms: Option<u64>,
    /// The source is this point of another repository.
    pub copy_of: Option<CopyOf>,
    /// Not to be pruned until released.
    pub hold: bool,
    /// Streams too are compared block by block, like devices with [`Change::Rescan`].
    pub rescan: bool,
    /// Put together what lies scattered.
    pub defragment: Option<Defragment>,
    /// The point that [`Change::Changed`] lists are against, where that need not be the newest one
    /// of the instance: the backup builds on it, whatever instance it is of, and reads everything
    /// should it be gone. The caller holds a pin on it.
    pub parent: Option<RestorePoint>,
    /// How much may be stored, what interrupted runs of the instance left included. A backup that
    /// needs more ends with the repository's kind `Allowance`.
    pub allowance: Arc<Allowance>,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self {
            block_size: None,
            first_block_size: None,
            level: 1,
            metadata: None,
            consistency: "crash".into(),
            retain_until_ms: None,
            copy_of: None,
            hold: false,
            rescan: false,
            defragment: None,
            parent: None,
            allowance: Arc::default(),
        }
    }
}

/// What a backup came to.
#[derive(Debug)]
pub struct BackupOutcome {
    /// The new point.
    pub point: RestorePoint,
    /// Packs of interrupted runs that were not sent again.
    pub resumed_packs: u64,
    /// Bytes in them.
    pub resumed_bytes: u64,
    /// Bytes of known blocks that were stored once more, to lie together.
    pub together_bytes: u64,
    /// Backups of the same instance that ran at the same time.
    pub others: Vec<OtherSession>,
}

/// Backs up `images` as a new restore point of `instance`.
///
/// Cancelling stores what is under way and ends with [`ErrorKind::Cancelled`]; so does any
/// failure, with its own kind. No point exists then, and the next run of the same instance
/// does not send again what was stored.
///
/// # Errors
/// What the source or the repository reports.
pub async fn backup(
    repository: &Repository,
    instance: &str,
    images: Vec<SourceImage>,
    options: BackupOptions,
    progress: Arc<Progress>,
    cancel: CancellationToken,
) -> Result<BackupOutcome> {
    check_names(&images)?;
    progress.set_phase(Phase::Preparing);
    let session_options = SessionOptions {
        level: options.level,
        dedup: true,
        defragment: options.defragment,
        parent: options.parent.clone(),
        allowance: options.allowance.clone(),
        id: options.copy_of.as_ref().map(CopyOf::id),
    };
    let session = Arc::new(repository.begin(instance, &session_options).await?);
    let images = match &options.copy_of {
        Some(copy) => copy.trust(images, session.parent()),
        None => trust(images, options.parent.as_ref(), &session).await?,
    };
    progress.watch(session.counters());
    for image in &images {
        if let Source::Device(device, _) = &image.source {
            progress.add_total(device.size());
        }
    }
    progress.set_phase(Phase::Running);
    let method = method(&images, session.parent().is_some(), options.rescan);
    let run = run_images(repository, &session, images, &options, &progress, &cancel).await;
    progress.set_phase(Phase::Finishing);
    let owned = Arc::try_unwrap(session).map_err(|_| {
        EngineError::new(ErrorKind::Cancelled, "parts of the run are still under way")
    })?;
    // The last moment to stop: from here on the backup becomes a point.
    let records = match run {
        Ok(_) if cancel.is_cancelled() => Err(cancelled()),
        other => other,
    };
    let records = match records {
        Ok(records) => records,
        Err(error) => {
            // The first error is the one to tell; keeping what is stored is best effort.
            if let Err(later) = owned.suspend().await {
                tracing::debug!(error = %later, "the last packs were not stored");
            }
            return Err(error);
        }
    };
    let (resumed_packs, resumed_bytes) = (owned.resumed_packs(), owned.resumed_bytes());
    let others = owned.others().to_vec();
    let together_bytes = owned.counters().together.load(std::sync::atomic::Ordering::Relaxed);
    let info = CommitInfo {
        metadata: options.metadata,
        consistency: options.consistency,
        method,
        read_bytes: progress.snapshot().read,
        retain_until_ms: options.retain_until_ms,
        copied: options.copy_of.map(CopyOf::into_copied),
        hold: options.hold,
    };
    let point = owned.commit(records, info).await?;
    progress.set_phase(Phase::Done);
    Ok(BackupOutcome { point, resumed_packs, resumed_bytes, together_bytes, others })
}

/// The images, read whole when the backup builds on another point than their changes are against.
async fn trust(
    mut images: Vec<SourceImage>,
    wanted: Option<&RestorePoint>,
    session: &BackupSession,
) -> Result<Vec<SourceImage>> {
    let listed =
        |image: &SourceImage| matches!(image.source, Source::Device(_, Change::Changed(_)));
    let place = |point: &RestorePoint| (point.chain, point.id);
    let trusted = match (wanted, session.parent()) {
        (Some(wanted), parent) => parent.map(place) == Some(place(wanted)),
        (None, Some(_)) if images.iter().any(listed) => session.continues_the_last().await?,
        (None, _) => true,
    };
    if trusted {
        return Ok(images);
    }
    tracing::warn!(
        "the point that changes were noted against is gone, damaged or not there yet: reading \
         everything"
    );
    for image in &mut images {
        if let Source::Device(_, change @ Change::Changed(_)) = &mut image.source {
            *change = Change::Regions;
        }
    }
    Ok(images)
}

fn check_names(images: &[SourceImage]) -> Result<()> {
    if images.is_empty() {
        return Err(EngineError::new(ErrorKind::Invalid, "there is no image to back up"));
    }
    for (at, image) in images.iter().enumerate() {
        if images[..at].iter().any(|other| other.name == image.name) {
            return Err(EngineError::new(
                ErrorKind::Invalid,
                format!("two images are named {:?}; name them as NAME=PATH", image.name),
            ));
        }
    }
    Ok(())
}

fn method(images: &[SourceImage], has_parent: bool, rescan: bool) -> String {
    if !has_parent {
        return "full".into();
    }
    let of = |image: &SourceImage| match &image.source {
        Source::Device(_, Change::Changed(_)) => "changed",
        Source::Device(_, Change::Rescan) => "rescan",
        Source::Stream(_) if rescan => "rescan",
        Source::Device(_, Change::Regions) | Source::Stream(_) => "regions",
    };
    let mut methods: Vec<&str> = images.iter().map(of).collect();
    methods.sort_unstable();
    methods.dedup();
    methods.join("+")
}

/// Backs up the images one after the other; their leaves go side by side.
async fn run_images(
    repository: &Repository,
    session: &Arc<BackupSession>,
    images: Vec<SourceImage>,
    options: &BackupOptions,
    progress: &Arc<Progress>,
    cancel: &CancellationToken,
) -> Result<Vec<ImageRecord>> {
    let (buffers, memory) = (Buffers::default(), memory());
    let mut records = Vec::with_capacity(images.len());
    for mut image in images {
        let copied = options.copy_of.as_ref().and_then(|copy| copy.block_size(&image.name));
        let block_size = copied.or(options.block_size);
        let so_far = || inherited(session, &image.name).or(options.first_block_size);
        let block_size =
            block_size.or_else(so_far).unwrap_or(sluice_repository::format::DEFAULT_BLOCK);
        let parent = session.parent_image(&image.name, block_size)?;
        if let Some(parent) = &parent {
            reread(session, parent, &mut image).await?;
        }
        let (size, base) = match &image.source {
            Source::Device(device, Change::Changed(_)) if parent.is_some() => {
                (device.size(), Base::Parent)
            }
            Source::Device(device, _) => (device.size(), Base::Empty),
            Source::Stream(_) => (0, Base::Empty),
        };
        // A rescan takes nothing for granted, not even that what is known is still there.
        let trust = match image.source {
            Source::Device(_, Change::Rescan) => false,
            Source::Stream(_) => !options.rescan,
            Source::Device(..) => true,
        };
        let writer =
            session.image(&image.name, &image.description, size, block_size, base, trust)?;
        let context = Context {
            session: session.clone(),
            image: writer.clone(),
            name: image.name.as_str().into(),
            progress: progress.clone(),
            buffers: buffers.clone(),
            memory: memory.clone(),
            pool: repository.pool().clone(),
        };
        match image.source {
            Source::Stream(source) => {
                stream::run(&context, source, options.rescan, cancel).await?;
            }
            Source::Device(device, Change::Changed(ranges)) if base == Base::Parent => {
                run_changed(&context, device, ranges, cancel).await?;
            }
            Source::Device(device, change) => {
                run_all(&context, device, change == Change::Rescan, cancel).await?;
            }
        }
        records.push(writer.finish().await?);
    }
    Ok(records)
}

/// Adds to what changed what must be read again: parts of the parent known to be damaged, and
/// such as are to be put together.
async fn reread(
    session: &BackupSession,
    parent: &ImageReader,
    image: &mut SourceImage,
) -> Result<()> {
    let Source::Device(_, change) = &mut image.source else { return Ok(()) };
    let found = session.to_reread(parent).await?;
    // Others read everything anyway.
    let Change::Changed(ranges) = change else { return Ok(()) };
    match found {
        Reread::Nothing => {}
        Reread::Leaves(leaves) => {
            tracing::info!(leaves = leaves.len(), "reading what did not change");
            let (span, size) = (parent.leaf_span(), parent.record().size);
            ranges.extend(leaves.iter().map(|leaf| leaf * span..((leaf + 1) * span).min(size)));
        }
        Reread::Everything => {
            tracing::warn!("the last point's map is damaged: reading the whole source");
            *change = Change::Regions;
        }
    }
    Ok(())
}

/// The block size of the chain so far.
fn inherited(session: &BackupSession, name: &str) -> Option<u32> {
    let images = session.parent().map(|parent| parent.images.as_slice()).unwrap_or_default();
    images.iter().find(|image| image.name == name).map(|image| image.block_size)
}

/// Leaves under way. Dropping it waits for nothing; `finish` does.
struct Window {
    leaves: FuturesUnordered<tokio::task::JoinHandle<Result<()>>>,
}

impl Window {
    fn new() -> Self {
        Self { leaves: FuturesUnordered::new() }
    }

    async fn push(
        &mut self,
        leaf: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
        while self.leaves.len() >= LEAVES {
            self.settle_one().await?;
        }
        self.leaves.push(tokio::spawn(leaf));
        Ok(())
    }

    async fn settle_one(&mut self) -> Result<()> {
        match self.leaves.next().await {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(error)) => {
                Err(EngineError::caused(ErrorKind::Cancelled, "a part of the run died", error))
            }
        }
    }

    /// Waits for all leaves, also after a failure: they hold the session.
    async fn finish(mut self, so_far: Result<()>) -> Result<()> {
        let mut result = so_far;
        while !self.leaves.is_empty() {
            let settled = self.settle_one().await;
            if result.is_ok() {
                result = settled;
            }
        }
        result
    }
}

pub(crate) fn cancelled() -> EngineError {
    EngineError::new(
        ErrorKind::Cancelled,
        "the backup was stopped; what was stored is kept, run it again to go on",
    )
}

/// Reads the whole device.
async fn run_all(
    context: &Context,
    device: Arc<dyn BlockRead>,
    by_block: bool,
    cancel: &CancellationToken,
) -> Result<()> {
    let mut window = Window::new();
    let fed = feed_all(context, &device, by_block, cancel, &mut window).await;
    window.finish(fed).await
}

async fn feed_all(
    context: &Context,
    device: &Arc<dyn BlockRead>,
    by_block: bool,
    cancel: &CancellationToken,
    window: &mut Window,
) -> Result<()> {
    let (size, span) = (device.size(), context.image.leaf_span());
    let hold = !by_block && context.image.parent().is_some() && span <= LARGEST_HELD;
    let mut at = 0;
    while at < size {
        let leaf = at / span;
        let bytes = context.image.leaf_bytes(leaf);
        // One look skips a hole of any length.
        if let Some(hole) = leading_hole(context, device, bytes.start).await?
            && hole >= bytes.end
        {
            let next = if hole >= size { size } else { hole / span * span };
            context.progress.add_done(next - at);
            at = next;
            continue;
        }
        if cancel.is_cancelled() {
            return Err(cancelled());
        }
        at = bytes.end;
        let (context, device) = (context.clone(), device.clone());
        window
            .push(async move {
                let runs = context.data_runs(&*device, bytes.clone()).await?;
                if runs.is_empty() {
                    // Zeroes, like everything not handed in.
                } else if hold {
                    context.compare_region(&device, leaf, runs).await?;
                } else {
                    let parent = context.image.parent_leaf(leaf).await?;
                    context.store_runs(&device, leaf, runs, Page::empty(0), parent).await?;
                }
                context.progress.add_done(bytes.end - bytes.start);
                Ok(())
            })
            .await?;
    }
    Ok(())
}

/// The end of the hole that begins at `at`, if there is one.
///
/// Where there is data, as mostly, one look at a block tells; and a hole is gone through in steps
/// that grow. Asking for all the rest each time would list the same extents for each leaf anew.
async fn leading_hole(
    context: &Context,
    device: &Arc<dyn BlockRead>,
    at: u64,
) -> Result<Option<u64>> {
    let size = device.size();
    let mut end = at;
    let mut step = u64::from(context.image.block_size());
    while end < size {
        let extents = device
            .extents(end, step.min(size - end))
            .await
            .map_err(|error| EngineError::source(&context.name, error))?;
        for extent in &extents {
            if !extent.kind.reads_zero() {
                return Ok((end > at).then_some(end));
            }
            end = extent.end();
        }
        if extents.is_empty() {
            break;
        }
        step = step.saturating_mul(2);
    }
    Ok((end > at).then_some(end))
}

/// Reads only what changed.
async fn run_changed(
    context: &Context,
    device: Arc<dyn BlockRead>,
    ranges: Vec<Range<u64>>,
    cancel: &CancellationToken,
) -> Result<()> {
    let before = context.image.parent().map_or(0, BlockRead::size);
    let leaves = changed_leaves(context, device.size(), before, ranges);
    let changed: u64 = leaves.values().flatten().map(|run| run.end - run.start).sum();
    context.progress.add_done(device.size().saturating_sub(changed));
    let mut window = Window::new();
    let mut fed = Ok(());
    for (leaf, runs) in leaves {
        if cancel.is_cancelled() {
            fed = Err(cancelled());
            break;
        }
        let (context, device) = (context.clone(), device.clone());
        fed = window.push(async move { changed_leaf(&context, &device, leaf, runs).await }).await;
        if fed.is_err() {
            break;
        }
    }
    window.finish(fed).await
}

/// Changed bytes rounded out to blocks, by leaf. Where the device grew or shrank, everything
/// from the leaf of the smaller end on counts as changed: the caller's list speaks of the old
/// size, and the last block of the old size was padded with zeroes.
fn changed_leaves(
    context: &Context,
    size: u64,
    before: u64,
    mut ranges: Vec<Range<u64>>,
) -> BTreeMap<u64, Vec<Range<u64>>> {
    let (block, span) = (u64::from(context.image.block_size()), context.image.leaf_span());
    if size != before {
        ranges.push(before.min(size).saturating_sub(1) / span * span..size);
    }
    ranges.sort_by_key(|range| range.start);
    let mut leaves: BTreeMap<u64, Vec<Range<u64>>> = BTreeMap::new();
    for range in ranges {
        let mut start = range.start / block * block;
        let end = (range.end.div_ceil(block) * block).min(size);
        while start < end {
            let leaf = start / span;
            let stop = end.min((leaf + 1) * span);
            let runs = leaves.entry(leaf).or_default();
            match runs.last_mut() {
                Some(last) if last.end >= start => last.end = last.end.max(stop),
                _ => runs.push(start..stop),
            }
            start = stop;
        }
    }
    leaves
}

async fn changed_leaf(
    context: &Context,
    device: &Arc<dyn BlockRead>,
    leaf: u64,
    changed: Vec<Range<u64>>,
) -> Result<()> {
    let block = u64::from(context.image.block_size());
    let base = leaf * context.image.leaf_span();
    let parent = context.image.parent_leaf(leaf).await?;
    let mut page = parent.as_deref().cloned().unwrap_or_else(|| Page::empty(0));
    let mut runs = Vec::new();
    let mut bytes = 0;
    for range in changed {
        bytes += range.end - range.start;
        // Changed blocks start as zeroes; those with data are then read.
        for at in (range.start - base) / block..(range.end - base).div_ceil(block) {
            page.set(at as usize, None);
        }
        let extents = coalesce(&**device, range.start, range.end - range.start)
            .await
            .map_err(|error| EngineError::source(&context.name, error))?;
        for extent in extents.iter().filter(|extent| !extent.kind.reads_zero()) {
            let start = extent.offset / block * block;
            let end = (extent.end().div_ceil(block) * block).min(range.end);
            match runs.last_mut() {
                Some(Range { end: last, .. }) if *last >= start => *last = end.max(*last),
                _ => runs.push(start..end),
            }
        }
    }
    // Blocks beyond an end that moved down are gone.
    let blocks = context.image.size().div_ceil(block);
    for at in 0..sluice_repository::format::FANOUT {
        if base / block + at as u64 >= blocks {
            page.set(at, None);
        }
    }
    context.store_runs(device, leaf, runs, page, parent).await?;
    context.progress.add_done(bytes);
    Ok(())
}

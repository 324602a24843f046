//! Reading an image of a restore point: the way of a block out of the store.
//!
//! The directory came with the manifest, so opening costs nothing more. A read looks up the
//! level-1 page, the leaf, and the chunks, each cached and each verified. A reader that goes
//! through the image in order is read ahead of, with a window that grows from 1 to 8 MiB.

#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use sluice_block::{BlockRead, Extent, ExtentList, MAX_EXTENTS, Piece, check_range};
use tokio::runtime::Handle;

use crate::error::{RepositoryError, Result};
use crate::fetch::{Run, SlotDecoder, coalesce};
use crate::format::FANOUT;
use crate::format::id::{PackKind, commit_key};
use crate::format::manifest::{DirectoryEntry, ImageRecord};
use crate::format::page::{Entry, Page};
use crate::met::Reading;
use crate::moved::RunBytes;
use crate::points::RestorePoint;
use crate::read_ahead::ReadAhead;
use crate::repository::{Repository, Shared, parse_error};

/// Leaves looked at in one call for extents, so that no call walks a large disk.
const LEAVES_PER_CALL: u64 = 256;

/// Where the blocks of a run are decoded to.
pub trait BlockSink {
    /// What goes wrong, beside damage.
    type Error: From<RepositoryError>;

    /// Memory of a block's size for the block of this number, in which it is put before the next
    /// one is asked for.
    ///
    /// # Errors
    /// When there is none, and will be none.
    fn block(&mut self, block: u64) -> std::result::Result<&mut [u8], Self::Error>;
}

/// An image of a restore point, readable at any offset. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ImageReader {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) shared: Arc<Shared>,
    pub(crate) reading: Reading,
    pub(crate) record: ImageRecord,
    pub(crate) directory: Vec<DirectoryEntry>,
    read_ahead: Mutex<ReadAhead>,
    missed: Mutex<Option<Missed>>,
}

/// What the last look into the caches found on its way to a chunk that was not there. Who looks
/// first and reads then need not go that way again; the block map never changes, so it is never
/// out of date.
#[derive(Debug)]
struct Missed {
    offset: u64,
    length: u64,
    entries: Vec<(u64, Entry)>,
}

/// What a look into the caches came to.
enum Look {
    /// All is copied.
    Copied,
    /// A chunk is missing; the entries of all blocks that are not all zero, ascending.
    NoChunk(Vec<(u64, Entry)>),
    /// A page is missing.
    NoPage,
}

impl Repository {
    /// Opens an image of a point: the one of this name, or the only one. Makes no request: the
    /// manifest holds all it needs.
    ///
    /// # Errors
    /// As [`RestorePoint::image`], or damage in the manifest.
    pub fn image(&self, point: &RestorePoint, name: Option<&str>) -> Result<ImageReader> {
        self.shared.open_image(point, point.image(name)?)
    }
}

impl Shared {
    pub(crate) fn open_image(
        self: &Arc<Self>,
        point: &RestorePoint,
        record: &ImageRecord,
    ) -> Result<ImageReader> {
        let directory = record
            .open_directory(&self.keys)
            .map_err(|error| parse_error(commit_key(point.chain, point.id), error))?;
        let inner = Inner {
            shared: self.clone(),
            reading: (point.chain, point.id),
            record: record.clone(),
            directory,
            read_ahead: Mutex::default(),
            missed: Mutex::default(),
        };
        Ok(ImageReader { inner: Arc::new(inner) })
    }
}

impl ImageReader {
    /// The image's record in the manifest.
    pub fn record(&self) -> &ImageRecord {
        &self.inner.record
    }

    /// Block size in bytes.
    pub fn block_size(&self) -> u32 {
        self.inner.record.block_size
    }

    /// Bytes a leaf spans.
    pub fn leaf_span(&self) -> u64 {
        u64::from(self.block_size()) * FANOUT as u64
    }

    /// Numbers of the leaves that hold data, ascending, within a range of leaves.
    ///
    /// # Errors
    /// What reading the level-1 pages meets.
    pub async fn data_leaves(&self, within: Range<u64>) -> Result<Vec<u64>> {
        let mut leaves = Vec::new();
        let first = within.start / FANOUT as u64;
        let at = self.inner.directory.partition_point(|entry| u64::from(entry.index) < first);
        for entry in &self.inner.directory[at..] {
            let base = u64::from(entry.index) * FANOUT as u64;
            if base >= within.end {
                break;
            }
            let page = self.inner.level1(entry).await?;
            let numbers = page.iter().map(|(index, _)| base + index as u64);
            leaves.extend(numbers.filter(|leaf| within.contains(leaf)));
        }
        Ok(leaves)
    }

    /// The leaf of this number; nothing when it is all zero.
    ///
    /// # Errors
    /// What reading the pages meets.
    pub async fn leaf(&self, number: u64) -> Result<Option<Arc<Page>>> {
        Ok(self.inner.leaves(number..number + 1).await?.pop().map(|(_, page)| page))
    }

    /// The level-1 entry of a leaf, which holds its digest; nothing when it is all zero.
    ///
    /// # Errors
    /// What reading the level-1 page meets.
    pub(crate) async fn leaf_entry(&self, number: u64) -> Result<Option<Entry>> {
        let index = number / FANOUT as u64;
        let Some(entry) = self.inner.directory_entry(index) else { return Ok(None) };
        let page = self.inner.level1(&entry).await?;
        Ok(page.get((number % FANOUT as u64) as usize).copied())
    }

    /// The gets that bring the chunks of a leaf, in order of place in the store; each wanted
    /// entry is marked with its block number.
    ///
    /// # Errors
    /// What reading the pages meets.
    pub async fn runs(&self, leaf: u64) -> Result<Vec<Run>> {
        let Some(page) = self.leaf(leaf).await? else { return Ok(Vec::new()) };
        let first = leaf * FANOUT as u64;
        let wanted = page.iter().map(|(index, entry)| (first + index as u64, *entry)).collect();
        Ok(coalesce(PackKind::Data, wanted))
    }

    /// Gets the bytes of a run.
    ///
    /// # Errors
    /// What the destination reports, or damage.
    pub async fn get_run(&self, run: &Run) -> Result<RunBytes> {
        self.inner.noting(self.inner.shared.get_run(run).await)
    }

    /// Decodes every chunk of a run to where `sink` wants its block, by and large in the order of
    /// blocks. Meant for the pool's threads.
    ///
    /// # Errors
    /// Damage, or what `sink` returns. The block asked for last then holds anything.
    pub fn decode_run<S: BlockSink>(
        &self,
        run: &Run,
        bytes: &RunBytes,
        sink: &mut S,
    ) -> std::result::Result<(), S::Error> {
        let keys = &self.inner.shared.keys;
        let decoder = SlotDecoder::new(keys, run.kind, run.pack);
        let decode = |entry: &Entry, out: &mut [u8]| {
            let stored = bytes.slot(&entry.location);
            self.inner.noting(decoder.chunk_into(keys, entry, stored, out))
        };
        // Blocks of equal content stand side by side, for they lie at the same place.
        let mut groups: Vec<_> = run.wanted.chunk_by(|(_, one), (_, next)| one == next).collect();
        // In the pack they lie as the threads that stored them came by, and a sink that hands them
        // on wants neighbours one after the other.
        groups.sort_unstable_by_key(|group| group[0].0);
        for group in groups {
            if let [(block, entry)] = group {
                decode(entry, sink.block(*block)?)?;
                continue;
            }
            let mut content = vec![0; self.block_size() as usize];
            decode(&group[0].1, &mut content)?;
            for (block, _) in group {
                sink.block(*block)?.copy_from_slice(&content);
            }
        }
        Ok(())
    }

    /// Takes note of a read, and reads ahead of its reader.
    fn read_ahead(&self, offset: u64, length: u64) {
        let Some(ahead) = self.inner.read_ahead.lock().note(offset, length) else { return };
        let inner = self.inner.clone();
        let end = ahead.end.min(inner.record.size);
        if ahead.start < end
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(async move { inner.prefetch(ahead.start..end).await });
        }
    }

    /// Reads what the caches do not have; `known` are the entries of its blocks, if they are.
    async fn read(
        &self,
        offset: u64,
        buf: &mut [u8],
        known: Option<Vec<(u64, Entry)>>,
    ) -> Result<()> {
        self.read_ahead(offset, buf.len() as u64);
        let size = u64::from(self.block_size());
        let end = offset + buf.len() as u64;
        let entries = match known {
            Some(entries) => entries,
            None => self.inner.entries(offset / size..end.div_ceil(size)).await?,
        };
        let wanted = entries.iter().map(|(_, entry)| *entry);
        let chunks = self.inner.shared.chunks(wanted, self.inner.reading).await?;
        let mut entries = entries.into_iter().peekable();
        let mut at = offset;
        while at < end {
            let block = at / size;
            let within = (at % size) as usize;
            let take = (end - at).min(size - within as u64) as usize;
            let out = &mut buf[(at - offset) as usize..][..take];
            match entries.next_if(|(number, _)| *number == block) {
                // A short chunk cannot be: its id was verified against a full block's.
                Some((_, entry)) => match chunks.get(&entry.id).map(|c| &c[..]) {
                    Some(chunk) if chunk.len() as u64 == size => {
                        out.copy_from_slice(&chunk[within..within + take]);
                    }
                    _ => {
                        return Err(RepositoryError::damaged(
                            format_args!("block {block} of image {}", self.inner.record.name),
                            "its chunk has another size than the image's blocks",
                        ));
                    }
                },
                None => out.fill(0),
            }
            at += take as u64;
        }
        Ok(())
    }
}

impl Inner {
    /// Passes a result on, and notes the damage in it.
    fn noting<T>(&self, result: Result<T>) -> Result<T> {
        self.shared.noting(result, self.reading)
    }

    fn directory_entry(&self, index: u64) -> Option<DirectoryEntry> {
        let found = self.directory.binary_search_by_key(&index, |entry| u64::from(entry.index));
        found.ok().map(|at| self.directory[at])
    }

    async fn level1(&self, entry: &DirectoryEntry) -> Result<Arc<Page>> {
        let entry = Entry { id: entry.digest, location: entry.location };
        let pages = self.shared.pages(&[entry], 1, self.record.block_size).await;
        let mut pages = self.noting(pages)?;
        Ok(pages.pop().expect("one page was asked for"))
    }

    /// The leaves of a range that hold data.
    async fn leaves(&self, range: Range<u64>) -> Result<Vec<(u64, Arc<Page>)>> {
        let mut wanted: Vec<(u64, Entry)> = Vec::new();
        let fanout = FANOUT as u64;
        for index in range.start / fanout..range.end.div_ceil(fanout) {
            let Some(entry) = self.directory_entry(index) else { continue };
            let page = self.level1(&entry).await?;
            let of_page = page.iter().map(|(at, entry)| (index * fanout + at as u64, *entry));
            wanted.extend(of_page.filter(|(leaf, _)| range.contains(leaf)));
        }
        let entries: Vec<Entry> = wanted.iter().map(|(_, entry)| *entry).collect();
        let pages = self.shared.pages(&entries, 0, self.record.block_size).await;
        let pages = self.noting(pages)?;
        Ok(wanted.into_iter().map(|(leaf, _)| leaf).zip(pages).collect())
    }

    /// The entries of a range of blocks that are not all zero, ascending.
    async fn entries(&self, blocks: Range<u64>) -> Result<Vec<(u64, Entry)>> {
        let fanout = FANOUT as u64;
        let leaves = self.leaves(blocks.start / fanout..blocks.end.div_ceil(fanout)).await?;
        let mut entries = Vec::new();
        for (leaf, page) in leaves {
            let of_page = page.iter().map(|(at, entry)| (leaf * fanout + at as u64, *entry));
            entries.extend(of_page.filter(|(block, _)| blocks.contains(block)));
        }
        Ok(entries)
    }

    /// The chunks of a range from the caches, nothing for zeroes, or what is not there.
    fn cached_chunks(&self, offset: u64, length: u64) -> Result<Vec<Option<Bytes>>, Look> {
        let (size, fanout) = (u64::from(self.record.block_size), FANOUT as u64);
        let end = offset + length;
        // Neighbours share their leaf.
        let mut known: Option<(u64, Option<Arc<Page>>)> = None;
        let (mut chunks, mut entries, mut complete) = (Vec::new(), Vec::new(), true);
        for block in offset / size..end.div_ceil(size) {
            let number = block / fanout;
            if known.as_ref().is_none_or(|(leaf, _)| *leaf != number) {
                let page = self.cached_leaf(number).ok_or(Look::NoPage)?;
                known = Some((number, page));
            }
            let page = known.as_ref().and_then(|(_, page)| page.as_ref());
            match page.and_then(|page| page.get((block % fanout) as usize)) {
                None => chunks.push(None),
                Some(entry) => {
                    entries.push((block, *entry));
                    let chunk = complete.then(|| self.shared.caches.peek(&entry.id)).flatten();
                    complete &= chunk.as_ref().is_some_and(|chunk| chunk.len() as u64 == size);
                    chunks.push(chunk);
                }
            }
        }
        if !complete {
            return Err(Look::NoChunk(entries));
        }
        self.shared.caches.count_hits(chunks.iter().flatten().count() as u64);
        Ok(chunks)
    }

    /// Fills `buf` from the caches, unless something is not there: then nothing is copied.
    fn copy_cached(&self, offset: u64, buf: &mut [u8]) -> Look {
        let chunks = match self.cached_chunks(offset, buf.len() as u64) {
            Ok(chunks) => chunks,
            Err(missing) => return missing,
        };
        let size = u64::from(self.record.block_size);
        let (mut within, mut rest) = ((offset % size) as usize, buf);
        for chunk in chunks {
            let take = rest.len().min(size as usize - within);
            let (out, tail) = rest.split_at_mut(take);
            match chunk {
                Some(chunk) => out.copy_from_slice(&chunk[within..within + take]),
                None => out.fill(0),
            }
            (within, rest) = (0, tail);
        }
        Look::Copied
    }

    /// The entries that the last look for this range found, if it was the last.
    fn recall(&self, offset: u64, length: u64) -> Option<Vec<(u64, Entry)>> {
        let mut missed = self.missed.lock();
        let found = missed.take_if(|one| one.offset == offset && one.length == length)?;
        Some(found.entries)
    }

    /// A leaf, nothing within when it is all zero; nothing when a page is not in the cache.
    fn cached_leaf(&self, number: u64) -> Option<Option<Arc<Page>>> {
        let fanout = FANOUT as u64;
        let Some(entry) = self.directory_entry(number / fanout) else { return Some(None) };
        let entry = Entry { id: entry.digest, location: entry.location };
        let level1 = self.shared.caches.page(&entry)?;
        match level1.get((number % fanout) as usize) {
            None => Some(None),
            Some(entry) => self.shared.caches.page(entry).map(Some),
        }
    }

    /// Brings a range into the cache. Failures are left for the read that needs the bytes.
    async fn prefetch(&self, range: Range<u64>) {
        let size = u64::from(self.record.block_size);
        if let Ok(entries) = self.entries(range.start / size..range.end.div_ceil(size)).await {
            let entries = entries.into_iter().map(|(_, entry)| entry);
            let _ = self.shared.chunks(entries, self.reading).await;
        }
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        let (size, fanout) = (u64::from(self.record.block_size), FANOUT as u64);
        let span = size * fanout;
        let mut list = ExtentList::default();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let leaf = at / span;
            let next = self.directory.partition_point(|e| u64::from(e.index) < leaf / fanout);
            let Some(entry) = self.directory.get(next) else {
                list.push(Extent::hole(at, end - at));
                break;
            };
            let first = u64::from(entry.index) * span * fanout;
            if first > at {
                let to = first.min(end);
                list.push(Extent::hole(at, to - at));
                at = to;
                continue;
            }
            let last = (leaf + LEAVES_PER_CALL).min((leaf / fanout + 1) * fanout);
            let leaves = self.leaves(leaf..last.min(end.div_ceil(span))).await?;
            for (number, page) in leaves {
                for (index, _) in page.iter() {
                    let from = (number * span + index as u64 * size).max(at);
                    let to = (number * span + (index as u64 + 1) * size).min(end);
                    if from < to {
                        list.push(Extent::hole(at, from - at));
                        list.push(Extent::data(from, to - from));
                        at = to;
                    }
                }
            }
            let to = (last * span).min(end);
            list.push(Extent::hole(at, to.saturating_sub(at)));
            at = at.max(to);
            if list.len() + 2 * FANOUT >= MAX_EXTENTS || at - offset >= span * LEAVES_PER_CALL {
                break;
            }
        }
        let mut extents = list.into_vec();
        extents.truncate(MAX_EXTENTS);
        Ok(extents)
    }
}

#[async_trait]
impl BlockRead for ImageReader {
    fn size(&self) -> u64 {
        self.inner.record.size
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> sluice_block::Result<()> {
        check_range(self.size(), offset, buf.len() as u64)?;
        if buf.is_empty() {
            return Ok(());
        }
        let known = match self.inner.recall(offset, buf.len() as u64) {
            Some(entries) => Some(entries),
            None => match self.inner.copy_cached(offset, buf) {
                Look::Copied => {
                    self.read_ahead(offset, buf.len() as u64);
                    return Ok(());
                }
                Look::NoChunk(entries) => Some(entries),
                Look::NoPage => None,
            },
        };
        Ok(self.read(offset, buf, known).await?)
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        let length = buf.len() as u64;
        if offset.checked_add(length).is_none_or(|end| end > self.size()) {
            return false;
        }
        match self.inner.copy_cached(offset, buf) {
            Look::Copied if length > 0 => self.read_ahead(offset, length),
            Look::Copied => {}
            Look::NoPage => return false,
            Look::NoChunk(entries) => {
                *self.inner.missed.lock() = Some(Missed { offset, length, entries });
                return false;
            }
        }
        true
    }

    fn read_shared(&self, offset: u64, length: u64) -> Option<Vec<Piece>> {
        let end = offset.checked_add(length).filter(|end| *end <= self.size())?;
        let size = u64::from(self.block_size());
        // A reader that keeps whole chunks for parts of them would keep far more than it counts.
        let kept = end.next_multiple_of(size) - offset / size * size;
        if kept > 2 * length {
            return None;
        }
        let chunks = self.inner.cached_chunks(offset, length).ok()?;
        self.read_ahead(offset, length);
        let mut at = offset;
        let share = |chunk: Option<Bytes>| {
            let (within, take) = ((at % size) as usize, (size - at % size).min(end - at));
            at += take;
            let of = |chunk: Bytes| Piece::Bytes(chunk.slice(within..within + take as usize));
            chunk.map_or(Piece::Zero(take), of)
        };
        Some(chunks.into_iter().map(share).collect())
    }

    async fn extents(&self, offset: u64, length: u64) -> sluice_block::Result<Vec<Extent>> {
        check_range(self.size(), offset, length)?;
        Ok(self.inner.extents(offset, length).await?)
    }
}

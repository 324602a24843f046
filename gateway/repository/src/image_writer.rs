//! Building the block map of an image.
//!
//! The writer starts from the parent's map or from nothing. Leaves are handed in in any order;
//! a leaf equal to the parent's keeps the parent's page, and a level-1 page equal to the parent's
//! likewise, so that what did not change costs nothing.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::chunk_writer::{BlockHash, ChunkWriter};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::id::{Digest, PackKind};
use crate::format::manifest::{DirectoryEntry, ImageRecord, encode_directory, root_digest};
use crate::format::page::{Entry, Page, ids_digest};
use crate::format::{FANOUT, MAX_IMAGE, is_block_size};
use crate::image_reader::ImageReader;
use crate::repository::Shared;
use crate::session::{BackupSession, check_name};

/// What a new image's map starts from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// All zero: leaves not handed in are zero.
    Empty,
    /// The parent's map: leaves not handed in are as they were.
    Parent,
}

/// Writes one image of a session. Shared between tasks.
#[derive(Debug)]
pub struct ImageWriter {
    shared: Arc<Shared>,
    writer: Arc<ChunkWriter>,
    name: String,
    source: String,
    size: AtomicU64,
    block_size: u32,
    base: Base,
    parent: Option<ImageReader>,
    /// Leaves handed in, by level-1 page. An entry of nothing is a leaf of zeroes.
    leaves: Mutex<BTreeMap<u32, BTreeMap<u16, Option<Entry>>>>,
    /// Blocks with data, against the base.
    data_blocks: AtomicI64,
    /// Whether the parent's chunks are taken to be where its map says.
    trust_parent: bool,
}

impl BackupSession {
    /// Starts an image. Without `trust_parent`, a block equal to the parent's is stored again
    /// unless the pack the parent names still has it: this heals what was lost.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an unusable name, size or block size.
    pub fn image(
        &self,
        name: &str,
        source: &str,
        size: u64,
        block_size: u32,
        base: Base,
        trust_parent: bool,
    ) -> Result<Arc<ImageWriter>> {
        check_name("image", name)?;
        if !is_block_size(block_size) || size > MAX_IMAGE {
            return Err(RepositoryError::new(
                ErrorKind::Invalid,
                format!(
                    "cannot store {size} bytes in blocks of {block_size}: blocks are powers of \
                         two from 16KiB to 1MiB, images at most 1 EiB"
                ),
            ));
        }
        let parent = self.parent_image(name, block_size)?;
        let known = match (&parent, base) {
            (Some(parent), Base::Parent) => parent.record().data_blocks as i64,
            _ => 0,
        };
        Ok(Arc::new(ImageWriter {
            shared: self.shared().clone(),
            writer: self.writer().clone(),
            name: name.to_owned(),
            source: source.to_owned(),
            size: AtomicU64::new(size),
            block_size,
            base,
            parent,
            leaves: Mutex::default(),
            data_blocks: AtomicI64::new(known),
            trust_parent,
        }))
    }
}

impl ImageWriter {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    /// Says the size of an image whose source tells it only at its end.
    pub fn set_size(&self, size: u64) {
        self.size.store(size.min(MAX_IMAGE), Ordering::Relaxed);
    }

    /// Block size in bytes.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// Bytes a leaf spans.
    pub fn leaf_span(&self) -> u64 {
        u64::from(self.block_size) * FANOUT as u64
    }

    /// Number of leaves.
    pub fn leaf_count(&self) -> u64 {
        self.size().div_ceil(self.leaf_span())
    }

    /// The bytes of a leaf, cut at the image's end.
    pub fn leaf_bytes(&self, leaf: u64) -> Range<u64> {
        let start = leaf * self.leaf_span();
        start..(start + self.leaf_span()).min(self.size())
    }

    /// The parent's image.
    pub fn parent(&self) -> Option<&ImageReader> {
        self.parent.as_ref()
    }

    /// The digest of a leaf in the parent; nothing when it is zero there or there is no parent.
    ///
    /// # Errors
    /// What reading the parent's pages meets.
    ///
    /// A leaf that names damaged chunks, or scattered ones, has none: it must not be kept.
    pub async fn parent_digest(&self, leaf: u64) -> Result<Option<Digest>> {
        let Some(entry) = self.parent_entry(leaf).await? else { return Ok(None) };
        if self.writer.all_may_stay() {
            return Ok(Some(entry.id));
        }
        let page = self.parent_leaf(leaf).await?;
        let stays = |page: &Arc<Page>| page.iter().all(|(_, block)| self.may_stay(block));
        Ok(page.filter(stays).map(|_| entry.id))
    }

    /// Whether nothing is known against the place a block is in.
    pub fn may_stay(&self, block: &Entry) -> bool {
        !self.writer.must_store(block)
    }

    fn is_bad_page(&self, page: &Entry) -> bool {
        self.writer.bad.holds(PackKind::Meta, &page.location)
    }

    /// The parent's page of a leaf.
    ///
    /// # Errors
    /// What reading the parent's pages meets.
    pub async fn parent_leaf(&self, leaf: u64) -> Result<Option<Arc<Page>>> {
        match &self.parent {
            Some(parent) => self.unless_damaged(parent.leaf(leaf).await),
            None => Ok(None),
        }
    }

    /// A parent whose map is damaged is no parent, where everything is read anyway.
    fn unless_damaged<T>(&self, read: Result<Option<T>>) -> Result<Option<T>> {
        match read {
            Err(error) if error.kind() == ErrorKind::Damaged && self.base == Base::Empty => {
                tracing::warn!(%error, "not building on a damaged part of the last point");
                Ok(None)
            }
            other => other,
        }
    }

    /// Hashes the blocks of a piece of the image, without storing them. `bytes` starts at a
    /// block and is cut only at the image's end. For the pool's threads.
    pub fn hash(&self, bytes: &[u8]) -> Vec<Option<BlockHash>> {
        let mut ids = Vec::with_capacity(bytes.len().div_ceil(self.block_size as usize));
        self.each_block(bytes, |block| ids.push(self.writer.hash(block)));
        ids
    }

    /// Counts the blocks of a leaf that was found to be as in the parent.
    pub fn count_unchanged(&self, hashes: &[Option<BlockHash>]) {
        self.writer.count_unchanged(hashes, self.block_size);
    }

    /// The digest of a leaf with these blocks (at most 256, missing ones are zero).
    pub fn digest(&self, hashes: &[Option<BlockHash>]) -> Digest {
        let ids = hashes.iter().map(|hash| hash.as_ref().map(BlockHash::id));
        ids_digest(&self.shared.keys, 0, self.block_size, ids)
    }

    /// Stores the blocks of a piece of the image; `first` is the number of its first block in its
    /// leaf, `parent` the parent's page of that leaf, `hashes` what [`hash`](Self::hash) said of
    /// the same bytes, when it was asked before. For the pool's threads.
    ///
    /// # Errors
    /// When a put has failed.
    pub fn store(
        &self,
        bytes: &[u8],
        first: usize,
        parent: Option<&Page>,
        hashes: Option<&[Option<BlockHash>]>,
    ) -> Result<Vec<Option<Entry>>> {
        let mut entries = Vec::with_capacity(bytes.len().div_ceil(self.block_size as usize));
        let mut result = Ok(());
        self.each_block(bytes, |block| {
            if result.is_ok() {
                let known = parent.and_then(|page| page.get(first + entries.len()));
                let hash = match hashes.and_then(|hashes| hashes.get(entries.len())) {
                    Some(hash) => *hash,
                    None => self.writer.hash(block),
                };
                match self.writer.put(block, hash, known, self.trust_parent) {
                    Ok(entry) => entries.push(entry),
                    Err(error) => result = Err(error),
                }
            }
        });
        result.map(|()| entries)
    }

    /// Calls `each` with every block, the last one padded with zeroes.
    fn each_block(&self, bytes: &[u8], mut each: impl FnMut(&[u8])) {
        let size = self.block_size as usize;
        let whole = bytes.chunks_exact(size);
        let rest = whole.remainder();
        whole.for_each(&mut each);
        if !rest.is_empty() {
            let mut padded = vec![0; size];
            padded[..rest.len()].copy_from_slice(rest);
            each(&padded);
        }
    }

    /// Hands in a leaf whose blocks are stored.
    ///
    /// # Errors
    /// What reading the parent's pages meets, or a put has failed.
    pub async fn set_leaf(&self, leaf: u64, page: Page) -> Result<()> {
        let count = page.count() as i64;
        if page.is_empty() {
            return self.clear_leaf(leaf).await;
        }
        let before = self.count_before(leaf).await?;
        let digest = page.digest(&self.shared.keys, self.block_size);
        let known = self.parent_entry(leaf).await?.filter(|entry| entry.id == digest);
        // Equal digests mean equal content. The page is kept only when it also says the same
        // places: chunks may have been stored again because they were lost.
        let kept = match known {
            Some(entry) => {
                let old = self.parent_leaf(leaf).await?;
                old.is_some_and(|old| *old == page).then_some(entry)
            }
            None => None,
        };
        let entry = match kept {
            Some(entry) => entry,
            None => {
                let writer = self.writer.clone();
                let put = move || writer.put_page(digest, &page.encode());
                Entry { id: digest, location: self.shared.pool.run(put).await?? }
            }
        };
        self.insert(leaf, Some(entry), count - before);
        Ok(())
    }

    /// Hands in a leaf that is as it was in the parent; `count` is its number of data blocks.
    ///
    /// # Errors
    /// What reading the parent's pages meets.
    pub async fn keep_leaf(&self, leaf: u64, count: usize) -> Result<()> {
        if self.base == Base::Parent {
            return Ok(());
        }
        let entry = self.parent_entry(leaf).await?;
        self.insert(leaf, entry, count as i64);
        Ok(())
    }

    /// Hands in a leaf of zeroes.
    ///
    /// # Errors
    /// What reading the parent's pages meets.
    pub async fn clear_leaf(&self, leaf: u64) -> Result<()> {
        if self.base == Base::Parent && self.parent_entry(leaf).await?.is_some() {
            let before = self.count_before(leaf).await?;
            self.insert(leaf, None, -before);
        }
        Ok(())
    }

    fn insert(&self, leaf: u64, entry: Option<Entry>, data_blocks: i64) {
        let (index, at) = ((leaf / FANOUT as u64) as u32, (leaf % FANOUT as u64) as u16);
        self.leaves.lock().entry(index).or_default().insert(at, entry);
        self.data_blocks.fetch_add(data_blocks, Ordering::Relaxed);
    }

    async fn parent_entry(&self, leaf: u64) -> Result<Option<Entry>> {
        match &self.parent {
            Some(parent) => {
                let entry = self.unless_damaged(parent.leaf_entry(leaf).await)?;
                // A map is built on as a whole or, being damaged, not at all (`to_reread`).
                let whole = self.base == Base::Parent;
                Ok(entry.filter(|entry| whole || !self.is_bad_page(entry)))
            }
            None => Ok(None),
        }
    }

    /// Data blocks the base counts for a leaf.
    async fn count_before(&self, leaf: u64) -> Result<i64> {
        if self.base == Base::Empty {
            return Ok(0);
        }
        Ok(self.parent_leaf(leaf).await?.map_or(0, |page| page.count() as i64))
    }

    /// Writes the level-1 pages and returns the image's record for the manifest.
    ///
    /// # Errors
    /// What reading the parent's pages meets, or a put has failed.
    pub async fn finish(&self) -> Result<ImageRecord> {
        let mut leaves = std::mem::take(&mut *self.leaves.lock());
        self.drop_beyond_the_end(&mut leaves).await?;
        let old: BTreeMap<u32, DirectoryEntry> = match &self.parent {
            Some(parent) => parent.inner.directory.iter().map(|e| (e.index, *e)).collect(),
            None => BTreeMap::new(),
        };
        let mut directory: BTreeMap<u32, DirectoryEntry> =
            if self.base == Base::Parent { old.clone() } else { BTreeMap::new() };
        let pages = self.leaf_count().div_ceil(FANOUT as u64);
        directory.retain(|index, _| u64::from(*index) < pages);
        for (index, changed) in leaves {
            match self.level1(index, changed, old.get(&index)).await? {
                Some(entry) => directory.insert(index, entry),
                None => directory.remove(&index),
            };
        }
        let entries: Vec<DirectoryEntry> = directory.into_values().collect();
        let root = root_digest(&self.shared.keys, self.block_size, self.size(), &entries);
        let (packs, directory) = encode_directory(&entries);
        Ok(ImageRecord {
            name: self.name.clone(),
            size: self.size(),
            block_size: self.block_size,
            root,
            data_blocks: self.data_blocks.load(Ordering::Relaxed).max(0) as u64,
            packs,
            directory,
            source: self.source.clone(),
        })
    }

    /// An image that shrank loses the leaves beyond its new end.
    async fn drop_beyond_the_end(
        &self,
        leaves: &mut BTreeMap<u32, BTreeMap<u16, Option<Entry>>>,
    ) -> Result<()> {
        let Some(parent) = self.parent.as_ref().filter(|_| self.base == Base::Parent) else {
            return Ok(());
        };
        let before = parent.size_in_leaves();
        let mut lost = 0;
        for leaf in parent.data_leaves(self.leaf_count()..before).await? {
            lost += self.count_before(leaf).await?;
            let (index, at) = ((leaf / FANOUT as u64) as u32, (leaf % FANOUT as u64) as u16);
            leaves.entry(index).or_default().insert(at, None);
        }
        self.data_blocks.fetch_sub(lost, Ordering::Relaxed);
        Ok(())
    }

    async fn level1(
        &self,
        index: u32,
        changed: BTreeMap<u16, Option<Entry>>,
        old: Option<&DirectoryEntry>,
    ) -> Result<Option<DirectoryEntry>> {
        let mut before = None;
        if let Some(old) = old {
            let entry = Entry { id: old.digest, location: old.location };
            let known = self.shared.pages(&[entry], 1, self.block_size).await;
            before = self.unless_damaged(known.map(|mut pages| pages.pop()))?;
        }
        let mut page = match (&before, self.base) {
            (Some(before), Base::Parent) => Page::clone(before),
            _ => Page::empty(1),
        };
        for (at, entry) in changed {
            page.set(usize::from(at), entry);
        }
        if page.is_empty() {
            return Ok(None);
        }
        let digest = page.digest(&self.shared.keys, self.block_size);
        if let (Some(old), Some(before)) = (old, before)
            && *before == page
            && !self.writer.bad.holds(PackKind::Meta, &old.location)
        {
            return Ok(Some(*old));
        }
        let writer = self.writer.clone();
        let put = move || writer.put_page(digest, &page.encode());
        let location = self.shared.pool.run(put).await??;
        Ok(Some(DirectoryEntry { index, digest, location }))
    }
}

impl ImageReader {
    fn size_in_leaves(&self) -> u64 {
        self.record().size.div_ceil(self.leaf_span())
    }
}

//! Verified pages and chunks kept in memory, weighed by bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::format::id::{Digest, PackId, PackKind, PointId};
use crate::format::page::{Entry, Page};
use crate::moved::MovedPack;
use crate::points::RestorePoint;
use crate::repository::Settings;

/// What a parsed page takes in memory: 256 entries and their frame.
const PAGE_WEIGHT: u64 = 14 << 10;
/// Most tables of moved packs kept: 24 KiB each as a rule.
const MOVED_PACKS: usize = 512;
/// Most bytes of manifests kept.
const MANIFEST_BYTES: u64 = 16 << 20;

#[derive(Debug, Clone)]
pub(crate) struct ByBytes;

impl Weighter<Digest, Bytes> for ByBytes {
    fn weight(&self, _: &Digest, chunk: &Bytes) -> u64 {
        chunk.len() as u64 + 64
    }
}

/// What tells a page: its digest (which covers level and block size) and its slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PageKey(Digest, PackId, u16);

impl PageKey {
    fn of(entry: &Entry) -> Self {
        Self(entry.id, entry.location.pack, entry.location.slot)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ByDirectory;

impl Weighter<PointId, RestorePoint> for ByDirectory {
    fn weight(&self, _: &PointId, point: &RestorePoint) -> u64 {
        let images = point.images.iter().map(|image| image.directory.len() as u64 + 512);
        images.sum::<u64>() + point.metadata.as_ref().map_or(0, |text| text.len() as u64) + 512
    }
}

/// The caches of an opened repository.
#[derive(Debug)]
pub(crate) struct Caches {
    /// Decoded chunks by id. A chunk's id covers its content, so chains share them.
    chunks: Cache<Digest, Bytes, ByBytes>,
    /// Parsed pages by digest and place. The digest alone would not do: two pages of equal content
    /// may name different places for it, and one point's must not stand in for another's.
    pages: Cache<PageKey, Arc<Page>>,
    /// Packs that are not what pages took them for.
    pub(crate) moved: Cache<(PackKind, PackId), Arc<MovedPack>>,
    /// Manifests, which never change: a mount lists its points again and again.
    pub(crate) manifests: Cache<PointId, RestorePoint, ByDirectory>,
    /// Chunks that were asked for and found, and those that were not.
    asked: [AtomicU64; 2],
    /// How often pages and chunks were looked for.
    #[cfg(test)]
    looks: [AtomicU64; 2],
}

/// How often decoded blocks were found in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Blocks that were there.
    pub hits: u64,
    /// Blocks that had to be fetched, or were on their way already.
    pub misses: u64,
}

impl Caches {
    pub(crate) fn new(settings: &Settings) -> Self {
        // What it expects, for which it makes room at once; it grows beyond.
        let chunks = (settings.chunk_cache_bytes / (128 << 10)).clamp(16, 1 << 16) as usize;
        let pages = (settings.page_cache_bytes / PAGE_WEIGHT).max(64) as usize;
        Self {
            chunks: Cache::with_weighter(chunks, settings.chunk_cache_bytes, ByBytes),
            pages: Cache::new(pages),
            moved: Cache::new(MOVED_PACKS),
            manifests: Cache::with_weighter(1024, MANIFEST_BYTES, ByDirectory),
            asked: Default::default(),
            #[cfg(test)]
            looks: Default::default(),
        }
    }

    /// A page.
    pub(crate) fn page(&self, entry: &Entry) -> Option<Arc<Page>> {
        #[cfg(test)]
        self.looks[0].fetch_add(1, Ordering::Relaxed);
        self.pages.get(&PageKey::of(entry))
    }

    /// Keeps a page.
    pub(crate) fn keep_page(&self, entry: &Entry, page: Arc<Page>) {
        self.pages.insert(PageKey::of(entry), page);
    }

    /// Keeps a chunk.
    pub(crate) fn keep_chunk(&self, id: Digest, chunk: Bytes) {
        self.chunks.insert(id, chunk);
    }

    /// Keeps no chunk any longer.
    #[cfg(test)]
    pub(crate) fn forget_chunks(&self) {
        self.chunks.clear();
    }

    /// How often pages and chunks were looked for.
    #[cfg(test)]
    pub(crate) fn looks(&self) -> [u64; 2] {
        [0, 1].map(|at| self.looks[at].load(Ordering::Relaxed))
    }

    /// A chunk, not counted as asked for.
    pub(crate) fn peek(&self, id: &Digest) -> Option<Bytes> {
        #[cfg(test)]
        self.looks[1].fetch_add(1, Ordering::Relaxed);
        self.chunks.get(id)
    }

    /// A chunk, counted as found or not.
    pub(crate) fn chunk(&self, id: &Digest) -> Option<Bytes> {
        let found = self.peek(id);
        self.asked[usize::from(found.is_none())].fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Counts chunks that were taken as they are.
    pub(crate) fn count_hits(&self, many: u64) {
        self.asked[0].fetch_add(many, Ordering::Relaxed);
    }

    pub(crate) fn counts(&self) -> CacheCounts {
        let [hits, misses] = &self.asked;
        CacheCounts { hits: hits.load(Ordering::Relaxed), misses: misses.load(Ordering::Relaxed) }
    }
}

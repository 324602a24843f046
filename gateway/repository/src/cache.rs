//! Verified pages and chunks kept in memory, weighed by bytes.

use std::sync::Arc;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use crate::format::id::Digest;
use crate::format::page::Page;
use crate::repository::Settings;

/// What a parsed page takes in memory: 256 entries and their frame.
const PAGE_WEIGHT: u64 = 14 << 10;

#[derive(Debug, Clone)]
pub(crate) struct ByBytes;

impl Weighter<Digest, Bytes> for ByBytes {
    fn weight(&self, _: &Digest, chunk: &Bytes) -> u64 {
        chunk.len() as u64 + 64
    }
}

/// The caches of an opened repository.
#[derive(Debug)]
pub(crate) struct Caches {
    /// Decoded chunks by id. A chunk's id covers its content, so chains share them.
    pub(crate) chunks: Cache<Digest, Bytes, ByBytes>,
    /// Parsed pages by digest. A digest covers level and block size.
    pub(crate) pages: Cache<Digest, Arc<Page>>,
}

impl Caches {
    pub(crate) fn new(settings: &Settings) -> Self {
        let chunks = (settings.chunk_cache_bytes / (128 << 10)).max(16) as usize;
        let pages = (settings.page_cache_bytes / PAGE_WEIGHT).max(64) as usize;
        Self {
            chunks: Cache::with_weighter(chunks, settings.chunk_cache_bytes, ByBytes),
            pages: Cache::new(pages),
        }
    }
}

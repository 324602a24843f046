//! What differs between two images, by comparing their block maps.
//!
//! Pages with equal digests are skipped whole, so the cost follows the difference.

use std::collections::BTreeSet;
use std::ops::Range;

use futures::stream::{self, StreamExt, TryStreamExt};

use crate::error::Result;
use crate::format::FANOUT;
use crate::format::page::Page;
use crate::image_reader::ImageReader;
use crate::{ErrorKind, RepositoryError};

/// Leaves compared side by side.
const PARALLEL: usize = 8;

impl ImageReader {
    /// Bytes of this image that differ from `older`, ascending, at the granularity of a block.
    /// Where the sizes differ, the bytes beyond the smaller one count as different up to this
    /// image's end.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when the block sizes differ; or what reading the pages meets.
    pub async fn changed_since(&self, older: &ImageReader) -> Result<Vec<Range<u64>>> {
        if self.block_size() != older.block_size() {
            return Err(RepositoryError::new(
                ErrorKind::Invalid,
                "the images have different block sizes and cannot be compared by their maps",
            ));
        }
        let leaves = self.differing_leaves(older).await?;
        let pairs: Vec<(u64, Vec<usize>)> = stream::iter(leaves)
            .map(|leaf| async move {
                let (new, old) = futures::try_join!(self.leaf(leaf), older.leaf(leaf))?;
                Ok::<_, RepositoryError>((leaf, differing(new.as_deref(), old.as_deref())))
            })
            .buffered(PARALLEL)
            .try_collect()
            .await?;
        let block = u64::from(self.block_size());
        let (size, before) = (self.record().size, older.record().size);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        let mut push = |range: Range<u64>| match ranges.last_mut() {
            Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
            _ if range.start < range.end => ranges.push(range),
            _ => {}
        };
        for (leaf, blocks) in pairs {
            for at in blocks {
                let start = (leaf * FANOUT as u64 + at as u64) * block;
                push(start.min(size)..(start + block).min(size));
            }
        }
        if size > before {
            let grown = before..size;
            ranges.push(grown);
            ranges.sort_by_key(|range| range.start);
            let mut merged: Vec<Range<u64>> = Vec::new();
            for range in ranges {
                match merged.last_mut() {
                    Some(last) if last.end >= range.start => last.end = last.end.max(range.end),
                    _ => merged.push(range),
                }
            }
            return Ok(merged);
        }
        Ok(ranges)
    }

    /// Leaves whose digests differ.
    async fn differing_leaves(&self, older: &ImageReader) -> Result<Vec<u64>> {
        let directory = |image: &ImageReader| {
            let entries = image.inner.directory.iter();
            entries.map(|e| (e.index, e.digest)).collect::<BTreeSet<_>>()
        };
        let (new, old) = (directory(self), directory(older));
        let pages: BTreeSet<u32> =
            new.symmetric_difference(&old).map(|(index, _)| *index).collect();
        let mut leaves = Vec::new();
        for page in pages {
            let first = u64::from(page) * FANOUT as u64;
            for leaf in first..first + FANOUT as u64 {
                let (new, old) = futures::try_join!(self.leaf_entry(leaf), older.leaf_entry(leaf))?;
                if new.map(|entry| entry.id) != old.map(|entry| entry.id) {
                    leaves.push(leaf);
                }
            }
        }
        Ok(leaves)
    }
}

/// Blocks of a leaf whose ids differ.
fn differing(new: Option<&Page>, old: Option<&Page>) -> Vec<usize> {
    let id = |page: Option<&Page>, at: usize| page.and_then(|page| page.get(at)).map(|e| e.id);
    (0..FANOUT).filter(|at| id(new, *at) != id(old, *at)).collect()
}

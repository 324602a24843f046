//! What must be read from a source although it did not change: what the parent's map says is
//! there, and what is known to be damaged, or lies scattered and is to be put together.

use std::sync::atomic::Ordering;

use crate::defragment::Worst;
use crate::error::{ErrorKind, Result};
use crate::format::FANOUT;
use crate::format::id::PackKind;
use crate::format::page::Entry;
use crate::image_reader::ImageReader;
use crate::session::BackupSession;

/// Leaves read together.
const TOGETHER: usize = FANOUT / 4;

/// What to read again although it did not change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reread {
    /// No more than what changed.
    Nothing,
    /// These leaves as well.
    Leaves(Vec<u64>),
    /// All: the parent's map cannot be built on.
    Everything,
}

impl BackupSession {
    /// What of the parent's image leads to damage that is known, or is to be
    /// [put together](crate::Defragment). Looks at the map only when there may be either.
    ///
    /// # Errors
    /// What reading the parent's pages meets, other than damage.
    pub async fn to_reread(&self, parent: &ImageReader) -> Result<Reread> {
        if self.writer().bad.is_empty() && self.defragment.is_none() {
            return Ok(Reread::Nothing);
        }
        match self.leaves_to_reread(parent).await {
            Ok(Some(leaves)) if leaves.is_empty() => Ok(Reread::Nothing),
            Ok(Some(leaves)) => Ok(Reread::Leaves(leaves)),
            Ok(None) => Ok(Reread::Everything),
            Err(error) if error.kind() == ErrorKind::Damaged => Ok(Reread::Everything),
            Err(error) => Err(error),
        }
    }

    /// Leaves of the parent that name damaged or scattered chunks; nothing when its map itself is
    /// damaged.
    async fn leaves_to_reread(&self, parent: &ImageReader) -> Result<Option<Vec<u64>>> {
        let (shared, bad) = (self.shared(), &self.writer().bad);
        let damaged = |page: &Entry| bad.holds(PackKind::Meta, &page.location);
        let mut found = Vec::new();
        let mut worst = self.defragment.map(Worst::new);
        for top in &parent.inner.directory {
            let entry = Entry { id: top.digest, location: top.location };
            let mut pages = shared.pages(&[entry], 1, parent.block_size()).await?;
            let Some(page) = pages.pop() else { continue };
            let first = u64::from(top.index) * FANOUT as u64;
            let leaves: Vec<(u64, Entry)> =
                page.iter().map(|(at, leaf)| (first + at as u64, *leaf)).collect();
            if damaged(&entry) || leaves.iter().any(|(_, leaf)| damaged(leaf)) {
                return Ok(None);
            }
            for batch in leaves.chunks(TOGETHER) {
                let entries: Vec<Entry> = batch.iter().map(|(_, leaf)| *leaf).collect();
                let pages = shared.pages(&entries, 0, parent.block_size()).await?;
                for ((number, _), page) in batch.iter().zip(pages) {
                    if let Some(worst) = &mut worst {
                        worst.look_at(*number, &page, parent.block_size());
                    }
                    if bad.any_of(&page) {
                        found.push(*number);
                    }
                }
            }
        }
        if let Some(worst) = worst {
            let (scattered, blocks) = worst.into_parts();
            let bytes = blocks.len() as u64 * u64::from(parent.block_size());
            self.writer().counters.together.fetch_add(bytes, Ordering::Relaxed);
            self.writer().store_anew(blocks);
            found.extend(scattered);
            found.sort_unstable();
            found.dedup();
        }
        Ok(Some(found))
    }
}

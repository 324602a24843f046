//! The first walk: every page of every point, each page once.

use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{ErrorKind, Result};
use crate::format::FANOUT;
use crate::format::id::{PackKind, commit_key, pack_key};
use crate::format::page::{Entry, Page};
use crate::points::RestorePoint;
use crate::repository::Shared;
use crate::verify::flaw::{Flaws, Place, split};
use crate::verify::references::References;

/// Level-1 pages looked at side by side.
const TOPS: usize = 4;
/// Leaves read together.
const BATCH: usize = FANOUT / 4;

/// What a walk gathers.
#[derive(Debug)]
pub(super) struct Walk {
    shared: Arc<Shared>,
    pub(super) found: Mutex<Found>,
    pub(super) pages: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) references: References,
    pub(super) flaws: Flaws,
}

impl Walk {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, found: Mutex::default(), pages: AtomicU64::new(0) }
    }

    /// Reads those pages of a point that were not met before.
    pub(super) async fn point(&self, point: &RestorePoint) -> Result<()> {
        for record in &point.images {
            let image = match self.shared.open_image(point, record) {
                Ok(image) => image,
                Err(error) => {
                    let key = commit_key(point.chain, point.id);
                    let (object, problem) = split(&error, key.as_str());
                    self.found.lock().flaws.add_for(object, problem, &point.to_string());
                    continue;
                }
            };
            let tops = image.inner.directory.iter();
            let tops = tops.map(|top| Entry { id: top.digest, location: top.location });
            let fresh = self.fresh(PackKind::Meta, tops);
            stream::iter(fresh)
                .map(|top| self.top(top, record.block_size))
                .buffer_unordered(TOPS)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    /// Notes references and returns the first ones to their slots.
    fn fresh(&self, kind: PackKind, entries: impl Iterator<Item = Entry>) -> Vec<Entry> {
        let mut found = self.found.lock();
        entries.filter(|entry| found.references.note(kind, entry)).collect()
    }

    async fn top(&self, top: Entry, block_size: u32) -> Result<()> {
        let mut pages = Vec::new();
        self.read(&[top], 1, block_size, |page| pages.push(page)).await?;
        for page in pages {
            let leaves = self.fresh(PackKind::Meta, page.iter().map(|(_, leaf)| *leaf));
            for batch in leaves.chunks(BATCH) {
                let note = |leaf: Arc<Page>| {
                    let mut found = self.found.lock();
                    leaf.iter().for_each(|(_, chunk)| {
                        found.references.note(PackKind::Data, chunk);
                    });
                };
                self.read(batch, 0, block_size, note).await?;
            }
        }
        Ok(())
    }

    /// Reads pages and hands over the sound ones.
    async fn read(
        &self,
        entries: &[Entry],
        level: u8,
        block_size: u32,
        mut each: impl FnMut(Arc<Page>),
    ) -> Result<()> {
        self.pages.fetch_add(entries.len() as u64, Ordering::Relaxed);
        // Together when they are sound, which they nearly always are; else one by one, to
        // name the damaged one.
        match self.shared.pages(entries, level, block_size).await {
            Ok(pages) => {
                pages.into_iter().for_each(each);
                return Ok(());
            }
            Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
            Err(_) => {}
        }
        for entry in entries {
            match self.shared.pages(&[*entry], level, block_size).await {
                Ok(pages) => pages.into_iter().for_each(&mut each),
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    let (pack, slot) = (entry.location.pack, Some(entry.location.slot));
                    let key = pack_key(PackKind::Meta, pack);
                    let place = Place { kind: PackKind::Meta, pack, slot };
                    self.found.lock().flaws.add_error(&error, key.as_str(), place);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

//! Marking what is reachable: every page of every root once, and the slots they name.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use sluice_destination::ErrorKind as DestinationKind;

use crate::collect::marks::Marks;
use crate::collect::roots::Place;
use crate::collect::{CollectPhase, CollectProgress};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::FANOUT;
use crate::format::id::{PackKind, tombstone_key};
use crate::format::page::Entry;
use crate::repository::Shared;

/// Level-1 pages looked at side by side.
const TOPS: usize = 4;
/// Leaves read together.
const BATCH: usize = FANOUT / 4;

/// A pass over roots.
#[derive(Debug)]
pub(super) struct Marking<'p> {
    shared: Arc<Shared>,
    marks: Mutex<Marks>,
    progress: &'p CollectProgress,
}

/// A point that could not be marked.
struct Failed {
    place: Place,
    error: RepositoryError,
}

impl<'p> Marking<'p> {
    pub(super) fn new(shared: Arc<Shared>, marks: Marks, progress: &'p CollectProgress) -> Self {
        Self { shared, marks: Mutex::new(marks), progress }
    }

    pub(super) fn into_marks(self) -> Marks {
        self.marks.into_inner()
    }

    /// Marks what these points need; what `marked` ones need is marked.
    ///
    /// A point that is pruned while it is looked at may lose parts to another collector, and then
    /// need not stay. It leaves pages that are marked with nothing below them marked, and so
    /// everything is marked again without it.
    ///
    /// # Errors
    /// Damage: what a page that cannot be read names is not known, and so nothing may go.
    pub(super) async fn points(
        &self,
        fresh: impl Iterator<Item = &Place>,
        marked: &BTreeSet<Place>,
    ) -> Result<()> {
        let mut left: BTreeSet<Place> = fresh.copied().collect();
        let mut all: BTreeSet<Place> = left.union(marked).copied().collect();
        while let Some(error) = self.pass(&left).await? {
            let Failed { place, error } = error;
            if error.kind() != ErrorKind::Damaged || !self.is_pruned(place).await? {
                return Err(error);
            }
            tracing::debug!(%error, "a point went while it was looked at");
            all.remove(&place);
            left.clone_from(&all);
            self.marks.lock().clear();
        }
        Ok(())
    }

    /// Marks until a point fails.
    async fn pass(&self, places: &BTreeSet<Place>) -> Result<Option<Failed>> {
        self.progress.start(CollectPhase::Marking, places.len() as u64);
        for place in places {
            self.progress.check_stop()?;
            if let Err(error) = self.point(*place).await {
                return Ok(Some(Failed { place: *place, error }));
            }
            self.progress.done.fetch_add(1, Ordering::Relaxed);
        }
        Ok(None)
    }

    async fn point(&self, (chain, point): Place) -> Result<()> {
        let Some(found) = self.shared.read_point(chain, point).await? else { return Ok(()) };
        for record in &found.images {
            let image = self.shared.open_image(&found, record)?;
            let tops = image.inner.directory.iter();
            let tops = tops.map(|top| Entry { id: top.digest, location: top.location });
            stream::iter(self.fresh(PackKind::Meta, tops))
                .map(|top| self.top(top, record.block_size))
                .buffer_unordered(TOPS)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    async fn is_pruned(&self, (chain, point): Place) -> Result<bool> {
        match self.shared.destination.head(&tombstone_key(chain, point)).await {
            Err(error) if error.kind() == DestinationKind::NotFound => Ok(false),
            other => Ok(other.map(|_| true)?),
        }
    }

    /// Marks slots and returns those that were not: a page that was marked before has had
    /// everything below it marked.
    fn fresh(&self, kind: PackKind, entries: impl Iterator<Item = Entry>) -> Vec<Entry> {
        let mut marks = self.marks.lock();
        entries.filter(|entry| marks.mark(kind, &entry.location)).collect()
    }

    async fn top(&self, top: Entry, block_size: u32) -> Result<()> {
        for page in self.shared.pages(&[top], 1, block_size).await? {
            let leaves = self.fresh(PackKind::Meta, page.iter().map(|(_, leaf)| *leaf));
            for batch in leaves.chunks(BATCH) {
                for leaf in self.shared.pages(batch, 0, block_size).await? {
                    let mut marks = self.marks.lock();
                    leaf.iter().for_each(|(_, chunk)| {
                        marks.mark(PackKind::Data, &chunk.location);
                    });
                }
            }
        }
        Ok(())
    }
}

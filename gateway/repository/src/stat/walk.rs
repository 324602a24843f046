//! Walking the block maps of one unit after the other.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;

use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::FANOUT;
use crate::format::id::{ChainId, PackKind, PointId};
use crate::format::page::{Entry, Page};
use crate::points::RestorePoint;
use crate::repository::Shared;
use crate::stat::owners::{Owners, Visit};
use crate::stat::{PARALLEL, Share, StatProgress, StatReport, Unit, Usage, note_damage};

/// Level-1 pages looked at side by side.
const TOPS: usize = 4;
/// Leaves read together.
const BATCH: usize = FANOUT / 4;

/// What is counted.
#[derive(Debug)]
pub(super) struct State {
    pub(super) owners: Owners,
    pub(super) report: StatReport,
    /// The project of each instance of the report.
    projects: Vec<usize>,
}

/// A slot that somebody references.
#[derive(Debug, Clone, Copy)]
struct Slot {
    kind: PackKind,
    stored: u64,
    /// Bytes of the block in it.
    content: u64,
}

impl State {
    pub(super) fn new(owners: Owners, report: StatReport) -> Self {
        Self { owners, report, projects: Vec::new() }
    }

    /// Makes rows for these units, which are in order.
    pub(super) fn begin(&mut self, units: &[Unit]) {
        for unit in units {
            let project = unit.project.clone();
            let projects = &mut self.report.projects;
            if projects.last().is_none_or(|last| last.project != project) {
                let name = project.clone().unwrap_or_default();
                projects.push(Usage { name, project: project.clone(), ..Usage::default() });
            }
            self.projects.push(projects.len() - 1);
            let name = unit.instance.clone();
            self.report.instances.push(Usage { name, project, instances: 1, ..Usage::default() });
        }
    }

    /// Counts a reference of the instance at this place; returns whether it is its first.
    fn visit(&mut self, at: usize, kind: PackKind, entry: &Entry, content: u64) -> bool {
        let slot = Slot { kind, stored: u64::from(entry.location.stored_len), content };
        let (of_units, of_projects) = self.owners.visit(kind, &entry.location, at, &self.projects);
        note_visit(&mut self.report.instances, at, of_units, slot);
        note_visit(&mut self.report.projects, self.projects[at], of_projects, slot);
        if of_units == Visit::First {
            match kind {
                PackKind::Data => self.report.chunks += slot.stored,
                PackKind::Meta => self.report.maps += slot.stored,
            }
            self.report.content += content;
        }
        of_units != Visit::Again
    }

    fn damaged(&mut self, at: usize, error: RepositoryError) -> Result<()> {
        note_damage(error, &mut self.report.damage)?;
        self.report.instances[at].damaged = true;
        Ok(())
    }
}

fn note_visit(all: &mut [Usage], at: usize, visit: Visit, slot: Slot) {
    let bytes = slot.stored;
    match visit {
        Visit::Again => return,
        Visit::First => share(&mut all[at], slot.kind).unique += bytes,
        Visit::Later => share(&mut all[at], slot.kind).shared += bytes,
        Visit::Second(other) => {
            share(&mut all[at], slot.kind).shared += bytes;
            let theirs = share(&mut all[other], slot.kind);
            theirs.unique = theirs.unique.saturating_sub(bytes);
            theirs.shared += bytes;
        }
    }
    all[at].content += slot.content;
}

fn share(usage: &mut Usage, kind: PackKind) -> &mut Share {
    match kind {
        PackKind::Data => &mut usage.chunks,
        PackKind::Meta => &mut usage.maps,
    }
}

/// A walk over everything that restore points reference.
#[derive(Debug)]
pub(super) struct Walk<'p> {
    shared: Arc<Shared>,
    state: Mutex<State>,
    progress: &'p StatProgress,
}

impl<'p> Walk<'p> {
    pub(super) fn new(shared: Arc<Shared>, state: State, progress: &'p StatProgress) -> Self {
        Self { shared, state: Mutex::new(state), progress }
    }

    pub(super) fn into_state(self) -> State {
        self.state.into_inner()
    }

    /// Counts the points of a chain, ascending, for the instance at this place of the report.
    pub(super) async fn chain(&self, at: usize, chain: ChainId, points: &[PointId]) -> Result<()> {
        let mut latest = 0;
        for batch in points.chunks(PARALLEL) {
            // All of a batch before its maps, so that no answer is left waiting for a reader.
            let read = stream::iter(batch).map(|point| self.shared.read_point(chain, *point));
            for point in read.buffered(PARALLEL).collect::<Vec<_>>().await {
                match point {
                    Ok(Some(found)) => {
                        latest = found.images.iter().map(|image| image.size).sum();
                        self.count(at, &found);
                        self.point(at, &found).await?;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let mut state = self.state.lock();
                        state.damaged(at, error)?;
                        state.report.damaged_points += 1;
                    }
                }
            }
        }
        self.state.lock().report.instances[at].latest += latest;
        Ok(())
    }

    fn count(&self, at: usize, point: &RestorePoint) {
        let mut state = self.state.lock();
        let stat: &mut Usage = &mut state.report.instances[at];
        stat.points += 1;
        for image in &point.images {
            stat.logical += image.size;
            stat.data += image.data_blocks.saturating_mul(u64::from(image.block_size));
        }
    }

    async fn point(&self, at: usize, point: &RestorePoint) -> Result<()> {
        for record in &point.images {
            let image = match self.shared.open_image(point, record) {
                Ok(image) => image,
                Err(error) => {
                    self.state.lock().damaged(at, error)?;
                    continue;
                }
            };
            let tops = image.inner.directory.iter();
            let tops = tops.map(|top| Entry { id: top.digest, location: top.location });
            stream::iter(self.fresh(at, tops))
                .map(|top| self.top(at, top, record.block_size))
                .buffer_unordered(TOPS)
                .try_collect::<()>()
                .await?;
        }
        Ok(())
    }

    /// Those pages that the unit meets for the first time: below the others all is counted.
    fn fresh(&self, at: usize, entries: impl Iterator<Item = Entry>) -> Vec<Entry> {
        let mut state = self.state.lock();
        entries.filter(|entry| state.visit(at, PackKind::Meta, entry, 0)).collect()
    }

    async fn top(&self, at: usize, top: Entry, block_size: u32) -> Result<()> {
        for page in self.pages(at, &[top], 1, block_size).await? {
            let leaves = self.fresh(at, page.iter().map(|(_, leaf)| *leaf));
            for batch in leaves.chunks(BATCH) {
                for leaf in self.pages(at, batch, 0, block_size).await? {
                    let mut state = self.state.lock();
                    leaf.iter().for_each(|(_, chunk)| {
                        state.visit(at, PackKind::Data, chunk, u64::from(block_size));
                    });
                }
            }
        }
        Ok(())
    }

    /// The pages that can be read.
    async fn pages(
        &self,
        at: usize,
        entries: &[Entry],
        level: u8,
        block_size: u32,
    ) -> Result<Vec<Arc<Page>>> {
        let bytes = entries.iter().map(|entry| u64::from(entry.location.stored_len)).sum();
        let read = self.shared.pages(entries, level, block_size).await;
        self.progress.done.fetch_add(bytes, Ordering::Relaxed);
        match read {
            Err(error) if error.kind() == ErrorKind::Damaged => {}
            other => return other,
        }
        let mut pages = Vec::with_capacity(entries.len());
        for entry in entries {
            match self.shared.pages(&[*entry], level, block_size).await {
                Ok(mut page) => pages.append(&mut page),
                Err(error) => self.state.lock().damaged(at, error)?,
            }
        }
        Ok(pages)
    }
}

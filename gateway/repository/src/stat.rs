//! What the repository's bytes are for: which instance, and which project, needs how many, alone or
//! with others.
//!
//! Every distinct page of an instance is read once, one instance after the other. Memory is two
//! bytes for each slot that is referenced, in steps of 256 slots, and a row of about a hundred
//! bytes for each pack: 16 bytes for each MiB in blocks of 128 KiB, whatever the points.

mod owners;
mod project;
#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{self, StreamExt};
use sluice_destination::{Key, MAX_PAGE};

use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::id::{ChainId, PackKind, PointId, SessionId, parse_pack_key};
use crate::repository::{Repository, Shared};
use crate::stat::owners::{MAX_UNITS, Owners};
use crate::stat::walk::{State, Walk};

/// Manifests fetched side by side.
const PARALLEL: usize = 16;

/// How to count.
#[derive(Debug, Clone, Default)]
pub struct StatOptions {
    /// Where an instance's points name no project: what its name has before this text is one.
    pub name_separator: Option<String>,
}

/// How far a count has come.
#[derive(Debug, Default)]
pub struct StatProgress {
    /// Bytes of block maps that were read.
    pub done: AtomicU64,
    /// Bytes of block maps on the destination: a guess at how many there are to read, since maps
    /// that instances share are read for each of them, and unreferenced ones are not.
    pub total: AtomicU64,
}

/// Objects of one kind on the destination.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Objects {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Stored bytes that are referenced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Share {
    /// By this instance or project only.
    pub unique: u64,
    /// By others too.
    pub shared: u64,
}

/// What an instance has, or a project with all of its instances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Name of the instance, or of the project; empty for the instances without one.
    pub name: String,
    /// The project, where one is known.
    pub project: Option<String>,
    /// Instances in it.
    pub instances: u64,
    /// Readable restore points.
    pub points: u64,
    /// Bytes of all images of all points.
    pub logical: u64,
    /// Bytes of the images of each instance's latest point.
    pub latest: u64,
    /// Bytes of the blocks of all points that are not zero.
    pub data: u64,
    /// Bytes of different blocks, before compression.
    pub content: u64,
    /// Stored bytes of those blocks.
    pub chunks: Share,
    /// Stored bytes of block maps.
    pub maps: Share,
    /// Something of it could not be read: its figures are too low.
    pub damaged: bool,
}

/// What the repository holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatReport {
    /// Instances, by project and name.
    pub instances: Vec<Usage>,
    /// Projects, by name; the instances without one are the first.
    pub projects: Vec<Usage>,
    /// Bytes of different blocks, before compression.
    pub content: u64,
    /// Stored bytes of referenced blocks, each counted once.
    pub chunks: u64,
    /// Stored bytes of referenced block maps, each counted once.
    pub maps: u64,
    /// Packs of blocks on the destination.
    pub data_packs: Objects,
    /// Packs of block maps on the destination.
    pub map_packs: Objects,
    /// Everything else on the destination.
    pub other: Objects,
    /// Bytes of packs that no restore point references: what a collection could free at most.
    pub unreferenced: u64,
    /// The same of packs that open sessions have written: backups that run.
    pub pending: u64,
    /// Points whose manifest cannot be read.
    pub damaged_points: u64,
    /// What could not be read. When there is any, `unreferenced` is too high.
    pub damage: Vec<String>,
    /// Memory the count took, in bytes.
    pub memory: u64,
}

impl Repository {
    /// Counts what the repository holds. Changes nothing, and everything may go on meanwhile.
    ///
    /// # Errors
    /// The destination fails, or [`ErrorKind::Invalid`] when there are more than 16 383 instances
    /// to tell apart. Damage is part of the report instead.
    pub async fn stat(&self, options: &StatOptions, progress: &StatProgress) -> Result<StatReport> {
        let mut report = StatReport::default();
        // Packs first: what is committed meanwhile must not seem unreferenced, nor what a session
        // writes that is listed next.
        let owners = self.shared.list_objects(&mut report).await?;
        progress.total.store(report.map_packs.bytes, Ordering::Relaxed);
        let open = self.shared.open_sessions(&mut report).await?;
        let mut state = State::new(owners, report);
        let units = self.shared.units(options, &mut state).await?;
        let walk = Walk::new(self.shared.clone(), state, progress);
        for (at, unit) in units.iter().enumerate() {
            walk.chain(at, unit.chain, &unit.points).await?;
        }
        let State { owners, mut report, .. } = walk.into_state();
        add_up(&mut report);
        (report.pending, report.unreferenced) = owners.unreferenced(&open);
        report.memory = owners.memory();
        Ok(report)
    }
}

/// Adds to the projects what instances do not share.
fn add_up(report: &mut StatReport) {
    for project in &mut report.projects {
        for one in report.instances.iter().filter(|one| one.project == project.project) {
            project.instances += one.instances;
            project.points += one.points;
            project.logical += one.logical;
            project.latest += one.latest;
            project.data += one.data;
            project.damaged |= one.damaged;
        }
    }
}

/// An instance to count: those of a project follow each other.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Unit {
    project: Option<String>,
    instance: String,
    chain: ChainId,
    /// Ascending.
    points: Vec<PointId>,
}

impl Shared {
    /// Lists everything.
    async fn list_objects(&self, report: &mut StatReport) -> Result<Owners> {
        let mut owners = Owners::default();
        let mut after: Option<Key> = None;
        loop {
            let page = self.destination.list("", after.as_ref(), MAX_PAGE).await?;
            for object in &page.objects {
                let pack = parse_pack_key(&object.key);
                let objects = match pack {
                    Some(((PackKind::Data, _), _)) => &mut report.data_packs,
                    Some(((PackKind::Meta, _), _)) => &mut report.map_packs,
                    None => &mut report.other,
                };
                objects.count += 1;
                objects.bytes += object.size;
                if let Some(((kind, pack), generation)) = pack {
                    owners.list(kind, pack, generation, object.size);
                }
            }
            after = page.objects.last().map(|object| object.key.clone());
            if !page.more || after.is_none() {
                return Ok(owners);
            }
        }
    }

    async fn open_sessions(&self, report: &mut StatReport) -> Result<HashSet<SessionId>> {
        match self.sessions(0).await {
            Ok(sessions) => Ok(sessions.iter().map(|open| open.record.session).collect()),
            Err(error) => {
                note_damage(error, &mut report.damage)?;
                Ok(HashSet::new())
            }
        }
    }

    /// The chains, in the order of the report's instances.
    async fn units(
        self: &Arc<Self>,
        options: &StatOptions,
        state: &mut State,
    ) -> Result<Vec<Unit>> {
        let mut chains: BTreeMap<ChainId, Vec<PointId>> = BTreeMap::new();
        for (chain, point) in self.live_points(None).await? {
            chains.entry(chain).or_default().push(point);
        }
        let separator = options.name_separator.as_deref();
        let mut read = stream::iter(chains)
            .map(|(chain, points)| self.unit(chain, points, separator))
            .buffer_unordered(PARALLEL);
        let mut units = Vec::new();
        while let Some(found) = read.next().await {
            match found? {
                Ok(unit) => units.extend(unit),
                Err(mut damage) => {
                    state.report.damaged_points += damage.len() as u64;
                    state.report.damage.append(&mut damage);
                }
            }
        }
        if units.len() > MAX_UNITS {
            let text = format!("there are {} instances; {MAX_UNITS} can be counted", units.len());
            return Err(RepositoryError::new(ErrorKind::Invalid, text));
        }
        units.sort_unstable();
        state.begin(&units);
        Ok(units)
    }

    /// A chain's name and project, as the newest point tells them that can be read. When there is
    /// none: what is wrong with them.
    async fn unit(
        &self,
        chain: ChainId,
        mut points: Vec<PointId>,
        separator: Option<&str>,
    ) -> Result<std::result::Result<Option<Unit>, Vec<String>>> {
        points.sort_unstable();
        let mut damage = Vec::new();
        for point in points.iter().rev() {
            match self.read_point(chain, *point).await {
                Ok(Some(latest)) => {
                    let project = latest.project().or_else(|| prefix(&latest.instance, separator?));
                    let instance = latest.instance;
                    return Ok(Ok(Some(Unit { project, instance, chain, points })));
                }
                Ok(None) => {}
                Err(error) => note_damage(error, &mut damage)?,
            }
        }
        Ok(if damage.is_empty() { Ok(None) } else { Err(damage) })
    }
}

/// What a name has before the separator, when it has it.
fn prefix(name: &str, separator: &str) -> Option<String> {
    let (project, _) = name.split_once(separator)?;
    (!project.is_empty()).then(|| project.to_owned())
}

/// Takes damage into the report; other errors end the count.
fn note_damage(error: RepositoryError, damage: &mut Vec<String>) -> Result<()> {
    if error.kind() != ErrorKind::Damaged {
        return Err(error);
    }
    damage.push(error.to_string());
    Ok(())
}

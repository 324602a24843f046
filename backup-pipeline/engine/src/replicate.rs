//! Copying restore points into a repository with other keys.
//!
//! Nothing that is stored can be taken over: chunk ids and seals are keyed. Each point is read
//! through its images and written by a backup of its own, so it is deduplicated at the target, and
//! only blocks that differ from the point copied before it are read.
//!
//! # Model
//!
//! A copy's manifest names the point it was made of. That is all the state there is: it comes into
//! being with the copy, by one put, so a run that was killed neither forgets nor repeats a
//! point. Copies stand in the order of their points, whenever they were made: one of a point that
//! was committed late gets an id between those of its neighbours. What was removed at the target
//! is told by tombstones there ([`Copies`]) and does not come back.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use sluice_block::BlockRead;
use sluice_repository::replicate::{Copied, Copies, Filter, NewId, Options};
use sluice_repository::retention::{Candidate, apply};
use sluice_repository::{
    Damage, Pin, PointId, Repository, RepositoryError, RepositoryId, RestorePoint,
};
use tokio_util::sync::CancellationToken;

use crate::backup::{BackupOptions, backup};
use crate::error::{EngineError, ErrorKind, Result};
use crate::progress::Progress;
use crate::{Change, Source, SourceImage};

/// A point of another repository as the source of a backup.
#[derive(Debug, Clone)]
pub struct CopyOf {
    point: RestorePoint,
    repository: RepositoryId,
    /// The target's point that changes were looked for against.
    parent: Option<PointId>,
    id: NewId,
}

impl CopyOf {
    /// The id that the copy gets.
    pub(crate) fn id(&self) -> NewId {
        self.id
    }

    /// The images, read whole when the target's newest point is another than was thought.
    pub(crate) fn trust(
        &self,
        mut images: Vec<SourceImage>,
        parent: Option<&RestorePoint>,
    ) -> Vec<SourceImage> {
        if parent.map(|parent| parent.id) != self.parent {
            for image in &mut images {
                if let Source::Device(_, change @ Change::Changed(_)) = &mut image.source {
                    *change = Change::Regions;
                }
            }
        }
        images
    }

    pub(crate) fn block_size(&self, image: &str) -> Option<u32> {
        let images = &self.point.images;
        images.iter().find(|record| record.name == image).map(|record| record.block_size)
    }

    pub(crate) fn into_copied(self) -> Copied {
        Copied::of(&self.point, self.repository)
    }
}

/// What a copy into a repository with other keys will do.
#[derive(Debug)]
pub struct CopyPlan {
    source: Repository,
    target: Repository,
    id: RepositoryId,
    points: Vec<RestorePoint>,
    /// All points of the source.
    here: HashMap<PointId, RestorePoint>,
    copies: Copies,
    present: u64,
    damage: Vec<Damage>,
}

/// What it came to.
#[derive(Debug, Default)]
pub struct CopyReport {
    /// Points of the source that were copied, each with its copy.
    pub points: Vec<(RestorePoint, RestorePoint)>,
    /// Points that were pruned at the source meanwhile.
    pub gone: Vec<RestorePoint>,
    /// Points pruned at the target by its own retention.
    pub pruned: Vec<RestorePoint>,
    /// What is damaged at the source, and the points that therefore were not copied.
    pub damage: Vec<Damage>,
}

fn id_of(repository: &Repository) -> Result<RepositoryId> {
    repository.descriptor().id().map_err(|error| {
        EngineError::caused(ErrorKind::Invalid, "the repository's descriptor has no id", error)
    })
}

/// Finds out which points are to be copied.
///
/// # Errors
/// [`ErrorKind::Repository`] for an instance the source does not have, or what a repository
/// reports.
pub async fn plan(source: &Repository, target: &Repository, options: &Options) -> Result<CopyPlan> {
    let id = id_of(source)?;
    let (here, there) = (source.list(None).await?, target.list(None).await?);
    let copies = target.copies(id, &there.points).await?;
    let damage = here.damaged.iter().map(|one| {
        let name = one.key.to_string();
        Damage::whole(name.clone(), one.error.to_string(), [name].into())
    });
    let damage = damage.collect();
    let filter = &options.filter;
    if let Some(missing) = filter
        .instances
        .iter()
        .find(|name| here.points.iter().all(|point| point.instance != **name))
    {
        let text = format!("there is no restore point of {missing:?} at the source");
        let kind = sluice_repository::ErrorKind::NotFound;
        return Err(RepositoryError::new(kind, text).into());
    }
    let missing = |point: &RestorePoint| !copies.has(point) && !copies.was_removed(point);
    let present = here.points.iter().filter(|point| !missing(point)).count() as u64;
    let mut points: Vec<RestorePoint> =
        filtered(&here.points, filter).into_iter().filter(|one| missing(one)).cloned().collect();
    if options.keep.is_some() {
        let kept = kept(&points, &there.points, id, options, source.clock().now_ms())?;
        points.retain(|point| kept.contains(&point.id));
    }
    points.sort_by_key(|point| point.id);
    let here = here.points.into_iter().map(|point| (point.id, point)).collect();
    let (source, target) = (source.clone(), target.clone());
    Ok(CopyPlan { source, target, id, points, here, copies, present, damage })
}

/// The points that a filter leaves.
fn filtered<'p>(points: &'p [RestorePoint], filter: &Filter) -> Vec<&'p RestorePoint> {
    let mut instances: BTreeMap<&str, Vec<&RestorePoint>> = BTreeMap::new();
    for point in points {
        if filter.instances.is_empty() || filter.instances.contains(&point.instance) {
            instances.entry(&point.instance).or_default().push(point);
        }
    }
    let mut left = Vec::new();
    for mut points in instances.into_values() {
        points.sort_by_key(|point| std::cmp::Reverse(point.id));
        points.truncate(filter.latest.map_or(usize::MAX, |latest| latest as usize));
        points.retain(|point| filter.since_ms.is_none_or(|since| point.created_ms >= since));
        left.extend(points);
    }
    left
}

/// Which of `points` and of the target's points a policy keeps, if the target had them all.
/// Copies go by the id of the point they were made of, so that all ids are of one order.
fn kept(
    points: &[RestorePoint],
    there: &[RestorePoint],
    repository: RepositoryId,
    options: &Options,
    now_ms: u64,
) -> Result<HashSet<PointId>> {
    let Some(policy) = &options.keep else { return Ok(HashSet::new()) };
    let mut instances: BTreeMap<&str, Vec<Candidate>> = BTreeMap::new();
    for point in points {
        instances.entry(&point.instance).or_default().push(Candidate::from(point));
    }
    for point in there {
        let origin = point.origin.filter(|origin| origin.repository == repository);
        let id = origin.map_or(point.id, |origin| origin.point);
        let candidate = Candidate { id, ..Candidate::from(point) };
        instances.entry(&point.instance).or_default().push(candidate);
    }
    let mut kept = HashSet::new();
    for candidates in instances.values() {
        let verdicts = apply(policy, candidates, now_ms, &options.zone).map_err(|error| {
            EngineError::caused(ErrorKind::Invalid, "the policy cannot be applied", error)
        })?;
        kept.extend(verdicts.iter().filter(|verdict| verdict.keep()).map(|verdict| verdict.id));
    }
    Ok(kept)
}

impl CopyPlan {
    /// The points that are to be copied, in the order they will be.
    pub fn points(&self) -> &[RestorePoint] {
        &self.points
    }

    /// Points of the source that have a copy, or had one that was removed.
    pub fn present(&self) -> u64 {
        self.present
    }

    /// What was found to be damaged while planning.
    pub fn damage(&self) -> &[Damage] {
        &self.damage
    }

    /// Carries the plan out.
    ///
    /// # Errors
    /// When a repository fails, or the run is cancelled. Points that were copied stay, and the
    /// next run goes on. Damage at the source is not an error but in the report.
    pub async fn run(
        mut self,
        options: &Options,
        level: i32,
        progress: Arc<Progress>,
        cancel: CancellationToken,
    ) -> Result<CopyReport> {
        let mut report = CopyReport { damage: self.damage.clone(), ..CopyReport::default() };
        for point in std::mem::take(&mut self.points) {
            self.copies.look_again(&point).await?;
            if self.copies.has(&point) || self.copies.was_removed(&point) {
                continue; // another run was faster
            }
            let Some(pin) = self.pin(&point).await? else {
                report.gone.push(point);
                continue;
            };
            let copied = self.copy(&point, level, &progress, &cancel).await;
            pin.release().await;
            match copied {
                Ok(copy) => {
                    self.copies.add(&copy);
                    report.points.push((point, copy));
                }
                Err(error) => match damage_in(&error) {
                    Some(problem) => {
                        let name = point.to_string();
                        report.damage.push(Damage::whole(name.clone(), problem, [name].into()));
                    }
                    None => return Err(error),
                },
            }
        }
        report.pruned = self.retain(options).await?;
        Ok(report)
    }

    /// Copies one point.
    async fn copy(
        &self,
        point: &RestorePoint,
        level: i32,
        progress: &Arc<Progress>,
        cancel: &CancellationToken,
    ) -> Result<RestorePoint> {
        let (parent, before, pin) = self.base(point).await?;
        let known = parent.as_ref().map(|parent| parent.id);
        let mut images = Vec::with_capacity(point.images.len());
        for record in &point.images {
            let image = self.source.image(point, Some(&record.name))?;
            let older = before.as_ref().and_then(|before| {
                let known = before.images.iter().any(|known| {
                    known.name == record.name && known.block_size == record.block_size
                });
                known.then(|| self.source.image(before, Some(&record.name)))
            });
            let change = match older.transpose()? {
                Some(older) => match image.changed_since(&older).await {
                    Ok(ranges) => Change::Changed(ranges),
                    Err(error) => {
                        tracing::warn!(%error, "reading all of an image");
                        Change::Regions
                    }
                },
                None => Change::Regions,
            };
            let device: Arc<dyn BlockRead> = Arc::new(image);
            images.push(SourceImage {
                name: record.name.clone(),
                description: record.source.clone(),
                source: Source::Device(device, change),
            });
        }
        let options = BackupOptions {
            block_size: None,
            first_block_size: None,
            level,
            metadata: point.metadata.clone(),
            consistency: point.consistency.clone(),
            retain_until_ms: point.retain_until_ms,
            rescan: false,
            hold: point.hold,
            defragment: None,
            parent,
            allowance: Arc::default(),
            copy_of: Some(CopyOf {
                point: point.clone(),
                repository: self.id,
                parent: known,
                id: self.copies.new_id(point)?,
            }),
        };
        let (progress, cancel) = (progress.clone(), cancel.clone());
        let run = backup(&self.target, &point.instance, images, options, progress, cancel);
        let copied = Box::pin(run).await;
        if let Some(pin) = pin {
            pin.release().await;
        }
        Ok(copied?.point)
    }

    /// Pins a point of the source; nothing when it was pruned.
    async fn pin(&self, point: &RestorePoint) -> Result<Option<Pin>> {
        match self.source.pin(point, "replicate").await {
            Ok(pin) => Ok(Some(pin)),
            Err(error) if error.kind() == sluice_repository::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The copy to build this one on, and the point of the source it was made of, pinned. Where
    /// there is none, the target's newest point, of which nothing is known.
    async fn base(
        &self,
        point: &RestorePoint,
    ) -> Result<(Option<RestorePoint>, Option<RestorePoint>, Option<Pin>)> {
        let nearest = self.copies.nearest(point, |origin| self.here.contains_key(&origin));
        let Some((origin, copy)) = nearest else { return Ok((None, None, None)) };
        let copy = Some(copy.clone());
        let Some(before) = self.here.get(&origin) else { return Ok((copy, None, None)) };
        match self.pin(before).await? {
            Some(pin) => Ok((copy, Some(before.clone()), Some(pin))),
            None => Ok((copy, None, None)),
        }
    }

    /// Prunes at the target what its policy no longer keeps.
    async fn retain(&self, options: &Options) -> Result<Vec<RestorePoint>> {
        let Some(policy) = &options.keep else { return Ok(Vec::new()) };
        let names = &options.filter.instances;
        let mut points = self.target.list(None).await?.points;
        points.retain(|point| names.is_empty() || names.contains(&point.instance));
        let kept = kept(&[], &points, self.id, options, self.target.clock().now_ms())?;
        points.retain(|point| {
            let origin = point.origin.filter(|origin| origin.repository == self.id);
            !kept.contains(&origin.map_or(point.id, |origin| origin.point))
        });
        for point in &points {
            self.target
                .forget(point, &options.by, &format!("policy of the copy: {policy}"))
                .await?;
        }
        Ok(points)
    }
}

/// What is damaged, when that is why a run failed.
fn damage_in(error: &EngineError) -> Option<String> {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<RepositoryError>()
            && found.kind() == sluice_repository::ErrorKind::Damaged
        {
            return Some(found.to_string());
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use sluice_block::MemoryDisk;
    use sluice_repository::{BackupStats, ChainId, Protection};

    use super::*;

    fn point(id: u64) -> RestorePoint {
        RestorePoint {
            id: PointId::new(id, [0; 10]),
            chain: ChainId([1; 16]),
            instance: "vm".into(),
            created_ms: id,
            parent: None,
            retain_until_ms: None,
            hold: false,
            protection: Protection::default(),
            images: Vec::new(),
            metadata: None,
            stats: BackupStats::default(),
            tool: String::new(),
            host: String::new(),
            consistency: String::new(),
            method: String::new(),
            origin: None,
        }
    }

    #[test]
    fn changes_are_believed_only_against_the_point_they_were_looked_for() {
        let repository = RepositoryId([2; 16]);
        let change = |thought: Option<u64>, found: Option<u64>| {
            let parent = thought.map(|id| point(id).id);
            let copy = CopyOf { point: point(9), repository, parent, id: NewId::Last([0; 10]) };
            let device: Arc<dyn BlockRead> = Arc::new(MemoryDisk::new(10));
            let source = Source::Device(device, Change::Changed(Vec::new()));
            let image = SourceImage { name: "a".into(), description: String::new(), source };
            match copy.trust(vec![image], found.map(point).as_ref()).remove(0).source {
                Source::Device(_, change) => change,
                Source::Stream(_) => unreachable!("it was a device"),
            }
        };
        assert_eq!(change(Some(1), Some(1)), Change::Changed(Vec::new()));
        for (thought, found) in [(Some(1), Some(2)), (Some(1), None), (None, Some(1))] {
            assert_eq!(change(thought, found), Change::Regions, "somebody came in between");
        }
    }
}

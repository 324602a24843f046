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
//! point. Ids of copies ascend with time, as those of backups do; so points of an instance are
//! copied in their order, and none that is older than the newest copy.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use sluice_block::BlockRead;
use sluice_repository::replicate::{Copied, Filter, Options};
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
}

impl CopyOf {
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

/// The newest point of each instance that is a copy of one of `repository`, as that point.
fn newest_copies(points: &[RestorePoint], repository: RepositoryId) -> BTreeMap<String, PointId> {
    let mut newest = BTreeMap::new();
    for point in points {
        if let Some(origin) = point.origin.filter(|origin| origin.repository == repository) {
            let known = newest.entry(point.instance.clone()).or_insert(origin.point);
            *known = origin.point.max(*known);
        }
    }
    newest
}

/// Finds out which points are to be copied.
///
/// # Errors
/// [`ErrorKind::Repository`] for an instance the source does not have, or what a repository
/// reports.
pub async fn plan(source: &Repository, target: &Repository, options: &Options) -> Result<CopyPlan> {
    let id = id_of(source)?;
    let (here, there) = (source.list(None).await?, target.list(None).await?);
    let newest = newest_copies(&there.points, id);
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
    let newer =
        |point: &RestorePoint| newest.get(&point.instance).is_none_or(|newest| point.id > *newest);
    let present = here.points.iter().filter(|point| !newer(point)).count() as u64;
    let mut points: Vec<RestorePoint> =
        filtered(&here.points, filter).into_iter().filter(|point| newer(point)).cloned().collect();
    if options.keep.is_some() {
        let kept = kept(&points, &there.points, id, options, source.clock().now_ms())?;
        points.retain(|point| kept.contains(&point.id));
    }
    points.sort_by_key(|point| point.id);
    Ok(CopyPlan { source: source.clone(), target: target.clone(), id, points, present, damage })
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

    /// Points of the source that have a copy, or are older than one.
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
        self,
        options: &Options,
        level: i32,
        progress: Arc<Progress>,
        cancel: CancellationToken,
    ) -> Result<CopyReport> {
        let mut report = CopyReport { damage: self.damage.clone(), ..CopyReport::default() };
        for point in &self.points {
            let pin = match self.source.pin(point, "replicate").await {
                Ok(pin) => pin,
                Err(error) if error.kind() == sluice_repository::ErrorKind::NotFound => {
                    report.gone.push(point.clone());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let copied = self.copy(point, level, &progress, &cancel).await;
            pin.release().await;
            match copied {
                Ok(copy) => report.points.push((point.clone(), copy)),
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
        let (parent, before, pin) = self.before(point).await?;
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
            parent: None,
            allowance: Arc::default(),
            copy_of: Some(CopyOf { point: point.clone(), repository: self.id, parent }),
        };
        let (progress, cancel) = (progress.clone(), cancel.clone());
        let run = backup(&self.target, &point.instance, images, options, progress, cancel);
        let copied = Box::pin(run).await;
        if let Some(pin) = pin {
            pin.release().await;
        }
        Ok(copied?.point)
    }

    /// The target's newest point of the same instance, and, when that is a copy, the point of
    /// the source it was made of, pinned.
    async fn before(
        &self,
        point: &RestorePoint,
    ) -> Result<(Option<PointId>, Option<RestorePoint>, Option<Pin>)> {
        let listing = self.target.list(Some(&point.instance)).await?;
        let Some(newest) = listing.points.last() else { return Ok((None, None, None)) };
        let parent = Some(newest.id);
        let Some(origin) = newest.origin.filter(|origin| origin.repository == self.id) else {
            return Ok((parent, None, None));
        };
        let listing = self.source.list(Some(&point.instance)).await?;
        let Some(before) = listing.points.into_iter().find(|one| one.id == origin.point) else {
            return Ok((parent, None, None));
        };
        match self.source.pin(&before, "replicate").await {
            Ok(pin) => Ok((parent, Some(before), Some(pin))),
            Err(error) if error.kind() == sluice_repository::ErrorKind::NotFound => {
                Ok((parent, None, None))
            }
            Err(error) => Err(error.into()),
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
            let copy = CopyOf { point: point(9), repository, parent };
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

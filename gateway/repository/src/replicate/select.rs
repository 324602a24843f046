//! Which points are to be copied.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use sluice_destination::Destination;

use super::Options;
use super::listing::Points;
use crate::bounded::get_record;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::id::{ChainId, PointId, commit_key};
use crate::points::RestorePoint;
use crate::repository::{Repository, Shared};
use crate::retention::{Candidate, apply};

/// Commit records read side by side.
const PARALLEL: usize = 16;

/// A point to copy.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) chain: ChainId,
    pub(crate) point: PointId,
    /// INSTANCE@ID, or CHAIN@ID without a key.
    pub(crate) name: String,
    /// What its commit record says, when it was read.
    pub(crate) read: Option<RestorePoint>,
}

/// The points of the source that the target has not, and has not pruned, by id: all of them.
pub(crate) fn all(source: &Points, target: &Points) -> Vec<Wanted> {
    let mut wanted: Vec<Wanted> = source
        .live()
        .filter(|place| !target.commits.contains(place) && !target.tombstones.contains(place))
        .map(|&(chain, point)| Wanted {
            chain,
            point,
            name: format!("{chain}@{point}"),
            read: None,
        })
        .collect();
    wanted.sort_by_key(|wanted| wanted.point);
    wanted
}

/// The same points with their instances' names, as far as their records can be read.
pub(crate) async fn named(repository: &Repository, wanted: Vec<Wanted>) -> Result<Vec<Wanted>> {
    let shared = &repository.shared;
    let reads = stream::iter(wanted).map(|mut wanted| async move {
        match shared.read_point(wanted.chain, wanted.point).await {
            Ok(Some(read)) => {
                wanted.name = read.to_string();
                wanted.read = Some(read);
            }
            Ok(None) => {}
            // Told when it is its turn to be copied, unless it is pruned by then.
            Err(error) if error.kind() == ErrorKind::Damaged => {}
            Err(error) => return Err(error),
        }
        Ok(wanted)
    });
    reads.buffered(PARALLEL).try_collect().await
}

/// What filter and policy leave.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    /// Points to copy, with what their records say.
    pub(crate) wanted: Vec<Wanted>,
    /// Points that both sides have.
    pub(crate) present: Vec<RestorePoint>,
    /// Records that cannot be read.
    pub(crate) damaged: Vec<RepositoryError>,
}

/// Those of `wanted` that filter and policy leave.
pub(crate) async fn some(
    repository: &Repository,
    target: &Arc<dyn Destination>,
    wanted: Vec<Wanted>,
    there: &Points,
    options: &Options,
    now_ms: u64,
) -> Result<Selected> {
    let shared = &repository.shared;
    let filter = &options.filter;
    let chains: Option<HashSet<ChainId>> = (!filter.instances.is_empty())
        .then(|| filter.instances.iter().map(|name| shared.keys.chain(name)).collect());
    let chosen = |chain: &ChainId| chains.as_ref().is_none_or(|chains| chains.contains(chain));
    // The newest of a chain are counted over all its points, also those copied before.
    let live = shared.live_points(None).await?;
    if let Some(missing) = filter.instances.iter().find(|name| {
        let chain = shared.keys.chain(name);
        live.iter().all(|(known, _)| *known != chain)
    }) {
        let text = format!("there is no restore point of {missing:?} at the source");
        return Err(RepositoryError::new(ErrorKind::NotFound, text));
    }
    let mut damaged = Vec::new();
    let mut known: BTreeMap<ChainId, Vec<RestorePoint>> = BTreeMap::new();
    let places: Vec<_> = live.into_iter().filter(|(chain, _)| chosen(chain)).collect();
    let mut reads = stream::iter(places)
        .map(|(chain, point)| shared.read_point(chain, point))
        .buffered(PARALLEL);
    while let Some(read) = reads.next().await {
        match read {
            Ok(Some(point)) => known.entry(point.chain).or_default().push(point),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Damaged => damaged.push(error),
            Err(error) => return Err(error),
        }
    }
    drop(reads);
    let kept = kept(shared, target, &known, there, options, now_ms).await?;
    let fits = |point: &RestorePoint, newer: usize| {
        filter.since_ms.is_none_or(|since| point.created_ms >= since)
            && filter.latest.is_none_or(|latest| newer < latest as usize)
            && kept.as_ref().is_none_or(|kept| kept.contains(&point.id))
    };
    let missing: BTreeSet<(ChainId, PointId)> =
        wanted.iter().map(|wanted| (wanted.chain, wanted.point)).collect();
    let mut selected = Selected { damaged, ..Selected::default() };
    for (chain, points) in known {
        for (newer, point) in points.into_iter().rev().enumerate() {
            if missing.contains(&(chain, point.id)) {
                if fits(&point, newer) {
                    let (id, name) = (point.id, point.to_string());
                    selected.wanted.push(Wanted { chain, point: id, name, read: Some(point) });
                }
            } else if there.is_live(&(chain, point.id)) {
                selected.present.push(point);
            }
        }
    }
    selected.wanted.sort_by_key(|wanted| wanted.point);
    Ok(selected)
}

/// The points the target's policy would keep, if it had all of the source's; nothing without a
/// policy.
async fn kept(
    shared: &Arc<Shared>,
    target: &Arc<dyn Destination>,
    known: &BTreeMap<ChainId, Vec<RestorePoint>>,
    there: &Points,
    options: &Options,
    now_ms: u64,
) -> Result<Option<HashSet<PointId>>> {
    let Some(policy) = &options.keep else { return Ok(None) };
    let here: HashSet<PointId> = known.values().flatten().map(|point| point.id).collect();
    let only_there =
        there.live().filter(|(chain, point)| known.contains_key(chain) && !here.contains(point));
    let mut candidates: BTreeMap<ChainId, Vec<Candidate>> = BTreeMap::new();
    for point in read(shared, target, only_there.copied().collect()).await? {
        candidates.entry(point.chain).or_default().push(Candidate::from(&point));
    }
    for point in known.values().flatten() {
        // What the target pruned does not come back.
        if !there.tombstones.contains(&(point.chain, point.id)) {
            candidates.entry(point.chain).or_default().push(Candidate::from(point));
        }
    }
    let mut kept = HashSet::new();
    for points in candidates.values() {
        let verdicts = apply(policy, points, now_ms, &options.zone)
            .map_err(|error| RepositoryError::new(ErrorKind::Invalid, error.to_string()))?;
        kept.extend(verdicts.iter().filter(|verdict| verdict.keep()).map(|verdict| verdict.id));
    }
    Ok(Some(kept))
}

/// Reads points of a side that has the same keys; damaged ones and ABORTs are left out.
pub(crate) async fn read(
    shared: &Arc<Shared>,
    side: &Arc<dyn Destination>,
    places: Vec<(ChainId, PointId)>,
) -> Result<Vec<RestorePoint>> {
    let read = stream::iter(places)
        .map(|(chain, point)| async move {
            let key = commit_key(chain, point);
            let bytes = get_record(&**side, &key).await?;
            match shared.parse_point(&key, chain, point, &bytes) {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(%error, "leaving a point of the target alone");
                    Ok(None)
                }
                other => other,
            }
        })
        .buffered(PARALLEL)
        .try_collect::<Vec<_>>()
        .await?;
    Ok(read.into_iter().flatten().collect())
}

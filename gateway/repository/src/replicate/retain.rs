//! The target's own retention: points that its policy no longer keeps are pruned there.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use sluice_destination::{Destination, ErrorKind as DestinationKind};

use super::{Options, listing, select};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::header::Kind;
use crate::format::id::{ChainId, protection_key, tombstone_key};
use crate::format::record::{TombstoneRecord, to_cbor};
use crate::points::RestorePoint;
use crate::repository::Repository;
use crate::retention::{Candidate, apply};

/// Prunes at the target what `options.keep` does not keep; returns the names.
pub(crate) async fn retain(
    repository: &Repository,
    target: &Arc<dyn Destination>,
    options: &Options,
    now_ms: u64,
) -> Result<Vec<String>> {
    let Some(policy) = &options.keep else { return Ok(Vec::new()) };
    let shared = &repository.shared;
    let names = &options.filter.instances;
    let chains: HashSet<ChainId> = names.iter().map(|name| shared.keys.chain(name)).collect();
    let points = listing::points(&**target).await?;
    let live = points.live().filter(|(chain, _)| chains.is_empty() || chains.contains(chain));
    let mut known: BTreeMap<ChainId, Vec<RestorePoint>> = BTreeMap::new();
    for point in select::read(shared, target, live.copied().collect()).await? {
        known.entry(point.chain).or_default().push(point);
    }
    let mut pruned = Vec::new();
    for points in known.values() {
        let candidates: Vec<Candidate> = points.iter().map(Candidate::from).collect();
        let verdicts = apply(policy, &candidates, now_ms, &options.zone)
            .map_err(|error| RepositoryError::new(ErrorKind::Invalid, error.to_string()))?;
        for (point, verdict) in points.iter().zip(verdicts) {
            if !verdict.keep() && !is_protected(repository, target, point, now_ms).await? {
                let record = TombstoneRecord {
                    chain: point.chain,
                    point: point.id,
                    pruned_ms: now_ms,
                    by: options.by.clone(),
                    reason: format!("policy of the replica: {policy}"),
                };
                let body = to_cbor(&record);
                let body = shared.seal_record(Kind::Tombstone, point.id.0, &[], &body)?;
                match target.put_new(&tombstone_key(point.chain, point.id), body).await {
                    Err(error) if error.kind() == DestinationKind::AlreadyExists => {}
                    other => other?,
                }
                pruned.push(point.to_string());
            }
        }
    }
    Ok(pruned)
}

/// Whether something said after the commit keeps the point, at either place. What is said at the
/// target counts whatever it says: it is read there, with the target's own time.
async fn is_protected(
    repository: &Repository,
    target: &Arc<dyn Destination>,
    point: &RestorePoint,
    now_ms: u64,
) -> Result<bool> {
    let said = repository.shared.protection_or_hold(point.chain, point.id).await?;
    if said.is_some_and(|protection| protection.keeper(now_ms).is_some()) {
        return Ok(true);
    }
    match target.head(&protection_key(point.chain, point.id)).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == DestinationKind::NotFound => Ok(false),
        Err(error) => Err(error.into()),
    }
}

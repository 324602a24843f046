//! The target's own retention: points that its policy no longer keeps are pruned there.

use std::collections::{BTreeMap, HashSet};

use super::bury::Burial;
use super::plan::Plan;
use super::{Means, Report, listing, select};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::header::Kind;
use crate::format::id::ChainId;
use crate::format::record::{TombstoneRecord, to_cbor};
use crate::points::RestorePoint;
use crate::retention::{Candidate, apply};

/// Prunes at the target what `options.keep` does not keep.
pub(crate) async fn retain(plan: &Plan, means: &Means, report: &mut Report) -> Result<()> {
    let options = &plan.options;
    let Some(policy) = &options.keep else { return Ok(()) };
    let repository = plan.key()?;
    let (shared, burial) = (&repository.shared, Burial::new(plan, means));
    let names = &options.filter.instances;
    let chains: HashSet<ChainId> = names.iter().map(|name| shared.keys.chain(name)).collect();
    let points = listing::points(&*plan.target).await?;
    let live = points.live().filter(|(chain, _)| chains.is_empty() || chains.contains(chain));
    let mut known: BTreeMap<ChainId, Vec<RestorePoint>> = BTreeMap::new();
    for point in select::read(shared, &plan.target, live.copied().collect()).await? {
        known.entry(point.chain).or_default().push(point);
    }
    let now_ms = means.clock.now_ms();
    for points in known.values() {
        let candidates: Vec<Candidate> = points.iter().map(Candidate::from).collect();
        let verdicts = apply(policy, &candidates, now_ms, &options.zone)
            .map_err(|error| RepositoryError::new(ErrorKind::Invalid, error.to_string()))?;
        for (point, _) in points.iter().zip(verdicts).filter(|(_, verdict)| !verdict.keep()) {
            let record = TombstoneRecord {
                chain: point.chain,
                point: point.id,
                pruned_ms: now_ms,
                by: options.by.clone(),
                reason: format!("policy of the replica: {policy}"),
            };
            let body = to_cbor(&record);
            let body = shared.seal_record(Kind::Tombstone, point.id.0, &[], &body)?;
            match burial.bury(point.chain, point.id, body).await? {
                None => report.pruned.push(point.to_string()),
                Some(_) => report.kept.push(point.to_string()),
            }
        }
    }
    Ok(())
}

//! What keeps points from being pruned, said after their commit: it holds at the target as well,
//! or a replica that becomes the primary would forget it. What was said last counts.
//!
//! Only the key tells who said it. Without it a record comes to the target where it keeps its point
//! at least as much as what is there: so what somebody put at the source cannot end a hold. One
//! that ends something comes with the next replication that has the key.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use sluice_destination::{Destination, ErrorKind as DestinationKind, Key, list_all};

use super::bury::Burial;
use super::plan::Plan;
use super::{Means, check, listing};
use crate::bounded::get_small;
use crate::error::Result;
use crate::format::header::Kind;
use crate::format::id::{ChainId, PointId, parse_point_key, protections_prefix};
use crate::format::protection::{Protection, ProtectionPlain};
use crate::format::record::{Envelope, from_cbor};
use crate::verify::Damage;

/// Records looked at side by side.
const PARALLEL: usize = 8;

/// Copies the protections of points that are at the target. Returns those that are damaged.
pub(crate) async fn copy(plan: &Plan, means: &Means) -> Result<Vec<Damage>> {
    let (source, target) = (&*plan.source.destination, &*plan.target);
    let ours = keys(source).await?;
    if ours.is_empty() {
        return Ok(Vec::new());
    }
    let points = listing::points(target).await?.commits;
    let theirs: BTreeSet<Key> = keys(target).await?.into_iter().collect();
    let mut copies = stream::iter(ours)
        .filter(|key| {
            let is_there = parse_point_key(key).is_some_and(|place| points.contains(&place));
            std::future::ready(is_there)
        })
        .map(|key| {
            let known = theirs.contains(&key);
            async move { newer(plan, means, &key, known).await }
        })
        .buffer_unordered(PARALLEL);
    let mut damage = Vec::new();
    while let Some(done) = copies.next().await {
        damage.extend(done?);
    }
    Ok(damage)
}

async fn keys(destination: &dyn Destination) -> Result<Vec<Key>> {
    let objects = list_all(destination, &protections_prefix()).await?;
    Ok(objects.into_iter().map(|object| object.key).collect())
}

/// What was said of a point, and when.
struct Said {
    protection: Protection,
    changed_ms: u64,
    body: Bytes,
}

/// Copies one, unless the target has one that was said later. Returns what is damaged at the
/// source.
async fn newer(plan: &Plan, means: &Means, key: &Key, known: bool) -> Result<Option<Damage>> {
    let Some(place) = parse_point_key(key) else { return Ok(None) };
    let ours = match read(plan, &*plan.source.destination, key, place).await? {
        Some(Ok(ours)) => ours,
        Some(Err(problem)) => {
            return Ok(Some(Damage::whole(key.to_string(), problem, BTreeSet::new())));
        }
        None => return Ok(None),
    };
    let theirs = match known {
        true => read(plan, &*plan.target, key, place).await?,
        false => None,
    };
    if let Some(Ok(theirs)) = &theirs
        && theirs.changed_ms >= ours.changed_ms
    {
        return Ok(None);
    }
    if plan.source.key.is_none() {
        let there = match theirs {
            Some(Ok(theirs)) => theirs.protection,
            // Nobody knows what it keeps.
            Some(Err(_)) => return Ok(None),
            None => Burial::new(plan, means).committed(place.0, place.1).await?,
        };
        if !ours.protection.keeps_as_much_as(&there) {
            tracing::info!(%key, "what keeps a point at the target ends only with the key");
            return Ok(None);
        }
    }
    plan.target.put(key, ours.body).await?;
    Ok(None)
}

/// What a record says, as far as it can be believed; nothing when there is none.
async fn read(
    plan: &Plan,
    destination: &dyn Destination,
    key: &Key,
    (chain, point): (ChainId, PointId),
) -> Result<Option<std::result::Result<Said, String>>> {
    let body = match get_small(destination, key).await {
        Err(error) if error.kind() == DestinationKind::NotFound => return Ok(None),
        other => other?,
    };
    if let Some(repository) = &plan.source.key
        && let Err(error) = repository.shared.open_record(key, Kind::Protection, point.0, &body)
    {
        return Ok(Some(Err(error.to_string())));
    }
    let plain = check::object(&body, plan.id, Kind::Protection, point.0)
        .and_then(|()| Envelope::parse(&body))
        .and_then(|envelope| from_cbor::<ProtectionPlain>(envelope.plain));
    Ok(Some(match plain {
        Ok(plain) if plain.chain == chain && plain.point == point => {
            let ProtectionPlain { protection, changed_ms, .. } = plain;
            Ok(Said { protection, changed_ms, body })
        }
        Ok(_) => Err("it belongs to another point".into()),
        Err(error) => Err(error.to_string()),
    }))
}

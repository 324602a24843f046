//! What keeps points from being pruned, said after their commit: it holds at the target as well,
//! or a replica that becomes the primary would forget it. What was said last counts.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use sluice_destination::{ByteRange, Destination, ErrorKind as DestinationKind, Key, list_all};

use super::plan::Plan;
use super::{check, listing};
use crate::error::Result;
use crate::format::header::Kind;
use crate::format::id::{parse_point_key, protections_prefix};
use crate::format::protection::ProtectionPlain;
use crate::format::record::{Envelope, from_cbor};

/// Records looked at side by side.
const PARALLEL: usize = 8;

/// Copies the protections of points that are at the target. Needs no key.
pub(crate) async fn copy(plan: &Plan) -> Result<()> {
    let (source, target) = (&*plan.source.destination, &*plan.target);
    let ours = keys(source).await?;
    if ours.is_empty() {
        return Ok(());
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
            async move { newer(plan, &key, known).await }
        })
        .buffer_unordered(PARALLEL);
    while let Some(done) = copies.next().await {
        done?;
    }
    Ok(())
}

async fn keys(destination: &dyn Destination) -> Result<Vec<Key>> {
    let objects = list_all(destination, &protections_prefix()).await?;
    Ok(objects.into_iter().map(|object| object.key).collect())
}

/// Copies one, unless the target has one that was said later.
async fn newer(plan: &Plan, key: &Key, known: bool) -> Result<()> {
    let Some(ours) = read(plan, &*plan.source.destination, key).await? else { return Ok(()) };
    if known
        && let Some(theirs) = read(plan, &*plan.target, key).await?
        && theirs.0 >= ours.0
    {
        return Ok(());
    }
    Ok(plan.target.put(key, ours.1).await?)
}

/// When it was said, and the record; nothing when it is gone or damaged.
async fn read(
    plan: &Plan,
    destination: &dyn Destination,
    key: &Key,
) -> Result<Option<(u64, Bytes)>> {
    let body = match destination.get(key, ByteRange::Full).await {
        Err(error) if error.kind() == DestinationKind::NotFound => return Ok(None),
        other => other?,
    };
    let sound = check::record(&body, plan.id, Kind::Protection);
    let plain: Result<ProtectionPlain, _> =
        Envelope::parse(&body).and_then(|envelope| from_cbor(envelope.plain));
    match (sound, plain) {
        (Ok(()), Ok(plain)) => Ok(Some((plain.changed_ms, body))),
        _ => {
            tracing::warn!(%key, "not copying a damaged record");
            Ok(None)
        }
    }
}

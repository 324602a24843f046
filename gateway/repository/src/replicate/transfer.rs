//! Moving one object to the target.

use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::{ByteRange, Destination, ErrorKind as DestinationKind, Key};

use super::plan::{InsteadOf, PackJob, Plan};
use super::{Means, listing, reconcile};
use crate::bounded::is_exactly;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::pack::MAX_PACK;

/// A pack that moves more often than this while it is copied is given up.
const MOVES: usize = 8;

/// What became of a pack.
pub(crate) enum Copied {
    Bytes(u64),
    Damaged(String),
    Vanished,
}

fn stopped() -> RepositoryError {
    RepositoryError::new(
        ErrorKind::Cancelled,
        "the replication was stopped; what was copied is kept, run it again to go on",
    )
}

/// Copies a pack, following it when a compaction moves it meanwhile.
pub(crate) async fn copy_pack(plan: &Plan, means: &Means, job: &PackJob) -> Result<Copied> {
    let source = &plan.source.destination;
    let (mut found, mut target) = (job.source.clone(), job.target.clone());
    for _ in 0..MOVES {
        if found.size >= MAX_PACK as u64 {
            return Ok(Copied::Damaged("it is larger than a pack can be".into()));
        }
        if let Some(throttle) = &means.throttle {
            throttle.take(found.size, || means.progress.is_stopped()).await;
        }
        if means.progress.is_stopped() {
            return Err(stopped());
        }
        let bytes = match source.get(&found.key, ByteRange::Full).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == DestinationKind::NotFound => {
                let Some(next) = listing::look_again(&**source, &found.key).await? else {
                    return Ok(Copied::Vanished);
                };
                if target == found.key {
                    target = next.key.clone();
                }
                found = next;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let bytes = match reconcile::sound(bytes, plan.id, job.name).await? {
            Ok(bytes) => bytes,
            Err(problem) => return Ok(Copied::Damaged(problem)),
        };
        return place_pack(plan, job, &target, bytes).await;
    }
    Ok(Copied::Vanished)
}

/// Puts a pack's bytes where they belong at the target.
async fn place_pack(plan: &Plan, job: &PackJob, key: &Key, bytes: Bytes) -> Result<Copied> {
    let (target, length) = (&plan.target, bytes.len() as u64);
    match &job.instead_of {
        InsteadOf::Nothing => put_pack(target, key, bytes).await?,
        InsteadOf::Damaged => target.put(key, bytes).await?,
        InsteadOf::Older(older) => {
            put_pack(target, key, bytes).await?;
            tracing::debug!(%older, "left for a collection, which compares them with the key");
        }
        InsteadOf::Part(older) => {
            let theirs = target.get(older, ByteRange::Full).await?;
            let repository = plan.key()?;
            match reconcile::merged(&repository.shared, job.name, bytes, theirs).await? {
                // One that is there was merged of the same two by another replication.
                Ok(bytes) => match target.put_new(key, bytes).await {
                    Err(error) if error.kind() == DestinationKind::AlreadyExists => {}
                    other => other?,
                },
                Err(problem) => return Ok(Copied::Damaged(problem)),
            }
            target.delete(older).await?;
        }
    }
    Ok(Copied::Bytes(length))
}

/// Puts a pack. One that is there already is our own after a lost answer, or another
/// replication's; its length tells a broken one.
async fn put_pack(target: &Arc<dyn Destination>, key: &Key, bytes: Bytes) -> Result<()> {
    let length = bytes.len() as u64;
    match target.put_new(key, bytes.clone()).await {
        Err(error) if error.kind() == DestinationKind::AlreadyExists => {
            if target.head(key).await?.size != length {
                target.put(key, bytes).await?;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

/// Puts an object unless it is there; false when it is there with other bytes.
pub(crate) async fn put_same(
    target: &Arc<dyn Destination>,
    key: &Key,
    body: Bytes,
) -> Result<bool> {
    match target.put_new(key, body.clone()).await {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == DestinationKind::AlreadyExists => {
            Ok(is_exactly(&**target, key, &body).await?)
        }
        Err(error) => Err(error.into()),
    }
}

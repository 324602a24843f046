//! Tombstones at the target: what keeps a point at either side keeps it there.
//!
//! A hold at the target may have been said there and nowhere else, and a point that has a tombstone
//! can be neither read nor released. So a tombstone is put here as everywhere: after a look at
//! what keeps the point, and before another. Without the key the plain parts of the records tell.

use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::{Destination, ErrorKind as DestinationKind};

use super::plan::Plan;
use super::{Means, check};
use crate::bounded::{get_record, get_small};
use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::format::header::Kind;
use crate::format::id::{
    ChainId, PointId, RepositoryId, commit_key, protection_key, tombstone_key,
};
use crate::format::protection::{Protection, ProtectionPlain};
use crate::format::record::{Envelope, from_cbor};
use crate::holds::bury;
use crate::repository::Shared;
use crate::retention::Keeper;

/// Puts tombstones at the target.
pub(crate) struct Burial<'b> {
    source: &'b dyn Destination,
    target: &'b dyn Destination,
    repository: RepositoryId,
    key: Option<&'b Arc<Shared>>,
    clock: &'b Clock,
}

impl<'b> Burial<'b> {
    pub(crate) fn new(plan: &'b Plan, means: &'b Means) -> Self {
        Self {
            source: &*plan.source.destination,
            target: &*plan.target,
            repository: plan.id,
            key: plan.source.key.as_ref().map(|repository| &repository.shared),
            clock: &means.clock,
        }
    }

    /// Puts the tombstone of a point, unless something keeps the point; returns what does.
    pub(crate) async fn bury(
        &self,
        chain: ChainId,
        point: PointId,
        tombstone: Bytes,
    ) -> Result<Option<Keeper>> {
        let key = tombstone_key(chain, point);
        let put = self.target.put_new(&key, tombstone);
        bury(self.target, &key, put, move || self.keeper(chain, point)).await
    }

    /// What keeps a point: what was said of it at either side, or else its manifest. Without the
    /// key the source may keep a point, and cannot let go of it: whoever writes there can have put
    /// the record.
    async fn keeper(&self, chain: ChainId, point: PointId) -> Result<Option<Keeper>> {
        let now = self.clock.now_ms();
        let mut anything = false;
        for (side, counts) in [(self.target, true), (self.source, self.key.is_some())] {
            let Some(said) = self.said(side, chain, point).await? else { continue };
            if let Some(keeper) = said.keeper(now) {
                return Ok(Some(keeper));
            }
            anything |= counts;
        }
        if anything {
            return Ok(None);
        }
        Ok(self.committed(chain, point).await?.keeper(now))
    }

    /// What was said of a point after its commit.
    async fn said(
        &self,
        side: &dyn Destination,
        chain: ChainId,
        point: PointId,
    ) -> Result<Option<Protection>> {
        if let Some(shared) = self.key {
            return shared.protection_or_hold_at(side, chain, point).await;
        }
        let body = match get_small(side, &protection_key(chain, point)).await {
            Err(error) if error.kind() == DestinationKind::NotFound => return Ok(None),
            other => other?,
        };
        let plain = check::record(&body, self.repository, Kind::Protection)
            .and_then(|()| Envelope::parse(&body))
            .and_then(|envelope| from_cbor::<ProtectionPlain>(envelope.plain));
        Ok(Some(match plain {
            Ok(plain) if plain.chain == chain && plain.point == point => plain.protection,
            Ok(_) => unreadable("it belongs to another point"),
            Err(error) => unreadable(error),
        }))
    }

    /// What the manifest at the target says.
    pub(crate) async fn committed(&self, chain: ChainId, point: PointId) -> Result<Protection> {
        let key = commit_key(chain, point);
        let body = match get_record(self.target, &key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => {
                return Ok(Protection::default());
            }
            other => other?,
        };
        if let Some(shared) = self.key {
            return match shared.parse_point(&key, chain, point, &body) {
                Ok(read) => Ok(read.map(|point| point.protection).unwrap_or_default()),
                Err(error) if cannot_be_read(error.kind()) => Ok(unreadable(error)),
                Err(error) => Err(error),
            };
        }
        Ok(match check::commit(&body, self.repository, chain, point) {
            Ok(Some(plain)) => Protection::committed(plain.hold, plain.retain_until_ms),
            Ok(None) => Protection::default(),
            Err(error) => unreadable(error),
        })
    }
}

fn cannot_be_read(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Damaged | ErrorKind::NewerFormat)
}

/// A record that cannot be read counts as a hold.
fn unreadable(problem: impl std::fmt::Display) -> Protection {
    let reason = Some(format!("what keeps it cannot be read: {problem}"));
    Protection { hold: true, reason, ..Protection::default() }
}

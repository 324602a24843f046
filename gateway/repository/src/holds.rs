//! What keeps points from being pruned, said after their commit: `h/<domain>/<chain>/<rp>`.
//!
//! # Order of things
//!
//! Whoever protects a point puts the record first and then looks for a tombstone; whoever
//! prunes one puts the tombstone first and then looks for the record. So of two who meet, at
//! least one sees the other, and the point stays. All tombstones are put by [`bury`].

use std::collections::HashMap;
use std::future::Future;

use futures::stream::{self, StreamExt};
use sluice_destination::{ByteRange, Destination, ErrorKind as DestinationKind, Key, list_all};

use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::header::Kind;
use crate::format::id::{
    ChainId, OverlayId, PointId, chain_protections_prefix, parse_point_key, protection_key,
    protections_prefix, tombstone_key,
};
use crate::format::protection::{Protection, ProtectionBody, ProtectionPlain};
use crate::format::record::{Envelope, TombstoneRecord, from_cbor, to_cbor};
use crate::host;
use crate::points::RestorePoint;
use crate::repository::{Repository, Shared, parse_error, rfc3339};
use crate::retention::{Keeper, Refused};

/// How often an overlay is entered when others change the record at the same time.
const ATTEMPTS: u32 = 8;
/// Records read side by side.
const PARALLEL: usize = 16;

impl RestorePoint {
    /// Lets `protection` count instead of what the point said before.
    fn protect(&mut self, protection: Protection, now_ms: u64) {
        let protection = protection.settled(now_ms);
        (self.hold, self.retain_until_ms) = (protection.hold, protection.retain_until_ms);
        self.protection = protection;
    }
}

impl Repository {
    /// The same point with what keeps it by now.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn with_protection(&self, mut point: RestorePoint) -> Result<RestorePoint> {
        let now = self.shared.clock.now_ms();
        let found = self.shared.protection_or_hold(point.chain, point.id).await?;
        let committed = point.protection.clone();
        point.protect(found.unwrap_or(committed), now);
        Ok(point)
    }

    /// Changes what keeps a point, and returns the point as it is then.
    ///
    /// # Errors
    /// [`ErrorKind::Protected`] when `change` is refused; [`ErrorKind::NotFound`] when the point
    /// was pruned meanwhile; [`ErrorKind::Conflict`] when somebody else changed it at the same
    /// time; [`ErrorKind::Damaged`] for a record that cannot be read.
    pub async fn change_protection(
        &self,
        point: &RestorePoint,
        by: &str,
        change: impl FnOnce(&mut Protection, u64) -> Result<(), Refused>,
    ) -> Result<RestorePoint> {
        let shared = &self.shared;
        let now = shared.clock.now_ms();
        let mut point = point.clone();
        let known = shared.protection(point.chain, point.id).await?;
        let mut next = known.unwrap_or_else(|| point.protection.clone()).settled(now);
        change(&mut next, now).map_err(|refused| {
            RepositoryError::caused(
                ErrorKind::Protected,
                format!("{point} stays as it is"),
                refused,
            )
        })?;
        let key = protection_key(point.chain, point.id);
        let plain = ProtectionPlain {
            chain: point.chain,
            point: point.id,
            protection: next.clone(),
            changed_ms: now,
        };
        let body = ProtectionBody { by: by.to_owned(), host: host::name() };
        let (plain, body) = (to_cbor(&plain), to_cbor(&body));
        let sealed = shared.seal_record(Kind::Protection, point.id.0, &plain, &body)?;
        shared.put_in_need(&key, sealed.clone()).await?;
        if shared.destination.get(&key, ByteRange::Full).await? != sealed {
            return Err(RepositoryError::new(
                ErrorKind::Conflict,
                format!("what keeps {point} was changed by somebody else at the same time"),
            ));
        }
        match shared.destination.head(&tombstone_key(point.chain, point.id)).await {
            Err(error) if error.kind() == DestinationKind::NotFound => {}
            Err(error) => return Err(error.into()),
            Ok(_) => {
                let text = format!("{point} was pruned meanwhile");
                return Err(RepositoryError::new(ErrorKind::NotFound, text));
            }
        }
        point.protect(next, now);
        Ok(point)
    }

    /// Says that an overlay lies over a point, or that it does no more: the point is kept as long.
    /// Asking again does nothing.
    ///
    /// # Errors
    /// As [`change_protection`](Self::change_protection). A record that cannot be read is none: it
    /// keeps the point by itself.
    pub async fn set_overlay(
        &self,
        point: &RestorePoint,
        overlay: OverlayId,
        there: bool,
        by: &str,
    ) -> Result<()> {
        let mut attempt = 1;
        loop {
            match self.shared.protection(point.chain, point.id).await {
                Ok(Some(known)) if known.has_overlay(overlay) == there => return Ok(()),
                Ok(None) if !there => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Damaged => return Ok(()),
                known => drop(known?),
            }
            let change = |protection: &mut Protection, _| {
                protection.set_overlay(overlay, there);
                Ok(())
            };
            match self.change_protection(point, by, change).await {
                // Somebody else has said something at the same time: ours is looked for again.
                Err(error) if error.kind() == ErrorKind::Conflict && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                // Pruned, and the overlay is to be gone too.
                Err(error) if error.kind() == ErrorKind::NotFound && !there => return Ok(()),
                other => return other.map(drop),
            }
        }
    }

    /// Whether a point may be pruned.
    ///
    /// # Errors
    /// [`ErrorKind::Protected`] when something keeps the point; the message says what, and until
    /// when.
    pub async fn may_forget(&self, point: &RestorePoint) -> Result<()> {
        match self.shared.keeper(point).await? {
            None => Ok(()),
            Some(keeper) => Err(kept(point, &keeper)),
        }
    }

    /// Marks a point as pruned. Its space comes back with a later collection.
    ///
    /// # Errors
    /// As [`may_forget`](Self::may_forget).
    pub async fn forget(&self, point: &RestorePoint, by: &str, reason: &str) -> Result<()> {
        let shared = &self.shared;
        let record = TombstoneRecord {
            chain: point.chain,
            point: point.id,
            pruned_ms: shared.clock.now_ms(),
            by: by.into(),
            reason: reason.into(),
        };
        let key = tombstone_key(point.chain, point.id);
        let body = shared.seal_record(Kind::Tombstone, point.id.0, &[], &to_cbor(&record))?;
        let put = shared.put_new_in_need(&key, body);
        let keeper = move || shared.keeper(point);
        match bury(&*shared.destination, &key, put, keeper).await? {
            None => Ok(()),
            Some(keeper) => Err(kept(point, &keeper)),
        }
    }
}

/// Puts a tombstone at a place, unless something keeps its point; returns what does. All that put
/// tombstones do it here: look, put, look again.
pub(crate) async fn bury<F>(
    place: &dyn Destination,
    tombstone: &Key,
    put: impl Future<Output = sluice_destination::Result<()>>,
    keeper: impl Fn() -> F,
) -> Result<Option<Keeper>>
where
    F: Future<Output = Result<Option<Keeper>>>,
{
    if let Some(keeper) = keeper().await? {
        return Ok(Some(keeper));
    }
    // One that is there is our own after a lost answer, or another's who may have been killed
    // before the second look.
    let was_there = match put.await {
        Err(error) if error.kind() == DestinationKind::AlreadyExists => true,
        other => other.map(|()| false)?,
    };
    // Somebody may have protected it at the same moment.
    let again = keeper().await;
    let take_back = match &again {
        Ok(keeper) => keeper.is_some(),
        Err(_) => !was_there,
    };
    if take_back {
        place.delete(tombstone).await?;
    }
    again
}

fn kept(point: &RestorePoint, keeper: &Keeper) -> RepositoryError {
    let text = format!("{point} {} and cannot be removed", describe(keeper));
    RepositoryError::new(ErrorKind::Protected, text)
}

/// What a keeper is called, with the time it ends.
fn describe(keeper: &Keeper) -> String {
    match keeper {
        Keeper::Hold(None) => "is on hold".into(),
        Keeper::Hold(Some(reason)) => format!("is on hold ({reason})"),
        Keeper::Overlays(1) => "lies under an overlay".into(),
        Keeper::Overlays(count) => format!("lies under {count} overlays"),
        Keeper::Until(until) => format!("is under retention until {}", rfc3339(*until)),
        Keeper::Event(event, keep_ms) => format!(
            "is under retention until the event {event:?} happens, and {} days after it",
            keep_ms / 86_400_000
        ),
    }
}

impl Shared {
    /// What keeps a point from being pruned.
    async fn keeper(&self, point: &RestorePoint) -> Result<Option<Keeper>> {
        let known = self.protection_or_hold(point.chain, point.id).await?;
        let protection = known.as_ref().unwrap_or(&point.protection);
        Ok(protection.keeper(self.clock.now_ms()))
    }

    /// What was said of a point after its commit; nothing when nothing was.
    async fn protection(&self, chain: ChainId, point: PointId) -> Result<Option<Protection>> {
        self.protection_at(&*self.destination, chain, point).await
    }

    async fn protection_at(
        &self,
        place: &dyn Destination,
        chain: ChainId,
        point: PointId,
    ) -> Result<Option<Protection>> {
        let key = protection_key(chain, point);
        let bytes = match crate::bounded::get_small(place, &key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => return Ok(None),
            other => other?,
        };
        self.open_record(&key, Kind::Protection, point.0, &bytes)?;
        let plain: ProtectionPlain = Envelope::parse(&bytes)
            .and_then(|envelope| from_cbor(envelope.plain))
            .map_err(|error| parse_error(&key, error))?;
        if plain.chain != chain || plain.point != point {
            return Err(RepositoryError::damaged(&key, "it belongs to another point"));
        }
        Ok(Some(plain.protection))
    }

    /// The same, where a record that cannot be read counts as a hold.
    pub(crate) async fn protection_or_hold(
        &self,
        chain: ChainId,
        point: PointId,
    ) -> Result<Option<Protection>> {
        self.protection_or_hold_at(&*self.destination, chain, point).await
    }

    /// The same of what lies at a replica.
    pub(crate) async fn protection_or_hold_at(
        &self,
        place: &dyn Destination,
        chain: ChainId,
        point: PointId,
    ) -> Result<Option<Protection>> {
        match self.protection_at(place, chain, point).await {
            Err(error) if matches!(error.kind(), ErrorKind::Damaged | ErrorKind::NewerFormat) => {
                let reason = Some(format!("what keeps it cannot be read: {error}"));
                Ok(Some(Protection { hold: true, reason, ..Protection::default() }))
            }
            other => other,
        }
    }

    /// Brings points up to date with what was said of them after their commit.
    pub(crate) async fn protect_all(
        &self,
        chain: Option<ChainId>,
        points: &mut [RestorePoint],
    ) -> Result<()> {
        let prefix = chain.map_or_else(protections_prefix, chain_protections_prefix);
        let records = list_all(&*self.destination, &prefix).await?;
        let places = records.iter().filter_map(|record| parse_point_key(&record.key));
        let places: Vec<(ChainId, PointId)> = places.collect();
        let mut found: HashMap<(ChainId, PointId), Protection> = HashMap::new();
        let mut read = stream::iter(places)
            .map(|(chain, point)| async move {
                ((chain, point), self.protection_or_hold(chain, point).await)
            })
            .buffered(PARALLEL);
        while let Some((place, protection)) = read.next().await {
            if let Some(protection) = protection? {
                found.insert(place, protection);
            }
        }
        let now = self.clock.now_ms();
        for point in points {
            let committed = point.protection.clone();
            let protection = found.remove(&(point.chain, point.id)).unwrap_or(committed);
            point.protect(protection, now);
        }
        Ok(())
    }
}

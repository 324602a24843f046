//! Making the locks of points longer.

use std::sync::Arc;

use super::locker::{LockCounts, LockProgress, Locker};
use super::no_locks;
use super::status::{Reached, needs};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::id::commit_key;
use crate::format::lock::LockTerms;
use crate::points::{DamagedPoint, Listing, RestorePoint};
use crate::repository::Repository;

/// What extending all points came to.
#[derive(Debug, Default)]
pub struct ExtendReport {
    /// Restore points.
    pub points: u64,
    /// Packs they reference.
    pub packs: u64,
    /// Requests it took.
    pub counts: LockCounts,
    /// Points that could not be read: what only they reference is as it was.
    pub damaged: Vec<DamagedPoint>,
}

impl Repository {
    /// Makes the locks of all points last as if each had been backed up now. Only what points
    /// reference is locked for longer.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] when nothing is to be locked; or a lock cannot be extended.
    pub async fn extend_locks(
        &self,
        recheck: bool,
        progress: &LockProgress,
    ) -> Result<ExtendReport> {
        let Some((locker, terms)) = self.locker().await? else {
            let text =
                "nothing is to be locked in this repository; `sluice lock set` says how long";
            return Err(RepositoryError::new(ErrorKind::Invalid, text));
        };
        if !self.shared.locks_objects().await? {
            return Err(no_locks(&self.shared.destination.location()));
        }
        let listing = self.list(None).await?;
        let reached = self.reach(&locker, listing, progress).await?;
        self.extend(&locker, terms, reached, recheck, progress).await
    }

    /// The same for these points alone, where anything is to be locked: what keeps them may
    /// have changed.
    ///
    /// # Errors
    /// As [`Self::extend_locks`].
    pub async fn extend_locks_of(&self, points: Vec<RestorePoint>) -> Result<LockCounts> {
        let progress = LockProgress::default();
        let Some((locker, terms)) = self.locker().await? else { return Ok(progress.counts()) };
        let mut listing = Listing::default();
        for point in points {
            listing.points.push(self.with_protection(point).await?);
        }
        let reached = self.reach(&locker, listing, &progress).await?;
        Ok(self.extend(&locker, terms, reached, false, &progress).await?.counts)
    }

    /// What locks, where anything is to be locked.
    async fn locker(&self) -> Result<Option<(Arc<Locker>, LockTerms)>> {
        let now = self.shared.clock.now_ms();
        let record = self.shared.lock_record().await?;
        let terms = record.map_or(LockTerms::OFF, |record| record.at(now));
        Ok(Locker::new(&self.shared, terms).await?.map(|locker| (locker, terms)))
    }

    async fn extend(
        &self,
        locker: &Arc<Locker>,
        terms: LockTerms,
        reached: Reached,
        recheck: bool,
        progress: &LockProgress,
    ) -> Result<ExtendReport> {
        let shared = &self.shared;
        let now = shared.clock.now_ms();
        let Reached { points, damaged } = reached;
        let needs = needs(&points, terms, now);
        if recheck {
            locker.forget(&needs.keys().copied().collect());
        }
        let wanted: Vec<(u32, u64)> = needs.into_iter().collect();
        let extended = locker.ensure(shared, &wanted, progress).await;
        locker.save(shared).await?;
        extended?;
        let longest = points.iter().filter_map(|(point, _)| point.retain_until_ms).max();
        let needed = terms.needed_until(now, longest);
        let manifests = points.iter().map(|(point, _)| {
            (commit_key(point.chain, point.id), terms.needed_until(now, point.retain_until_ms))
        });
        let keys = shared.foundations().await?.into_iter().map(|key| (key, needed));
        locker.ensure_keys(shared, manifests.chain(keys), progress).await?;
        Ok(ExtendReport {
            points: points.len() as u64,
            packs: wanted.len() as u64,
            counts: progress.counts(),
            damaged,
        })
    }
}

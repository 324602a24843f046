//! What is locked until when, and making it longer for all points.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures::stream::{self, StreamExt, TryStreamExt};
use sluice_destination::{Key, Lock};

use super::locker::{LockCounts, LockProgress, Locker};
use super::{LockSetting, ms_of, time};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::id::commit_key;
use crate::format::lock::LockTerms;
use crate::points::{DamagedPoint, Listing, RestorePoint};
use crate::repository::{Repository, Shared};

/// Packs asked for their lock at once.
const PARALLEL: usize = 16;

/// A restore point and how long all it needs is locked.
#[derive(Debug, Clone)]
pub struct LockedPoint {
    /// The point.
    pub point: RestorePoint,
    /// The weakest lock among its manifest and packs; nothing when one of them has none.
    pub lock: Option<Lock>,
    /// Packs it references.
    pub packs: u64,
    /// Of these, and the manifest: objects that no lock keeps now.
    pub unlocked: u64,
    /// Of these, and the manifest: objects that are to be kept until the end of the time that
    /// the setting says, counted from the backup, and are not.
    pub short: u64,
}

impl LockedPoint {
    /// Until when the destination keeps all of the point, in ms since 1970; nothing when it can be
    /// removed now.
    pub fn until_ms(&self, now_ms: u64) -> Option<u64> {
        self.lock.map(|lock| ms_of(lock.until)).filter(|until| *until > now_ms)
    }
}

/// How the repository is locked.
#[derive(Debug, Default)]
pub struct LockStatus {
    /// The setting.
    pub setting: LockSetting,
    /// Whether the destination locks objects.
    pub supported: bool,
    /// Whether points are locked and no setting says so: somebody removed it.
    pub lost: bool,
    /// Every restore point, in the order of lists.
    pub points: Vec<LockedPoint>,
    /// Packs they reference.
    pub packs: u64,
    /// Points that could not be read.
    pub damaged: Vec<DamagedPoint>,
    /// Locks the next backup of every instance would make longer, should it change nothing.
    pub next_backup: u64,
    /// Locks that extending all points would make longer.
    pub next_extend: u64,
    /// Requests that finding out took.
    pub counts: LockCounts,
}

/// The points, and the packs each of them references.
pub(super) struct Reached {
    pub(super) points: Vec<(RestorePoint, BTreeSet<u32>)>,
    pub(super) damaged: Vec<DamagedPoint>,
}

impl Repository {
    /// How the repository is locked. `recheck` asks the destination also for locks that were seen
    /// before. Changes nothing.
    ///
    /// # Errors
    /// The destination fails.
    pub async fn lock_status(&self, recheck: bool, progress: &LockProgress) -> Result<LockStatus> {
        let shared = &self.shared;
        let setting = self.lock_setting().await?;
        if !shared.locks_objects().await? {
            return Ok(LockStatus { setting, ..LockStatus::default() });
        }
        let now = shared.clock.now_ms();
        let record = shared.lock_record().await?;
        let terms = record.as_ref().map_or(LockTerms::OFF, |record| record.at(now));
        let locker = Locker::always(shared, terms).await?;
        let listing = self.list(None).await?;
        let Reached { points, damaged } = self.reach(&locker, listing, progress).await?;
        let all: BTreeSet<u32> = points.iter().flat_map(|(_, packs)| packs).copied().collect();
        if recheck {
            locker.forget(&all);
        }
        locker.look(shared, &all, progress).await?;
        locker.save(shared).await?;
        let supported = true;
        let packs = all.len() as u64;
        let mut status = LockStatus { setting, supported, packs, damaged, ..LockStatus::default() };
        let needs = needs(&points, terms, now);
        let short = |packs: &BTreeMap<u32, u64>| {
            let seen = locker.seen.lock();
            packs.iter().filter(|(pack, at)| !locker.is_enough(seen.lock(**pack), **at)).count()
        };
        if !terms.is_off() {
            status.next_extend = short(&needs) as u64;
            let mut newest: BTreeMap<&str, &BTreeSet<u32>> = BTreeMap::new();
            newest.extend(points.iter().map(|(point, packs)| (point.instance.as_str(), packs)));
            let needed = terms.needed_until(now, None);
            let packs = newest.values().flat_map(|packs| packs.iter()).map(|pack| (*pack, needed));
            status.next_backup = short(&packs.collect()) as u64;
        }
        for (point, packs) in points {
            status.points.push(locker.describe(shared, point, &packs, terms).await?);
        }
        // One that was switched off leaves its record.
        status.lost = record.is_none() && status.points.iter().any(|one| one.lock.is_some());
        status.counts = progress.counts();
        Ok(status)
    }

    /// What every point references. A point whose map cannot be read is damaged.
    pub(super) async fn reach(
        &self,
        locker: &Arc<Locker>,
        listing: Listing,
        progress: &LockProgress,
    ) -> Result<Reached> {
        progress.all_points.store(listing.points.len() as u64, Ordering::Relaxed);
        let mut reached = Reached { points: Vec::new(), damaged: listing.damaged };
        for point in listing.points {
            match locker.packs_of(&self.shared, &point.images).await {
                Ok(packs) => reached.points.push((point, packs)),
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    let key = commit_key(point.chain, point.id);
                    reached.damaged.push(DamagedPoint { key, error });
                }
                Err(error) => return Err(error),
            }
            progress.points.fetch_add(1, Ordering::Relaxed);
        }
        Ok(reached)
    }
}

/// Until when each pack is needed.
pub(super) fn needs(
    points: &[(RestorePoint, BTreeSet<u32>)],
    terms: LockTerms,
    now_ms: u64,
) -> BTreeMap<u32, u64> {
    let mut needs = BTreeMap::new();
    for (point, packs) in points {
        let needed = terms.needed_until(now_ms, point.retain_until_ms);
        for pack in packs {
            let until = needs.entry(*pack).or_insert(needed);
            *until = needed.max(*until);
        }
    }
    needs
}

/// The lock that both have: the earlier end, the less strict mode.
fn weaker(one: Lock, other: Lock) -> Lock {
    Lock { mode: one.mode.min(other.mode), until: one.until.min(other.until) }
}

impl Locker {
    /// A locker also where nothing is to be locked, for looking at what is.
    async fn always(shared: &Arc<Shared>, terms: LockTerms) -> Result<Arc<Self>> {
        let some = LockTerms { mode: terms.mode.max(1), for_ms: terms.for_ms.max(1) };
        let made = Self::new(shared, some).await?;
        made.ok_or_else(|| RepositoryError::new(ErrorKind::Invalid, "nothing is locked"))
    }

    /// Asks for the locks that are not known.
    async fn look(
        &self,
        shared: &Arc<Shared>,
        packs: &BTreeSet<u32>,
        progress: &LockProgress,
    ) -> Result<()> {
        let now = shared.clock.now_ms();
        let unknown: Vec<u32> = {
            let seen = self.seen.lock();
            let over = |pack: &&u32| seen.lock(**pack).is_none_or(|lock| lock.until <= time(now));
            packs.iter().filter(over).copied().collect()
        };
        progress.total.fetch_add(unknown.len() as u64, Ordering::Relaxed);
        stream::iter(unknown)
            .map(|number| async move {
                let (kind, pack) = self.seen.lock().pack(number);
                let found = self.find(shared, kind, pack, progress).await?;
                self.seen.lock().set_lock(number, found.and_then(|(_, lock)| lock));
                progress.done.fetch_add(1, Ordering::Relaxed);
                Ok::<_, RepositoryError>(())
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    async fn describe(
        &self,
        shared: &Shared,
        point: RestorePoint,
        packs: &BTreeSet<u32>,
        terms: LockTerms,
    ) -> Result<LockedPoint> {
        let now_ms = shared.clock.now_ms();
        let owed = owed_until(&point, terms).filter(|until| *until > now_ms);
        let key: Key = commit_key(point.chain, point.id);
        let manifest = shared.lock_on(&key).await?;
        let seen = self.seen.lock();
        let locks = packs.iter().map(|pack| seen.lock(*pack)).chain([manifest]);
        let live = locks.map(|lock| lock.filter(|lock| lock.until > time(now_ms)));
        let (mut weakest, mut unlocked, mut short): (Option<Lock>, u64, u64) = (None, 0, 0);
        for lock in live {
            short += u64::from(owed.is_some_and(|until| !self.is_enough(lock, until)));
            match lock {
                Some(lock) => weakest = Some(weakest.map_or(lock, |known| weaker(known, lock))),
                None => unlocked += 1,
            }
        }
        let lock = weakest.filter(|_| unlocked == 0);
        Ok(LockedPoint { point, lock, packs: packs.len() as u64, unlocked, short })
    }
}

/// Until when a point should be locked; nothing where nothing is.
fn owed_until(point: &RestorePoint, terms: LockTerms) -> Option<u64> {
    (!terms.is_off()).then(|| terms.needed_until(point.created_ms, point.retain_until_ms))
}

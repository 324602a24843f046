//! Putting objects with locks, and making locks longer.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use sluice_destination::{DestinationError, ErrorKind as DestinationKind, Key, Lock};

use super::seen::Seen;
use super::{mode_of, time};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::id::{PackId, PackKind, pack_key};
use crate::format::lock::LockTerms;
use crate::format::manifest::ImageRecord;
use crate::repository::Shared;

/// Requests for locks under way at once.
const PARALLEL: usize = 16;

/// Requests that locks took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockCounts {
    /// Objects whose lock was asked for.
    pub asked: u64,
    /// Objects whose lock was made longer.
    pub extended: u64,
    /// Packs that are missing: damage, which a lock does not make worse.
    pub missing: u64,
}

/// Live counts of work on locks.
#[derive(Debug, Default)]
pub struct LockProgress {
    /// Restore points whose packs are known.
    pub points: AtomicU64,
    /// All restore points.
    pub all_points: AtomicU64,
    /// Objects that were looked at.
    pub done: AtomicU64,
    /// All objects to look at.
    pub total: AtomicU64,
    asked: AtomicU64,
    extended: AtomicU64,
    missing: AtomicU64,
}

impl LockProgress {
    /// The requests so far.
    pub fn counts(&self) -> LockCounts {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        LockCounts {
            asked: load(&self.asked),
            extended: load(&self.extended),
            missing: load(&self.missing),
        }
    }
}

fn add(count: &AtomicU64, more: u64) {
    count.fetch_add(more, Ordering::Relaxed);
}

/// Locks under given terms.
#[derive(Debug)]
pub(crate) struct Locker {
    pub(super) terms: LockTerms,
    pub(super) seen: Mutex<Seen>,
}

impl Locker {
    /// A locker; nothing when nothing is locked.
    pub(crate) async fn new(shared: &Arc<Shared>, terms: LockTerms) -> Result<Option<Arc<Self>>> {
        if terms.is_off() {
            return Ok(None);
        }
        let folder = shared.settings.cache_dir.as_ref();
        let path = folder.map(|folder| folder.join(shared.id.hex()).join("locks"));
        let seen = shared.pool.run(move || Seen::load(path)).await?;
        Ok(Some(Arc::new(Self { terms, seen: Mutex::new(seen) })))
    }

    /// Keeps what was seen for the next run.
    pub(super) async fn save(self: &Arc<Self>, shared: &Arc<Shared>) -> Result<()> {
        let (this, today) = (self.clone(), self.today(shared));
        shared.pool.run(move || this.seen.lock().save(today)).await
    }

    pub(super) fn today(&self, shared: &Shared) -> u16 {
        (shared.clock.now_ms() / 86_400_000) as u16
    }

    /// The lock given to what must be kept until `needed_ms`.
    pub(super) fn given(&self, needed_ms: u64) -> Lock {
        Lock { mode: mode_of(self.terms), until: time(LockTerms::given_until(needed_ms)) }
    }

    pub(super) fn is_enough(&self, lock: Option<Lock>, needed_ms: u64) -> bool {
        lock.is_some_and(|lock| lock.mode >= mode_of(self.terms) && lock.until >= time(needed_ms))
    }

    /// Puts a pack with a lock.
    pub(crate) async fn put_pack(
        &self,
        shared: &Shared,
        kind: PackKind,
        pack: PackId,
        bytes: Bytes,
    ) -> Result<(), DestinationError> {
        let lock = self.given(self.terms.needed_until(shared.clock.now_ms(), None));
        shared.destination.put_locked(&pack_key(kind, pack), bytes, false, &lock).await?;
        let mut seen = self.seen.lock();
        let number = seen.number(kind, pack);
        seen.set_lock(number, Some(lock));
        Ok(())
    }

    /// Puts a manifest with a lock, unless its key is taken.
    pub(crate) async fn put_manifest(
        &self,
        shared: &Shared,
        key: &Key,
        bytes: Bytes,
        retain_until_ms: Option<u64>,
    ) -> Result<(), DestinationError> {
        let needed = self.terms.needed_until(shared.clock.now_ms(), retain_until_ms);
        shared.destination.put_locked(key, bytes, true, &self.given(needed)).await
    }

    /// Makes sure that everything a new point references is locked as long as the point.
    ///
    /// # Errors
    /// What a pack's lock cannot be made to last: the point would not be protected.
    pub(crate) async fn cover(
        self: &Arc<Self>,
        shared: &Arc<Shared>,
        images: &[ImageRecord],
        retain_until_ms: Option<u64>,
    ) -> Result<LockCounts> {
        let needed = self.terms.needed_until(shared.clock.now_ms(), retain_until_ms);
        let progress = LockProgress::default();
        let packs = self.packs_of(shared, images).await?;
        let wanted: Vec<(u32, u64)> = packs.into_iter().map(|pack| (pack, needed)).collect();
        let covered = self.ensure(shared, &wanted, &progress).await;
        // Also after a failure: what was asked need not be asked again.
        self.save(shared).await?;
        covered?;
        let keys = shared.foundations().await?;
        self.ensure_keys(shared, keys.into_iter().map(|key| (key, needed)), &progress).await?;
        let counts = progress.counts();
        tracing::info!(?counts, "everything the point needs is locked");
        Ok(counts)
    }

    /// Makes sure that packs are locked until a time each.
    pub(super) async fn ensure(
        &self,
        shared: &Arc<Shared>,
        wanted: &[(u32, u64)],
        progress: &LockProgress,
    ) -> Result<()> {
        let due: Vec<(u32, u64)> = {
            let seen = self.seen.lock();
            let short = |(pack, needed): &&(u32, u64)| !self.is_enough(seen.lock(*pack), *needed);
            wanted.iter().filter(short).copied().collect()
        };
        add(&progress.total, due.len() as u64);
        stream::iter(due)
            .map(|(pack, needed)| self.ensure_pack(shared, pack, needed, progress))
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    async fn ensure_pack(
        &self,
        shared: &Arc<Shared>,
        number: u32,
        needed_ms: u64,
        progress: &LockProgress,
    ) -> Result<()> {
        let (kind, pack) = self.seen.lock().pack(number);
        let found = self.find(shared, kind, pack, progress).await?;
        let lock = match found {
            None => {
                tracing::warn!(%pack, "a pack is missing and cannot be locked");
                add(&progress.missing, 1);
                None
            }
            Some((key, lock)) => Some(self.extend(shared, &key, lock, needed_ms, progress).await?),
        };
        self.seen.lock().set_lock(number, lock);
        add(&progress.done, 1);
        Ok(())
    }

    /// The newest generation of a pack and its lock.
    pub(super) async fn find(
        &self,
        shared: &Shared,
        kind: PackKind,
        pack: PackId,
        progress: &LockProgress,
    ) -> Result<Option<(Key, Option<Lock>)>> {
        let mut key = pack_key(kind, pack);
        loop {
            add(&progress.asked, 1);
            match shared.destination.lock_of(&key).await {
                Ok(lock) => return Ok(Some((key, lock))),
                Err(error) if error.kind() == DestinationKind::NotFound => {}
                Err(error) => return Err(failed(&key, error)),
            }
            // A collection has compacted it; perhaps it does so right now.
            match shared.newest_generation(kind, pack).await? {
                Some(now) if now.key != key => key = now.key,
                _ => return Ok(None),
            }
        }
    }

    /// Makes a lock long enough, if it is not; the lock as it is then.
    async fn extend(
        &self,
        shared: &Shared,
        key: &Key,
        lock: Option<Lock>,
        needed_ms: u64,
        progress: &LockProgress,
    ) -> Result<Lock> {
        if let Some(lock) = lock.filter(|_| self.is_enough(lock, needed_ms)) {
            return Ok(lock);
        }
        let given = self.given(needed_ms);
        shared.destination.extend_lock(key, &given).await.map_err(|error| failed(key, error))?;
        add(&progress.extended, 1);
        Ok(lock.map_or(given, |lock| lock.and(given)))
    }

    /// The same for objects by key; those that are gone meanwhile are passed over.
    pub(super) async fn ensure_keys(
        &self,
        shared: &Shared,
        wanted: impl Iterator<Item = (Key, u64)>,
        progress: &LockProgress,
    ) -> Result<()> {
        let wanted: Vec<(Key, u64)> = wanted.collect();
        add(&progress.total, wanted.len() as u64);
        stream::iter(wanted)
            .map(|(key, needed)| async move {
                add(&progress.asked, 1);
                match shared.destination.lock_of(&key).await {
                    Err(error) if error.kind() == DestinationKind::NotFound => {}
                    Err(error) => return Err(failed(&key, error)),
                    Ok(lock) => {
                        self.extend(shared, &key, lock, needed, progress).await?;
                    }
                }
                add(&progress.done, 1);
                Ok(())
            })
            .buffer_unordered(PARALLEL)
            .try_collect()
            .await
    }

    /// Forgets the locks that were seen on these packs.
    pub(super) fn forget(&self, packs: &BTreeSet<u32>) {
        let mut seen = self.seen.lock();
        packs.iter().for_each(|pack| seen.set_lock(*pack, None));
    }
}

fn failed(key: &Key, error: DestinationError) -> RepositoryError {
    let kind = ErrorKind::Destination(error.kind());
    RepositoryError::caused(kind, format!("locking {key} failed"), error)
}

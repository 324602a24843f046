//! Asking the destination what it keeps.

use futures::stream::{self, StreamExt, TryStreamExt};
use sluice_destination::{ErrorKind as DestinationKind, Key, Lock, list_all};

use super::{ms_of, time};
use crate::error::Result;
use crate::format::id::{
    PackId, PackKind, commit_key, commits_prefix, descriptor_key, generation_key,
};
use crate::points::RestorePoint;
use crate::repository::{Repository, Shared};

/// Objects asked for their lock at once.
const PARALLEL: usize = 16;

impl Repository {
    /// Until when the destination keeps the last of these points' manifests, in ms since 1970;
    /// nothing when it keeps none of them. Their packs may be kept for longer, by later points.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn locked_until(&self, points: &[&RestorePoint]) -> Result<Option<u64>> {
        let keys = points.iter().map(|point| commit_key(point.chain, point.id)).collect();
        self.shared.last_lock(keys).await
    }
}

impl Shared {
    /// Whether the destination locks objects: it did when the repository was made, and a copy may
    /// be on another kind of store.
    pub(crate) async fn locks_objects(&self) -> Result<bool> {
        if !self.descriptor.capabilities.object_lock {
            return Ok(false);
        }
        match self.destination.lock_of(&descriptor_key()).await {
            Err(error) if error.kind() == DestinationKind::Unsupported => Ok(false),
            Err(error) if error.kind() == DestinationKind::NotFound => Ok(true),
            other => Ok(other.map(|_| true)?),
        }
    }

    /// The lock of an object; nothing where there is none, or no such object, or where the
    /// destination has no locks: a copy of the repository may be on another kind of store.
    pub(crate) async fn lock_on(&self, key: &Key) -> Result<Option<Lock>> {
        if !self.descriptor.capabilities.object_lock {
            return Ok(None);
        }
        match self.destination.lock_of(key).await {
            Err(error)
                if matches!(
                    error.kind(),
                    DestinationKind::NotFound | DestinationKind::Unsupported
                ) =>
            {
                Ok(None)
            }
            other => Ok(other?),
        }
    }

    /// The lock that keeps an object from being removed now.
    pub(crate) async fn live_lock(&self, key: &Key) -> Result<Option<Lock>> {
        let now = time(self.clock.now_ms());
        Ok(self.lock_on(key).await?.filter(|lock| lock.until > now))
    }

    /// The same for many objects, in their order.
    pub(crate) async fn live_locks(&self, keys: &[Key]) -> Result<Vec<Option<Lock>>> {
        if !self.descriptor.capabilities.object_lock {
            return Ok(vec![None; keys.len()]);
        }
        let asked = stream::iter(keys).map(|key| self.live_lock(key));
        asked.buffered(PARALLEL).try_collect().await
    }

    /// Locks the new object as the old one is. Does nothing where nothing is locked.
    pub(crate) async fn lock_like(&self, lock: Option<Lock>, new: &Key) -> Result<()> {
        match lock.filter(|lock| lock.until > time(self.clock.now_ms())) {
            Some(lock) => Ok(self.destination.extend_lock(new, &lock).await?),
            None => Ok(()),
        }
    }

    /// When the last of the locks on these objects ends, in ms since 1970.
    async fn last_lock(&self, keys: Vec<Key>) -> Result<Option<u64>> {
        let locks = self.live_locks(&keys).await?;
        Ok(locks.into_iter().flatten().map(|lock| ms_of(lock.until)).max())
    }

    /// When the last lock on what makes the repository readable ends: manifests, descriptor, key
    /// slots; with `packs`, on these as well, which is a question for each.
    pub(crate) async fn last_lock_of_all(&self, packs: bool) -> Result<Option<u64>> {
        if !self.descriptor.capabilities.object_lock {
            return Ok(None);
        }
        let mut keys = self.foundations().await?;
        let commits = commits_prefix();
        let prefixes: &[&str] = if packs { &[&commits, "d/", "m/"] } else { &[&commits] };
        for prefix in prefixes {
            let objects = list_all(&*self.destination, prefix).await?;
            keys.extend(objects.into_iter().map(|object| object.key));
        }
        self.last_lock(keys).await
    }

    /// Which of these packs have less of a lock than they were written with. Older ones than the
    /// setting, and those whose time has passed, have none to miss.
    pub(crate) async fn without_lock(&self, packs: &[(PackKind, PackId, u32)]) -> Result<Vec<Key>> {
        if !self.descriptor.capabilities.object_lock {
            return Ok(Vec::new());
        }
        let Some(record) = self.lock_record().await? else { return Ok(Vec::new()) };
        let now = self.clock.now_ms();
        let terms = record.at(now);
        let owed = |pack: &PackId| {
            let written = pack.session().begun_ms();
            written >= record.set_ms && written.saturating_add(terms.for_ms) > now
        };
        let keys: Vec<Key> = (packs.iter().filter(|(_, pack, _)| owed(pack)))
            .map(|(kind, pack, generation)| generation_key(*kind, *pack, *generation))
            .collect();
        let locks = self.live_locks(&keys).await?;
        Ok(keys.into_iter().zip(locks).filter(|(_, l)| l.is_none()).map(|(key, _)| key).collect())
    }
}

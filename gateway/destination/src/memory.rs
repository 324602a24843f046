//! The twin of a real store that lives in memory: for tests, and as the plainest reading of the
//! [`Destination`] contract.
//!
//! One map under one lock: every operation is atomic and takes effect when it returns.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::key::may_start_key;
use crate::lock::unsupported;
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, ListPage, Lock, ObjectMeta, Result,
    page_limit,
};

/// What an object takes at least, and a multiple of which it takes, where there is an end.
const UNIT: usize = 4096;

/// Objects in memory, gone with the process.
#[derive(Default)]
pub struct MemoryDestination {
    objects: Mutex<BTreeMap<Key, Object>>,
    has_locks: bool,
    /// How many blocks its objects may take.
    room: Option<usize>,
    /// Ms since 1970, when locks end by another clock than that of the machine.
    clock: Option<Arc<AtomicU64>>,
}

#[derive(Clone)]
struct Object {
    body: Bytes,
    lock: Option<Lock>,
}

impl Object {
    fn is_locked(&self, now: SystemTime) -> bool {
        self.lock.is_some_and(|lock| lock.until > now)
    }
}

impl MemoryDestination {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store with object lock: a locked object can be neither removed nor replaced.
    pub fn with_locks() -> Self {
        Self { has_locks: true, ..Self::default() }
    }

    /// The same with a clock of its own: ms since 1970, which a test moves by hand.
    pub fn with_locks_by(clock: Arc<AtomicU64>) -> Self {
        Self { clock: Some(clock), ..Self::with_locks() }
    }

    /// An empty store that can fill up, as a file system does: each object takes whole blocks of
    /// 4 KiB, and there are so many of them.
    pub fn with_room(blocks: usize) -> Self {
        Self { room: Some(blocks), ..Self::default() }
    }

    fn now(&self) -> SystemTime {
        match &self.clock {
            Some(clock) => {
                SystemTime::UNIX_EPOCH + Duration::from_millis(clock.load(Ordering::SeqCst))
            }
            #[expect(clippy::disallowed_methods, reason = "a lock ends at a time of a real clock")]
            None => SystemTime::now(),
        }
    }

    fn store(&self, key: &Key, create_only: bool, object: Object) -> Result<()> {
        let mut objects = self.objects.lock();
        if create_only && objects.contains_key(key) {
            let context = format!("memory: {key} exists already");
            return Err(DestinationError::new(ErrorKind::AlreadyExists, context));
        }
        if objects.get(key).is_some_and(|object| object.is_locked(self.now())) {
            return Err(locked(key));
        }
        if let Some(room) = self.room {
            let blocks = |body: &Bytes| body.len().div_ceil(UNIT).max(1);
            // As where an object is written beside the one that it replaces.
            let taken: usize = objects.values().map(|object| blocks(&object.body)).sum();
            if taken + blocks(&object.body) > room {
                let context = format!("memory: no room left to write {key}");
                return Err(DestinationError::new(ErrorKind::NoSpace, context));
            }
        }
        objects.insert(key.clone(), object);
        Ok(())
    }

    fn check_locks(&self, key: &Key) -> Result<()> {
        if self.has_locks { Ok(()) } else { Err(unsupported(key)) }
    }

    /// Number of objects, for tests that count them.
    pub fn len(&self) -> usize {
        self.objects.lock().len()
    }

    /// Whether nothing is stored.
    pub fn is_empty(&self) -> bool {
        self.objects.lock().is_empty()
    }
}

impl fmt::Debug for MemoryDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryDestination").field("objects", &self.len()).finish()
    }
}

fn missing(key: &Key) -> DestinationError {
    DestinationError::new(ErrorKind::NotFound, format!("memory: holds no object {key}"))
}

fn locked(key: &Key) -> DestinationError {
    DestinationError::new(ErrorKind::AccessDenied, format!("memory: {key} is locked"))
}

#[async_trait]
impl Destination for MemoryDestination {
    fn location(&self) -> String {
        "memory:".to_owned()
    }

    fn fills_up(&self) -> bool {
        self.room.is_some()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.store(key, true, Object { body, lock: None })
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.store(key, false, Object { body, lock: None })
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        let body = self.objects.lock().get(key).ok_or_else(|| missing(key))?.body.clone();
        let span = range.within(body.len() as u64).ok_or_else(|| range.invalid(key))?;
        // Both ends lie inside a body that is in memory, so they fit in usize.
        Ok(body.slice(span.start as usize..span.end as usize))
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let objects = self.objects.lock();
        let size = objects.get(key).ok_or_else(|| missing(key))?.body.len() as u64;
        Ok(ObjectMeta { key: key.clone(), size, modified: None })
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        if !may_start_key(prefix) {
            return Ok(ListPage::default());
        }
        let limit = page_limit(limit);
        let objects = self.objects.lock();
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut found = objects
            .range((from, Bound::Unbounded))
            .filter(|(key, _)| key.as_str().starts_with(prefix));
        let page = found
            .by_ref()
            .take(limit)
            .map(|(key, object)| ObjectMeta {
                key: key.clone(),
                size: object.body.len() as u64,
                modified: None,
            })
            .collect();
        Ok(ListPage { objects: page, more: found.next().is_some() })
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let mut objects = self.objects.lock();
        if objects.get(key).is_some_and(|object| object.is_locked(self.now())) {
            return Err(locked(key));
        }
        objects.remove(key);
        Ok(())
    }

    async fn put_locked(
        &self,
        key: &Key,
        body: Bytes,
        create_only: bool,
        lock: &Lock,
    ) -> Result<()> {
        self.check_locks(key)?;
        self.store(key, create_only, Object { body, lock: Some(*lock) })
    }

    async fn extend_lock(&self, key: &Key, lock: &Lock) -> Result<()> {
        self.check_locks(key)?;
        let mut objects = self.objects.lock();
        let object = objects.get_mut(key).ok_or_else(|| missing(key))?;
        object.lock = Some(object.lock.map_or(*lock, |kept| kept.and(*lock)));
        Ok(())
    }

    async fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        self.check_locks(key)?;
        Ok(self.objects.lock().get(key).ok_or_else(|| missing(key))?.lock)
    }

    async fn keeps_locks(&self, key: &Key, lock: &Lock) -> Result<bool> {
        if !self.has_locks {
            return Ok(false);
        }
        self.put_locked(key, Bytes::new(), false, lock).await?;
        let kept = self.delete(key).await.is_err();
        self.objects.lock().remove(key);
        Ok(kept)
    }
}

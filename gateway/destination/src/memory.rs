//! The twin of a real store that lives in memory: for tests, and as the plainest reading of the
//! [`Destination`] contract.
//!
//! One map under one lock: every operation is atomic and takes effect when it returns.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Bound;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::key::may_start_key;
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, ListPage, ObjectMeta, Result,
    page_limit,
};

/// Objects in memory, gone with the process.
#[derive(Default)]
pub struct MemoryDestination {
    objects: Mutex<BTreeMap<Key, Bytes>>,
}

impl MemoryDestination {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
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

#[async_trait]
impl Destination for MemoryDestination {
    fn location(&self) -> String {
        "memory:".to_owned()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        let mut objects = self.objects.lock();
        if objects.contains_key(key) {
            let context = format!("memory: {key} exists already");
            return Err(DestinationError::new(ErrorKind::AlreadyExists, context));
        }
        objects.insert(key.clone(), body);
        Ok(())
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.objects.lock().insert(key.clone(), body);
        Ok(())
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        let body = self.objects.lock().get(key).cloned().ok_or_else(|| missing(key))?;
        let span = range.within(body.len() as u64).ok_or_else(|| range.invalid(key))?;
        // Both ends lie inside a body that is in memory, so they fit in usize.
        Ok(body.slice(span.start as usize..span.end as usize))
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let objects = self.objects.lock();
        let size = objects.get(key).ok_or_else(|| missing(key))?.len() as u64;
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
            .map(|(key, body)| ObjectMeta {
                key: key.clone(),
                size: body.len() as u64,
                modified: None,
            })
            .collect();
        Ok(ListPage { objects: page, more: found.next().is_some() })
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.objects.lock().remove(key);
        Ok(())
    }
}

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::Repaired;
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, ListPage, Lock, ObjectMeta, Result,
    many,
};

/// Lets a bounded number of requests run at a time; the others wait in order.
#[derive(Debug)]
pub struct Limit {
    inner: Arc<dyn Destination>,
    places: Semaphore,
}

impl Limit {
    /// At most `requests` at a time, at least one.
    pub fn new(inner: Arc<dyn Destination>, requests: usize) -> Self {
        let places = requests.clamp(1, Semaphore::MAX_PERMITS);
        Self { inner, places: Semaphore::new(places) }
    }

    async fn place(&self) -> Result<SemaphorePermit<'_>> {
        self.places.acquire().await.map_err(|error| {
            DestinationError::caused(ErrorKind::Other, "the destination is shut down", error)
        })
    }
}

#[async_trait]
impl Destination for Limit {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        let _place = self.place().await?;
        self.inner.put_new(key, body).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        let _place = self.place().await?;
        self.inner.put(key, body).await
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        let _place = self.place().await?;
        self.inner.get(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let _place = self.place().await?;
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        let _place = self.place().await?;
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let _place = self.place().await?;
        self.inner.delete(key).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        let batch = async |keys: &[Key]| {
            let _place = self.place().await?;
            self.inner.delete_many(keys).await
        };
        let batches = keys.chunks(self.deletes_per_request().max(1));
        many::side_by_side(batches.map(batch).collect()).await
    }

    async fn put_locked(
        &self,
        key: &Key,
        body: Bytes,
        create_only: bool,
        lock: &Lock,
    ) -> Result<()> {
        let _place = self.place().await?;
        self.inner.put_locked(key, body, create_only, lock).await
    }

    async fn extend_lock(&self, key: &Key, lock: &Lock) -> Result<()> {
        let _place = self.place().await?;
        self.inner.extend_lock(key, lock).await
    }

    async fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        let _place = self.place().await?;
        self.inner.lock_of(key).await
    }

    async fn keeps_locks(&self, key: &Key, lock: &Lock) -> Result<bool> {
        let _place = self.place().await?;
        self.inner.keeps_locks(key, lock).await
    }

    fn deletes_per_request(&self) -> usize {
        self.inner.deletes_per_request()
    }

    fn creates_atomically(&self) -> bool {
        self.inner.creates_atomically()
    }

    fn arbitrated(&self) -> bool {
        self.inner.arbitrated()
    }

    async fn repair_copies(&self) -> Result<Repaired> {
        self.inner.repair_copies().await
    }

    async fn verifies_checksums(&self, key: &Key) -> Result<bool> {
        let _place = self.place().await?;
        self.inner.verifies_checksums(key).await
    }
}

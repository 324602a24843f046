use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sluice_destination::wrap::Repaired;
use sluice_destination::{ByteRange, Destination, Key, ListPage, Lock, ObjectMeta, Result};

use super::{Progress, Throttle};

/// A destination whose bodies keep to a rate, in both directions.
#[derive(Debug)]
pub struct Throttled {
    inner: Arc<dyn Destination>,
    throttle: Arc<Throttle>,
    progress: Arc<Progress>,
}

impl Throttled {
    /// Bodies to and from `inner` wait for `throttle`, until `progress` is stopped.
    pub fn new(
        inner: Arc<dyn Destination>,
        throttle: Arc<Throttle>,
        progress: Arc<Progress>,
    ) -> Self {
        Self { inner, throttle, progress }
    }

    async fn take(&self, bytes: usize) {
        self.throttle.take(bytes as u64, || self.progress.is_stopped()).await;
    }
}

#[async_trait]
impl Destination for Throttled {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.take(body.len()).await;
        self.inner.put_new(key, body).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.take(body.len()).await;
        self.inner.put(key, body).await
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        // How long it is shows when it is here; the next one waits for it.
        let body = self.inner.get(key, range).await?;
        self.take(body.len()).await;
        Ok(body)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.inner.head(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        self.inner.delete_many(keys).await
    }

    async fn put_locked(
        &self,
        key: &Key,
        body: Bytes,
        create_only: bool,
        lock: &Lock,
    ) -> Result<()> {
        self.take(body.len()).await;
        self.inner.put_locked(key, body, create_only, lock).await
    }

    async fn extend_lock(&self, key: &Key, lock: &Lock) -> Result<()> {
        self.inner.extend_lock(key, lock).await
    }

    async fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        self.inner.lock_of(key).await
    }

    async fn keeps_locks(&self, key: &Key, lock: &Lock) -> Result<bool> {
        self.inner.keeps_locks(key, lock).await
    }

    async fn repair_copies(&self) -> Result<Repaired> {
        self.inner.repair_copies().await
    }

    fn deletes_per_request(&self) -> usize {
        self.inner.deletes_per_request()
    }

    fn creates_atomically(&self) -> bool {
        self.inner.creates_atomically()
    }

    fn fills_up(&self) -> bool {
        self.inner.fills_up()
    }

    fn arbitrated(&self) -> bool {
        self.inner.arbitrated()
    }

    async fn verifies_checksums(&self, key: &Key) -> Result<bool> {
        self.inner.verifies_checksums(key).await
    }
}

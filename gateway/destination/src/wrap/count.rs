use std::iter::Sum;
use std::ops::{Add, Sub};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::Repaired;
use crate::{ByteRange, Destination, Key, ListPage, Lock, ObjectMeta, Result};

/// Counts the requests to a destination and the bytes of their bodies.
#[derive(Debug)]
pub struct Count {
    inner: Arc<dyn Destination>,
    counters: Arc<Counters>,
}

impl Count {
    /// Counts what goes to `inner`.
    pub fn new(inner: Arc<dyn Destination>) -> Self {
        Self::into(inner, Arc::default())
    }

    /// Counts what goes to `inner` beside what others count.
    pub fn into(inner: Arc<dyn Destination>, counters: Arc<Counters>) -> Self {
        Self { inner, counters }
    }

    /// The counters, which can be read while requests run.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }
}

/// Counters of one destination, counting up from its opening.
#[derive(Debug, Default)]
pub struct Counters {
    put: Counter,
    get: Counter,
    head: Counter,
    list: Counter,
    delete: Counter,
}

#[derive(Debug, Default)]
struct Counter {
    requests: AtomicU64,
    failures: AtomicU64,
    bytes: AtomicU64,
}

impl Counter {
    /// Counts a finished request, which moved `bytes` when it succeeded.
    fn record<T>(&self, outcome: &Result<T>, bytes: impl FnOnce(&T) -> usize) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(value) => self.bytes.fetch_add(bytes(value) as u64, Ordering::Relaxed),
            Err(_) => self.failures.fetch_add(1, Ordering::Relaxed),
        };
    }

    /// Counts finished requests without bodies that have one outcome.
    fn record_many(&self, requests: u64, outcome: &Result<()>) {
        self.requests.fetch_add(requests, Ordering::Relaxed);
        self.failures.fetch_add(u64::from(outcome.is_err()), Ordering::Relaxed);
    }

    fn read(&self) -> OperationCount {
        OperationCount {
            requests: self.requests.load(Ordering::Relaxed),
            failures: self.failures.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

impl Counters {
    /// The counts now. Requests are counted when they end.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            put: self.put.read(),
            get: self.get.read(),
            head: self.head.read(),
            list: self.list.read(),
            delete: self.delete.read(),
        }
    }
}

/// Requests of one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OperationCount {
    /// Requests that ended, well or not.
    pub requests: u64,
    /// Requests that failed, also with an expected answer such as "not found".
    pub failures: u64,
    /// Bytes of object bodies that were moved by requests that succeeded.
    pub bytes: u64,
}

impl Add for OperationCount {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            failures: self.failures + other.failures,
            bytes: self.bytes + other.bytes,
        }
    }
}

impl Sub for OperationCount {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(earlier.requests),
            failures: self.failures.saturating_sub(earlier.failures),
            bytes: self.bytes.saturating_sub(earlier.bytes),
        }
    }
}

/// The counts of a destination at one moment, or the difference of two moments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Puts, conditional or not, and changes of locks.
    pub put: OperationCount,
    /// Gets, whole or of ranges.
    pub get: OperationCount,
    /// Questions for an object's size or lock.
    pub head: OperationCount,
    /// Pages of listings.
    pub list: OperationCount,
    /// Removals.
    pub delete: OperationCount,
}

impl Snapshot {
    /// Requests of all kinds.
    pub fn requests(&self) -> u64 {
        [self.put, self.get, self.head, self.list, self.delete].iter().map(|c| c.requests).sum()
    }
}

impl Add for Snapshot {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            put: self.put + other.put,
            get: self.get + other.get,
            head: self.head + other.head,
            list: self.list + other.list,
            delete: self.delete + other.delete,
        }
    }
}

impl Sum for Snapshot {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

impl Sub for Snapshot {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            put: self.put - earlier.put,
            get: self.get - earlier.get,
            head: self.head - earlier.head,
            list: self.list - earlier.list,
            delete: self.delete - earlier.delete,
        }
    }
}

#[async_trait]
impl Destination for Count {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        let length = body.len();
        let outcome = self.inner.put_new(key, body).await;
        self.counters.put.record(&outcome, |()| length);
        outcome
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        let length = body.len();
        let outcome = self.inner.put(key, body).await;
        self.counters.put.record(&outcome, |()| length);
        outcome
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        let outcome = self.inner.get(key, range).await;
        self.counters.get.record(&outcome, Bytes::len);
        outcome
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let outcome = self.inner.head(key).await;
        self.counters.head.record(&outcome, |_| 0);
        outcome
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        let outcome = self.inner.list(prefix, after, limit).await;
        self.counters.list.record(&outcome, |_| 0);
        outcome
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let outcome = self.inner.delete(key).await;
        self.counters.delete.record(&outcome, |()| 0);
        outcome
    }

    /// Counts as many requests as it takes; a failure is one.
    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        let outcome = self.inner.delete_many(keys).await;
        let requests = keys.len().div_ceil(self.inner.deletes_per_request().max(1));
        self.counters.delete.record_many(requests as u64, &outcome);
        outcome
    }

    async fn put_locked(
        &self,
        key: &Key,
        body: Bytes,
        create_only: bool,
        lock: &Lock,
    ) -> Result<()> {
        let length = body.len();
        let outcome = self.inner.put_locked(key, body, create_only, lock).await;
        self.counters.put.record(&outcome, |()| length);
        outcome
    }

    async fn extend_lock(&self, key: &Key, lock: &Lock) -> Result<()> {
        let outcome = self.inner.extend_lock(key, lock).await;
        self.counters.put.record(&outcome, |()| 0);
        outcome
    }

    async fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        let outcome = self.inner.lock_of(key).await;
        self.counters.head.record(&outcome, |_| 0);
        outcome
    }

    async fn keeps_locks(&self, key: &Key, lock: &Lock) -> Result<bool> {
        let outcome = self.inner.keeps_locks(key, lock).await;
        self.counters.put.record(&outcome, |_| 0);
        outcome
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

    async fn repair_copies(&self) -> Result<Repaired> {
        self.inner.repair_copies().await
    }

    async fn verifies_checksums(&self, key: &Key) -> Result<bool> {
        let outcome = self.inner.verifies_checksums(key).await;
        self.counters.put.record(&outcome, |_| 0);
        outcome
    }
}

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::Instant;

use super::Repaired;
use crate::{ByteRange, Destination, DestinationError, Key, ListPage, Lock, ObjectMeta, Result};

/// How often and how long a failed request is repeated.
///
/// Before attempt `n + 1` passes a random time of up to `base * 2^n`, and never more than `cap`:
/// full jitter, so that many clients of a recovering store do not come back all at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all; one means no retry.
    pub attempts: u32,
    /// Bound of the first wait.
    pub base: Duration,
    /// Bound of every wait.
    pub cap: Duration,
    /// No attempt starts later than this after the first one.
    pub total: Duration,
}

impl Default for RetryPolicy {
    /// Ten attempts in five minutes: enough for a store that restarts.
    fn default() -> Self {
        Self {
            attempts: 10,
            base: Duration::from_millis(200),
            cap: Duration::from_secs(20),
            total: Duration::from_secs(300),
        }
    }
}

impl RetryPolicy {
    /// No retry at all.
    pub const NEVER: Self =
        Self { attempts: 1, base: Duration::ZERO, cap: Duration::ZERO, total: Duration::ZERO };

    /// As often as it takes for so long, whatever the number of attempts.
    pub fn within(total: Duration) -> Self {
        let usual = Self::default();
        // Waits that do not fit into the time would only prolong it.
        let cap = usual.cap.min(total.max(Duration::from_millis(10)));
        Self { attempts: u32::MAX, total, cap, ..usual }
    }

    fn wait_after(&self, attempt: u32) -> Duration {
        let doubled = self.base.saturating_mul(2u32.saturating_pow(attempt - 1));
        doubled.min(self.cap).mul_f64(rand::random())
    }
}

/// Repeats requests that may succeed when repeated.
///
/// A put_new whose answer was lost may have succeeded; its repetition then finds the key taken,
/// by ourselves. That [`AlreadyExists`](crate::ErrorKind::AlreadyExists) is passed on as it is:
/// only the caller can tell its own object from another's, by reading it back.
#[derive(Debug)]
pub struct Retry {
    inner: Arc<dyn Destination>,
    policy: RetryPolicy,
}

impl Retry {
    /// Repeats the requests to `inner` as `policy` says.
    pub fn new(inner: Arc<dyn Destination>, policy: RetryPolicy) -> Self {
        Self { inner, policy }
    }

    async fn run<T, Fut>(&self, what: &'static str, call: impl Fn() -> Fut) -> Result<T>
    where
        Fut: Future<Output = Result<T>>,
    {
        let started = Instant::now();
        let mut attempt = 1;
        loop {
            let error = match call().await {
                Err(error) if error.is_retryable() => error,
                outcome => return outcome,
            };
            let wait = self.policy.wait_after(attempt);
            if attempt >= self.policy.attempts || started.elapsed() + wait > self.policy.total {
                return Err(error);
            }
            report(what, &error, attempt, wait);
            tokio::time::sleep(wait).await;
            attempt += 1;
        }
    }
}

fn report(what: &str, error: &DestinationError, attempt: u32, wait: Duration) {
    let reason = error as &dyn std::error::Error;
    tracing::warn!(reason, attempt, ?wait, "{what} is repeated");
}

#[async_trait]
impl Destination for Retry {
    fn location(&self) -> String {
        self.inner.location()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.run("put", || self.inner.put_new(key, body.clone())).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.run("put", || self.inner.put(key, body.clone())).await
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        self.run("get", || self.inner.get(key, range)).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.run("head", || self.inner.head(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        self.run("list", || self.inner.list(prefix, after, limit)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.run("delete", || self.inner.delete(key)).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        self.run("delete", || self.inner.delete_many(keys)).await
    }

    async fn put_locked(
        &self,
        key: &Key,
        body: Bytes,
        create_only: bool,
        lock: &Lock,
    ) -> Result<()> {
        let put = || self.inner.put_locked(key, body.clone(), create_only, lock);
        self.run("put", put).await
    }

    async fn extend_lock(&self, key: &Key, lock: &Lock) -> Result<()> {
        self.run("lock", || self.inner.extend_lock(key, lock)).await
    }

    async fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        self.run("lock question", || self.inner.lock_of(key)).await
    }

    async fn keeps_locks(&self, key: &Key, lock: &Lock) -> Result<bool> {
        self.run("lock probe", || self.inner.keeps_locks(key, lock)).await
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
        self.run("checksum probe", || self.inner.verifies_checksums(key)).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::ErrorKind;
    use crate::memory::MemoryDestination;

    /// Attempts until the one of this number, which succeeds.
    async fn attempts(policy: RetryPolicy, number: u32) -> Result<u32> {
        let made = AtomicU32::new(0);
        let retry = Retry::new(Arc::new(MemoryDestination::new()), policy);
        let call = || async {
            match made.fetch_add(1, Ordering::Relaxed) + 1 {
                now if now == number => Ok(now),
                _ => Err(DestinationError::new(ErrorKind::Unavailable, "away")),
            }
        };
        retry.run("test", call).await
    }

    #[tokio::test]
    async fn within_a_time_the_number_of_attempts_does_not_count() {
        let quick = Duration::from_millis(1);
        let within = RetryPolicy::within(Duration::from_secs(600));
        let patient = RetryPolicy { base: quick, cap: quick, ..within };
        assert_eq!(attempts(patient, 40).await.unwrap(), 40);
        let counted = RetryPolicy { attempts: 10, ..patient };
        assert_eq!(attempts(counted, 40).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }

    #[tokio::test]
    async fn without_time_there_is_one_attempt() {
        let error = attempts(RetryPolicy::within(Duration::ZERO), 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable);
    }
}

//! Object lock: objects that the server itself keeps until a time.
//!
//! Servers exist that take the headers of a lock and keep nothing, so that
//! [`keeps_locks`](crate::Destination::keeps_locks) tries to remove the locked version itself.

use std::time::{Duration, SystemTime};

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode};
use bytes::Bytes;

use super::error::translate;
use super::{Put, S3Destination, time};
use crate::{DestinationError, ErrorKind, Key, Lock, LockMode, Result};

/// What servers call a bucket whose objects cannot be locked.
const NO_LOCKS: [&str; 4] = [
    "InvalidRequest",
    "InvalidBucketState",
    "ObjectLockConfigurationNotFoundError",
    "NotImplemented",
];

/// What servers call an object without a lock, in a bucket that has locks.
const NO_LOCK: [&str; 2] =
    ["NoSuchObjectLockConfiguration", "ObjectLockConfigurationNotFoundError"];

/// How often the version of a probe is tried to be removed after its lock has run out.
const REMOVALS: u32 = 3;

impl S3Destination {
    /// Puts an object with a lock; the id of its version, where the server tells.
    pub(super) async fn put_with_lock(
        &self,
        key: &Key,
        body: Bytes,
        create_only: bool,
        lock: &Lock,
    ) -> Result<Option<String>> {
        let lock = lock.whole_seconds();
        let put = Put { create_only, lock: Some(lock) };
        let version = self.send_put(key, body, put).await;
        version.map_err(|error| match error.kind() {
            ErrorKind::Unfit | ErrorKind::Other => {
                let context = format!(
                    "{}: the bucket does not lock objects; use one that was made with object lock",
                    self.subject("lock", key.as_str())
                );
                DestinationError::caused(ErrorKind::Unsupported, context, error)
            }
            _ => error,
        })
    }

    pub(super) async fn put_retention(&self, key: &Key, lock: &Lock) -> Result<()> {
        let subject = self.subject("lock", key.as_str());
        let wanted = match self.retention(key).await? {
            Some(kept) => lock.whole_seconds().and(kept),
            None => lock.whole_seconds(),
        };
        let mode = match wanted.mode {
            LockMode::Governance => ObjectLockRetentionMode::Governance,
            LockMode::Compliance => ObjectLockRetentionMode::Compliance,
        };
        let retention = ObjectLockRetention::builder()
            .mode(mode)
            .retain_until_date(DateTime::from(wanted.until))
            .build();
        let request = self
            .client
            .put_object_retention()
            .bucket(&self.config.bucket)
            .key(self.name(key.as_str()))
            .retention(retention)
            .send();
        let request = async {
            request.await.map(drop).map_err(|error| match code(&error) {
                code if NO_LOCKS.contains(&code.as_str()) => {
                    unsupported(&subject, translate(&subject, error))
                }
                _ => translate(&subject, error),
            })
        };
        self.within(&subject, 0, request).await
    }

    pub(super) async fn retention(&self, key: &Key) -> Result<Option<Lock>> {
        let subject = self.subject("get the lock of", key.as_str());
        let request = self
            .client
            .get_object_retention()
            .bucket(&self.config.bucket)
            .key(self.name(key.as_str()))
            .send();
        let request = async {
            match request.await {
                Ok(answer) => Ok(answer.retention),
                Err(error) => match code(&error).as_str() {
                    code if NO_LOCK.contains(&code) => Ok(None),
                    code if NO_LOCKS.contains(&code) => {
                        Err(unsupported(&subject, translate(&subject, error)))
                    }
                    _ => Err(translate(&subject, error)),
                },
            }
        };
        let Some(found) = self.within(&subject, 0, request).await? else { return Ok(None) };
        let Some(until) = found.retain_until_date().and_then(time) else { return Ok(None) };
        let mode = match found.mode() {
            Some(ObjectLockRetentionMode::Compliance) => LockMode::Compliance,
            _ => LockMode::Governance,
        };
        Ok(Some(Lock { mode, until }))
    }

    /// Puts a locked object, tries to remove its version, and removes it in the end.
    pub(super) async fn try_lock(&self, key: &Key, lock: &Lock) -> Result<bool> {
        let body = Bytes::from_static(b"locked");
        let version = match self.put_with_lock(key, body, false, lock).await {
            Ok(version) => version,
            // Credentials that may not lock have no locks to use.
            Err(error)
                if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::AccessDenied) =>
            {
                return Ok(false);
            }
            Err(error) => return Err(error),
        };
        // Without versions there is nothing a lock could keep: the object can be replaced.
        let Some(version) = version.filter(|version| version != "null") else {
            self.remove(key, None, false).await?;
            return Ok(false);
        };
        let kept = matches!(self.retention(key).await, Ok(Some(kept)) if kept.until >= lock.until);
        let refused = match self.remove(key, Some(&version), false).await {
            Ok(()) => false,
            Err(error) if error.is_retryable() => return Err(error),
            Err(_) => true,
        };
        if refused {
            self.remove_when_unlocked(key, &version, lock).await?;
        }
        Ok(kept && refused)
    }

    /// Removes a version at once where these credentials may, else when its lock has run out.
    /// Credentials that may remove no version at all, which is wise of them, hide it.
    async fn remove_when_unlocked(&self, key: &Key, version: &str, lock: &Lock) -> Result<()> {
        if self.remove(key, Some(version), true).await.is_ok() {
            return Ok(());
        }
        #[expect(clippy::disallowed_methods, reason = "a lock ends at a time of the real clock")]
        let now = SystemTime::now();
        // By the store's clock it ends at another time, but no later than what was meant.
        let left = lock.until.duration_since(now).unwrap_or_default().min(Duration::from_secs(10));
        tokio::time::sleep(left).await;
        for _ in 0..REMOVALS {
            tokio::time::sleep(Duration::from_secs(1)).await;
            if self.remove(key, Some(version), false).await.is_ok() {
                return Ok(());
            }
        }
        self.remove(key, None, false).await
    }

    async fn remove(&self, key: &Key, version: Option<&str>, bypass: bool) -> Result<()> {
        let subject = self.subject("delete a version of", key.as_str());
        let request = self
            .client
            .delete_object()
            .bucket(&self.config.bucket)
            .key(self.name(key.as_str()))
            .set_version_id(version.map(str::to_owned))
            .set_bypass_governance_retention(bypass.then_some(true))
            .send();
        let request = async { request.await.map(drop).map_err(|error| translate(&subject, error)) };
        self.within(&subject, 0, request).await
    }
}

/// The mode as a put has it.
pub(super) fn put_mode(mode: LockMode) -> ObjectLockMode {
    match mode {
        LockMode::Governance => ObjectLockMode::Governance,
        LockMode::Compliance => ObjectLockMode::Compliance,
    }
}

fn code<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> String {
    error.code().unwrap_or_default().to_owned()
}

fn unsupported(subject: &str, error: DestinationError) -> DestinationError {
    let context = format!("{subject}: the bucket does not lock objects");
    DestinationError::caused(ErrorKind::Unsupported, context, error)
}

//! Locks of a pair: they count on the store, where everything lies that brings a repository back.
//! The arbiter need have none, for it can be made anew from the copies.

use bytes::Bytes;

use super::mirror::warn;
use super::{Arbiter, is_mirrored};
use crate::{ErrorKind, Key, Lock, Result};

impl Arbiter {
    /// Puts an object, and its copy with the lock. A copy that fails is a warning as ever; that it
    /// has no lock shows when it is asked for.
    pub(super) async fn put_with_lock(
        &self,
        key: &Key,
        body: Bytes,
        create_only: bool,
        lock: &Lock,
    ) -> Result<()> {
        if !is_mirrored(key) {
            return self.home(key).put_locked(key, body, create_only, lock).await;
        }
        let put = match create_only {
            true => self.arbiter.put_new(key, body.clone()).await,
            false => self.arbiter.put(key, body.clone()).await,
        };
        let copied = match &put {
            Ok(()) => self.store.put_locked(key, body, false, lock).await,
            // Perhaps by ourselves, and the answer was lost: then the copy is missing, too.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                self.catch_up(key).await;
                Ok(())
            }
            Err(_) => Ok(()),
        };
        if let Err(error) = copied {
            warn("locked copy", key, &error);
        }
        put
    }

    /// Locks an object, or its copy, which is made when it is missing.
    pub(super) async fn lock_longer(&self, key: &Key, lock: &Lock) -> Result<()> {
        if !is_mirrored(key) {
            return self.home(key).extend_lock(key, lock).await;
        }
        match self.store.extend_lock(key, lock).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.arbiter.head(key).await?;
                self.catch_up(key).await;
                self.store.extend_lock(key, lock).await
            }
            other => other,
        }
    }

    /// The lock of an object or its copy; one whose copy is missing has none.
    pub(super) async fn lock_there(&self, key: &Key) -> Result<Option<Lock>> {
        if !is_mirrored(key) {
            return self.home(key).lock_of(key).await;
        }
        match self.store.lock_of(key).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.arbiter.head(key).await.map(|_| None)
            }
            other => other,
        }
    }
}

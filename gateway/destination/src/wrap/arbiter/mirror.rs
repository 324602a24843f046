//! Copies on the store of what the arbiter decided.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Arbiter, DESCRIPTOR, MIRRORED, is_mirrored};
use crate::{ByteRange, Destination, DestinationError, ErrorKind, Key, Result, list_all};

/// What [`Arbiter::repair_mirror`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Objects that were missing on the store, or of another size, and have been copied.
    pub copied: u64,
    /// Copies of what the arbiter does not have any more, which have been removed.
    pub removed: u64,
}

impl Arbiter {
    /// Makes the store's copies those of the arbiter's objects: what a failed copy left out is
    /// copied now, what a failed removal left behind is removed.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when the arbiter holds no repository, or another one: then
    /// the copies may be all there is, and stay. What the store or the arbiter report.
    pub async fn repair_mirror(&self) -> Result<Repaired> {
        let mut repaired = Repaired::default();
        let descriptor = Key::new(DESCRIPTOR)?;
        let body = match self.get(&descriptor, ByteRange::Full).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let context = format!("{} holds no repository", self.arbiter.location());
                return Err(DestinationError::caused(ErrorKind::InvalidConfig, context, error));
            }
            outcome => outcome?,
        };
        for prefix in MIRRORED {
            let truth = sizes(&*self.arbiter, prefix).await?;
            let copies = sizes(&*self.store, prefix).await?;
            for key in truth.iter().filter(|(key, size)| copies.get(key) != Some(size)) {
                let body = self.arbiter.get(key.0, ByteRange::Full).await?;
                self.store.put(key.0, body).await?;
                repaired.copied += 1;
            }
            let gone: Vec<_> = copies.into_keys().filter(|key| !truth.contains_key(key)).collect();
            self.store.delete_many(&gone).await?;
            repaired.removed += gone.len() as u64;
        }
        // Last, as when a repository is made: a store with it holds all the rest.
        if is_missing(&*self.store, &descriptor).await? {
            self.store.put(&descriptor, body).await?;
            repaired.copied += 1;
        }
        Ok(repaired)
    }

    /// Copies an object to the store; a failure is a warning.
    pub(super) async fn copy(&self, key: &Key, body: Bytes) {
        if let Err(error) = self.store.put(key, body).await {
            warn("copy", key, &error);
        }
    }

    /// Copies an object that the arbiter has and the store may not have.
    pub(super) async fn catch_up(&self, key: &Key) {
        let caught_up = async {
            if is_missing(&*self.store, key).await? {
                let body = self.arbiter.get(key, ByteRange::Full).await?;
                self.store.put(key, body).await?;
            }
            Ok(())
        };
        if let Err(error) = caught_up.await {
            warn("copy", key, &error);
        }
    }

    /// Removes copies; a failure is a warning.
    pub(super) async fn delete_copies(&self, keys: &[Key]) {
        let copies: Vec<_> = keys.iter().filter(|key| is_mirrored(key)).cloned().collect();
        if let (Some(first), Err(error)) = (copies.first(), self.store.delete_many(&copies).await) {
            warn("removal", first, &error);
        }
    }
}

async fn is_missing(destination: &dyn Destination, key: &Key) -> Result<bool> {
    match destination.head(key).await {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(error),
    }
}

async fn sizes(destination: &dyn Destination, prefix: &str) -> Result<BTreeMap<Key, u64>> {
    let objects = list_all(destination, prefix).await?;
    Ok(objects.into_iter().map(|object| (object.key, object.size)).collect())
}

fn warn(what: &str, key: &Key, error: &DestinationError) {
    let reason = error as &dyn std::error::Error;
    tracing::warn!(%key, reason, "the store lacks a {what} of what the arbiter decided");
}

//! Copies on the store of what the arbiter decided.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Arbiter, DESCRIPTOR, MIRRORED, is_mirrored};
use crate::{ByteRange, Destination, DestinationError, ErrorKind, Key, Result, list_all};

/// What [`Arbiter::repair_mirror`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Objects that were missing on the store, or not the same, and have been copied.
    pub copied: u64,
    /// Copies of what the arbiter does not have any more, which have been removed.
    pub removed: u64,
}

/// What is put once and never replaced, and may be many objects: their sizes tell enough.
const FINAL: [&str; 2] = ["r/", "t/"];

/// How often an object is copied that changes meanwhile.
const ATTEMPTS: usize = 8;

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
        if let Err(error) = self.get(&descriptor, ByteRange::Full).await {
            if error.kind() != ErrorKind::NotFound {
                return Err(error);
            }
            let context = format!("{} holds no repository", self.arbiter.location());
            return Err(DestinationError::caused(ErrorKind::InvalidConfig, context, error));
        }
        for prefix in MIRRORED {
            // In this order: what is decided between the two is no copy that is left over.
            let copies = sizes(&*self.store, prefix).await?;
            let truth = sizes(&*self.arbiter, prefix).await?;
            for (key, size) in &truth {
                if copies.get(key) != Some(size) || !self.is_same(key).await? {
                    repaired.copied += u64::from(self.copy_again(key).await?);
                }
            }
            let gone: Vec<_> = copies.into_keys().filter(|key| !truth.contains_key(key)).collect();
            self.store.delete_many(&gone).await?;
            repaired.removed += gone.len() as u64;
            for key in &gone {
                // Somebody may have put it meanwhile.
                if !is_missing(&*self.arbiter, key).await? {
                    self.copy_again(key).await?;
                }
            }
        }
        // Last, as when a repository is made: a store with it holds all the rest.
        if !self.is_same(&descriptor).await? {
            repaired.copied += u64::from(self.copy_again(&descriptor).await?);
        }
        Ok(repaired)
    }

    /// Whether an object and its copy, which is of the same size, are the same. Those that are
    /// replaced can differ: the copy of the last change may have failed.
    async fn is_same(&self, key: &Key) -> Result<bool> {
        if FINAL.iter().any(|prefix| key.as_str().starts_with(prefix)) {
            return Ok(true);
        }
        let copy = get_if_there(&*self.store, key).await?;
        Ok(copy == get_if_there(&*self.arbiter, key).await?)
    }

    /// Copies an object until the copy is what the arbiter has, also after it was copied: others
    /// may replace or remove it at the same time. Returns whether it is still there.
    async fn copy_again(&self, key: &Key) -> Result<bool> {
        let mut copied = None;
        for _ in 0..ATTEMPTS {
            let truth = get_if_there(&*self.arbiter, key).await?;
            match truth {
                Some(body) if copied.as_ref() == Some(&body) => return Ok(true),
                Some(body) => {
                    self.store.put(key, body.clone()).await?;
                    copied = Some(body);
                }
                None => {
                    if copied.is_some() {
                        self.store.delete(key).await?;
                    }
                    return Ok(false);
                }
            }
        }
        // Whoever replaces it so often copies it, too.
        Ok(true)
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

async fn get_if_there(destination: &dyn Destination, key: &Key) -> Result<Option<Bytes>> {
    match destination.get(key, ByteRange::Full).await {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

async fn sizes(destination: &dyn Destination, prefix: &str) -> Result<BTreeMap<Key, u64>> {
    let objects = list_all(destination, prefix).await?;
    Ok(objects.into_iter().map(|object| (object.key, object.size)).collect())
}

pub(super) fn warn(what: &str, key: &Key, error: &DestinationError) {
    let reason = error as &dyn std::error::Error;
    tracing::warn!(%key, reason, "the store lacks a {what} of what the arbiter decided");
}

//! Room for the few kilobytes that it takes to make room.
//!
//! To remove anything, a record of it must be written first, and on a full destination nothing can
//! be written. So an object of random bytes takes some space from the beginning, where a
//! destination can fill up; when there is none left for the records of pruning and collecting, it
//! goes, and it comes back when a collection has made room. Backups never touch it.
//!
//! Pruning gives nothing back by itself: it only tells the next collection what is not needed. So
//! it may use a part of that room only, and the rest is there for the collection.

use std::time::Duration;

use bytes::Bytes;
use sluice_destination::{
    DestinationError, ErrorKind as DestinationKind, Key, Result as DestinationResult,
};

use crate::crypto::random;
use crate::format::id::{ballast_key, protections_prefix, tombstones_prefix};
use crate::repository::Shared;

/// Its size in bytes. A file system gives each record a block of 4 KiB, and one to each new folder.
const SIZE: usize = 2 << 20;
/// What pruning leaves of it: a collection of twenty thousand packs; one that has more to condemn
/// begins with some of them.
const FOR_COLLECTIONS: usize = 512 << 10;
/// How long to wait for its room.
const PAUSES: [Duration; 4] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(800),
];

impl Shared {
    /// Puts the ballast, unless it is there or has no use. It is no matter when that fails.
    pub(crate) async fn load_ballast(&self) {
        if !self.destination.fills_up() {
            return;
        }
        let Ok(there) = self.ballast().await else { return };
        // A part is better than nothing.
        for size in [SIZE, FOR_COLLECTIONS] {
            if there.is_some_and(|there| there >= size as u64) {
                return;
            }
            if self.put_ballast(size).await.is_ok() {
                return;
            }
        }
    }

    /// The size of the ballast, if it is there.
    async fn ballast(&self) -> DestinationResult<Option<u64>> {
        match self.destination.head(&ballast_key()).await {
            Err(error) if error.kind() == DestinationKind::NotFound => Ok(None),
            other => other.map(|meta| Some(meta.size)),
        }
    }

    async fn put_ballast(&self, size: usize) -> DestinationResult<()> {
        // Noise, which no file system can make smaller.
        let mut noise = Vec::with_capacity(size);
        while noise.len() < size {
            let Ok(more) = random::<64>() else { return Ok(()) };
            noise.extend_from_slice(&more);
        }
        let put = self.destination.put(&ballast_key(), Bytes::from(noise)).await;
        if let Err(error) = &put {
            tracing::debug!(%error, "no room is kept free for removing things");
        }
        put
    }

    /// [`put_new`](sluice_destination::Destination::put_new), on a full destination too.
    pub(crate) async fn put_new_in_need(&self, key: &Key, body: Bytes) -> DestinationResult<()> {
        self.in_need(key, || self.destination.put_new(key, body.clone())).await
    }

    /// [`put`](sluice_destination::Destination::put), on a full destination too.
    pub(crate) async fn put_in_need(&self, key: &Key, body: Bytes) -> DestinationResult<()> {
        self.in_need(key, || self.destination.put(key, body.clone())).await
    }

    /// The ballast goes once; but its room is not there for others at once, whether somebody is
    /// just removing it or the file system takes its time.
    async fn in_need<F>(&self, key: &Key, put: impl Fn() -> F) -> DestinationResult<()>
    where
        F: Future<Output = DestinationResult<()>>,
    {
        let mut done = put().await;
        for pause in PAUSES {
            match &done {
                Err(error) if error.kind() == DestinationKind::NoSpace => {}
                _ => break,
            }
            self.drop_ballast(key).await?;
            tokio::time::sleep(pause).await;
            done = put().await;
        }
        match done {
            Err(error) if error.kind() == DestinationKind::NoSpace && prunes(key) => {
                let text = "the destination is full, and so is what is kept free for pruning: run \
                            `sluice collect`, then go on";
                Err(DestinationError::caused(DestinationKind::NoSpace, text, error))
            }
            done => done,
        }
    }

    /// Gives the ballast's room to a record, or what of it such a record may have.
    async fn drop_ballast(&self, key: &Key) -> DestinationResult<()> {
        let Some(size) = self.ballast().await? else { return Ok(()) };
        if prunes(key) && size <= FOR_COLLECTIONS as u64 {
            return Ok(());
        }
        tracing::warn!("the destination is full; using the room that is kept for removing things");
        self.destination.delete(&ballast_key()).await?;
        if prunes(key) {
            // There was room for more a moment ago. If others have taken it, nobody has any.
            let _ = self.put_ballast(FOR_COLLECTIONS).await;
        }
        Ok(())
    }
}

/// Whether a record says what keeps a point, or that nothing does.
fn prunes(key: &Key) -> bool {
    [tombstones_prefix(), protections_prefix()].iter().any(|one| key.as_str().starts_with(one))
}

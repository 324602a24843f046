//! Room for the few kilobytes that it takes to make room.
//!
//! To remove anything, a record of it must be written first, and on a full destination nothing can
//! be written. So an object of random bytes takes some space from the beginning, where a
//! destination can fill up; when there is none left for the records of pruning and collecting, it
//! goes, and it comes back when a collection has made room. Backups never touch it.

use std::time::Duration;

use bytes::Bytes;
use sluice_destination::{ErrorKind as DestinationKind, Key, Result as DestinationResult};

use crate::crypto::random;
use crate::format::id::ballast_key;
use crate::repository::Shared;

/// Its size in bytes: tens of thousands of tombstones, or a few collections.
const SIZE: usize = 1 << 20;
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
        let key = ballast_key();
        match self.destination.head(&key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => {}
            _ => return,
        }
        // Noise, which no file system can make smaller.
        let mut noise = Vec::with_capacity(SIZE);
        while noise.len() < SIZE {
            let Ok(more) = random::<64>() else { return };
            noise.extend_from_slice(&more);
        }
        if let Err(error) = self.destination.put(&key, Bytes::from(noise)).await {
            tracing::debug!(%error, "no room is kept free for removing things");
        }
    }

    /// [`put_new`](sluice_destination::Destination::put_new), on a full destination too.
    pub(crate) async fn put_new_in_need(&self, key: &Key, body: Bytes) -> DestinationResult<()> {
        self.in_need(|| self.destination.put_new(key, body.clone())).await
    }

    /// [`put`](sluice_destination::Destination::put), on a full destination too.
    pub(crate) async fn put_in_need(&self, key: &Key, body: Bytes) -> DestinationResult<()> {
        self.in_need(|| self.destination.put(key, body.clone())).await
    }

    /// The ballast goes once; but its room is not there for others at once, whether somebody is
    /// just removing it or the file system takes its time.
    async fn in_need<F>(&self, put: impl Fn() -> F) -> DestinationResult<()>
    where
        F: Future<Output = DestinationResult<()>>,
    {
        let mut done = put().await;
        for pause in PAUSES {
            match &done {
                Err(error) if error.kind() == DestinationKind::NoSpace => {}
                _ => break,
            }
            self.drop_ballast().await?;
            tokio::time::sleep(pause).await;
            done = put().await;
        }
        done
    }

    async fn drop_ballast(&self) -> DestinationResult<()> {
        let key = ballast_key();
        match self.destination.head(&key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => return Ok(()),
            _ => {}
        }
        tracing::warn!("the destination is full; using the room that is kept for removing things");
        self.destination.delete(&key).await
    }
}

//! A store and the arbiter that decides races on it.

mod locks;
mod mirror;

use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::Deserialize;

use crate::url::encode;
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, ListPage, Lock, ObjectMeta, Result,
};
pub use mirror::Repaired;

/// What a repository keeps on the store: data packs, meta packs and index segments. Each of them
/// has a name that nobody else makes, so that nothing has to be decided about them.
const STORED: [&str; 3] = ["d/", "m/", "x/"];

/// What the store gets a copy of: enough to read everything again when the arbiter is lost.
const MIRRORED: [&str; 6] = ["keys/", "e/", "r/", "t/", "h/", "lock"];

/// The object that says which repository this is.
const DESCRIPTOR: &str = "format";

/// A store that cannot decide races, beside a destination that can.
///
/// The large objects lie on the store. All others are small; they lie on the arbiter, which
/// alone is asked for them. Of those that a repository cannot do without, the store gets copies
/// after the fact: a copy that fails is a warning, and [`repair_mirror`](Self::repair_mirror)
/// catches up.
///
/// A `format` object on the store with another id than the arbiter's shows that the two do not
/// belong together; then nothing is read or written. With the same id it is a copy that is behind.
#[derive(Debug)]
pub struct Arbiter {
    store: Arc<dyn Destination>,
    arbiter: Arc<dyn Destination>,
}

/// Where objects under a prefix are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Store,
    Arbiter,
    /// The prefix is so short that it fits objects of both.
    Both,
}

fn place(prefix: &str) -> Place {
    if is_stored(prefix) {
        Place::Store
    } else if STORED.iter().any(|stored| stored.starts_with(prefix)) {
        Place::Both
    } else {
        Place::Arbiter
    }
}

fn is_stored(key: &str) -> bool {
    STORED.iter().any(|prefix| key.starts_with(prefix))
}

fn is_mirrored(key: &Key) -> bool {
    let key = key.as_str();
    key == DESCRIPTOR || MIRRORED.iter().any(|prefix| key.starts_with(prefix))
}

/// Whether two `format` objects say that they are of the same repository.
fn are_of_one(one: &[u8], other: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Named {
        id: String,
    }
    let id = |bytes| serde_json::from_slice::<Named>(bytes).ok().map(|named| named.id);
    one == other || id(one).is_some_and(|one| id(other) == Some(one))
}

impl Arbiter {
    /// A pair of a store and what decides for it.
    pub fn new(store: Arc<dyn Destination>, arbiter: Arc<dyn Destination>) -> Self {
        Self { store, arbiter }
    }

    fn home(&self, key: &Key) -> &dyn Destination {
        if is_stored(key.as_str()) { &*self.store } else { &*self.arbiter }
    }

    /// Runs a put at an object's home, and copies the object after it.
    async fn put_home(
        &self,
        key: &Key,
        body: Bytes,
        put: impl Future<Output = Result<()>>,
    ) -> Result<()> {
        let outcome = put.await;
        if is_mirrored(key) {
            match &outcome {
                Ok(()) => self.copy(key, body).await,
                // Perhaps by ourselves, and the answer was lost: then the copy is missing, too.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => self.catch_up(key).await,
                Err(_) => {}
            }
        }
        outcome
    }

    /// Refuses a store that belongs to another repository than the arbiter, or to one whose
    /// arbiter is gone.
    async fn check_pair(&self, key: &Key, range: ByteRange, truth: Result<Bytes>) -> Result<Bytes> {
        let copy = self.store.get(key, range).await;
        let context = match (&truth, copy) {
            (Ok(truth), Ok(copy)) if !are_of_one(truth, &copy) => format!(
                "the store {} and the arbiter {} belong to different repositories; correct the \
                 URL or its arbiter=",
                self.store.location(),
                self.arbiter.location()
            ),
            (Err(error), Ok(_)) if error.kind() == ErrorKind::NotFound => format!(
                "the store {} holds a repository, its arbiter {} does not; correct arbiter=, or \
                 if the arbiter is lost, copy format, keys/, r/, t/ and h/ from the store to it",
                self.store.location(),
                self.arbiter.location()
            ),
            // A store that does not answer is told by who needs it.
            _ => return truth,
        };
        Err(DestinationError::new(ErrorKind::InvalidConfig, context))
    }

    /// One page of what lies on both.
    async fn list_both(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        let mut page = self.arbiter.list(prefix, after, limit).await?;
        // Of the store only what is its own: its copies are not listed.
        for stored in STORED.iter().filter(|stored| stored.starts_with(prefix)) {
            let part = self.store.list(stored, after, limit).await?;
            page.objects.extend(part.objects);
            page.more |= part.more;
        }
        page.objects.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        page.more |= page.objects.len() > limit;
        page.objects.truncate(limit);
        Ok(page)
    }
}

#[async_trait]
impl Destination for Arbiter {
    fn location(&self) -> String {
        let store = self.store.location();
        let mark = if store.contains('?') { '&' } else { '?' };
        format!("{store}{mark}arbiter={}", encode(&self.arbiter.location()))
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        let put = self.home(key).put_new(key, body.clone());
        self.put_home(key, body, put).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        let put = self.home(key).put(key, body.clone());
        self.put_home(key, body, put).await
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        let got = self.home(key).get(key, range).await;
        let from_start = matches!(range, ByteRange::Full | ByteRange::Span { offset: 0, .. });
        if key.as_str() == DESCRIPTOR && from_start {
            return self.check_pair(key, range, got).await;
        }
        got
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let found = self.home(key).head(key).await;
        if key.as_str() == DESCRIPTOR && found.is_err() {
            self.get(key, ByteRange::Full).await?;
        }
        found
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        match place(prefix) {
            Place::Store => self.store.list(prefix, after, limit).await,
            Place::Arbiter => self.arbiter.list(prefix, after, limit).await,
            Place::Both => self.list_both(prefix, after, crate::page_limit(limit)).await,
        }
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.home(key).delete(key).await?;
        self.delete_copies(std::slice::from_ref(key)).await;
        Ok(())
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        let (stored, decided): (Vec<_>, Vec<_>) =
            keys.iter().cloned().partition(|key| is_stored(key.as_str()));
        if !decided.is_empty() {
            self.arbiter.delete_many(&decided).await?;
            self.delete_copies(&decided).await;
        }
        if stored.is_empty() { Ok(()) } else { self.store.delete_many(&stored).await }
    }

    fn deletes_per_request(&self) -> usize {
        self.store.deletes_per_request()
    }

    fn creates_atomically(&self) -> bool {
        self.arbiter.creates_atomically()
    }

    fn fills_up(&self) -> bool {
        // Records lie there, and the room that is kept free for them.
        self.arbiter.fills_up()
    }

    fn arbitrated(&self) -> bool {
        true
    }

    async fn repair_copies(&self) -> Result<Repaired> {
        self.repair_mirror().await
    }

    async fn put_locked(
        &self,
        key: &Key,
        body: Bytes,
        create_only: bool,
        lock: &Lock,
    ) -> Result<()> {
        self.put_with_lock(key, body, create_only, lock).await
    }

    async fn extend_lock(&self, key: &Key, lock: &Lock) -> Result<()> {
        self.lock_longer(key, lock).await
    }

    async fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        self.lock_there(key).await
    }

    /// Locks count where the data is, and the copies.
    async fn keeps_locks(&self, key: &Key, lock: &Lock) -> Result<bool> {
        self.store.keeps_locks(key, lock).await
    }

    /// Bodies are checked where the data is. Also shows that the store can be written.
    async fn verifies_checksums(&self, key: &Key) -> Result<bool> {
        let found = self.store.verifies_checksums(key).await;
        self.store.delete(key).await?;
        found
    }
}

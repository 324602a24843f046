//! Where bytes rest: a flat space of immutable objects behind one narrow trait.
//!
//! A [`Destination`] stores objects under [`Key`]s. The repository needs little of it, and
//! needs that little to hold on every store:
//!
//! * [`put_new`](Destination::put_new) creates an object unless one is there, atomically, also
//!   when several writers race: exactly one wins. This is what a commit rests on, so every
//!   destination is probed for it before it is used (see [`probe`]).
//! * When a put returns, the object is durable and every later get or list sees it.
//! * No reader ever sees a part of an object that is being put.
//!
//! Wrappers ([`wrap`]) have the same trait on both faces: retry, limit, count, fault injection.
//! [`conformance`] checks the contract; every destination runs it.

#[cfg(feature = "azblob")]
pub mod azblob;
mod capability;
mod error;
mod key;
mod lock;
mod many;
mod order;
#[cfg(any(test, feature = "s3", feature = "web"))]
mod range;
#[cfg(any(test, feature = "s3", feature = "sftp", feature = "web"))]
mod timeouts;

pub mod conformance;
pub mod filesystem;
#[cfg(feature = "gcs")]
pub mod gcs;
pub mod memory;
pub mod probe;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(feature = "sftp")]
pub mod sftp;
#[cfg(feature = "swift")]
pub mod swift;
pub mod url;
#[cfg(feature = "web")]
mod web;
pub mod wrap;

use std::fmt;
use std::ops::Range;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

pub use capability::Capabilities;
pub use error::{DestinationError, ErrorKind, Result};
pub use key::Key;
pub use lock::{Lock, LockMode};
#[cfg(any(test, feature = "s3", feature = "sftp", feature = "web"))]
pub use timeouts::{LEAST_ANSWER, Timeouts};

/// Which bytes of an object to get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// The whole object.
    Full,
    /// `length` bytes from `offset` on; fewer when the object ends before.
    Span {
        /// First byte.
        offset: u64,
        /// Number of bytes, at least one.
        length: u64,
    },
    /// The last bytes of the object; all of it when it is shorter.
    Suffix(u64),
}

impl ByteRange {
    /// The bytes this range means in an object of `size` bytes; none when a span is empty or
    /// starts at or beyond the end.
    pub fn within(self, size: u64) -> Option<Range<u64>> {
        match self {
            Self::Full => Some(0..size),
            Self::Suffix(length) => Some(size - length.min(size)..size),
            Self::Span { offset, length } if length > 0 && offset < size => {
                Some(offset..offset.saturating_add(length).min(size))
            }
            Self::Span { .. } => None,
        }
    }

    /// The error of a range that lies outside of the object under `key`.
    pub(crate) fn invalid(self, key: &Key) -> DestinationError {
        let context = match self {
            Self::Span { offset, length } => {
                format!("{key} has no {length} bytes at offset {offset}")
            }
            _ => format!("{key} does not have the range {self:?}"),
        };
        DestinationError::new(ErrorKind::InvalidRange, context)
    }
}

/// The largest body one get returns, in bytes. A pack has 32 MiB; a store that answers with more
/// than this is not believed, so that it cannot fill our memory.
pub const MAX_GET: u64 = 1 << 30;

/// Refuses an answer that is too large to hold.
pub(crate) fn check_length(key: &Key, length: u64) -> Result<()> {
    if length <= MAX_GET {
        return Ok(());
    }
    let context = format!(
        "{key} would send {length} bytes, more than the {MAX_GET} of any object written here; \
         something else put it there"
    );
    Err(DestinationError::new(ErrorKind::Other, context))
}

/// The most objects one page of a listing holds.
pub const MAX_PAGE: usize = 1000;

/// A page size every store takes: at least one, at most [`MAX_PAGE`].
pub(crate) fn page_limit(limit: usize) -> usize {
    limit.clamp(1, MAX_PAGE)
}

/// What a destination tells of an object without sending it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectMeta {
    /// The object's key.
    pub key: Key,
    /// Size in bytes.
    pub size: u64,
    /// When the destination says it was written; a hint for people, never used for safety.
    pub modified: Option<SystemTime>,
}

/// One page of a listing.
#[derive(Debug, Clone, Default)]
pub struct ListPage {
    /// Objects in ascending order of key.
    pub objects: Vec<ObjectMeta>,
    /// Whether more objects follow the last one.
    pub more: bool,
}

/// A flat store of objects.
///
/// No key may go on where another one ends (`a` and `a/b`): on a file system a name is either a
/// file or a folder. Dropping a future may leave its operation running: a put may still happen.
#[async_trait]
pub trait Destination: Send + Sync + fmt::Debug {
    /// Its URL, for messages; holds no secret.
    fn location(&self) -> String;

    /// Creates the object unless the key is taken.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyExists`] when the key is taken. After a lost answer the object may
    /// exist although the call failed: the caller reads it back to know.
    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()>;

    /// Creates or replaces the object.
    ///
    /// # Errors
    /// What the store reports.
    async fn put(&self, key: &Key, body: Bytes) -> Result<()>;

    /// The bytes of an object.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::InvalidRange`] when a span starts at or beyond the
    /// object's end.
    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes>;

    /// What is known of an object.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    async fn head(&self, key: &Key) -> Result<ObjectMeta>;

    /// Objects whose key starts with `prefix` and sorts after `after`, at most `limit`
    /// (never more than [`MAX_PAGE`]) in a page. The prefix may end within a segment; one that
    /// no key starts with has an empty listing.
    ///
    /// # Errors
    /// What the store reports.
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage>;

    /// Removes an object; removing one that is not there succeeds.
    ///
    /// # Errors
    /// What the store reports.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// Removes objects, with fewer requests than one each where the store can. Every one is
    /// tried, also after another has failed.
    ///
    /// # Errors
    /// What the store reports, with the number of objects that may still be there.
    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        many::side_by_side(keys.iter().map(|key| self.delete(key)).collect()).await
    }

    /// How many objects one request of [`delete_many`](Self::delete_many) removes, at most.
    fn deletes_per_request(&self) -> usize {
        1
    }

    /// Stores an object that the store itself then keeps from being removed or replaced until a
    /// time. `create_only` has it refused when the key is taken, as by
    /// [`put_new`](Self::put_new).
    ///
    /// A store with versions may let [`delete`](Self::delete) and [`put`](Self::put) succeed
    /// and hide the locked version, which stays.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`]; [`ErrorKind::AlreadyExists`].
    async fn put_locked(
        &self,
        key: &Key,
        body: Bytes,
        create_only: bool,
        lock: &Lock,
    ) -> Result<()> {
        let _ = (body, create_only, lock);
        Err(lock::unsupported(key))
    }

    /// Locks an object for longer. A lock that lasts longer, or is stricter, stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`]; [`ErrorKind::NotFound`].
    async fn extend_lock(&self, key: &Key, lock: &Lock) -> Result<()> {
        let _ = lock;
        Err(lock::unsupported(key))
    }

    /// The lock on an object, which may have run out.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`]; [`ErrorKind::NotFound`].
    async fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        Err(lock::unsupported(key))
    }

    /// Whether the store keeps a locked object from being removed for good, tried with an
    /// object under `key` that is locked as `lock` says, which is not for long. Nothing is left
    /// behind; that may take until the lock has run out.
    ///
    /// # Errors
    /// What the store reports, other than the refusal.
    async fn keeps_locks(&self, key: &Key, lock: &Lock) -> Result<bool> {
        let _ = (key, lock);
        Ok(false)
    }

    /// Whether [`put_new`](Self::put_new) is meant to hold when several writers race. A store
    /// that is known not to hold it says so here, for a probe may fail to catch it.
    fn creates_atomically(&self) -> bool {
        true
    }

    /// Whether it has an end that its users may meet, as a file system has, or a quota.
    fn fills_up(&self) -> bool {
        false
    }

    /// Whether an arbiter beside the store decides races; see [`wrap::Arbiter`].
    fn arbitrated(&self) -> bool {
        false
    }

    /// Makes copies that had failed, where objects are kept twice; see [`wrap::Arbiter`].
    ///
    /// # Errors
    /// What the store reports.
    async fn repair_copies(&self) -> Result<wrap::Repaired> {
        Ok(wrap::Repaired::default())
    }

    /// Whether the store refuses a body that does not match the checksum sent with it, tried
    /// with an object under `key`, which may be there afterwards. False where bodies are not
    /// sent with checksums.
    ///
    /// # Errors
    /// What the store reports, other than the refusal.
    async fn verifies_checksums(&self, key: &Key) -> Result<bool> {
        let _ = key;
        Ok(false)
    }
}

/// Every object below `prefix`, page after page.
///
/// # Errors
/// What the store reports.
pub async fn list_all(destination: &dyn Destination, prefix: &str) -> Result<Vec<ObjectMeta>> {
    list_after(destination, prefix, None).await
}

/// Every object below `prefix` whose key sorts after `after`.
///
/// # Errors
/// What the store reports.
pub async fn list_after(
    destination: &dyn Destination,
    prefix: &str,
    after: Option<Key>,
) -> Result<Vec<ObjectMeta>> {
    let mut all = Vec::new();
    let mut after = after;
    loop {
        let page = destination.list(prefix, after.as_ref(), MAX_PAGE).await?;
        after = page.objects.last().map(|object| object.key.clone());
        all.extend(page.objects);
        if !page.more || after.is_none() {
            return Ok(all);
        }
    }
}

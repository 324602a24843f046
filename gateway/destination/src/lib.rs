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

mod capability;
mod error;
mod key;

pub mod conformance;
pub mod filesystem;
pub mod memory;
pub mod probe;
pub mod s3;
pub mod url;
pub mod wrap;

use std::fmt;
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::Bytes;

pub use capability::Capabilities;
pub use error::{DestinationError, ErrorKind, Result};
pub use key::Key;

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
    /// (never more than 1000) in a page.
    ///
    /// # Errors
    /// What the store reports.
    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage>;

    /// Removes an object; removing one that is not there succeeds.
    ///
    /// # Errors
    /// What the store reports.
    async fn delete(&self, key: &Key) -> Result<()>;
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
        let page = destination.list(prefix, after.as_ref(), 1000).await?;
        after = page.objects.last().map(|object| object.key.clone());
        all.extend(page.objects);
        if !page.more || after.is_none() {
            return Ok(all);
        }
    }
}

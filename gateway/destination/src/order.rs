//! The order of keys, met folder by folder.
//!
//! A folder `a` stands for the keys that start with `a/`, so names are sorted with that slash
//! appended to folders: `a-b` comes before `a/b`, as `-` comes before `/`. With that a
//! depth-first walk meets the keys in ascending order, and a folder whose keys all lie outside
//! of what is asked is not entered.

use crate::Key;
#[cfg(any(test, feature = "s3"))]
use crate::key::{MAX_KEY, may_start_key};

/// Which keys a listing is after.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted<'a> {
    prefix: &'a str,
    after: &'a str,
}

impl<'a> Wanted<'a> {
    /// Keys that start with `prefix` and sort after `after`.
    pub(crate) fn new(prefix: &'a str, after: Option<&'a Key>) -> Self {
        Self { prefix, after: after.map_or("", Key::as_str) }
    }

    /// The prefix up to its last slash: the folder to begin in.
    pub(crate) fn first_folder(&self) -> &'a str {
        self.prefix.rfind('/').map_or("", |slash| &self.prefix[..=slash])
    }

    /// Whether a key is wanted, or any of a folder's keys; a folder's name ends in a slash.
    pub(crate) fn includes(&self, name: &str) -> bool {
        let folder = name.ends_with('/');
        let fits = name.starts_with(self.prefix) || (folder && self.prefix.starts_with(name));
        fits && (name > self.after || (folder && self.after.starts_with(name)))
    }
}

/// Whether keys can start with this name of a folder, which ends in a slash.
#[cfg(any(test, feature = "s3"))]
pub(crate) fn folder_of(name: &str) -> bool {
    name.ends_with('/') && name.len() < MAX_KEY && may_start_key(name)
}

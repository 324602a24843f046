//! Folders as a listing in order of key.
//!
//! A folder `a` stands for the keys that start with `a/`, so entries are sorted by name with that
//! slash appended to folders: `a-b` comes before `a/b`, as `-` comes before `/`. With that a
//! depth-first walk meets the keys in ascending order, and a folder whose keys all lie outside
//! of what is asked is not entered.

use std::fs;
use std::io;
use std::path::Path;

use crate::key::{MAX_KEY, is_segment};
use crate::{Key, ListPage, ObjectMeta};

/// A page being gathered.
pub(super) struct Walk<'a> {
    prefix: &'a str,
    after: &'a str,
    limit: usize,
    page: ListPage,
}

impl<'a> Walk<'a> {
    /// A page of at most `limit` keys that start with `prefix` and sort after `after`.
    pub(super) fn new(prefix: &'a str, after: Option<&'a Key>, limit: usize) -> Self {
        Self { prefix, after: after.map_or("", Key::as_str), limit, page: ListPage::default() }
    }

    /// Walks the part of `root` that can hold the page.
    pub(super) fn run(mut self, root: &Path) -> io::Result<ListPage> {
        let base = self.prefix.rfind('/').map_or("", |slash| &self.prefix[..=slash]);
        self.folder(&root.join(base), base)?;
        Ok(self.page)
    }

    /// Walks one folder, whose keys start with `base`; returns whether the page is complete.
    fn folder(&mut self, path: &Path, base: &str) -> io::Result<bool> {
        for name in self.names(path, base)? {
            let full = format!("{base}{name}");
            if let Some(folder) = name.strip_suffix('/') {
                if self.folder(&path.join(folder), &full)? {
                    return Ok(true);
                }
            } else if self.page.objects.len() == self.limit {
                self.page.more = true;
                return Ok(true);
            } else {
                self.file(&path.join(&name), full)?;
            }
        }
        Ok(false)
    }

    /// The names in a folder that lead to wanted keys, in order of key, folders with a slash.
    fn names(&self, path: &Path, base: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in gone_is_none(fs::read_dir(path))?.into_iter().flatten() {
            let entry = entry?;
            // Names that no key can have (our own temporary folder, `lost+found`) are not ours.
            let Ok(mut name) = entry.file_name().into_string() else { continue };
            if !is_segment(&name) || base.len() + name.len() > MAX_KEY {
                continue;
            }
            let Some(kind) = gone_is_none(entry.file_type())? else { continue };
            if kind.is_dir() {
                name.push('/');
            } else if !kind.is_file() {
                continue;
            }
            if self.wants(&format!("{base}{name}")) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Whether the key, or one of the keys of a folder (it ends in a slash), belongs in the page.
    fn wants(&self, full: &str) -> bool {
        let folder = full.ends_with('/');
        let matches = full.starts_with(self.prefix) || (folder && self.prefix.starts_with(full));
        matches && (full > self.after || (folder && self.after.starts_with(full)))
    }

    fn file(&mut self, path: &Path, key: String) -> io::Result<()> {
        let (Some(meta), Ok(key)) = (gone_is_none(fs::metadata(path))?, Key::new(key)) else {
            return Ok(());
        };
        let modified = meta.modified().ok();
        self.page.objects.push(ObjectMeta { key, size: meta.len(), modified });
        Ok(())
    }
}

/// What vanished while we looked, or was never there, is simply not listed.
fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if super::is_absent(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

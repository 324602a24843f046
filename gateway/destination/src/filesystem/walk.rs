//! Folders as a listing, sorted as [`crate::order`] says.
use std::fs;
use std::io;
use std::path::Path;

use crate::key::{MAX_KEY, is_segment};
use crate::order::Wanted;
use crate::{Key, ListPage, ObjectMeta};

/// A page being gathered.
pub(super) struct Walk<'a> {
    wanted: Wanted<'a>,
    limit: usize,
    page: ListPage,
}

impl<'a> Walk<'a> {
    /// A page of at most `limit` keys that start with `prefix` and sort after `after`.
    pub(super) fn new(prefix: &'a str, after: Option<&'a Key>, limit: usize) -> Self {
        Self { wanted: Wanted::new(prefix, after), limit, page: ListPage::default() }
    }

    /// Walks the part of `root` that can hold the page.
    pub(super) fn run(mut self, root: &Path) -> io::Result<ListPage> {
        let base = self.wanted.first_folder();
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
            if self.wanted.includes(&format!("{base}{name}")) {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
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

//! Folders of a server as a listing, sorted as [`crate::order`] says.

use super::files::Files;
use super::wire::Attributes;
use crate::key::{MAX_KEY, is_segment};
use crate::order::Wanted;
use crate::{Key, ListPage, ObjectMeta, Result};

/// A page being gathered.
pub(super) struct Walk<'a> {
    wanted: Wanted<'a>,
    limit: usize,
}

/// A name that leads to wanted keys, from the root on; a folder's ends in a slash.
type Name = (String, Attributes);

impl<'a> Walk<'a> {
    /// A page of at most `limit` keys that start with `prefix` and sort after `after`.
    pub(super) fn new(prefix: &'a str, after: Option<&'a Key>, limit: usize) -> Self {
        Self { wanted: Wanted::new(prefix, after), limit }
    }

    /// Walks the part of `root` that can hold the page.
    pub(super) async fn run(self, files: &Files, root: &str) -> Result<ListPage> {
        let mut page = ListPage::default();
        // What is still to be visited, the next one last.
        let mut ahead = self.folder(files, root, self.wanted.first_folder()).await?;
        while let Some((name, found)) = ahead.pop() {
            if name.ends_with('/') {
                ahead.extend(self.folder(files, root, &name).await?);
                continue;
            }
            if page.objects.len() == self.limit {
                page.more = true;
                break;
            }
            let (Ok(key), Some(size)) = (Key::new(name), found.size) else { continue };
            page.objects.push(ObjectMeta { key, size, modified: found.time() });
        }
        Ok(page)
    }

    /// The names in a folder that lead to wanted keys, the first one last.
    async fn folder(&self, files: &Files, root: &str, base: &str) -> Result<Vec<Name>> {
        let path = format!("{root}/{base}");
        let mut names = Vec::new();
        for (name, mut found) in files.names(path.trim_end_matches('/')).await? {
            // Names that no key can have (our own temporary folder, `lost+found`) are not ours.
            let Ok(name) = String::from_utf8(name) else { continue };
            if !is_segment(&name) || base.len() + name.len() > MAX_KEY {
                continue;
            }
            let mut name = format!("{base}{name}");
            if found.mode.is_none() || found.size.is_none() {
                let Some(asked) = files.look_at(&format!("{root}/{name}")).await? else {
                    continue;
                };
                found = asked;
            }
            if found.is_folder() {
                name.push('/');
            } else if !found.is_file() {
                continue;
            }
            if self.wanted.includes(&name) {
                names.push((name, found));
            }
        }
        names.sort_unstable_by(|(a, _), (b, _)| b.cmp(a));
        Ok(names)
    }
}

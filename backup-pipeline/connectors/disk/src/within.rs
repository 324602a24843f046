//! Where the files of an image may lie.
//!
//! Whoever may write in a folder may put an image there that names other files of the machine. So
//! what one may read is asked of each file that an image consists of, with all links followed, and
//! before that file is opened.

use std::path::{Path, PathBuf};

use crate::DiskError;

/// Lists of folders: a file must lie in a folder of each list. Without lists it may lie anywhere,
/// and an empty list lets it lie nowhere.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Within {
    lists: Vec<Vec<PathBuf>>,
}

impl Within {
    /// Links to the folders are followed; one that is not there holds nothing.
    pub fn new(lists: &[Vec<String>]) -> Self {
        let real = |folder: &String| std::fs::canonicalize(folder).ok();
        Self { lists: lists.iter().map(|list| list.iter().filter_map(real).collect()).collect() }
    }

    /// Whether nothing is said of it.
    pub fn is_anywhere(&self) -> bool {
        self.lists.is_empty()
    }

    /// Refuses a file, with all links followed, that `image` consists of.
    ///
    /// # Errors
    /// [`DiskError::Outside`].
    pub(crate) fn check(&self, image: &Path, real: &Path) -> Result<(), DiskError> {
        let inside = |list: &Vec<PathBuf>| list.iter().any(|folder| real.starts_with(folder));
        match self.lists.iter().all(inside) {
            true => Ok(()),
            false => Err(DiskError::Outside(image.to_owned(), real.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lies_in_a_folder_of_each_list() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name).to_str().unwrap().to_owned();
        for folder in ["shop", "shopping"] {
            std::fs::create_dir(at(folder)).unwrap();
        }
        std::os::unix::fs::symlink(at("shop"), at("link")).unwrap();
        let real = std::fs::canonicalize(at("shop")).unwrap().join("a.raw");
        let allows = |lists: &[&[&str]]| {
            let lists: Vec<Vec<String>> =
                lists.iter().map(|list| list.iter().map(|name| at(name)).collect()).collect();
            Within::new(&lists).check(Path::new("a"), &real).is_ok()
        };
        assert!(allows(&[]) && allows(&[&["none", "shop"], &[""]]) && allows(&[&["link"]]));
        assert!(!allows(&[&["shopping"]]) && !allows(&[&["shop"], &["shopping"]]));
        assert!(!allows(&[&[]]) && !allows(&[&["none"]]), "nothing lies in no folder");
    }
}

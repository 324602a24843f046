//! The folder of one test: its sockets lie there.
//!
//! A test holds the lock of its folder for as long as it runs, so a folder whose lock is free was
//! left by one that was killed, and the next test removes it. Between making a folder and locking
//! it there is a moment in which others take it for such a one. So who removes a folder holds its
//! lock meanwhile, and who makes one looks, with the lock, whether it is still there, and makes
//! another if not.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use tempfile::TempDir;

/// Folders of tests begin so.
const FOLDER: &str = "sluice-boot-";

/// A new folder in `scratch`, and the lock that says that it is in use. Those of tests that were
/// killed are removed.
pub(super) fn make(scratch: &Path) -> io::Result<(TempDir, File)> {
    remove_left(scratch);
    loop {
        let folder = tempfile::Builder::new().prefix(FOLDER).tempdir_in(scratch)?;
        if let Some(lock) = lock(folder.path())? {
            return Ok((folder, lock));
        }
    }
}

fn remove_left(scratch: &Path) {
    for entry in std::fs::read_dir(scratch).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(FOLDER)
            && let Ok(Some(_lock)) = lock(&entry.path())
        {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The lock of a folder; nothing when somebody else has it, or has removed the folder.
fn lock(folder: &Path) -> io::Result<Option<File>> {
    match File::open(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        opened => hold(opened?, folder),
    }
}

/// The same of one that is open already, and may have been removed since.
fn hold(file: File, folder: &Path) -> io::Result<Option<File>> {
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Ok(None),
        locked => locked?,
    }
    let locked = file.metadata()?.ino();
    let is_there = std::fs::metadata(folder).is_ok_and(|there| there.ino() == locked);
    Ok(is_there.then_some(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_killed_test_left_is_removed_and_what_is_in_use_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let (left, other) = (scratch.path().join("sluice-boot-x"), scratch.path().join("other"));
        std::fs::create_dir(&left).unwrap();
        std::fs::write(left.join("monitor"), "").unwrap();
        std::fs::create_dir(&other).unwrap();
        let (one, lock) = make(scratch.path()).unwrap();
        let (two, _lock) = make(scratch.path()).unwrap();
        assert!(!left.exists() && other.exists());
        assert!(one.path().exists() && two.path().exists());
        // As a kill does: nobody removes the folder, and the lock is gone.
        let one = one.keep();
        drop(lock);
        let _three = make(scratch.path()).unwrap();
        assert!(!one.exists() && two.path().exists());
    }

    #[test]
    fn a_folder_that_was_removed_before_it_was_locked_is_not_had() {
        let scratch = tempfile::tempdir().unwrap();
        let folder = scratch.path().join("sluice-boot-x");
        std::fs::create_dir(&folder).unwrap();
        let opened = || File::open(&folder).unwrap();
        let (early, late, last) = (opened(), opened(), opened());
        let held = hold(early, &folder).unwrap();
        assert!(held.is_some());
        // Another that begins looks at it.
        assert!(hold(late, &folder).unwrap().is_none(), "it is somebody's");
        drop(held);
        remove_left(scratch.path());
        assert!(hold(last, &folder).unwrap().is_none(), "it is gone");
        assert!(lock(&folder).unwrap().is_none());
    }

    #[test]
    fn tests_that_begin_at_once_keep_their_folders() {
        let scratch = tempfile::tempdir().unwrap();
        let begin = || {
            for _ in 0..200 {
                let (folder, _lock) = make(scratch.path()).unwrap();
                std::fs::write(folder.path().join("monitor"), "").unwrap();
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(begin);
            }
        });
    }
}

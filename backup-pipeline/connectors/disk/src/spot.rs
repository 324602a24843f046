//! Files as they are, whatever becomes of their names.
//!
//! Whoever may write in a folder can put another file in the place of one that was just looked at.
//! So a name is resolved once, to a handle through which nothing can be read and whose opening has
//! no effect ([`Spot`]). What the file is, where it lies and what it holds are asked of that; and
//! what is opened elsewhere later is held against its [`FileId`].

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use crate::Format;
use crate::inspect::detect;

/// Which file it is, whatever it is called: its file system, and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    pub(crate) fn of(about: &Metadata) -> Self {
        Self(about.dev(), about.ino())
    }
}

/// A file that was found by a name.
#[derive(Debug)]
pub(crate) struct Spot {
    handle: File,
    about: Metadata,
}

impl Spot {
    /// Finds what a name leads to.
    pub(crate) fn find(path: &Path) -> io::Result<Self> {
        Self::with(path, OFlags::PATH)
    }

    /// Finds what has a name, which may be a link.
    pub(crate) fn find_plain(path: &Path) -> io::Result<Self> {
        Self::with(path, OFlags::PATH | OFlags::NOFOLLOW)
    }

    fn with(path: &Path, flags: OFlags) -> io::Result<Self> {
        let handle = File::from(rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())?);
        let about = handle.metadata()?;
        Ok(Self { handle, about })
    }

    pub(crate) fn about(&self) -> &Metadata {
        &self.about
    }

    pub(crate) fn id(&self) -> FileId {
        FileId::of(&self.about)
    }

    pub(crate) fn is_block_device(&self) -> bool {
        self.about.file_type().is_block_device()
    }

    /// Where it lies, with all links followed.
    pub(crate) fn real(&self) -> io::Result<PathBuf> {
        let real = std::fs::read_link(self.magic())?;
        // Of a file that was removed, the text is no path, or another file's.
        match std::fs::symlink_metadata(&real) {
            Ok(about) if FileId::of(&about) == self.id() => Ok(real),
            _ => Err(io::Error::other("it was moved or removed while it was looked at")),
        }
    }

    /// Opens it for reading: it and no other.
    pub(crate) fn open(&self) -> io::Result<File> {
        File::open(self.magic())
    }

    /// A link that the kernel follows to the file itself.
    fn magic(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.handle.as_raw_fd()))
    }
}

impl AsFd for Spot {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// The first and last bytes of a file.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) head: Vec<u8>,
    /// The last 512, where a fixed VHD has its only mark.
    pub(crate) tail: Vec<u8>,
}

impl Ends {
    /// Reads them, up to `most` bytes of the beginning.
    pub(crate) fn of(mut file: &File, most: usize) -> io::Result<Self> {
        let (mut head, mut tail) = (Vec::with_capacity(most), Vec::new());
        file.take(most as u64).read_to_end(&mut head)?;
        let size = file.seek(SeekFrom::End(0))?;
        if size >= 512 {
            file.seek(SeekFrom::Start(size - 512))?;
            file.take(512).read_to_end(&mut tail)?;
        }
        Ok(Self { head, tail })
    }

    /// The format that they tell.
    pub(crate) fn format(&self) -> Format {
        detect(&self.head, &self.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_stays_the_one_that_was_found() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| std::fs::canonicalize(folder.path()).unwrap().join(name);
        std::fs::write(at("a"), "first").unwrap();
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        let spot = Spot::find(&at("link")).unwrap();
        assert_eq!(spot.real().unwrap(), at("a"));
        std::fs::rename(at("a"), at("b")).unwrap();
        std::fs::write(at("a"), "second").unwrap();
        assert_eq!(spot.real().unwrap(), at("b"), "it is called so now");
        assert_eq!(Ends::of(&spot.open().unwrap(), 64).unwrap().head, b"first");
        std::fs::remove_file(at("b")).unwrap();
        assert!(spot.real().is_err());
        std::fs::write(at("b (deleted)"), "third").unwrap();
        assert!(spot.real().is_err(), "another file has what its name looks like");
    }

    #[test]
    fn links_and_pipes_are_found_as_what_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink("/etc/passwd", at("link")).unwrap();
        assert!(Spot::find_plain(&at("link")).unwrap().about().is_symlink());
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), Mode::RWXU).unwrap();
        let pipe = Spot::find_plain(&at("pipe")).unwrap();
        assert!(pipe.about().file_type().is_fifo(), "and nothing waits for its other end");
    }
}

//! Restoring to a raw file or a device.
//!
//! Where that pays, data goes past the page cache ([`DirectFile`]): a disk is written while the
//! processor decodes, instead of at the end.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result};
use rustix::fs::{FallocateFlags, OFlags, SeekFrom, fallocate, seek};
use sluice_block::DirectFile;
use sluice_engine::Target;

use crate::error::advise;
use crate::output::bytes;

/// Zeroes written at a time where the target has no better way.
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

/// Writes under way at a time, where each waits for the disk.
const WRITERS: usize = 4;

/// A raw file or device.
#[derive(Debug)]
pub(crate) struct FileTarget {
    file: File,
    /// The folder of a file, whose name must be durable as well.
    folder: Option<File>,
    direct: Option<DirectFile>,
    zeroed: bool,
}

/// Which file a restore may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    /// It must not exist.
    New,
    /// It may exist; what it holds is gone.
    Over,
    /// It holds part of the image from an earlier run.
    Again,
}

/// What tells a file, or a device, from another one that has its name later. Nothing without a
/// file.
pub(crate) fn identity(path: &Path) -> Option<String> {
    let metadata = std::fs::metadata(path).ok()?;
    if metadata.file_type().is_block_device() {
        // Devices come back with other numbers after a restart. The name that people gave is the
        // one that stays, where it is a link to them (/dev/disk/by-id/..., /dev/mapper/...).
        let path = std::path::absolute(path).ok()?;
        return Some(path.to_string_lossy().chars().flat_map(char::escape_default).collect());
    }
    Some(file_identity(&metadata))
}

/// A number may be given again, and then with another time; not every file system tells the time.
fn file_identity(metadata: &Metadata) -> String {
    let born = metadata.created().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    format!("{}-{}", metadata.ino(), born.unwrap_or_default().as_nanos())
}

/// Whether the path is a block device.
pub(crate) fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

impl FileTarget {
    /// Opens the target for an image of `size` bytes. `prepare` is done when nobody else writes to
    /// it, and before it is changed.
    pub(crate) fn open(
        path: &Path,
        size: u64,
        opened: Opened,
        prepare: impl FnOnce() -> Result<()>,
    ) -> Result<Self> {
        let context = || format!("cannot open {} for writing", path.display());
        if is_device(path) {
            let file =
                // On Linux, exclusive means: not a device in use, such as a mounted one.
                OpenOptions::new()
                    .read(true)
                    .write(true)
                    .custom_flags(OFlags::EXCL.bits() as i32)
                    .open(path)
                    .with_context(context)?;
            let room =
                seek(&file, SeekFrom::End(0)).map_err(io::Error::from).with_context(context)?;
            if room < size {
                return Err(advise(
                    "no-space",
                    format!(
                        "{} is too small: it has {}, the image {}",
                        path.display(),
                        bytes(room),
                        bytes(size)
                    ),
                    "restore to a device that is at least as large as the image",
                ));
            }
            prepare()?;
            return Ok(Self::new(file, None, false));
        }
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match opened {
            Opened::New => options.create_new(true),
            Opened::Over => options.create(true),
            Opened::Again => &mut options,
        };
        let file = options.open(path).with_context(context)?;
        lock(&file, path)?;
        prepare()?;
        if opened == Opened::Over {
            file.set_len(0).with_context(context)?;
        }
        file.set_len(size).with_context(context)?;
        Ok(Self::new(file, folder_of(path), true))
    }

    fn new(file: File, folder: Option<File>, zeroed: bool) -> Self {
        let direct = DirectFile::of(&file);
        Self { file, folder, direct, zeroed }
    }
}

/// Keeps a second restore out of the file: what both wrote would be a mixture.
pub(super) fn lock(file: &File, path: &Path) -> Result<()> {
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => Err(advise(
            "target",
            format!("another program is writing to {}", path.display()),
            "wait for it, or restore to another file",
        )),
        // Where nothing can be locked, nobody is kept out.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(()),
    }
}

/// The folder a file lies in; nothing where it cannot be opened.
pub(super) fn folder_of(path: &Path) -> Option<File> {
    let path = std::fs::canonicalize(path).ok()?;
    File::open(path.parent()?).ok()
}

/// Makes the names in a folder durable.
pub(super) fn sync_folder(folder: Option<&File>) -> io::Result<()> {
    match folder.map(File::sync_all) {
        // Some network mounts know no such thing.
        Some(Err(error)) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        Some(done) => done,
        None => Ok(()),
    }
}

impl Target for FileTarget {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let direct = self.direct.as_ref();
        let done = direct.map_or(Ok(0), |direct| direct.write_at(offset, data))?;
        self.file.write_all_at(&data[done..], offset + done as u64)
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        // Discards where the device promises zeroes after it, and is quick on files.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if length > 0 && fallocate(&self.file, flags, offset, length).is_ok() {
            return Ok(());
        }
        let mut done = 0;
        while done < length {
            let piece = (length - done).min(ZEROES.len() as u64);
            self.file.write_all_at(&ZEROES[..piece as usize], offset + done)?;
            done += piece;
        }
        Ok(())
    }

    fn reserve(&self, offset: u64, length: u64) {
        // Direct writes into holes go one at a time, those into space set aside side by side. A
        // file system that cannot do it, or has no room, tells when it is written to.
        if self.zeroed && self.direct.is_some() && length > 0 {
            let _ = fallocate(&self.file, FallocateFlags::empty(), offset, length);
        }
    }

    fn flush(&self) -> io::Result<()> {
        self.file.sync_all()?;
        sync_folder(self.folder.as_ref())
    }

    fn starts_zeroed(&self) -> bool {
        self.zeroed
    }

    fn writers(&self) -> usize {
        // Through the page cache, a file takes one write after the other.
        if self.direct.is_some() { WRITERS } else { 1 }
    }
}

#[cfg(test)]
mod tests {
    use sluice_block::{ALIGN, Buffer};

    use super::*;

    fn opened(path: &Path, size: u64, how: Opened) -> Result<FileTarget> {
        FileTarget::open(path, size, how, || Ok(()))
    }

    #[test]
    fn a_file_is_made_new_replaced_or_continued() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let target = opened(&path, 8192, Opened::New).unwrap();
        target.write_at(4096, b"abc").unwrap();
        target.flush().unwrap();
        assert!(target.starts_zeroed());
        drop(target);
        assert!(opened(&path, 8192, Opened::New).is_err());
        opened(&path, 8192, Opened::Again).unwrap();
        assert_eq!(&std::fs::read(&path).unwrap()[4096..4099], b"abc");
        opened(&path, 100, Opened::Over).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), [0; 100]);
    }

    #[test]
    fn a_file_takes_one_writer_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let target = opened(&path, 8192, Opened::New).unwrap();
        target.write_at(0, b"abc").unwrap();
        for how in [Opened::Over, Opened::Again] {
            let error = opened(&path, 4096, how).unwrap_err().to_string();
            assert!(error.contains("another program"), "{error}");
        }
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((&bytes[..3], bytes.len()), (&b"abc"[..], 8192), "nothing was cut off");
        drop(target);
        opened(&path, 4096, Opened::Over).unwrap();
    }

    #[test]
    fn a_file_is_known_by_more_than_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("disk"), folder.path().join("other"));
        assert_eq!(identity(&path), None);
        std::fs::write(&path, b"one").unwrap();
        let first = identity(&path);
        std::fs::write(&path, b"more of it").unwrap();
        assert!(first.is_some() && identity(&path) == first, "it is the same file");
        std::fs::write(&other, b"two").unwrap();
        std::fs::rename(&other, &path).unwrap();
        assert_ne!(identity(&path), first);
    }

    #[test]
    fn zeroes_replace_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let target = opened(&path, 3 << 20, Opened::New).unwrap();
        target.write_at(0, &vec![7; 3 << 20]).unwrap();
        target.write_zeroes(5, 2 << 20).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert!(bytes[5..5 + (2 << 20)].iter().all(|byte| *byte == 0));
        assert!(bytes[..5].iter().chain(&bytes[5 + (2 << 20)..]).all(|byte| *byte == 7));
        assert_eq!(bytes.len(), 3 << 20);
    }

    #[test]
    fn what_cannot_be_written_past_the_cache_is_written_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("disk");
        let page = ALIGN as u64;
        let target = opened(&path, 3 * page + 100, Opened::New).unwrap();
        let mut data = Buffer::new(2 * ALIGN + 100);
        data.iter_mut().zip(0u32..).for_each(|(byte, at)| *byte = (at % 251) as u8);
        target.write_at(page, &data).unwrap();
        target.write_at(7, &data[1..11]).unwrap();
        target.flush().unwrap();
        let read = std::fs::read(&path).unwrap();
        assert_eq!((&read[ALIGN..], &read[7..17]), (&data[..], &data[1..11]));
    }
}

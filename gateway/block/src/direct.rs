//! Writing past the page cache (`O_DIRECT`, open(2)).
//!
//! Data that is written once and not read soon gains nothing from the page cache: it is copied
//! into memory, pushes out what was there, and is written out later all the same. Past it, a disk
//! is written while the processor works on, for a fraction of the processor's time.
//!
//! It is done where it is known to pay: on block devices, and on local file systems on disks. In
//! memory it means nothing, and over a network each write would wait for the other end.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{OFlags, fstatfs};
use rustix::io::Errno;

/// What addresses, offsets and lengths of direct writes are multiples of, in bytes. No device and
/// no file system in use asks for more.
pub const ALIGN: usize = 4096;

/// File systems on local disks (statfs(2)): ext4, XFS, Btrfs, F2FS.
const ON_DISK: [u32; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0xF2F5_2010];

/// An open file or device once more, for direct writes.
#[derive(Debug)]
pub struct DirectFile {
    file: File,
    /// Some file systems take the flag, and then no write with it.
    refused: AtomicBool,
}

impl DirectFile {
    /// Direct writes to what `file` is; nothing where they would not pay or are not to be had.
    pub fn of(file: &File) -> Option<Self> {
        let device = file.metadata().ok()?.file_type().is_block_device();
        // A device's file lies in memory, whatever its disk is.
        if !device && !ON_DISK.contains(&(fstatfs(file).ok()?.f_type as u32)) {
            return None;
        }
        // By its descriptor: what is open exclusively cannot be opened so a second time.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlags::DIRECT.bits().cast_signed();
        let file = OpenOptions::new().write(true).custom_flags(flags).open(path).ok()?;
        Some(Self { file, refused: AtomicBool::new(false) })
    }

    /// Writes the beginning of `data` at `offset`, as far as it can be written so, and returns
    /// how many bytes that was. The rest goes another way: parts of pages, and all where memory
    /// or place do not begin at a multiple of [`ALIGN`].
    ///
    /// # Errors
    /// What the system reports.
    pub fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<usize> {
        let whole = data.len() - data.len() % ALIGN;
        let fits = offset.is_multiple_of(ALIGN as u64) && data.as_ptr().align_offset(ALIGN) == 0;
        if whole == 0 || !fits || self.refused.load(Ordering::Relaxed) {
            return Ok(0);
        }
        match self.file.write_all_at(&data[..whole], offset) {
            Ok(()) => Ok(whole),
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.refused.store(true, Ordering::Relaxed);
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Buffer;

    #[test]
    fn whole_pages_are_written_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let mut options = OpenOptions::new();
        let options = options.read(true).write(true).create_new(true);
        let file = options.open(folder.path().join("file")).unwrap();
        // In memory, and on some network, there is none.
        let Some(direct) = DirectFile::of(&file) else { return };
        let mut data = Buffer::new(3 * ALIGN);
        data.iter_mut().zip(0u32..).for_each(|(byte, at)| *byte = (at % 251) as u8);
        let page = ALIGN as u64;
        assert_eq!(direct.write_at(0, &data[..100]).unwrap(), 0, "part of a page");
        assert_eq!(direct.write_at(512, &data).unwrap(), 0, "its place is odd");
        assert_eq!(direct.write_at(page, &data[1..]).unwrap(), 0, "its address is odd");
        assert_eq!(file.metadata().unwrap().len(), 0);
        assert_eq!(direct.write_at(page, &data[..2 * ALIGN + 9]).unwrap(), 2 * ALIGN);
        assert_eq!(file.metadata().unwrap().len(), 3 * page);
        let mut read = vec![1; 3 * ALIGN];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read[..ALIGN].iter().all(|byte| *byte == 0));
        assert!(read[ALIGN..] == data[..2 * ALIGN]);
    }
}

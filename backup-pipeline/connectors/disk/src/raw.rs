//! Raw image files and block devices.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use rustix::buffer::spare_capacity;
use rustix::fs::{SeekFrom, fstatfs, seek};
use rustix::io::{Errno, ReadWriteFlags, pread, preadv2};
use sluice_block::{
    BlockError, BlockRead, ErrorKind, Extent, ExtentList, MAX_EXTENTS, Result, check_range,
};

use crate::DiskError;
use crate::spot::{FileId, Spot};

/// A raw image file or a block device.
#[derive(Debug)]
pub(crate) struct RawDisk {
    file: Arc<File>,
    path: PathBuf,
    size: u64,
    /// Whether the file lives in memory, where no read waits. Such file systems do not take
    /// the flag that says "do not wait".
    in_memory: bool,
    /// The data extent that was found last. Asking for the next hole costs time in proportion to
    /// its distance on some file systems. What was data stays answered so: a hole punched
    /// meanwhile reads as zeroes all the same.
    data: Mutex<Range<u64>>,
}

/// `f_type` of tmpfs and ramfs (statfs(2)).
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

impl RawDisk {
    /// Opens the file that was found at `path`, and no other.
    pub(crate) fn open(path: &Path, id: Option<FileId>) -> Result<Self, DiskError> {
        let failed = |error: io::Error| DiskError::Io(path.to_owned(), error);
        let spot = Spot::find(path).map_err(failed)?;
        if Some(spot.id()) != id {
            return Err(DiskError::Changed(path.to_owned()));
        }
        let file = spot.open().map_err(failed)?;
        // Seeking tells the size of block devices too, where the metadata says zero.
        let size = seek(&file, SeekFrom::End(0)).map_err(|error| failed(error.into()))?;
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        let in_memory = fstatfs(&file).is_ok_and(|fs| IN_MEMORY.contains(&(fs.f_type as u32)));
        let (file, path) = (Arc::new(file), path.to_owned());
        Ok(Self { file, path, size, in_memory, data: Mutex::default() })
    }

    /// The first data at or after `at`, which ends at the next hole or at the end of the device;
    /// nothing when there is only a hole.
    fn next_data(&self, at: u64) -> Result<Option<Range<u64>>> {
        let mut known = self.data.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(&at) {
            return Ok(Some(at..known.end));
        }
        let start = match seek(&self.file, SeekFrom::Data(at)) {
            Ok(data) => data.min(self.size),
            Err(Errno::NXIO) => return Ok(None),
            // Not every file system and device knows its holes: then all is data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            Err(error) => return Err(self.failed(error.into())),
        };
        let end = seek(&self.file, SeekFrom::Hole(start)).unwrap_or(self.size);
        let end = if end <= start { self.size } else { end.min(self.size) };
        *known = start..end;
        Ok((start < end).then_some(start..end))
    }

    /// Takes what the page cache has, without waiting; returns how much that was.
    fn cached(&self, offset: u64, buf: &mut [u8]) -> usize {
        if self.in_memory {
            return if self.file.read_exact_at(buf, offset).is_ok() { buf.len() } else { 0 };
        }
        let mut done = 0;
        while done < buf.len() {
            let part = &mut [IoSliceMut::new(&mut buf[done..])];
            match preadv2(&self.file, part, offset + done as u64, ReadWriteFlags::NOWAIT) {
                Ok(0) | Err(_) => break,
                Ok(count) => done += count,
            }
        }
        done
    }

    fn failed(&self, error: io::Error) -> BlockError {
        let path = self.path.display();
        if error.kind() == io::ErrorKind::UnexpectedEof {
            let text = format!(
                "{path} has shrunk while it was read; back up a snapshot, or stop what writes to it"
            );
            return BlockError::new(ErrorKind::Io, text);
        }
        BlockError::io(format!("cannot read {path}"), error)
    }
}

/// Reads into memory that nobody has zeroed.
fn read_exact(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let at = offset + bytes.len() as u64;
        match pread(file, spare_capacity(&mut bytes), at) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    bytes.truncate(length);
    Ok(bytes)
}

#[async_trait]
impl BlockRead for RawDisk {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        let done = self.cached(offset, buf);
        if done == buf.len() {
            return Ok(());
        }
        // The rest has to come from the disk, which may take its time.
        let (file, length) = (self.file.clone(), buf.len() - done);
        let rest =
            tokio::task::spawn_blocking(move || read_exact(&file, offset + done as u64, length));
        let rest = rest.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        buf[done..].copy_from_slice(&rest.map_err(|error| self.failed(error))?);
        Ok(())
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        check_range(self.size, offset, buf.len() as u64).is_ok()
            && self.cached(offset, buf) == buf.len()
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(self.size, offset, length)?;
        let end = offset + length;
        let mut list = ExtentList::default();
        let mut at = offset;
        while at < end && list.len() < MAX_EXTENTS - 1 {
            let Some(data) = self.next_data(at)?.filter(|data| data.start < end) else {
                list.push(Extent::hole(at, end - at));
                break;
            };
            list.push(Extent::hole(at, data.start - at));
            list.push(Extent::data(data.start, data.end.min(end) - data.start));
            at = data.end;
        }
        Ok(list.into_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Format, inspect::inspect};

    #[test]
    fn a_file_that_took_the_place_of_the_one_that_was_looked_at_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("disk.raw"), [1; 4096]).unwrap();
        std::fs::write(at("secret"), [7; 4096]).unwrap();
        let seen = inspect(&at("disk.raw"), Some(Format::Raw)).unwrap();
        assert!(RawDisk::open(&seen.files[0], seen.ids[0]).is_ok());
        std::fs::remove_file(at("disk.raw")).unwrap();
        std::os::unix::fs::symlink(at("secret"), at("disk.raw")).unwrap();
        let error = RawDisk::open(&seen.files[0], seen.ids[0]).unwrap_err();
        assert!(matches!(error, DiskError::Changed(_)), "{error}");
    }
}

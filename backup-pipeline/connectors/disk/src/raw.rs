//! Raw image files and block devices.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use rustix::fs::{SeekFrom, seek};
use rustix::io::{Errno, ReadWriteFlags, preadv2};
use sluice_block::{
    BlockError, BlockRead, ErrorKind, Extent, ExtentList, MAX_EXTENTS, Result, check_range,
};

use crate::DiskError;

/// A raw image file or a block device.
#[derive(Debug)]
pub(crate) struct RawDisk {
    file: Arc<File>,
    path: PathBuf,
    size: u64,
}

impl RawDisk {
    pub(crate) fn open(path: &Path) -> Result<Self, DiskError> {
        let failed = |error: io::Error| DiskError::Io(path.to_owned(), error);
        let file = File::open(path).map_err(failed)?;
        // Seeking tells the size of block devices too, where the metadata says zero.
        let size = seek(&file, SeekFrom::End(0)).map_err(|error| failed(error.into()))?;
        let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::Sequential);
        Ok(Self { file: Arc::new(file), path: path.to_owned(), size })
    }

    /// Takes what the page cache has, without waiting; returns how much that was.
    fn cached(&self, offset: u64, buf: &mut [u8]) -> usize {
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
        let rest = tokio::task::spawn_blocking(move || {
            let mut rest = vec![0; length];
            file.read_exact_at(&mut rest, offset + done as u64).map(|()| rest)
        });
        let rest = rest.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        buf[done..].copy_from_slice(&rest.map_err(|error| self.failed(error))?);
        Ok(())
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(self.size, offset, length)?;
        let end = offset + length;
        let mut list = ExtentList::default();
        let mut at = offset;
        while at < end && list.len() < MAX_EXTENTS - 1 {
            let data = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(data) => data.min(end),
                Err(Errno::NXIO) => end,
                // Not every file system and device knows its holes: then all is data.
                Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
                Err(error) => return Err(self.failed(error.into())),
            };
            list.push(Extent::hole(at, data - at));
            if data < end {
                let hole = seek(&self.file, SeekFrom::Hole(data)).unwrap_or(end).clamp(data, end);
                let hole = if hole == data { end } else { hole };
                list.push(Extent::data(data, hole - data));
                at = hole;
            } else {
                at = data;
            }
        }
        Ok(list.into_vec())
    }
}

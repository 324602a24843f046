//! Writing to images, where that is possible: within their size, and durable after a sync.

use std::sync::Arc;

use fuser::Errno;
use sluice_block::{BlockError, BlockWrite, ErrorKind};

use super::{Open, Shared};
use crate::tree::Node;

impl Shared {
    /// Whether this can be opened for writing.
    pub(super) fn takes_writes(&self, node: &Node) -> bool {
        self.options.writable && matches!(node, Node::Image { .. })
    }

    pub(super) async fn open_for_writing(&self, node: &Node) -> Result<Open, Errno> {
        let Node::Image { instance, point, image } = node else { return Err(Errno::EROFS) };
        let open = self.catalogue.open_writable(instance, point, image);
        self.in_time(open).await.map(Open::Writable)
    }

    /// Writes as much as there is room for on the disk.
    pub(super) async fn write(&self, open: &Open, offset: u64, data: &[u8]) -> Result<u32, Errno> {
        let device = writable(open)?;
        let room = device.size().saturating_sub(offset);
        let length = usize::try_from(room).map_or(data.len(), |room| room.min(data.len()));
        if length == 0 && !data.is_empty() {
            // As block devices have it: there is nothing behind the end of a disk.
            return Err(Errno::ENOSPC);
        }
        let write = async {
            let _turn = self.in_flight.acquire().await;
            device.write_at(offset, &data[..length]).await
        };
        self.in_time(write).await?;
        Ok(u32::try_from(length).unwrap_or(u32::MAX))
    }

    /// Makes durable what was written. It may take as long as it takes: after a sync that was said
    /// to have failed, nobody would know what is on the disk.
    pub(super) async fn sync(&self, open: &Open) -> Result<(), Errno> {
        match open {
            Open::Writable(device) => device.flush().await.map_err(|error| errno(&error)),
            Open::Image(_) | Open::Text(_) => Ok(()),
        }
    }

    /// Makes bytes zero, or does nothing where room was asked for: it is there, or it is not.
    pub(super) async fn allocate(
        &self,
        open: &Open,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Result<(), Errno> {
        let device = writable(open)?;
        let keeps = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let end = offset.checked_add(length).ok_or(Errno::EFBIG)?;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE => {
                if end > device.size() && !keeps {
                    return Err(Errno::ENOSPC);
                }
                let length = end.min(device.size()).saturating_sub(offset);
                match length {
                    0 => Ok(()),
                    length => self.in_time(device.write_zeroes(offset, length)).await,
                }
            }
            0 if end <= device.size() || keeps => Ok(()),
            0 => Err(Errno::ENOSPC),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, BlockError>>,
    ) -> Result<T, Errno> {
        match tokio::time::timeout(self.options.read_timeout, work).await {
            Ok(done) => done.map_err(|error| errno(&error)),
            Err(_) => {
                tracing::error!("a write got no answer in time");
                Err(Errno::EIO)
            }
        }
    }
}

fn writable(open: &Open) -> Result<&Arc<dyn BlockWrite>, Errno> {
    match open {
        Open::Writable(device) => Ok(device),
        Open::Image(_) | Open::Text(_) => Err(Errno::EBADF),
    }
}

fn errno(error: &BlockError) -> Errno {
    let errno = match error.kind() {
        ErrorKind::NoSpace => Errno::ENOSPC,
        ErrorKind::ReadOnly => Errno::EROFS,
        _ => Errno::EIO,
    };
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::error!(%error, cause, "an image cannot be written");
    errno
}

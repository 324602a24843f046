//! Block devices as traits.
//!
//! Everything that can be read by offset (an image in a repository, a disk file, an NBD server)
//! is a [`BlockRead`]; everything that can also be written is a [`BlockWrite`]. Exports serve a
//! `BlockRead` without knowing what is behind it, and backups read one without knowing where
//! it came from. Filters ([`Offset`], [`Measured`], [`FaultyRead`]) have the same trait on both
//! faces.
//!
//! # Contract
//!
//! * Sizes and offsets are in bytes. A read lies wholly inside `0..size()`, else it fails with
//!   [`ErrorKind::OutOfRange`]; a read of zero bytes inside the range succeeds.
//! * `read_at` fills the whole buffer or fails. Bytes that fail verification are never returned.
//! * `extents` describes a prefix of the asked range, in order, without gaps or overlaps. It
//!   covers at least one byte when the range is not empty; callers loop until they have it all.
//! * Implementations are shared between tasks: calls run side by side.
//!
//! [`conformance`] checks the contract; every implementation runs it in its tests.

mod buffer;
mod direct;
mod error;
mod extent;
mod filter;
mod measured;
mod memory;
mod pool;

pub mod conformance;

use async_trait::async_trait;
use bytes::Bytes;

pub use buffer::Buffer;
pub use direct::{ALIGN, DirectFile};
pub use error::{BlockError, ErrorKind, Result};
pub use extent::{Extent, ExtentKind, ExtentList, coalesce};
pub use filter::{FaultyRead, Offset};
pub use measured::{Counters, Counts, DeviceCounters, LATENCY_BOUNDS, Measured};
pub use memory::MemoryDisk;
pub use pool::{Pool, PoolBuffer};

/// The largest number of extents one [`BlockRead::extents`] call returns.
pub const MAX_EXTENTS: usize = 4096;

/// A device of fixed size that can be read at any offset.
#[async_trait]
pub trait BlockRead: Send + Sync {
    /// The device's size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` with the bytes at `offset..offset + buf.len()`.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] when the range leaves the device; otherwise what the source
    /// reports.
    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Fills `buf` on the calling thread when that needs no waiting, and says whether it did. A
    /// caller that is about to work through the bytes then does so while they are still in its
    /// core's cache; one that gets `false` reads with [`read_at`](Self::read_at).
    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        let _ = (offset, buf);
        false
    }

    /// The bytes at `offset..offset + length` as they lie in memory, in order and not copied, when
    /// that needs no waiting and keeps no more than about twice as much in memory. A caller that
    /// gets nothing reads.
    fn read_shared(&self, offset: u64, length: u64) -> Option<Vec<Piece>> {
        let _ = (offset, length);
        None
    }

    /// Describes a prefix of `offset..offset + length` as at most [`MAX_EXTENTS`] extents.
    ///
    /// # Errors
    /// As [`read_at`](Self::read_at).
    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(self.size(), offset, length)?;
        Ok(if length == 0 { vec![] } else { vec![Extent::data(offset, length)] })
    }
}

/// Bytes that a device shares with its reader.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As they are.
    Bytes(Bytes),
    /// As many zeroes.
    Zero(u64),
}

/// A device that can also be written.
#[async_trait]
pub trait BlockWrite: BlockRead {
    /// Writes the whole of `data` at `offset`.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`], [`ErrorKind::ReadOnly`], [`ErrorKind::NoSpace`] or what the
    /// device reports.
    async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// The same with a buffer that the device may keep until it is written, which spares it a copy.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    async fn write_buffer(&self, offset: u64, data: PoolBuffer) -> Result<()> {
        self.write_at(offset, &data).await
    }

    /// Makes the range read as zeroes, releasing its space where the device can.
    ///
    /// # Errors
    /// As [`write_at`](Self::write_at).
    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<()>;

    /// Returns once everything written before is durable.
    ///
    /// # Errors
    /// What the device reports.
    async fn flush(&self) -> Result<()>;
}

/// Checks that `offset..offset + length` lies inside a device of `size` bytes.
///
/// # Errors
/// [`ErrorKind::OutOfRange`].
pub fn check_range(size: u64, offset: u64, length: u64) -> Result<()> {
    match offset.checked_add(length) {
        Some(end) if end <= size => Ok(()),
        _ => Err(BlockError::new(
            ErrorKind::OutOfRange,
            format!("{length} bytes at offset {offset} leave a device of {size} bytes"),
        )),
    }
}

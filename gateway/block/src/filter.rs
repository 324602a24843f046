use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use crate::{BlockError, BlockRead, ErrorKind, Extent, Result, check_range};

/// A window of another device, such as one partition of a disk.
#[derive(Debug)]
pub struct Offset<D> {
    inner: D,
    start: u64,
    size: u64,
}

impl<D: BlockRead> Offset<D> {
    /// The window `start..start + size` of `inner`.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] when the window leaves the device.
    pub fn new(inner: D, start: u64, size: u64) -> Result<Self> {
        check_range(inner.size(), start, size)?;
        Ok(Self { inner, start, size })
    }
}

#[async_trait]
impl<D: BlockRead> BlockRead for Offset<D> {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.inner.read_at(self.start + offset, buf).await
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        check_range(self.size, offset, buf.len() as u64).is_ok()
            && self.inner.read_cached(self.start + offset, buf)
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        check_range(self.size, offset, length)?;
        let mut found = self.inner.extents(self.start + offset, length).await?;
        for extent in &mut found {
            extent.offset -= self.start;
        }
        Ok(found)
    }
}

/// Fails reads that touch the bytes from a given offset on, for tests of what a failing source
/// does to its readers.
#[derive(Debug)]
pub struct FaultyRead<D> {
    inner: D,
    fail_from: AtomicU64,
    kind: ErrorKind,
}

impl<D: BlockRead> FaultyRead<D> {
    /// Reads that reach `fail_from` or beyond fail with `kind`.
    pub fn new(inner: D, fail_from: u64, kind: ErrorKind) -> Self {
        Self { inner, fail_from: AtomicU64::new(fail_from), kind }
    }

    /// Moves the first failing byte; `u64::MAX` heals the device.
    pub fn set_fail_from(&self, offset: u64) {
        self.fail_from.store(offset, Ordering::Relaxed);
    }
}

#[async_trait]
impl<D: BlockRead> BlockRead for FaultyRead<D> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset + buf.len() as u64 > self.fail_from.load(Ordering::Relaxed) {
            return Err(BlockError::new(self.kind, format!("injected fault at offset {offset}")));
        }
        self.inner.read_at(offset, buf).await
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.inner.extents(offset, length).await
    }
}

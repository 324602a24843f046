//! What targets share that run a server rather than a parser: a runtime in which time only passes
//! when nothing else is left to do, a disk that watches what is asked of it, and a reader of
//! inputs.

use std::cell::RefCell;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use sluice_block::{BlockError, BlockRead, BlockWrite, ErrorKind, Extent, MemoryDisk, Result};
use tokio::runtime::{Builder, Runtime};

/// The longest piece that a server may ask a disk for at a time: its promise to bound memory.
const MOST: usize = 32 << 20;

/// Runs `work` with a clock that stands still while anything goes on: whatever waits for a timeout
/// gets it at once, and what waits for nothing at all is a hang.
pub fn run<T>(work: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: RefCell<Option<Runtime>> = const { RefCell::new(None) };
    }
    RUNTIME.with_borrow_mut(|runtime| {
        let runtime = runtime.get_or_insert_with(|| {
            let mut builder = Builder::new_current_thread();
            builder.enable_time().start_paused(true).build().expect("a runtime without I/O")
        });
        runtime.block_on(work)
    })
}

/// Waits until everything else waits.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// A disk in memory that counts what changes it and fails when told to.
pub struct Watched {
    disk: MemoryDisk,
    changes: AtomicU64,
    /// Calls until one fails; none does at zero.
    fuse: AtomicU64,
}

impl Watched {
    /// A disk of `size` bytes, a pattern at its beginning and a hole behind that.
    pub fn new(size: usize) -> Self {
        let disk = MemoryDisk::from_bytes(&content(size));
        Self { disk, changes: AtomicU64::new(0), fuse: AtomicU64::new(0) }
    }

    /// How often something was asked for that changes the disk.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Relaxed)
    }

    /// Lets the call after `calls - 1` others fail; none at zero.
    pub fn fail_after(&self, calls: u64) {
        self.fuse.store(calls, Ordering::Relaxed);
    }

    fn call(&self, length: usize) -> Result<()> {
        assert!(length <= MOST, "{length} bytes at a time");
        let left = self.fuse.load(Ordering::Relaxed);
        self.fuse.store(left.saturating_sub(1), Ordering::Relaxed);
        let kinds = [ErrorKind::Io, ErrorKind::NoSpace, ErrorKind::Unavailable, ErrorKind::Damaged];
        let kind = kinds[self.changes() as usize % kinds.len()];
        if left == 1 { Err(BlockError::new(kind, "told to fail")) } else { Ok(()) }
    }

    fn change(&self, length: usize) -> Result<()> {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.call(length)
    }
}

/// What a disk of `size` bytes holds at first: of eight pages the first three.
pub fn content(size: usize) -> Vec<u8> {
    let byte = |at: usize| if at >> 12 & 7 < 3 { (at ^ at >> 8) as u8 | 1 } else { 0 };
    (0..size).map(byte).collect()
}

#[async_trait]
impl BlockRead for Watched {
    fn size(&self) -> u64 {
        self.disk.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.call(buf.len())?;
        self.disk.read_at(offset, buf).await
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.call(0)?;
        self.disk.extents(offset, length).await
    }
}

#[async_trait]
impl BlockWrite for Watched {
    async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        self.change(data.len())?;
        self.disk.write_at(offset, data).await
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        self.change(0)?;
        self.disk.write_zeroes(offset, length).await
    }

    async fn flush(&self) -> Result<()> {
        self.call(0)?;
        self.disk.flush().await
    }
}

/// Takes an input apart; what is missing at its end is zero or short.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// An input from its beginning.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Whether anything is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes, or as many as there are.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// The next bytes, zeroes where there are none.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let taken = self.take(N);
        array[..taken.len()].copy_from_slice(taken);
        array
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Bytes behind their length in two bytes, little-endian.
    pub fn counted(&mut self) -> &'a [u8] {
        let count = u16::from_le_bytes(self.array());
        self.take(count.into())
    }
}

//! A filter that counts what passes through it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_trait::async_trait;

use crate::{BlockRead, BlockWrite, Extent, Piece, PoolBuffer, Result};

/// Upper bounds of the histogram of latencies, in microseconds. A request that takes longer than
/// all of them is in none.
pub const LATENCY_BOUNDS: [u64; 12] = [
    100, 250, 1_000, 2_500, 10_000, 25_000, 100_000, 250_000, 1_000_000, 2_500_000, 10_000_000,
    60_000_000,
];

/// What one sort of request did. Shared between tasks; counts wrap after 2^64.
#[derive(Debug, Default)]
pub struct Counters {
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    micros: AtomicU64,
    latency: [AtomicU64; LATENCY_BOUNDS.len()],
}

/// The values of [`Counters`] at one moment. Those of a request that ends at that moment may be
/// there in part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that ended, failed ones too.
    pub requests: u64,
    /// Bytes of those that succeeded.
    pub bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Microseconds that all took together.
    pub micros: u64,
    /// How many took at most the bound of [`LATENCY_BOUNDS`] at the same place, and more than the
    /// one before.
    pub latency: [u64; LATENCY_BOUNDS.len()],
}

impl Counters {
    /// Counts a request for `bytes` that began at `begun` and ends now.
    fn count(&self, begun: Instant, bytes: u64, succeeded: bool) {
        let micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.count_as(micros, bytes, succeeded);
    }

    fn count_as(&self, micros: u64, bytes: u64, succeeded: bool) {
        let add = |to: &AtomicU64, value| to.fetch_add(value, Ordering::Relaxed);
        add(&self.requests, 1);
        if succeeded {
            add(&self.bytes, bytes);
        } else {
            add(&self.errors, 1);
        }
        add(&self.micros, micros);
        let at = LATENCY_BOUNDS.partition_point(|bound| *bound < micros);
        if let Some(bucket) = self.latency.get(at) {
            add(bucket, 1);
        }
    }

    /// The values now.
    pub fn counts(&self) -> Counts {
        let value = |of: &AtomicU64| of.load(Ordering::Relaxed);
        Counts {
            requests: value(&self.requests),
            bytes: value(&self.bytes),
            errors: value(&self.errors),
            micros: value(&self.micros),
            latency: std::array::from_fn(|at| value(&self.latency[at])),
        }
    }
}

/// Counters of a device.
#[derive(Debug, Default)]
pub struct DeviceCounters {
    /// Reads.
    pub read: Counters,
    /// Writes, and ranges made zero.
    pub write: Counters,
    /// Flushes.
    pub flush: Counters,
}

/// Counts the requests to another device.
#[derive(Debug)]
pub struct Measured<D: ?Sized> {
    counters: Arc<DeviceCounters>,
    inner: Arc<D>,
}

impl<D: ?Sized> Measured<D> {
    /// The device, counted in `counters`, which may be those of several.
    pub fn new(inner: Arc<D>, counters: Arc<DeviceCounters>) -> Self {
        Self { counters, inner }
    }
}

#[async_trait]
impl<D: BlockRead + ?Sized> BlockRead for Measured<D> {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let begun = Instant::now();
        let done = self.inner.read_at(offset, buf).await;
        self.counters.read.count(begun, buf.len() as u64, done.is_ok());
        done
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        let begun = Instant::now();
        let done = self.inner.read_cached(offset, buf);
        if done {
            // What is not done here comes again as a read, and is counted there.
            self.counters.read.count(begun, buf.len() as u64, true);
        }
        done
    }

    fn read_shared(&self, offset: u64, length: u64) -> Option<Vec<Piece>> {
        let begun = Instant::now();
        let shared = self.inner.read_shared(offset, length)?;
        self.counters.read.count(begun, length, true);
        Some(shared)
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.inner.extents(offset, length).await
    }
}

#[async_trait]
impl<D: BlockWrite + ?Sized> BlockWrite for Measured<D> {
    async fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let begun = Instant::now();
        let done = self.inner.write_at(offset, data).await;
        self.counters.write.count(begun, data.len() as u64, done.is_ok());
        done
    }

    async fn write_buffer(&self, offset: u64, data: PoolBuffer) -> Result<()> {
        let (begun, length) = (Instant::now(), data.len() as u64);
        let done = self.inner.write_buffer(offset, data).await;
        self.counters.write.count(begun, length, done.is_ok());
        done
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> Result<()> {
        let begun = Instant::now();
        let done = self.inner.write_zeroes(offset, length).await;
        self.counters.write.count(begun, length, done.is_ok());
        done
    }

    async fn flush(&self) -> Result<()> {
        let begun = Instant::now();
        let done = self.inner.flush().await;
        self.counters.flush.count(begun, 0, done.is_ok());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{MemoryDisk, conformance};

    #[test]
    fn a_request_is_in_the_bucket_whose_bound_it_does_not_exceed() {
        let counters = Counters::default();
        for micros in [0, 100, 101, 60_000_000, 60_000_001] {
            counters.count_as(micros, 1, true);
        }
        let counts = counters.counts();
        assert_eq!((counts.latency[0], counts.latency[1], counts.latency[11]), (2, 1, 1));
        assert_eq!((counts.requests, counts.bytes), (5, 5), "the longest is counted nevertheless");
        assert_eq!(counts.micros, 120_000_202);
    }

    #[tokio::test]
    async fn requests_bytes_and_errors_are_counted() {
        let counters = Arc::new(DeviceCounters::default());
        let disk = Measured::new(Arc::new(MemoryDisk::new(8192)), counters.clone());
        disk.write_at(0, &[1; 512]).await.unwrap();
        disk.write_zeroes(512, 100).await.unwrap();
        disk.flush().await.unwrap();
        disk.read_at(0, &mut [0; 1024]).await.unwrap();
        disk.read_at(8192, &mut [0; 1]).await.unwrap_err();
        let (read, write) = (counters.read.counts(), counters.write.counts());
        assert_eq!((read.requests, read.bytes, read.errors), (2, 1024, 1));
        assert_eq!((write.requests, write.bytes, write.errors), (2, 612, 0));
        assert_eq!(counters.flush.counts().requests, 1);
        assert_eq!(read.latency.iter().sum::<u64>(), 2);
    }

    #[tokio::test]
    async fn the_device_stays_what_it_is() {
        let bytes: Vec<u8> = (0..200_000u32).map(|number| number as u8 | 1).collect();
        let measured = |disk| Measured::new(Arc::new(disk), Arc::default());
        conformance::read(&measured(MemoryDisk::from_bytes(&bytes)), &bytes).await;
        conformance::write(&measured(MemoryDisk::new(1 << 20))).await;
    }

    #[tokio::test]
    async fn what_is_read_from_memory_is_counted_once() {
        let counters = Arc::new(DeviceCounters::default());
        let disk = Arc::new(MemoryDisk::new(4096));
        let disk = Measured::new(disk as Arc<dyn BlockRead>, counters.clone());
        let mut buf = [0; 16];
        if !disk.read_cached(0, &mut buf) {
            disk.read_at(0, &mut buf).await.unwrap();
        }
        assert_eq!(counters.read.counts().requests, 1);
    }
}

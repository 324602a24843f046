//! Reusable buffers for the data of a device's commands.
//!
//! A fresh buffer costs a page fault or a memset per page, which for large transfers is as dear as
//! the copy itself; a reused one costs nothing, because it is overwritten anyway.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The smallest buffer, as a power of two: one page.
const SMALLEST: u32 = 12;

/// Buffers waiting to be reused, by power of two. When more wait than are kept, those of a size
/// that was not asked for the longest go: what clients asked for earlier must not stand in the way
/// of what they ask for now.
///
/// A pool belongs to one device, so that no bytes wander between devices even if one of them broke
/// its promise to fill what it is given.
#[derive(Debug)]
pub struct Pool {
    /// The largest buffer that is kept, as a power of two.
    largest: u32,
    kept: usize,
    shelves: Mutex<Shelves>,
}

#[derive(Debug)]
struct Shelves {
    by_class: Vec<Shelf>,
    bytes: usize,
    /// Counts what was taken.
    clock: u64,
}

#[derive(Debug, Default)]
struct Shelf {
    buffers: Vec<Box<[u8]>>,
    /// When one was asked for last.
    asked: u64,
}

impl Shelves {
    fn take(&mut self, class: usize) -> Option<Box<[u8]>> {
        self.clock += 1;
        self.by_class[class].asked = self.clock;
        self.pop(class)
    }

    fn pop(&mut self, class: usize) -> Option<Box<[u8]>> {
        let found = self.by_class[class].buffers.pop();
        self.bytes -= found.as_ref().map_or(0, |bytes| bytes.len());
        found
    }

    /// The class other than this one that has buffers and was not asked for the longest.
    fn stalest_but(&self, class: usize) -> Option<usize> {
        let others = self.by_class.iter().enumerate().filter(|(other, _)| *other != class);
        let kept = others.filter(|(_, shelf)| !shelf.buffers.is_empty());
        kept.min_by_key(|(_, shelf)| shelf.asked).map(|(other, _)| other)
    }
}

impl Pool {
    /// Keeps buffers of up to `longest` bytes each (rounded up to a power of two), and `kept` bytes
    /// altogether; what is on loan is not counted.
    #[must_use]
    pub fn new(longest: usize, kept: usize) -> Self {
        let largest = power_of(longest).unwrap_or(SMALLEST);
        let by_class = (SMALLEST..=largest).map(|_| Shelf::default()).collect();
        Self { largest, kept, shelves: Mutex::new(Shelves { by_class, bytes: 0, clock: 0 }) }
    }

    /// A buffer of `length` bytes, whose content is left over from earlier use.
    #[must_use]
    pub fn take(self: &Arc<Self>, length: usize) -> PoolBuffer {
        let class = self.class_of(length);
        let kept = class.and_then(|class| self.shelves().take(class));
        let bytes = kept.unwrap_or_else(|| {
            let size = class.map_or(length, |class| 1 << (class as u32 + SMALLEST));
            vec![0; size].into_boxed_slice()
        });
        PoolBuffer { bytes, length, pool: Arc::clone(self) }
    }

    fn put_back(&self, bytes: Box<[u8]>) {
        let Some(class) = self.class_of(bytes.len()) else { return };
        if bytes.len() > self.kept {
            return;
        }
        // Declared before the lock, and so given back to the system after it.
        let mut stale = Vec::new();
        let mut shelves = self.shelves();
        while shelves.bytes + bytes.len() > self.kept {
            let Some(other) = shelves.stalest_but(class) else { return };
            stale.extend(shelves.pop(other));
        }
        shelves.bytes += bytes.len();
        shelves.by_class[class].buffers.push(bytes);
    }

    fn shelves(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The shelf for buffers that hold `length` bytes; `None` beyond the largest.
    fn class_of(&self, length: usize) -> Option<usize> {
        let power = power_of(length)?;
        (power <= self.largest).then_some((power - SMALLEST) as usize)
    }
}

/// The power of two that holds `length` bytes, a page at the least.
fn power_of(length: usize) -> Option<u32> {
    Some(length.checked_next_power_of_two()?.trailing_zeros().max(SMALLEST))
}

/// Bytes on loan from a [`Pool`], to which they return when dropped.
#[derive(Debug)]
pub struct PoolBuffer {
    bytes: Box<[u8]>,
    length: usize,
    pool: Arc<Pool>,
}

impl PoolBuffer {
    /// Leaves the first `length` bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl Deref for PoolBuffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl AsRef<[u8]> for PoolBuffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl DerefMut for PoolBuffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl Drop for PoolBuffer {
    fn drop(&mut self) {
        self.pool.put_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_the_asked_length_and_are_reused() {
        let pool = Arc::new(Pool::new(16 << 20, 32 << 20));
        for length in [0, 1, 4096, 4097, 100_000, 16 << 20, (16 << 20) + 1, 64 << 20] {
            assert_eq!(pool.take(length).len(), length);
        }
        pool.take(5000)[4999] = 7;
        let mut again = pool.take(8192);
        assert_eq!(again[4999], 7, "the buffer of the same class came back");
        again.truncate(10);
        assert_eq!(again.len(), 10);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let pool = Arc::new(Pool::new(16 << 20, 32 << 20));
        drop(pool.take(17 << 20));
        assert_eq!(pool.shelves.lock().unwrap().bytes, 0, "longer than any that is kept");
        let many: Vec<PoolBuffer> = (0..100).map(|_| pool.take(1 << 20)).collect();
        drop(many);
        let shelves = pool.shelves.lock().unwrap();
        assert_eq!(shelves.bytes, 32 << 20);
        let buffers = shelves.by_class.iter().flat_map(|shelf| &shelf.buffers);
        let kept: usize = buffers.map(|bytes| bytes.len()).sum();
        assert_eq!(kept, shelves.bytes);
    }

    #[test]
    fn sizes_that_nobody_asks_for_any_more_make_room() {
        let pool = Arc::new(Pool::new(1 << 20, 4 << 20));
        let kept = |length: usize| {
            let class = pool.class_of(length).unwrap();
            pool.shelves().by_class[class].buffers.len()
        };
        let small: Vec<PoolBuffer> = (0..64).map(|_| pool.take(64 << 10)).collect();
        drop(small);
        assert_eq!(kept(64 << 10), 64, "all that is kept is of one size");
        let large: Vec<PoolBuffer> = (0..3).map(|_| pool.take(1 << 20)).collect();
        drop(large);
        assert_eq!((kept(1 << 20), kept(64 << 10)), (3, 16));
        // And back: who comes back is not kept out by the others either.
        let small: Vec<PoolBuffer> = (0..64).map(|_| pool.take(64 << 10)).collect();
        drop(small);
        assert_eq!((kept(1 << 20), kept(64 << 10)), (0, 64));
    }
}

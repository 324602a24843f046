//! Reusable buffers for the data of commands.
//!
//! A fresh buffer costs a page fault or a memset per page, which for large transfers is as dear as
//! the copy itself; a reused one costs nothing, because it is overwritten anyway.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// The smallest buffer, as a power of two: one page.
const SMALLEST: u32 = 12;
/// The largest buffer that is kept, as a power of two: both halves of the longest transfer.
const LARGEST: u32 = 24;
/// Bytes kept for reuse per logical unit: what a session may have under way.
const KEPT_BYTES: usize = 32 << 20;

/// Buffers waiting to be reused, by power of two.
///
/// A pool belongs to one logical unit, so that no bytes wander between units even if a device broke
/// its promise to fill what it is given.
#[derive(Default)]
pub(crate) struct Pool {
    shelves: Mutex<Shelves>,
}

#[derive(Default)]
struct Shelves {
    by_class: [Vec<Box<[u8]>>; (LARGEST - SMALLEST + 1) as usize],
    bytes: usize,
}

impl Pool {
    /// A buffer of `length` bytes, whose content is left over from earlier use.
    pub(crate) fn take(self: &Arc<Self>, length: usize) -> Buffer {
        let class = class_of(length);
        let kept = class.and_then(|class| {
            let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
            let found = shelves.by_class[class].pop();
            shelves.bytes -= found.as_ref().map_or(0, |bytes| bytes.len());
            found
        });
        let bytes = kept.unwrap_or_else(|| {
            let size = class.map_or(length, |class| 1 << (class as u32 + SMALLEST));
            vec![0; size].into_boxed_slice()
        });
        Buffer { bytes, length, pool: Arc::clone(self) }
    }

    fn put_back(&self, bytes: Box<[u8]>) {
        let Some(class) = class_of(bytes.len()) else { return };
        let mut shelves = self.shelves.lock().unwrap_or_else(PoisonError::into_inner);
        if shelves.bytes + bytes.len() <= KEPT_BYTES {
            shelves.bytes += bytes.len();
            shelves.by_class[class].push(bytes);
        }
    }
}

/// The shelf for buffers that hold `length` bytes; `None` beyond the largest.
fn class_of(length: usize) -> Option<usize> {
    let power = length.checked_next_power_of_two()?.trailing_zeros().max(SMALLEST);
    (power <= LARGEST).then_some((power - SMALLEST) as usize)
}

/// Bytes on loan from a [`Pool`], to which they return when dropped.
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    length: usize,
    pool: Arc<Pool>,
}

impl Buffer {
    /// Leaves the first `length` bytes.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.put_back(std::mem::take(&mut self.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_have_the_asked_length_and_are_reused() {
        let pool = Arc::new(Pool::default());
        for length in [0, 1, 4096, 4097, 100_000, 16 << 20, (16 << 20) + 1] {
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
        let pool = Arc::new(Pool::default());
        let many: Vec<Buffer> = (0..100).map(|_| pool.take(1 << 20)).collect();
        drop(many);
        let shelves = pool.shelves.lock().unwrap();
        assert_eq!(shelves.bytes, KEPT_BYTES);
        let kept: usize = shelves.by_class.iter().flatten().map(|bytes| bytes.len()).sum();
        assert_eq!(kept, shelves.bytes);
    }
}

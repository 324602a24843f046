//! Large memory that is used again.
//!
//! Fresh memory is not free: the kernel finds, clears and maps each page when it is first touched,
//! which costs more than copying something into it. What is filled again and again (packs, runs of
//! blocks, pieces of a disk on their way) lies in buffers that come back when they are dropped.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use memmap2::{Advice, MmapMut};

/// Bytes of dropped buffers that are kept; never more than were in use at a time.
const KEPT: usize = 128 << 20;
static DROPPED: Mutex<Vec<MmapMut>> = Mutex::new(Vec::new());

/// Bytes in memory that begins at a multiple of [`ALIGN`](crate::ALIGN).
///
/// Meant for some hundred KiB and more: each takes whole pages.
pub struct Buffer {
    /// Something but for while it is dropped or grows.
    memory: Option<MmapMut>,
    length: usize,
}

impl Buffer {
    /// A buffer of `length` bytes. What they are is not said: they are to be filled.
    ///
    /// # Panics
    /// When there is no memory, as a `Vec` does.
    pub fn new(length: usize) -> Self {
        Self { memory: Some(memory(length)), length }
    }

    /// An empty buffer with room for `capacity` bytes.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn with_capacity(capacity: usize) -> Self {
        Self { memory: Some(memory(capacity)), length: 0 }
    }

    /// Appends `bytes`, in twice the memory if they do not fit.
    ///
    /// # Panics
    /// As [`new`](Self::new).
    pub fn extend_from_slice(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if self.memory.as_ref().is_none_or(|memory| memory.len() < end) {
            let mut larger = Self::new(end.max(2 * self.length));
            larger[..self.length].copy_from_slice(self);
            *self = Self { length: self.length, memory: larger.memory.take() };
        }
        let start = std::mem::replace(&mut self.length, end);
        self[start..].copy_from_slice(bytes);
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory[..self.length])
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.memory.as_mut().map_or(&mut [], |memory| &mut memory[..self.length])
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl From<Buffer> for Bytes {
    /// Without a copy; the memory comes back when the last of them is dropped.
    fn from(buffer: Buffer) -> Self {
        Self::from_owner(buffer)
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        let mut dropped = dropped();
        dropped.push(memory);
        // What was used longest ago goes: its size may not be asked for any more.
        while dropped.iter().map(|memory| memory.len()).sum::<usize>() > KEPT {
            dropped.remove(0);
        }
    }
}

fn dropped() -> MutexGuard<'static, Vec<MmapMut>> {
    DROPPED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Memory for `length` bytes: the smallest that was dropped and is not much too large, or fresh.
fn memory(length: usize) -> MmapMut {
    let length = length.max(1);
    let kept = {
        let mut dropped = dropped();
        let fits = |memory: &MmapMut| (length..=2 * length).contains(&memory.len());
        let fitting = dropped.iter().enumerate().filter(|(_, memory)| fits(memory));
        let smallest = fitting.min_by_key(|(_, memory)| memory.len()).map(|(at, _)| at);
        smallest.map(|at| dropped.remove(at))
    };
    kept.unwrap_or_else(|| fresh(length))
}

/// Memory of zeroes, in pages as large as there are.
fn fresh(length: usize) -> MmapMut {
    // Four sizes between a power of two and the next: lengths differ, and are to fit what is kept.
    let step = (length.next_power_of_two() / 8).max(1);
    let memory = MmapMut::map_anon(length.next_multiple_of(step))
        .unwrap_or_else(|error| panic!("no memory for {length} bytes: {error}"));
    // Where there are no large pages, small ones do.
    let _ = memory.advise(Advice::HugePage);
    memory
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ALIGN;

    #[test]
    fn a_buffer_begins_where_direct_writes_want_it() {
        for length in [0, 1, ALIGN, 3 * ALIGN + 7, 5 << 20] {
            let mut buffer = Buffer::new(length);
            assert_eq!((buffer.len(), buffer.as_ptr().align_offset(ALIGN)), (length, 0));
            buffer.fill(7);
            assert!(buffer.iter().all(|byte| *byte == 7));
        }
    }

    #[test]
    fn a_buffer_grows_as_a_vector_does() {
        let mut buffer = Buffer::with_capacity(3);
        let mut model = Vec::new();
        for round in 0..200u32 {
            let part: Vec<u8> = (0..round * round % 9000).map(|at| (at + round) as u8).collect();
            buffer.extend_from_slice(&part);
            model.extend_from_slice(&part);
            assert!(buffer[..] == model[..]);
        }
        let bytes = Bytes::from(buffer);
        assert!(bytes == model);
    }

    #[test]
    fn memory_is_used_again_when_nobody_has_it_any_more() {
        let lengths = [128 << 10, 3 << 20, 33 << 20, 48 << 20];
        let mut held: Vec<(u8, Bytes)> = Vec::new();
        for round in 0..12u8 {
            let mut buffer = Buffer::new(lengths[usize::from(round) % lengths.len()]);
            buffer.fill(round);
            // Every other one stays, and must stay as it is.
            if round % 2 == 0 {
                held.push((round, buffer.into()));
            }
        }
        for (round, bytes) in &held {
            assert!(bytes.iter().all(|byte| byte == round));
        }
        drop(held);
        let kept: usize = dropped().iter().map(|memory| memory.len()).sum();
        assert!((1..=KEPT).contains(&kept), "{kept}");
    }
}

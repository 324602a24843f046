//! Buffers used again and again: fresh pages cost more than filling them.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use parking_lot::Mutex;

/// Buffers kept for later.
const KEPT: usize = 64;

/// A pool of buffers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

/// A buffer that goes back to its pool.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    pool: Buffers,
}

impl Buffers {
    /// A buffer of `length` bytes of any content.
    pub(crate) fn get(&self, length: usize) -> Buffer {
        let mut bytes = self.0.lock().pop().unwrap_or_default();
        bytes.resize(length, 0);
        Buffer { bytes, pool: self.clone() }
    }
}

impl Deref for Buffer {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut kept = self.pool.0.lock();
        if kept.len() < KEPT {
            kept.push(std::mem::take(&mut self.bytes));
        }
    }
}

//! Reading into memory that nobody zeroes before, and that large reads use again: its pages cost
//! more than what is copied into them.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::ops::RangeInclusive;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use memmap2::{Advice, MmapMut};
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{ReadWriteFlags, pread, preadv2, retry_on_intr};

/// Exactly `length` bytes from `offset` on of the file at `path`, if neither finding nor reading it
/// has to wait: `RESOLVE_CACHED` (openat2(2)) and `RWF_NOWAIT` (preadv2(2)) promise that. Nothing
/// otherwise, whatever the reason.
pub(super) fn at_hand(path: &Path, offset: u64, length: usize) -> Option<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = openat2(CWD, path, flags, Mode::empty(), ResolveFlags::CACHED).ok()?;
    let mut body = vec![0; length];
    let mut into = [IoSliceMut::new(&mut body)];
    let read = preadv2(&file, &mut into, offset, ReadWriteFlags::NOWAIT).ok()?;
    (read == length).then_some(body)
}

/// Lengths of reads that use memory again: runs of blocks, and whole packs with their tables.
const LARGE: RangeInclusive<usize> = 128 << 10..=48 << 20;
/// Most bytes of buffers kept for that; no more than were in use at a time.
const KEPT: usize = 128 << 20;
static BUFFERS: Mutex<Vec<MmapMut>> = Mutex::new(Vec::new());

/// The content of a large read, in memory that is kept when it is dropped.
struct Lent {
    /// Something but for while it is dropped.
    memory: Option<MmapMut>,
    length: usize,
}

impl Lent {
    fn new(length: usize) -> io::Result<Self> {
        let kept = {
            let mut buffers = BUFFERS.lock();
            let fits = |memory: &MmapMut| (length..=2 * length).contains(&memory.len());
            let fitting = buffers.iter().enumerate().filter(|(_, memory)| fits(memory));
            let smallest = fitting.min_by_key(|(_, memory)| memory.len()).map(|(at, _)| at);
            smallest.map(|at| buffers.remove(at))
        };
        let memory = match kept {
            Some(memory) => memory,
            None => fresh_memory(length)?,
        };
        Ok(Self { memory: Some(memory), length })
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.memory.as_ref().map_or(&[], |memory| &memory[..self.length])
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else { return };
        let mut buffers = BUFFERS.lock();
        buffers.push(memory);
        // What was used longest ago goes: its size may not be asked for any more.
        while buffers.iter().map(|memory| memory.len()).sum::<usize>() > KEPT {
            buffers.remove(0);
        }
    }
}

/// Memory for a read of `length` bytes and of somewhat longer ones, in pages as large as there are.
fn fresh_memory(length: usize) -> io::Result<MmapMut> {
    // Four sizes between a power of two and the next: reads differ, and are to fit in what is kept.
    let step = (length.next_power_of_two() / 8).max(1);
    let memory = MmapMut::map_anon(length.next_multiple_of(step))?;
    // Where there are no large pages, small ones do.
    let _ = memory.advise(Advice::HugePage);
    Ok(memory)
}

/// Exactly `length` bytes from `offset` on.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when the file ends before; what the system says.
pub(super) fn exact_at(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    if !LARGE.contains(&length) {
        return fresh_at(file, offset, length).map(Bytes::from);
    }
    let mut lent = Lent::new(length)?;
    if let Some(memory) = &mut lent.memory {
        file.read_exact_at(&mut memory[..length], offset)?;
    }
    Ok(Bytes::from_owner(lent))
}

fn fresh_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(length);
    while body.len() < length {
        let at = offset + body.len() as u64;
        if retry_on_intr(|| pread(file, spare_capacity(&mut body), at))? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    // The memory may be larger than asked for, and then more was read.
    body.truncate(length);
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_at_hand_is_read_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        for (offset, length) in [(0, 1), (7, 4096), (0, 100_000), (99_999, 1)] {
            // Where the file system cannot tell, nothing is at hand.
            if let Some(body) = at_hand(&path, offset, length) {
                assert!(body == content[offset as usize..][..length]);
            }
        }
        assert_eq!(at_hand(&path, 99_999, 2), None);
        assert_eq!(at_hand(&path, 1 << 40, 1), None);
        assert_eq!(at_hand(folder.path(), 0, 1), None, "a folder");
        assert_eq!(at_hand(&folder.path().join("other"), 0, 1), None);
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert_eq!(at_hand(&link, 0, 1), None, "a link");
    }

    #[test]
    fn reads_as_much_as_asked_or_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        for (offset, length) in [(0, 0), (0, 1), (7, 4096), (0, 100_000), (99_999, 1), (100_000, 0)]
        {
            let body = exact_at(&file, offset, length).unwrap();
            assert!(body[..] == content[offset as usize..offset as usize + length]);
        }
        for (offset, length) in [(0, 100_001), (99_999, 2), (100_000, 1), (1 << 40, 1)] {
            let error = exact_at(&file, offset, length).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset} {length}");
        }
    }

    #[test]
    fn memory_is_used_again_when_nobody_has_it_any_more() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..49u32 << 20).map(|at| (at / 7 % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        let lengths = [*LARGE.start(), 3 << 20, *LARGE.end(), *LARGE.end() + 1, *LARGE.start() - 1];
        let mut held = Vec::new();
        for round in 0..12 {
            let (offset, length) = (round * 1000, lengths[round % lengths.len()]);
            let body = exact_at(&file, offset as u64, length).unwrap();
            assert!(body[..] == content[offset..offset + length]);
            // Every other one stays, and must stay as it is.
            if round % 2 == 0 {
                held.push((offset, body));
            }
        }
        for (offset, body) in held {
            assert!(body[..] == content[offset..offset + body.len()]);
        }
        let kept: usize = BUFFERS.lock().iter().map(|memory| memory.len()).sum();
        assert!((1..=KEPT).contains(&kept), "{kept}");
        let beyond = exact_at(&file, 48 << 20, 2 << 20).unwrap_err();
        assert_eq!(beyond.kind(), io::ErrorKind::UnexpectedEof);
    }
}

//! Reading into memory that nobody zeroes before, and that large reads use again: its pages cost
//! more than what is copied into them.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::{ReadWriteFlags, pread, preadv2, retry_on_intr};
use sluice_block::Buffer;

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

/// Reads of so many bytes use memory again: runs of blocks, and whole packs.
const LARGE: usize = 128 << 10;

/// Exactly `length` bytes from `offset` on.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when the file ends before; what the system says.
pub(super) fn exact_at(file: &File, offset: u64, length: usize) -> io::Result<Bytes> {
    if length < LARGE {
        return fresh_at(file, offset, length).map(Bytes::from);
    }
    let mut body = Buffer::new(length);
    file.read_exact_at(&mut body, offset)?;
    Ok(body.into())
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
        const ALL: usize = LARGE + 10_000;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..ALL as u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        let ranges = [(0, 0), (0, 1), (7, 4096), (9, LARGE), (0, ALL), (ALL as u64, 0)];
        for (offset, length) in ranges {
            let body = exact_at(&file, offset, length).unwrap();
            assert!(body[..] == content[offset as usize..offset as usize + length]);
        }
        for (offset, length) in [(0, ALL + 1), (ALL as u64 - 1, 2), (ALL as u64, 1), (1 << 40, 1)] {
            let error = exact_at(&file, offset, length).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset} {length}");
        }
    }
}

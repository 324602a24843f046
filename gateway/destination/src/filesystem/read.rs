//! Reading into memory that nobody has zeroed before.

use std::fs::File;
use std::io;

use rustix::buffer::spare_capacity;
use rustix::io::{pread, retry_on_intr};

/// Exactly `length` bytes from `offset` on.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] when the file ends before; what the system says.
pub(super) fn exact_at(file: &File, offset: u64, length: usize) -> io::Result<Vec<u8>> {
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
    fn reads_as_much_as_asked_or_fails() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let file = File::open(&path).unwrap();
        for (offset, length) in [(0, 0), (0, 1), (7, 4096), (0, 100_000), (99_999, 1), (100_000, 0)]
        {
            let body = exact_at(&file, offset, length).unwrap();
            assert!(body == content[offset as usize..offset as usize + length]);
        }
        for (offset, length) in [(0, 100_001), (99_999, 2), (100_000, 1), (1 << 40, 1)] {
            let error = exact_at(&file, offset, length).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{offset} {length}");
        }
    }
}

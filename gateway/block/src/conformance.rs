//! The contract of [`BlockRead`] and [`BlockWrite`] as checks that every implementation runs.
//!
//! The functions panic with a message on the first broken promise; call them from a test.

use std::sync::Arc;

use crate::{BlockRead, BlockWrite, ErrorKind, Piece, Pool, coalesce};

/// Checks that `disk` reads as `expected`, at many offsets and lengths, and that its extents
/// agree with the bytes.
///
/// # Panics
/// When a promise of the contract is broken.
pub async fn read(disk: &dyn BlockRead, expected: &[u8]) {
    let size = expected.len() as u64;
    assert_eq!(disk.size(), size, "size");
    for (offset, length) in probes(size) {
        let mut buf = vec![0xAA; length as usize];
        disk.read_at(offset, &mut buf).await.expect("read inside the device");
        let wanted = &expected[offset as usize..(offset + length) as usize];
        assert!(buf == wanted, "bytes differ in {length} at {offset}");
        buf.fill(0xAA);
        let cached = disk.read_cached(offset, &mut buf);
        assert!(!cached || buf == wanted, "cached bytes differ in {length} at {offset}");
        if let Some(pieces) = disk.read_shared(offset, length) {
            assert!(joined(&pieces) == wanted, "shared bytes differ in {length} at {offset}");
        }
    }
    assert!(disk.read_shared(size, 1).is_none(), "shared bytes beyond the end");
    assert!(disk.read_shared(u64::MAX, 2).is_none(), "shared bytes at an offset that overflows");
    assert!(!disk.read_cached(size, &mut [0]), "cached bytes beyond the end");
    assert!(!disk.read_cached(u64::MAX, &mut [0, 0]), "cached bytes at an offset that overflows");
    let beyond = disk.read_at(size, &mut [0]).await.expect_err("read beyond the end");
    assert_eq!(beyond.kind(), ErrorKind::OutOfRange);
    let overflow = disk.read_at(u64::MAX, &mut [0, 0]).await.expect_err("offset overflow");
    assert_eq!(overflow.kind(), ErrorKind::OutOfRange);
    extents(disk, expected).await;
}

/// The bytes of pieces, one after the other.
#[must_use]
pub fn joined(pieces: &[Piece]) -> Vec<u8> {
    let mut whole = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Bytes(bytes) => whole.extend_from_slice(bytes),
            Piece::Zero(length) => whole.resize(whole.len() + *length as usize, 0),
        }
    }
    whole
}

async fn extents(disk: &dyn BlockRead, expected: &[u8]) {
    for (offset, length) in probes(expected.len() as u64) {
        let found = coalesce(disk, offset, length).await.expect("extents inside the device");
        let mut at = offset;
        for extent in &found {
            assert_eq!(extent.offset, at, "extents leave a gap or overlap");
            assert!(extent.length > 0, "empty extent");
            at = extent.end();
            let bytes = &expected[extent.offset as usize..at as usize];
            let zero = bytes.iter().all(|byte| *byte == 0);
            assert!(zero || !extent.kind.reads_zero(), "data called zero in {extent:?}");
        }
        assert_eq!(at, offset + length, "extents end early or late");
    }
    let size = expected.len() as u64;
    disk.extents(size, 1).await.expect_err("extents beyond the end");
}

/// Checks writes on `disk`, whose content is lost; it must be at least 256 KiB.
///
/// # Panics
/// When a promise of the contract is broken.
pub async fn write(disk: &dyn BlockWrite) {
    let size = disk.size();
    assert!(size >= 256 << 10, "device too small for the checks");
    disk.write_zeroes(0, size).await.expect("zero the device");
    let pool = Arc::new(Pool::new(size as usize, size as usize));
    let mut model = vec![0u8; size as usize];
    for (step, (offset, length)) in probes(size).into_iter().enumerate() {
        let range = offset as usize..(offset + length) as usize;
        if step % 3 == 2 {
            disk.write_zeroes(offset, length).await.expect("write zeroes");
            model[range].fill(0);
        } else {
            let fill = vec![step as u8 + 1; length as usize];
            if step % 3 == 1 {
                let mut buffer = pool.take(fill.len());
                buffer.copy_from_slice(&fill);
                disk.write_buffer(offset, buffer).await.expect("write a buffer");
            } else {
                disk.write_at(offset, &fill).await.expect("write");
            }
            model[range].copy_from_slice(&fill);
        }
    }
    disk.flush().await.expect("flush");
    read(disk, &model).await;
    let beyond = disk.write_at(size, &[1]).await.expect_err("write beyond the end");
    assert_eq!(beyond.kind(), ErrorKind::OutOfRange);
}

/// Offsets and lengths around every boundary that matters: sectors, pages, blocks, the end.
fn probes(size: u64) -> Vec<(u64, u64)> {
    let mut all = vec![(0, size), (0, 0), (size, 0)];
    for edge in [1, 511, 512, 4096, 65536, 131_072, 1 << 20] {
        for offset in [0, edge, size.saturating_sub(edge), edge.saturating_sub(1)] {
            for length in [1, 512, 4096, 65537, edge] {
                if offset + length <= size {
                    all.push((offset, length));
                }
            }
        }
    }
    all
}

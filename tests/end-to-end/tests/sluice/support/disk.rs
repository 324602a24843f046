//! Disks to back up: sparse files with data that compresses as badly as it can.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::run::Cmd;

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;
pub const TIB: u64 = 1 << 40;

/// Data, holes, zeroes that are written, one odd byte alone, and a size that is no multiple of
/// anything.
pub fn sample(path: &Path) {
    create(path, 50 * MIB + 12_345);
    fill(path, 0, 5000, 1);
    fill(path, 3 * MIB + 7, 4 * MIB, 2);
    write(path, 10 * MIB, &vec![0; MIB as usize]);
    // Text, which compresses.
    write(path, 12 * MIB, "all work and no play ".repeat(100_000).as_bytes());
    // The same as above at another place: stored once.
    fill(path, 20 * MIB, 4 * MIB, 3);
    fill(path, 40 * MIB, 4 * MIB, 3);
    write(path, 33 * MIB + 1, b"x");
    fill(path, 50 * MIB + 12_000, 345, 4);
}

/// What a day does to [`sample`]; the bytes touched, for a list of changes.
pub fn modify(path: &Path, seed: u64) -> Vec<(u64, u64)> {
    let changes =
        vec![(4 * MIB, 300_000), (30 * MIB + seed * 4096, 70_000), (50 * MIB + 12_340, 5)];
    for (number, (offset, length)) in changes.iter().enumerate() {
        fill(path, *offset, *length, 1000 * seed + number as u64);
    }
    // Data that becomes zeroes.
    write(path, 12 * MIB, &[0; 200_000]);
    let mut all = changes;
    all.push((12 * MIB, 200_000));
    all
}

pub fn create(path: &Path, size: u64) {
    File::create(path).unwrap().set_len(size).unwrap();
}

pub fn write(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

/// Writes noise that only `seed` repeats.
pub fn fill(path: &Path, offset: u64, length: u64, seed: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut at = 0;
    while at < length {
        let mut bytes = Vec::with_capacity(MIB as usize);
        while bytes.len() < MIB as usize {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            bytes.extend_from_slice(&state.to_le_bytes());
        }
        bytes.truncate((length - at).min(MIB) as usize);
        file.write_all_at(&bytes, offset + at).unwrap();
        at += bytes.len() as u64;
    }
}

/// Bytes on disk, which holes do not take.
pub fn allocated(path: &Path) -> u64 {
    path.metadata().unwrap().blocks() * 512
}

/// Bytes of all files below a folder.
pub fn folder_size(path: &Path) -> u64 {
    let Ok(entries) = path.read_dir() else { return 0 };
    let size = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => folder_size(&entry.path()),
        Ok(meta) => meta.len(),
        // Temporary files come and go.
        Err(_) => 0,
    };
    entries.flatten().map(size).sum()
}

/// Equal to the byte, length included.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    Cmd::new("cmp").arg(left).arg(right).ok();
}

/// qemu-img finds the same content in a raw file and in an image it opens itself.
#[track_caller]
pub fn assert_qemu_same(raw: &Path, format: &str, image: &str) {
    let ran =
        Cmd::new("qemu-img").args(["compare", "-f", "raw", "-F", format]).arg(raw).arg(image).ok();
    assert!(ran.text().contains("identical"), "{}", ran.text());
}

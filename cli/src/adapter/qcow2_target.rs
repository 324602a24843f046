//! Restoring to a qcow2 file (QEMU's `docs/interop/qcow2`), version 3, clusters of 64 KiB.
//!
//! Written front to back, so that every cluster up to the end of the file is in use exactly once:
//!
//! ```text
//! header | L1 table | data clusters and L2 tables as they come ... | refcount blocks | their table
//! ```
//!
//! Only the L1 table is kept in memory (2 MiB for 16 TiB); L2 tables are read and written in place.
//! The header comes last: a file cut short is no qcow2 image and cannot pass for one.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use sluice_block::DirectFile;
use sluice_engine::Target;

use super::file_target::{folder_of, lock, sync_folder};

const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Entries of 8 bytes in a table of one cluster.
const ENTRIES: u64 = CLUSTER / 8;
/// Refcounts of 16 bits in a block.
const REFCOUNTS: u64 = CLUSTER / 2;
/// The bit that says "used exactly once".
const COPIED: u64 = 1 << 63;
const HEADER_LENGTH: u32 = 104;

/// A new qcow2 file.
#[derive(Debug)]
pub(crate) struct Qcow2Target {
    file: File,
    /// Its folder: the name must be durable as well.
    folder: Option<File>,
    /// The same, past the page cache: for data only.
    direct: Option<DirectFile>,
    size: u64,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Places of the L2 tables; 0 where there is none.
    l1: Vec<u64>,
    /// The next free cluster.
    next: u64,
}

impl Qcow2Target {
    /// Creates the file for an image of `size` bytes; one that exists is replaced with `over`.
    pub(crate) fn create(path: &Path, size: u64, over: bool) -> Result<Self> {
        let mut options = File::options();
        options.read(true).write(true);
        let options = if over { options.create(true) } else { options.create_new(true) };
        let context = || format!("cannot create {}", path.display());
        let file = options.open(path).with_context(context)?;
        lock(&file, path)?;
        file.set_len(0).with_context(context)?;
        // One also for an empty image: QEMU takes the place of none for lost.
        let tables = (size.div_ceil(CLUSTER * ENTRIES) as usize).max(1);
        let next = 1 + l1_clusters(tables as u64);
        let (direct, folder) = (DirectFile::of(&file), folder_of(path));
        let state = Mutex::new(State { l1: vec![0; tables], next });
        Ok(Self { file, folder, direct, size, state })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        // The state is changed only after the file took the change, so it is never half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The place of a guest cluster in the file, which is found or made.
    fn place(&self, cluster: u64) -> io::Result<u64> {
        let mut state = self.state();
        let (table, entry) = ((cluster / ENTRIES) as usize, cluster % ENTRIES);
        let l2 = match state.l1.get(table) {
            Some(0) => {
                let place = state.next * CLUSTER;
                // Beyond the end a file reads as zeroes: an empty table.
                self.file.set_len(place + CLUSTER)?;
                state.next += 1;
                state.l1[table] = place;
                place
            }
            Some(place) => *place,
            None => return Err(io::Error::other("a write beyond the end of the image")),
        };
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, l2 + entry * 8)?;
        let known = u64::from_be_bytes(bytes) & !COPIED;
        if known != 0 {
            return Ok(known);
        }
        let place = state.next * CLUSTER;
        self.file.set_len(place + CLUSTER)?;
        self.file.write_all_at(&(place | COPIED).to_be_bytes(), l2 + entry * 8)?;
        state.next += 1;
        Ok(place)
    }
}

fn l1_clusters(tables: u64) -> u64 {
    (tables * 8).div_ceil(CLUSTER).max(1)
}

/// Numbers of refcount blocks, and of clusters of their table, for `used` clusters and
/// themselves.
fn refcount_clusters(used: u64) -> (u64, u64) {
    let (mut blocks, mut table) = (1, 1);
    loop {
        let wanted = (used + blocks + table).div_ceil(REFCOUNTS);
        let wanted_table = wanted.div_ceil(ENTRIES);
        if wanted <= blocks && wanted_table <= table {
            return (blocks, table);
        }
        (blocks, table) = (wanted.max(blocks), wanted_table.max(table));
    }
}

fn header(size: u64, tables: u32, refcount_table: u64, refcount_table_clusters: u32) -> Vec<u8> {
    let halves = |value: u64| [(value >> 32) as u32, value as u32];
    let (size, l1, refcounts) = (halves(size), halves(CLUSTER), halves(refcount_table));
    let words = [
        0x5146_49FB, // "QFI" 0xFB
        3,
        0, // no backing file: offset and length
        0,
        0,
        CLUSTER_BITS,
        size[0],
        size[1],
        0, // not encrypted
        tables,
        l1[0], // the L1 table follows the header
        l1[1],
        refcounts[0],
        refcounts[1],
        refcount_table_clusters,
        0, // no snapshots: number and offset
        0,
        0,
        0, // no features: incompatible, compatible, auto-clear
        0,
        0,
        0,
        0,
        0,
        4, // refcounts of 16 bits
        HEADER_LENGTH,
        0, // no extensions
        0,
    ];
    words.into_iter().flat_map(u32::to_be_bytes).collect()
}

impl Target for Qcow2Target {
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let within = at % CLUSTER;
            let place = self.place(at / CLUSTER)?;
            let mut length = CLUSTER - within;
            // Clusters that follow in the image follow in the file, but for tables in between.
            while length < rest.len() as u64
                && self.place((at + length) / CLUSTER)? == place + within + length
            {
                length += CLUSTER;
            }
            let (piece, tail) = rest.split_at(rest.len().min(length as usize));
            let direct = self.direct.as_ref();
            let done = direct.map_or(Ok(0), |direct| direct.write_at(place + within, piece))?;
            self.file.write_all_at(&piece[done..], place + within + done as u64)?;
            (at, rest) = (at + piece.len() as u64, tail);
        }
        Ok(())
    }

    fn write_zeroes(&self, _offset: u64, _length: u64) -> io::Result<()> {
        // The file starts with no cluster at all, and a restore writes each block once.
        Ok(())
    }

    /// Completes the file. Called at the end: more data would lie over the refcounts.
    fn flush(&self) -> io::Result<()> {
        let state = self.state();
        let (blocks, table_clusters) = refcount_clusters(state.next);
        let (first_block, table) = (state.next, state.next + blocks);
        let clusters = table + table_clusters;
        self.file.set_len(clusters * CLUSTER)?;
        for block in 0..blocks {
            let used = (clusters - (block * REFCOUNTS).min(clusters)).min(REFCOUNTS);
            let counts = [0, 1].repeat(used as usize);
            self.file.write_all_at(&counts, (first_block + block) * CLUSTER)?;
            let entry = ((first_block + block) * CLUSTER).to_be_bytes();
            self.file.write_all_at(&entry, table * CLUSTER + block * 8)?;
        }
        let mark = |place: &u64| if *place == 0 { 0 } else { *place | COPIED };
        let l1: Vec<u8> = state.l1.iter().flat_map(|place| mark(place).to_be_bytes()).collect();
        self.file.write_all_at(&l1, CLUSTER)?;
        self.file.sync_all()?;
        let tables = u32::try_from(state.l1.len()).map_err(io::Error::other)?;
        let table_clusters = u32::try_from(table_clusters).map_err(io::Error::other)?;
        // QEMU counts in sectors, and would cut off a part of one.
        let size = self.size.next_multiple_of(512);
        let header = header(size, tables, table * CLUSTER, table_clusters);
        self.file.write_all_at(&header, 0)?;
        self.file.sync_all()?;
        sync_folder(self.folder.as_ref())
    }

    fn starts_zeroed(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refcounts_cover_all_clusters_and_themselves() {
        for used in [1, 2, REFCOUNTS - 3, REFCOUNTS - 2, REFCOUNTS, 1 << 28] {
            let (blocks, table) = refcount_clusters(used);
            assert!(blocks * REFCOUNTS >= used + blocks + table, "{used}");
            assert!(table * ENTRIES >= blocks, "{used}");
            assert!((blocks - 1) * REFCOUNTS < used + blocks + table, "{used}: none too many");
        }
    }

    #[test]
    fn the_header_has_the_length_it_says() {
        let header = header(1 << 40, 2048, 0x1234_0000, 1);
        assert_eq!(header.len(), HEADER_LENGTH as usize + 8);
        assert_eq!(&header[..8], b"QFI\xfb\0\0\0\x03");
        assert_eq!(&header[24..32], &(1_u64 << 40).to_be_bytes());
        assert_eq!(&header[48..56], &0x1234_0000_u64.to_be_bytes());
        assert_eq!(&header[100..104], &104_u32.to_be_bytes());
    }

    #[test]
    fn a_cluster_written_in_parts_has_one_place() {
        let folder = tempfile::tempdir().unwrap();
        let target = Qcow2Target::create(&folder.path().join("d"), 1 << 20, false).unwrap();
        target.write_at(CLUSTER - 2, b"abcd").unwrap();
        let (first, second) = (target.place(0).unwrap(), target.place(1).unwrap());
        let mut bytes = [0; 2];
        target.file.read_exact_at(&mut bytes, first + CLUSTER - 2).unwrap();
        assert_eq!(&bytes, b"ab");
        target.file.read_exact_at(&mut bytes, second).unwrap();
        assert_eq!(&bytes, b"cd");
        assert!(target.write_at(u64::MAX / 2, b"x").is_err());
    }
}

//! The local dedup index: which chunk lies where, as sorted files on this machine.
//!
//! Advisory: it can be deleted, truncated or stale at any time. A hit counts only after the
//! pack's own table has confirmed it (`docs/format/`, invariant 5), so a wrong entry costs one
//! request and a lost one costs space.
//!
//! A **run** is one immutable file: entries of 32 bytes ascending by id, behind a Bloom filter.
//! Ids are keyed hashes and so evenly spread: a lookup guesses the position and reads one page.
//! Runs come from the repository's index segments, one run each, and are merged when there are
//! many. Memory is the filters only: 10 bits for each chunk.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use parking_lot::RwLock;

use crate::error::Result;
use crate::format::id::{Digest, PackId};
use crate::format::page::Location;
use crate::format::segment::{self, ENTRY_LEN};
use crate::repository::local;

const MAGIC: [u8; 8] = *b"SLUICERN";
/// magic, packs u32, entries u64, filter bytes u32, CRC-32C of the former.
const HEAD_LEN: usize = 28;
/// Bits of filter for each entry: about 1 % false hits with 7 probes.
const FILTER_BITS: usize = 10;
const FILTER_PROBES: u32 = 7;
/// More runs than this are merged into one.
const MAX_RUNS: usize = 24;
/// Entries read at once while looking one up.
const WINDOW: u64 = 128;

/// Chunks and their places, ascending by id.
pub(crate) type SortedEntries = Vec<(Digest, Location)>;

#[derive(Debug)]
struct Run {
    path: PathBuf,
    file: File,
    packs: Vec<PackId>,
    filter: Vec<u8>,
    entries: u64,
    entries_at: u64,
}

/// The runs of one repository in a folder.
#[derive(Debug)]
pub(crate) struct DedupIndex {
    folder: Option<PathBuf>,
    runs: RwLock<Vec<Run>>,
}

impl DedupIndex {
    /// An index that knows nothing and keeps nothing.
    pub(crate) fn none() -> Self {
        Self { folder: None, runs: RwLock::default() }
    }

    /// Opens the index in `folder`, creating it. Files that are not whole are removed.
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let failed = |error| local(format!("the index in {} failed", folder.display()), error);
        fs::create_dir_all(folder).map_err(failed)?;
        let mut runs = Vec::new();
        for item in fs::read_dir(folder).map_err(failed)? {
            let path = item.map_err(failed)?.path();
            if path.extension().is_none_or(|extension| extension != "run") {
                continue;
            }
            match Run::open(&path) {
                Ok(run) => runs.push(run),
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "dropping a broken index file");
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Ok(Self { folder: Some(folder.to_owned()), runs: RwLock::new(runs) })
    }

    /// Names of index segments already taken in.
    pub(crate) fn known_segments(&self) -> std::collections::HashSet<String> {
        let Some(folder) = &self.folder else { return Default::default() };
        fs::read_to_string(folder.join("segments"))
            .map(|text| text.lines().map(str::to_owned).collect())
            .unwrap_or_default()
    }

    /// Takes in the entries of a segment.
    pub(crate) fn add(&self, segment: &str, entries: &SortedEntries) -> Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        let failed = |error| local(format!("the index in {} failed", folder.display()), error);
        if !entries.is_empty() {
            let path = folder.join(format!("{segment}.run"));
            Run::write(&path, entries).map_err(failed)?;
            self.runs.write().push(Run::open(&path).map_err(failed)?);
        }
        let mut known = File::options()
            .create(true)
            .append(true)
            .open(folder.join("segments"))
            .map_err(failed)?;
        writeln!(known, "{segment}").map_err(failed)
    }

    /// Merges the runs into one when there are many.
    pub(crate) fn compact(&self) -> Result<()> {
        let mut runs = self.runs.write();
        let Some(folder) = self.folder.as_ref().filter(|_| runs.len() > MAX_RUNS) else {
            return Ok(());
        };
        let failed = |error| local(format!("the index in {} failed", folder.display()), error);
        let name: String = data_encoding::HEXLOWER.encode(&crate::crypto::random::<8>()?);
        let path = folder.join(format!("merged-{name}.run"));
        merge(&runs, &path).map_err(failed)?;
        let merged = Run::open(&path).map_err(failed)?;
        for old in runs.drain(..) {
            let _ = fs::remove_file(&old.path);
        }
        runs.push(merged);
        Ok(())
    }

    /// Where the index believes this chunk to be.
    pub(crate) fn find(&self, id: Digest) -> Option<Location> {
        let runs = self.runs.read();
        runs.iter().rev().find_map(|run| run.find(id))
    }
}

impl Run {
    fn write(path: &Path, entries: &SortedEntries) -> io::Result<()> {
        let mut packs = Vec::new();
        let mut known = std::collections::HashMap::new();
        for (_, location) in entries {
            known.entry(location.pack).or_insert_with(|| {
                packs.push(location.pack);
                packs.len() as u32 - 1
            });
        }
        let filter = Filter::of(entries.len() as u64, entries.iter().map(|(id, _)| *id));
        let mut out = RunWriter::create(path, &packs, entries.len() as u64, &filter.0)?;
        for (id, location) in entries {
            out.0.write_all(&segment::encode(*id, known[&location.pack], location))?;
        }
        out.finish(path)
    }

    fn open(path: &Path) -> io::Result<Self> {
        let invalid = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let mut head = [0; HEAD_LEN];
        file.read_exact_at(&mut head, 0)?;
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap_or_default());
        if head[..8] != MAGIC || word(24) != crc32c::crc32c(&head[..24]) {
            return Err(invalid("no index run"));
        }
        let entries = u64::from_le_bytes(head[12..20].try_into().unwrap_or_default());
        let (packs, filter) = (u64::from(word(8)), u64::from(word(20)));
        let entries_at = HEAD_LEN as u64 + packs * 16 + filter;
        let whole = entries.checked_mul(ENTRY_LEN as u64).and_then(|e| e.checked_add(entries_at));
        if whole != Some(length) || filter == 0 {
            return Err(invalid("index run has another length than its head says"));
        }
        let mut table = vec![0; (packs * 16) as usize];
        file.read_exact_at(&mut table, HEAD_LEN as u64)?;
        let packs = table.chunks_exact(16).map(|id| PackId(id.try_into().unwrap_or_default()));
        let packs = packs.collect();
        let mut filter = vec![0; filter as usize];
        let filter_at = entries_at - filter.len() as u64;
        file.read_exact_at(&mut filter, filter_at)?;
        Ok(Self { path: path.to_owned(), file, packs, filter, entries, entries_at })
    }

    fn find(&self, id: Digest) -> Option<Location> {
        if !Filter::holds(&self.filter, id) {
            return None;
        }
        // Interpolate, then walk window by window towards the id; even ids need one or two.
        let (mut low, mut high) = (0, self.entries);
        let key = u64::from_be_bytes(id.0[..8].try_into().unwrap_or_default());
        let mut guess = ((u128::from(key) * u128::from(self.entries)) >> 64) as u64;
        let mut window = [0; WINDOW as usize * ENTRY_LEN];
        while low < high {
            let from = guess.saturating_sub(WINDOW / 2).clamp(low, high.saturating_sub(1));
            let count = WINDOW.min(high - from) as usize;
            let bytes = &mut window[..count * ENTRY_LEN];
            let at = self.entries_at + from * ENTRY_LEN as u64;
            self.file.read_exact_at(bytes, at).ok()?;
            let ids: Vec<&[u8]> = bytes.chunks_exact(ENTRY_LEN).collect();
            match ids.binary_search_by(|entry| entry[..16].cmp(&id.0)) {
                Ok(hit) => return Some(segment::decode(ids[hit], &self.packs).ok()?.1),
                Err(0) => high = from,
                Err(end) if end == count => low = from + count as u64,
                Err(_) => return None,
            }
            guess = low + (high - low) / 2;
        }
        None
    }

    fn read(&self, from: u64, count: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (count * ENTRY_LEN as u64) as usize];
        self.file.read_exact_at(&mut bytes, self.entries_at + from * ENTRY_LEN as u64)?;
        Ok(bytes)
    }
}

/// Writes a run beside its place, then moves it there, so that no half file is ever found.
struct RunWriter(BufWriter<File>, PathBuf);

impl RunWriter {
    fn create(path: &Path, packs: &[PackId], entries: u64, filter: &[u8]) -> io::Result<Self> {
        let part = path.with_extension("part");
        let mut out = BufWriter::with_capacity(1 << 18, File::create(&part)?);
        let mut head = [0; HEAD_LEN];
        head[..8].copy_from_slice(&MAGIC);
        head[8..12].copy_from_slice(&(packs.len() as u32).to_le_bytes());
        head[12..20].copy_from_slice(&entries.to_le_bytes());
        head[20..24].copy_from_slice(&(filter.len() as u32).to_le_bytes());
        let crc = crc32c::crc32c(&head[..24]);
        head[24..].copy_from_slice(&crc.to_le_bytes());
        out.write_all(&head)?;
        for pack in packs {
            out.write_all(&pack.0)?;
        }
        out.write_all(filter)?;
        Ok(Self(out, part))
    }

    fn finish(mut self, path: &Path) -> io::Result<()> {
        self.0.flush()?;
        fs::rename(&self.1, path)
    }
}

/// A Bloom filter over ids, which are hashes already: their bytes serve as the probes.
struct Filter(Vec<u8>);

impl Filter {
    fn of(entries: u64, ids: impl Iterator<Item = Digest>) -> Self {
        let bytes = (entries as usize * FILTER_BITS).div_ceil(8).max(8);
        let mut filter = vec![0u8; bytes];
        for id in ids {
            for bit in Self::probes(bytes, id) {
                filter[bit / 8] |= 1 << (bit % 8);
            }
        }
        Self(filter)
    }

    fn holds(filter: &[u8], id: Digest) -> bool {
        Self::probes(filter.len(), id).all(|bit| filter[bit / 8] >> (bit % 8) & 1 == 1)
    }

    fn probes(bytes: usize, id: Digest) -> impl Iterator<Item = usize> {
        let first = u64::from_le_bytes(id.0[..8].try_into().unwrap_or_default());
        let second = u64::from_le_bytes(id.0[8..].try_into().unwrap_or_default()) | 1;
        let bits = bytes as u64 * 8;
        (0..FILTER_PROBES)
            .map(move |n| (first.wrapping_add(second.wrapping_mul(u64::from(n))) % bits) as usize)
    }
}

/// Merges runs into one file, the newest entry of an id winning. Memory: the filter and one
/// buffer for each run.
fn merge(runs: &[Run], path: &Path) -> io::Result<()> {
    const BATCH: u64 = 4096;
    struct Cursor<'r> {
        run: &'r Run,
        next: u64,
        buffer: Vec<u8>,
        at: usize,
        base: u32,
    }
    impl Cursor<'_> {
        fn head(&mut self) -> io::Result<Option<[u8; ENTRY_LEN]>> {
            if self.at == self.buffer.len() {
                let count = BATCH.min(self.run.entries - self.next);
                if count == 0 {
                    return Ok(None);
                }
                self.buffer = self.run.read(self.next, count)?;
                (self.next, self.at) = (self.next + count, 0);
            }
            Ok(self.buffer[self.at..].first_chunk::<ENTRY_LEN>().copied())
        }
    }
    let packs: Vec<PackId> = runs.iter().flat_map(|run| run.packs.iter().copied()).collect();
    let total: u64 = runs.iter().map(|run| run.entries).sum();
    let mut base = 0;
    let mut cursors: Vec<Cursor> = Vec::new();
    for run in runs {
        cursors.push(Cursor { run, next: 0, buffer: Vec::new(), at: 0, base });
        base += run.packs.len() as u32;
    }
    // Two passes: the filter stands before the entries. Duplicates keep their place, for the
    // count is in the head; a lookup finds one of them, and either is confirmed by its pack.
    let mut ids: Vec<u8> = vec![0; (total as usize * FILTER_BITS).div_ceil(8).max(8)];
    for run in runs {
        for from in (0..run.entries).step_by(BATCH as usize) {
            let bytes = run.read(from, BATCH.min(run.entries - from))?;
            for entry in bytes.chunks_exact(ENTRY_LEN) {
                let id = Digest(entry[..16].try_into().unwrap_or_default());
                for bit in Filter::probes(ids.len(), id) {
                    ids[bit / 8] |= 1 << (bit % 8);
                }
            }
        }
    }
    let mut out = RunWriter::create(path, &packs, total, &ids)?;
    loop {
        let mut least: Option<(usize, [u8; ENTRY_LEN])> = None;
        for (number, cursor) in cursors.iter_mut().enumerate() {
            if let Some(head) = cursor.head()?
                && least.is_none_or(|(_, best)| head[..16] < best[..16])
            {
                least = Some((number, head));
            }
        }
        let Some((number, mut entry)) = least else { break };
        let pack = u32::from_le_bytes(entry[16..20].try_into().unwrap_or_default());
        entry[16..20].copy_from_slice(&(pack + cursors[number].base).to_le_bytes());
        out.0.write_all(&entry)?;
        cursors[number].at += ENTRY_LEN;
    }
    out.finish(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::pack::Codec;

    fn entries(seed: u64, count: u64) -> SortedEntries {
        let mut all: SortedEntries = (0..count)
            .map(|n| {
                let hash = blake3::hash(&(seed << 32 | n).to_le_bytes());
                let location = Location {
                    pack: PackId([(n % 7) as u8; 16]),
                    slot: (n % 4096) as u16,
                    codec: Codec::Zstd,
                    offset: n as u32,
                    stored_len: 100,
                };
                (crate::crypto::digest16(hash.as_bytes()), location)
            })
            .collect();
        all.sort_by_key(|(id, _)| *id);
        all
    }

    #[test]
    fn every_chunk_is_found_and_no_other_also_after_merging() {
        let folder = tempfile::tempdir().unwrap();
        let index = DedupIndex::open(folder.path()).unwrap();
        for seed in 0..(MAX_RUNS as u64 + 1) {
            index.add(&format!("s{seed}"), &entries(seed, 300 + seed)).unwrap();
        }
        for round in 0..2 {
            for seed in 0..(MAX_RUNS as u64 + 1) {
                for (id, location) in entries(seed, 300 + seed) {
                    assert_eq!(index.find(id), Some(location), "round {round}");
                }
            }
            assert!(entries(999, 500).iter().all(|(id, _)| index.find(*id).is_none()));
            index.compact().unwrap();
            assert_eq!(index.runs.read().len(), 1);
        }
        let again = DedupIndex::open(folder.path()).unwrap();
        let (id, location) = entries(3, 303)[5];
        assert_eq!(again.find(id), Some(location));
        assert!(again.known_segments().contains("s3"));
    }

    #[test]
    fn a_truncated_or_garbled_file_is_dropped() {
        let folder = tempfile::tempdir().unwrap();
        let index = DedupIndex::open(folder.path()).unwrap();
        index.add("a", &entries(1, 100)).unwrap();
        let path = folder.path().join("a.run");
        let length = fs::metadata(&path).unwrap().len();
        File::options().write(true).open(&path).unwrap().set_len(length - 1).unwrap();
        let again = DedupIndex::open(folder.path()).unwrap();
        assert!(again.find(entries(1, 100)[0].0).is_none());
        assert!(!path.exists());
    }
}

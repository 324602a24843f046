//! A layer: what was written to one disk between two freezes.
//!
//! ```text
//! disk-0.layer-1.data   written cells, each at its own offset; everything else a hole
//! disk-0.layer-1.log    which cells are written or zero, as of the last flush
//! ...layer-1.notes-N.log   what became of cells since, for when the process is killed: `notes.rs`
//! ```
//!
//! # Invariants
//!
//! * The log never says of a cell that it is written before its bytes are durable: a flush notes
//!   what changed, syncs the data, and only then tells the log and syncs it.
//! * A cell becomes written as a whole. What fills up a partial write is put down with it, under
//!   the lock of the cell's area, and a write of whole cells excludes that by sharing the lock.
//! * After a sync has failed, nothing is promised any more: see [`Layer::flush`].
//!
//! All calls block; they belong on threads for that.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, RwLock};
use rustix::fs::FallocateFlags;

use crate::CELL;
use crate::error::{OverlayError, Result, io_error};
use crate::log::{self, HEADER, Header};
use crate::map::{CellMap, Entry, State};
use crate::note::{Boot, Note};
use crate::notes::{self, Notes};
use crate::space::Space;

/// Cells that share a lock for partial writes: 1 MiB.
const AREA: u64 = 256;
/// Locks for partial writes. Areas that share one only wait for each other.
const AREAS: usize = 64;
/// A log below this is not worth writing anew.
const SMALL_LOG: u64 = if cfg!(test) { 4 << 10 } else { 4 << 20 };

/// A layer of one disk.
#[derive(Debug)]
pub(crate) struct Layer {
    header: Header,
    data: File,
    /// The data lies outside the folder, where others may read it: what is zero must be zero
    /// there, not only by the map.
    outside: bool,
    path: PathBuf,
    map: RwLock<CellMap>,
    /// What the log does not know of the map. Locked for every change of the map, around it.
    notes: Mutex<Option<Notes>>,
    /// Bytes were written since the data was last synced.
    unsynced: AtomicBool,
    areas: Box<[RwLock<()>]>,
    log: Mutex<Log>,
}

/// The end of the log. Whoever flushes holds it.
#[derive(Debug)]
struct Log {
    file: File,
    length: u64,
    next: u64,
    /// Length at which it is written anew.
    rewrite_at: u64,
    /// A sync has failed, and no later one is believed.
    failed: bool,
}

/// Where the files of a layer lie.
pub(crate) fn paths(folder: &Path, disk: u32, layer: u32) -> (PathBuf, PathBuf) {
    let name = |ending: &str| folder.join(format!("disk-{disk}.layer-{layer}.{ending}"));
    (name("data"), name("log"))
}

fn options() -> OpenOptions {
    let mut options = File::options();
    options.read(true).write(true).mode(0o600);
    options
}

impl Layer {
    /// Makes an empty layer. It is durable once its folder is synced. It has notes if it is told
    /// which start of the machine this is.
    pub(crate) fn create(
        folder: &Path,
        header: Header,
        outside: Option<&Path>,
        boot: Option<Boot>,
    ) -> Result<Self> {
        let (data, path) = paths(folder, header.disk, header.layer);
        let made = || -> io::Result<(File, File)> {
            let data = match outside {
                None => options().create(true).truncate(true).open(&data)?,
                Some(path) => options().create(true).truncate(false).open(path)?,
            };
            fit(&data, header.size)?;
            let mut file = options().create(true).truncate(true).open(&path)?;
            file.write_all(&header.encode())?;
            file.sync_all()?;
            data.sync_all()?;
            Ok((data, file))
        };
        let (data, file) = made().map_err(|e| io_error("make a layer", &path, e))?;
        let (map, length) = (CellMap::default(), HEADER as u64);
        let mut layer = Self::new(header, (data, outside.is_some()), path, map, (file, length, 1));
        layer.begin_notes(folder, boot)?;
        Ok(layer)
    }

    /// Opens a layer as its last flush left it, and `notes` say that it was afterwards.
    pub(crate) fn open(
        folder: &Path,
        header: Header,
        outside: Option<&Path>,
        boot: Option<Boot>,
        notes: &[Note],
    ) -> Result<Self> {
        let (data, path) = paths(folder, header.disk, header.layer);
        let data = outside.unwrap_or(&data);
        let data = options().open(data).map_err(|e| io_error("open", data, e))?;
        let opened = || -> io::Result<(File, Vec<u8>)> {
            fit(&data, header.size)?;
            let file = options().open(&path)?;
            Ok((file, std::fs::read(&path)?))
        };
        let (file, bytes) = opened().map_err(|e| io_error("open a layer", &path, e))?;
        let replay = log::replay(&header, &bytes)
            .map_err(|source| OverlayError::Damaged { path: path.clone(), source })?;
        if replay.valid < bytes.len() as u64 {
            tracing::info!(log = %path.display(), "the last flush was cut off, and is left out");
            let cut = file.set_len(replay.valid).and_then(|()| file.sync_all());
            cut.map_err(|e| io_error("cut a log", &path, e))?;
        }
        let log = (file, replay.valid, replay.next);
        let mut layer = Self::new(header, (data, outside.is_some()), path, replay.map, log);
        if !notes.is_empty() {
            tracing::info!(log = %layer.path.display(), "goes on where a killed process was");
            let map = layer.map.get_mut();
            for note in notes {
                map.mark(note.cells.clone(), note.state);
            }
            *layer.unsynced.get_mut() = true;
            layer.flush()?;
        }
        layer.begin_notes(folder, boot)?;
        Ok(layer)
    }

    fn begin_notes(&mut self, folder: &Path, boot: Option<Boot>) -> Result<()> {
        let notes = Notes::begin(folder, self.header, boot);
        *self.notes.get_mut() = notes.map_err(|e| io_error("begin notes beside", &self.path, e))?;
        Ok(())
    }

    fn new(
        header: Header,
        (data, outside): (File, bool),
        path: PathBuf,
        map: CellMap,
        (file, length, next): (File, u64, u64),
    ) -> Self {
        let log =
            Log { file, length, next, rewrite_at: (2 * length).max(SMALL_LOG), failed: false };
        Self {
            header,
            data,
            outside,
            path,
            map: RwLock::new(map),
            notes: Mutex::new(None),
            unsynced: AtomicBool::new(false),
            areas: (0..AREAS).map(|_| RwLock::new(())).collect(),
            log: Mutex::new(log),
        }
    }

    /// What is known of a cell, and where the run of its like ends.
    pub(crate) fn run(&self, cell: u64, end: u64) -> (State, u64) {
        self.map.read().run(cell, end)
    }

    /// The disk's size.
    pub(crate) fn size(&self) -> u64 {
        self.header.size
    }

    /// The log's file, which stands for the layer in messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Number of cells written and of cells that were made zero.
    pub(crate) fn counts(&self) -> (u64, u64) {
        let map = self.map.read();
        (map.written(), map.zero())
    }

    /// Everything the layer knows.
    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.map.read().all()
    }

    /// Reads bytes that lie in written cells.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.data.read_exact_at(buf, offset)
    }

    /// The same when the bytes are in memory.
    pub(crate) fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        let length = buf.len();
        let slices = &mut [io::IoSliceMut::new(buf)];
        let flags = rustix::io::ReadWriteFlags::NOWAIT;
        rustix::io::preadv2(&self.data, slices, offset, flags).is_ok_and(|read| read == length)
    }

    /// One past a cell's last byte; the disk's last cell may be part of one.
    fn cell_end(&self, cell: u64) -> u64 {
        ((cell + 1) * CELL).min(self.header.size)
    }

    /// Writes whole cells, from the start of one to the end of one or of the disk.
    pub(crate) fn write_cells(&self, offset: u64, data: &[u8], space: &Space) -> io::Result<()> {
        let mut at = 0;
        while at < data.len() {
            let from = offset + at as u64;
            let area = from / CELL / AREA;
            let room = ((area + 1) * AREA * CELL - from) as usize;
            let part = &data[at..data.len().min(at + room)];
            let _shared = self.areas[(area % AREAS as u64) as usize].read();
            self.put(from, part, space)?;
            at += part.len();
        }
        Ok(())
    }

    /// Writes part of one cell; `below` is what the cell reads as while this layer knows nothing
    /// of it. Returns whether that was missing, and nothing was written.
    pub(crate) fn write_part(
        &self,
        offset: u64,
        data: &[u8],
        below: Option<&[u8]>,
        space: &Space,
    ) -> io::Result<bool> {
        let cell = offset / CELL;
        let _alone = self.areas[(cell / AREA % AREAS as u64) as usize].write();
        let state = self.map.read().state(cell);
        let length = (self.cell_end(cell) - cell * CELL) as usize;
        let mut whole = match (state, below) {
            (State::Written, _) => {
                self.data.write_all_at(data, offset)?;
                self.unsynced.store(true, Ordering::Release);
                return Ok(false);
            }
            (State::Zero, _) => vec![0; length],
            (State::Below, Some(below)) => below.to_vec(),
            (State::Below, None) => return Ok(true),
        };
        let within = (offset % CELL) as usize;
        whole[within..within + data.len()].copy_from_slice(data);
        self.put(cell * CELL, &whole, space)?;
        Ok(false)
    }

    /// Writes whole cells of one area, whose lock is held.
    fn put(&self, offset: u64, data: &[u8], space: &Space) -> io::Result<()> {
        let cells = offset / CELL..(offset + data.len() as u64).div_ceil(CELL);
        let count = cells.end - cells.start;
        let wanted = count - self.map.read().count_written(cells.clone());
        if !space.take(wanted) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let written = self.data.write_all_at(data, offset);
        if let Err(error) = written {
            space.give(wanted);
            return Err(error);
        }
        // After the bytes, so that a flush that finds this unset had not to wait for them.
        self.unsynced.store(true, Ordering::Release);
        let held = match self.mark(cells, State::Written) {
            Ok(held) => held,
            Err(error) => {
                space.give(wanted);
                return Err(error);
            }
        };
        // Somebody else wrote some of them meanwhile, or made them zero.
        match (count - held).cmp(&wanted) {
            std::cmp::Ordering::Less => space.give(wanted - (count - held)),
            std::cmp::Ordering::Greater => space.force(count - held - wanted),
            std::cmp::Ordering::Equal => {}
        }
        Ok(())
    }

    /// Makes whole cells read as zeroes, and gives their room back.
    pub(crate) fn zero_cells(&self, cells: Range<u64>, space: &Space) -> io::Result<()> {
        let mut first = cells.start;
        while first < cells.end {
            let area = first / AREA;
            let _shared = self.areas[(area % AREAS as u64) as usize].read();
            let end = ((area + 1) * AREA).min(cells.end);
            let bytes = first * CELL..(end * CELL).min(self.header.size);
            if self.outside {
                // Before they count as zero, so that a flush that finds them has them synced.
                self.clear(bytes.clone())?;
                self.unsynced.store(true, Ordering::Release);
            }
            let held = match self.mark(first..end, State::Zero) {
                // A full disk may have room for the note once the cells have given theirs back.
                Err(_) if !self.outside => {
                    self.punch(first..end);
                    self.mark(first..end, State::Zero)?
                }
                marked => marked?,
            };
            space.give(held);
            if held > 0 && !self.outside {
                self.punch(first..end);
            }
            first = end;
        }
        Ok(())
    }

    /// Makes cells known as something, once that is noted. Returns how many of them the data file
    /// held before.
    fn mark(&self, cells: Range<u64>, state: State) -> io::Result<u64> {
        // Apart from the map's lock: readers need not wait for a file.
        let mut notes = self.notes.lock();
        if let Some(notes) = &mut *notes
            && self.map.read().run(cells.start, cells.end) != (state, cells.end)
        {
            notes.note(cells.clone(), state)?;
        }
        Ok(self.map.write().mark(cells, state))
    }

    /// Gives the room of cells back. A file system that cannot keeps it taken.
    fn punch(&self, cells: Range<u64>) {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let length = (cells.end - cells.start) * CELL;
        let _ = rustix::fs::fallocate(&self.data, flags, cells.start * CELL, length);
    }

    /// Makes bytes of the data zero, whatever they were and whatever they lie on.
    fn clear(&self, bytes: Range<u64>) -> io::Result<()> {
        let (from, length) = (bytes.start, bytes.end - bytes.start);
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // A hole is asked for where it costs nothing; a block device then writes zeroes itself.
        if rustix::fs::fallocate(&self.data, punch, from, length).is_ok() {
            return Ok(());
        }
        let zeroes = vec![0; length as usize];
        self.data.write_all_at(&zeroes, from)
    }

    /// Takes all cells for written: what the data holds is the disk, whoever put it there.
    pub(crate) fn take_all_for_written(&self) {
        self.map.write().mark(0..self.header.size.div_ceil(CELL), State::Written);
    }

    /// Makes durable what was written before. Once this has failed, the system may have dropped
    /// what it could not write, and a later success would mean nothing: the caller must never
    /// flush again.
    pub(crate) fn flush(&self) -> Result<()> {
        let mut log = self.log.lock();
        if log.failed {
            // One that waited here meanwhile would find nothing to do, and call that durable.
            let error = io::Error::other("an earlier sync has failed");
            return Err(io_error("sync", &self.path, error));
        }
        let done = self.flush_into(&mut log);
        log.failed = done.is_err();
        done
    }

    fn flush_into(&self, log: &mut Log) -> Result<()> {
        if self.map.read().is_clean() && !self.unsynced.load(Ordering::Acquire) {
            return Ok(());
        }
        let rewrite = log.length >= log.rewrite_at;
        let entries = {
            // Notes that follow are about what the entries do not say.
            let mut notes = self.notes.lock();
            if let Some(notes) = &mut *notes {
                notes.turn();
            }
            let mut map = self.map.write();
            if rewrite { map.take_all() } else { map.take_dirty() }
        };
        // After the cells were noted: each of them had its bytes written before it was marked.
        if self.unsynced.swap(false, Ordering::AcqRel) {
            self.data.sync_data().map_err(|e| io_error("sync", &self.path, e))?;
        }
        if rewrite {
            self.rewrite(log, &entries)?;
        } else if !entries.is_empty() {
            self.append(log, &entries)?;
        }
        if let Some(notes) = &mut *self.notes.lock() {
            notes.settle();
        }
        Ok(())
    }

    /// Lets nobody believe what was noted: a sync has failed.
    pub(crate) fn disown_notes(&self) {
        if let Some(notes) = self.notes.lock().take()
            && !notes.disown()
        {
            let [one, other] = self.path.parent().map_or_else(Default::default, |folder| {
                notes::paths(folder, self.header.disk, self.header.layer)
            });
            tracing::error!(
                "the disk takes no changes any more: should it be mounted anew before the machine \
                 is, remove {} and {} before the overlay is used again",
                one.display(),
                other.display()
            );
        }
    }

    /// Whether so much was noted since the last flush that another is due.
    pub(crate) fn needs_flush(&self) -> bool {
        self.notes.lock().as_ref().is_some_and(Notes::are_many)
    }

    fn append(&self, log: &mut Log, entries: &[Entry]) -> Result<()> {
        let record = self.header.record(log.next, entries);
        let written = log.file.write_all_at(&record, log.length);
        written
            .and_then(|()| log.file.sync_data())
            .map_err(|e| io_error("write to", &self.path, e))?;
        log.length += record.len() as u64;
        log.next += 1;
        Ok(())
    }

    /// Writes a log that says everything at once, and puts it in the old one's place.
    fn rewrite(&self, log: &mut Log, entries: &[Entry]) -> Result<()> {
        let fresh = self.path.with_extension("log.new");
        let record = self.header.record(1, entries);
        let made = || -> io::Result<File> {
            let mut file = options().create(true).truncate(true).open(&fresh)?;
            file.write_all(&self.header.encode())?;
            file.write_all(&record)?;
            file.sync_all()?;
            std::fs::rename(&fresh, &self.path)?;
            sync_folder(&self.path)?;
            Ok(file)
        };
        log.file = made().map_err(|e| io_error("rewrite", &self.path, e))?;
        log.length = (HEADER + record.len()) as u64;
        log.next = 2;
        log.rewrite_at = (2 * log.length).max(SMALL_LOG);
        Ok(())
    }
}

/// Gives a file its size. A device has one, which must do.
fn fit(data: &File, size: u64) -> io::Result<()> {
    if data.metadata()?.is_file() {
        return data.set_len(size);
    }
    match rustix::fs::seek(data, rustix::fs::SeekFrom::End(0))? {
        there if there >= size => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is smaller than the disk")),
    }
}

/// Makes the names in a file's folder durable.
pub(crate) fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path.parent().unwrap_or(path))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_flush_that_failed_none_calls_anything_durable() {
        let folder = tempfile::tempdir().unwrap();
        let header = Header { overlay: [3; 16], disk: 0, layer: 1, size: 64 << 20 };
        let layer = Layer::create(folder.path(), header, None, None).unwrap();
        let space = Space::new(0, u64::MAX);
        layer.write_cells(0, &[1; CELL as usize], &space).unwrap();
        // A log that takes nothing stands for a disk that does not.
        layer.log.lock().file = File::open(&layer.path).unwrap();
        assert!(layer.flush().is_err());
        // The failed one has taken all there was to flush.
        assert!(layer.flush().is_err());
    }

    #[test]
    fn a_log_that_grows_is_written_anew_and_says_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let header = Header { overlay: [3; 16], disk: 0, layer: 1, size: 64 << 20 };
        let layer = Layer::create(folder.path(), header, None, None).unwrap();
        let space = Space::new(0, u64::MAX);
        let length = || std::fs::metadata(&layer.path).unwrap().len();
        let (mut longest, mut shrunk) = (0, 0);
        for round in 0..200u64 {
            let cell = round * 7919 % 1000;
            layer.write_cells(cell * CELL, &[round as u8; CELL as usize], &space).unwrap();
            if round % 3 == 0 {
                layer.zero_cells(round..round + 2, &space).unwrap();
            }
            layer.flush().unwrap();
            shrunk += u64::from(length() < longest);
            longest = length();
        }
        assert!(shrunk > 0, "never written anew, at {longest} bytes");
        let again = Layer::open(folder.path(), header, None, None, &[]).unwrap();
        assert_eq!(again.entries(), layer.entries());
        assert_eq!(again.counts().0, space.used());
    }
}

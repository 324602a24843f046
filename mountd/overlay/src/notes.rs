//! Notes of what happened to a layer since its last flush, for when its process is killed.
//!
//! What a process wrote to a file is in the page cache when `write` returns, and outlives it there;
//! another process that syncs the file makes it durable as well as the one that wrote it could
//! have. What a killed process takes with it is only what it had in memory: which cells it wrote.
//! So that is noted in files that are never synced.
//!
//! # Invariants
//!
//! * Each change of the map is noted under the lock that it is made under, and after the bytes of
//!   its cells are in the data file. So notes are the map's history since the last flush, and
//!   applied to what the log says, they give the map as it was.
//! * Notes count in the start of the machine in which they were made: after another, the page cache
//!   they speak of is gone. They count on file systems of this machine's own disks only, and when
//!   no write to them has failed ([`survivors`]).
//! * There are two files. A flush turns from one to the other when it takes what the map has
//!   changed, and empties the first when the log holds that, durably. Whenever the process dies,
//!   the files say at least what the log does not.
//! * Notes that were found are in the log before any new ones are made.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::log::Header;
use crate::map::State;
use crate::note::{self, Boot, NOTE, NOTES_HEADER, Note, NotesHeader};

/// Bytes of notes after which a flush is due: they bound the files, and what is read after a kill.
const MOST: u64 = if cfg!(test) { 1 << 10 } else { 16 << 20 };
/// File systems on disks of this machine, by their magic numbers: ext2 to ext4, XFS, Btrfs, F2FS,
/// bcachefs, ZFS, tmpfs, and overlayfs, which takes no others to write to. Those over a network may
/// report a failed write to the process that is killed, and to nobody else.
const LOCAL: [u64; 8] = [
    0xef53,
    0x5846_5342,
    0x9123_683e,
    0xf2f5_2010,
    0xca45_1a4e,
    0x2fc1_2fc1,
    0x0102_1994,
    0x794c_7630,
];

/// This start of the machine; `None` where the system does not say.
pub(crate) fn this_boot() -> Option<Boot> {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let digits: String = text.trim().chars().filter(|c| *c != '-').collect();
    let number = u128::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == 32)?;
    Some(number.to_be_bytes())
}

/// Where the notes of a layer lie. Releases that know nothing of notes take them for logs of layers
/// that do not count, and remove them: what they wrote afterwards must not be undone.
pub(crate) fn paths(folder: &Path, disk: u32, layer: u32) -> [PathBuf; 2] {
    [0, 1].map(|number| folder.join(format!("disk-{disk}.layer-{layer}.notes-{number}.log")))
}

/// What a file of notes says, with its turn; nothing when there is none, or it is none.
fn said(path: &Path, layer: &Header, boot: &Boot) -> io::Result<Option<(u64, Vec<Note>)>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(note::read(layer, boot, &bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the notes of a layer say, the oldest first. An error means that they may say something, and
/// cannot be read now.
pub(crate) fn found(folder: &Path, layer: &Header, boot: &Boot) -> io::Result<Vec<Note>> {
    let mut files = Vec::new();
    for path in paths(folder, layer.disk, layer.layer) {
        files.extend(said(&path, layer, boot)?);
    }
    files.sort_by_key(|(turn, _)| *turn);
    Ok(files.into_iter().flat_map(|(_, notes)| notes).collect())
}

/// Empties the notes of a layer for good: nothing of them may be relied on.
pub(crate) fn forget(folder: &Path, layer: &Header) -> io::Result<()> {
    for path in paths(folder, layer.disk, layer.layer) {
        match OpenOptions::new().write(true).open(&path) {
            Ok(file) => file.set_len(0)?,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What became of what a killed process left.
pub(crate) enum Survival {
    /// It is durable.
    Whole,
    /// Some of it may be lost.
    Lost(io::Error),
}

/// Makes durable what a killed process left of these files in the page cache, or tells that some of
/// it may be lost, and that nothing of it may be relied on. An error means that it cannot be known
/// now: nothing is lost by that.
///
/// Syncing a file that was opened just now reports each failure that nobody was told of yet; that
/// of the file system also those that the killed process was told of, or the file's memory of which
/// is gone. It must be done for all files before anything is believed of one of them.
pub(crate) fn survivors(files: &[PathBuf]) -> io::Result<Survival> {
    let files = files.iter().map(|path| File::options().read(true).write(true).open(path));
    let files = files.collect::<io::Result<Vec<_>>>()?;
    for file in &files {
        if !LOCAL.contains(&magic(file)?) {
            let text = "it lies on a file system of another machine now";
            return Ok(Survival::Lost(io::Error::new(ErrorKind::Unsupported, text)));
        }
    }
    // All are asked: each tells of a failure once.
    let systems = files.iter().map(|file| rustix::fs::syncfs(file).map_err(io::Error::from));
    let systems: Vec<_> = systems.collect();
    let synced: Vec<_> = files.iter().map(File::sync_all).collect();
    let failed = systems.into_iter().chain(synced).find_map(Result::err);
    Ok(failed.map_or(Survival::Whole, Survival::Lost))
}

fn magic(file: &File) -> io::Result<u64> {
    // The field has 32 bits that count, whatever its type.
    Ok(rustix::fs::fstatfs(file)?.f_type as u64 & 0xffff_ffff)
}

/// Opens a file and empties it; `None` when there is none, and no room for one.
fn emptied(path: &Path) -> io::Result<Option<File>> {
    let mut options = OpenOptions::new();
    match options.write(true).create(true).truncate(true).mode(0o600).open(path) {
        Ok(file) => Ok(Some(file)),
        // What it says must not be taken for what happens from now on.
        Err(error) if path.exists() => Err(error),
        Err(_) => Ok(None),
    }
}

/// In which order files with notes of these turns are emptied. What is left when only one was is
/// the end of the history then, and changes nothing of what the log says; its beginning would.
fn older_first(turns: [Option<u64>; 2]) -> [usize; 2] {
    if turns[1] < turns[0] { [1, 0] } else { [0, 1] }
}

/// The notes of a layer in use.
#[derive(Debug)]
pub(crate) struct Notes {
    header: NotesHeader,
    files: [File; 2],
    /// Notes in the current file.
    count: u64,
    /// The other file holds notes of a flush that is under way.
    turned: bool,
}

impl Notes {
    /// Begins empty notes. Whatever was in the files must be in the log. `None` where notes would
    /// not count.
    pub(crate) fn begin(
        folder: &Path,
        layer: Header,
        boot: Option<Boot>,
    ) -> io::Result<Option<Self>> {
        let all = paths(folder, layer.disk, layer.layer);
        let mut turns = [None, None];
        if let Some(boot) = &boot {
            for (turn, path) in turns.iter_mut().zip(&all) {
                *turn = said(path, &layer, boot)?.map(|(turn, _)| turn);
            }
        }
        let mut files = [None, None];
        for at in older_first(turns) {
            files[at] = emptied(&all[at])?;
        }
        let [Some(first), Some(second)] = files else { return Ok(None) };
        let local = LOCAL.contains(&magic(&first).unwrap_or_default());
        let Some(boot) = boot.filter(|_| local) else { return Ok(None) };
        let header = NotesHeader { layer, boot, turn: 1 };
        let notes = Self { header, files: [first, second], count: 0, turned: false };
        // Without room for it, there are no notes, as in a file system that is not local.
        let begun = notes.current().write_all_at(&header.encode(), 0);
        Ok(begun.ok().map(|()| notes))
    }

    fn current(&self) -> &File {
        &self.files[(self.header.turn % 2) as usize]
    }

    fn other(&self) -> &File {
        &self.files[((self.header.turn + 1) % 2) as usize]
    }

    /// Notes what cells become.
    pub(crate) fn note(&mut self, cells: Range<u64>, state: State) -> io::Result<()> {
        let bytes = self.header.note(self.count, &Note { cells, state });
        // One that fails half way is overwritten by the next.
        self.current().write_all_at(&bytes, NOTES_HEADER as u64 + self.count * NOTE as u64)?;
        self.count += 1;
        Ok(())
    }

    /// Whether there are so many that a flush is due.
    pub(crate) fn are_many(&self) -> bool {
        self.count * NOTE as u64 >= MOST
    }

    /// A flush begins, with all that was noted so far. Where there is no room for the other file,
    /// notes go on in this one, which then says more than it must: applied as a whole, it ends
    /// where the log is all the same.
    pub(crate) fn turn(&mut self) {
        if self.count == 0 {
            return;
        }
        let next = NotesHeader { turn: self.header.turn + 1, ..self.header };
        if self.other().write_all_at(&next.encode(), 0).is_ok() {
            self.header = next;
            (self.count, self.turned) = (0, true);
        }
    }

    /// A flush has failed: the bytes that notes speak of may be gone. Returns whether the files
    /// took this. Should they not, whoever opens them is told by the system ([`survivors`]), unless
    /// the file system is mounted anew before.
    pub(crate) fn disown(self) -> bool {
        let emptied = self.files.map(|file| file.set_len(0).is_ok());
        emptied == [true, true]
    }

    /// The flush is done. What stays in the other file, should it not be emptied, is in the log,
    /// and changes nothing.
    pub(crate) fn settle(&mut self) {
        if std::mem::take(&mut self.turned) {
            let _ = self.other().set_len(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: Header = Header { overlay: [7; 16], disk: 1, layer: 2, size: 100 << 20 };
    const BOOT: Boot = [3; 16];

    #[test]
    fn this_machine_says_which_start_it_is() {
        assert!(this_boot().is_some_and(|boot| boot != [0; 16] && Some(boot) == this_boot()));
    }

    #[test]
    fn notes_are_found_until_the_flush_that_took_them_is_done() {
        let folder = tempfile::tempdir().unwrap();
        let said = || -> Vec<u64> {
            let notes = found(folder.path(), &LAYER, &BOOT).unwrap();
            notes.into_iter().map(|note| note.cells.start).collect()
        };
        let mut notes = Notes::begin(folder.path(), LAYER, Some(BOOT)).unwrap().unwrap();
        let note = |notes: &mut Notes, at| notes.note(at..at + 1, State::Written).unwrap();
        for round in 0..5 {
            let at = round * 10;
            note(&mut notes, at + 1);
            note(&mut notes, at + 2);
            assert_eq!(said(), [at + 1, at + 2]);
            notes.turn();
            note(&mut notes, at + 3);
            assert_eq!(said(), [at + 1, at + 2, at + 3]);
            notes.settle();
            assert_eq!(said(), [at + 3]);
            notes.turn();
            notes.settle();
            // Nothing was noted: there is nothing to turn from.
            notes.turn();
            notes.settle();
            assert!(said().is_empty());
        }
        assert!(found(folder.path(), &LAYER, &[4; 16]).unwrap().is_empty(), "another start");
        note(&mut notes, 1);
        drop(Notes::begin(folder.path(), LAYER, Some(BOOT)).unwrap());
        assert!(said().is_empty(), "begun anew");
        let mut notes = Notes::begin(folder.path(), LAYER, Some(BOOT)).unwrap().unwrap();
        note(&mut notes, 1);
        notes.turn();
        note(&mut notes, 2);
        assert!(notes.disown());
        assert!(said().is_empty(), "a flush has failed");
    }

    #[test]
    fn the_older_notes_go_first_whichever_file_has_them() {
        assert_eq!(older_first([None, None]), [0, 1]);
        assert_eq!(older_first([Some(1), None]), [1, 0]);
        assert_eq!(older_first([Some(2), Some(1)]), [1, 0]);
        assert_eq!(older_first([Some(2), Some(3)]), [0, 1]);
    }

    #[test]
    fn without_room_for_the_other_file_notes_go_on_in_this_one() {
        let folder = tempfile::tempdir().unwrap();
        let mut notes = Notes::begin(folder.path(), LAYER, Some(BOOT)).unwrap().unwrap();
        // A file that cannot be written stands for one that finds no room.
        let read_only = |path: &Path| File::open(path).unwrap();
        let [first, _] = paths(folder.path(), LAYER.disk, LAYER.layer);
        let full = read_only(&first);
        let kept = std::mem::replace(&mut notes.files[0], full);
        notes.note(1..2, State::Written).unwrap();
        notes.turn();
        notes.settle();
        notes.note(2..3, State::Zero).unwrap();
        assert_eq!(found(folder.path(), &LAYER, &BOOT).unwrap().len(), 2);
        notes.files[0] = kept;
        notes.turn();
        notes.settle();
        assert!(found(folder.path(), &LAYER, &BOOT).unwrap().is_empty());
    }

    #[test]
    fn without_a_name_for_this_start_nothing_is_noted() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Notes::begin(folder.path(), LAYER, None).unwrap().is_none());
    }

    #[test]
    fn a_flush_is_due_after_many_notes() {
        let folder = tempfile::tempdir().unwrap();
        let mut notes = Notes::begin(folder.path(), LAYER, Some(BOOT)).unwrap().unwrap();
        for at in 0..MOST / NOTE as u64 {
            assert!(!notes.are_many());
            notes.note(at..at + 1, State::Zero).unwrap();
        }
        assert!(notes.are_many());
        notes.turn();
        assert!(!notes.are_many());
    }
}

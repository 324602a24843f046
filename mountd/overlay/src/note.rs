//! The bytes of a layer's notes: what happened to its map since the last flush.
//!
//! A header, which names the start of the machine that they count in, then a record of one size for
//! each change. Notes are read after their writer was killed, from what the kernel kept of them;
//! so the first record that is not whole is one that was being written, and ends them. The layout
//! is in `docs/format/overlay.md`.

use std::ops::Range;

use crate::log::Header;
use crate::map::State;

/// Bytes of a header.
pub const NOTES_HEADER: usize = 64;
/// Bytes of a note: a page holds a whole number of them, so none is torn between two.
pub const NOTE: usize = 32;
const MAGIC: &[u8; 8] = b"SLUICEON";
const VERSION: u16 = 1;
const WRITTEN: u8 = 1;
const ZERO: u8 = 2;

/// What tells one start of a machine from all others.
pub type Boot = [u8; 16];

/// What a file of notes belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotesHeader {
    /// The layer.
    pub layer: Header,
    /// The start of the machine.
    pub boot: Boot,
    /// Later notes have a higher number.
    pub turn: u64,
}

/// Cells that became something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// The cells.
    pub cells: Range<u64>,
    /// What they became; never [`State::Below`].
    pub state: State,
}

impl NotesHeader {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; NOTES_HEADER] {
        let mut bytes = [0; NOTES_HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.layer.disk.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.layer.layer.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.layer.overlay);
        bytes[40..56].copy_from_slice(&self.boot);
        bytes[56..].copy_from_slice(&self.turn.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// The bytes of the note at a place among them.
    pub fn note(&self, index: u64, note: &Note) -> [u8; NOTE] {
        let mut bytes = [0; NOTE];
        bytes[..8].copy_from_slice(&note.cells.start.to_le_bytes());
        let count = note.cells.end - note.cells.start;
        bytes[8..16].copy_from_slice(&count.to_le_bytes());
        bytes[16..24].copy_from_slice(&index.to_le_bytes());
        bytes[24] = if note.state == State::Zero { ZERO } else { WRITTEN };
        let crc = self.crc(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn crc(&self, note: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.encode()), note)
    }

    fn read(&self, index: u64, bytes: &[u8]) -> Option<Note> {
        let long = |at: usize| {
            let mut long = [0; 8];
            long.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(long)
        };
        let whole = bytes[28..] == self.crc(&bytes[..28]).to_le_bytes()
            && long(16) == index
            && bytes[25..28] == [0; 3];
        let state = match bytes[24] {
            WRITTEN => State::Written,
            ZERO => State::Zero,
            _ => return None,
        };
        let cells = long(0)..long(0).checked_add(long(8))?;
        let fits = !cells.is_empty() && cells.end <= self.layer.cells();
        (whole && fits).then_some(Note { cells, state })
    }
}

/// Reads the notes of a layer that were made in this start of the machine: their turn, and what
/// they say. `None` when these bytes are nothing of the kind.
pub fn read(layer: &Header, boot: &Boot, bytes: &[u8]) -> Option<(u64, Vec<Note>)> {
    let (head, notes) = bytes.split_at_checked(NOTES_HEADER)?;
    let mut turn = [0; 8];
    turn.copy_from_slice(&head[56..]);
    let header = NotesHeader { layer: *layer, boot: *boot, turn: u64::from_le_bytes(turn) };
    if *head != header.encode() {
        return None;
    }
    let notes = notes.chunks_exact(NOTE).zip(0..);
    let notes = notes.map_while(|(bytes, index)| header.read(index, bytes)).collect();
    Some((header.turn, notes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER: Header = Header { overlay: [7; 16], disk: 1, layer: 2, size: 100 << 20 };
    const HEADER: NotesHeader = NotesHeader { layer: LAYER, boot: [9; 16], turn: 5 };

    fn some() -> Vec<Note> {
        let note = |cells, state| Note { cells, state };
        vec![note(3..9, State::Written), note(0..25_600, State::Zero), note(4..5, State::Written)]
    }

    fn bytes(notes: &[Note]) -> Vec<u8> {
        let mut bytes = HEADER.encode().to_vec();
        (0..).zip(notes).for_each(|(index, note)| bytes.extend(HEADER.note(index, note)));
        bytes
    }

    #[test]
    fn notes_say_what_was_put_into_them_up_to_where_they_are_whole() {
        let all = bytes(&some());
        for cut in NOTES_HEADER..=all.len() {
            let whole = (cut - NOTES_HEADER) / NOTE;
            let expected = Some((5, some()[..whole].to_vec()));
            assert_eq!(read(&LAYER, &[9; 16], &all[..cut]), expected);
            let mut grown = all[..cut].to_vec();
            grown.resize(all.len() + 100, 0);
            assert_eq!(read(&LAYER, &[9; 16], &grown), expected);
        }
        for at in NOTES_HEADER..all.len() {
            let mut damaged = all.clone();
            damaged[at] ^= 4;
            let before = (at - NOTES_HEADER) / NOTE;
            assert_eq!(read(&LAYER, &[9; 16], &damaged), Some((5, some()[..before].to_vec())));
        }
    }

    #[test]
    fn notes_of_something_else_are_none() {
        let all = bytes(&some());
        assert_eq!(read(&LAYER, &[8; 16], &all), None, "the machine was started since");
        for other in [
            Header { overlay: [8; 16], ..LAYER },
            Header { disk: 0, ..LAYER },
            Header { layer: 1, ..LAYER },
        ] {
            assert_eq!(read(&other, &[9; 16], &all), None);
        }
        for at in 0..NOTES_HEADER {
            let mut damaged = all.clone();
            damaged[at] ^= 1;
            assert_eq!(read(&LAYER, &[9; 16], &damaged), None, "byte {at}");
        }
        assert_eq!(read(&LAYER, &[9; 16], &all[..NOTES_HEADER - 1]), None);
    }

    #[test]
    fn cells_beyond_the_disk_end_them() {
        let mut notes = some();
        notes.push(Note { cells: 25_599..25_601, state: State::Zero });
        assert_eq!(read(&LAYER, &[9; 16], &bytes(&notes)), Some((5, some())));
    }
}

//! The bytes of a layer's log: what survives a crash is what these say.
//!
//! A header, then records; each record is the outcome of one flush. A record that was being
//! written when the machine died is not whole, and neither it nor anything behind it counts. The
//! layout is in `docs/format/overlay.md`.

use crate::map::{Bits, CHUNK, CellMap, Entry, State, WORDS};

/// Bytes of a header.
pub const HEADER: usize = 64;
/// Bytes in front of a record's entries.
pub const RECORD: usize = 16;
/// Bytes of an entry; bitmaps follow it.
const ENTRY: usize = 16;
/// Bytes of the two bitmaps of an entry.
const BITMAPS: usize = 2 * WORDS * 8;
const MAGIC: &[u8; 8] = b"SLUICEOL";
const VERSION: u16 = 1;
/// A cell has `2^12` bytes.
const CELL_SHIFT: u8 = 12;

const WRITTEN: u8 = 1;
const ZERO: u8 = 2;
const BITS: u8 = 3;

/// What a log belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The overlay.
    pub overlay: [u8; 16],
    /// The disk's place in the overlay.
    pub disk: u32,
    /// The layer.
    pub layer: u32,
    /// The disk's size in bytes.
    pub size: u64,
}

/// Why a log cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The header is not whole, or no header.
    #[error("the log has no valid header")]
    Header,
    /// A later version wrote it.
    #[error("the log has version {0}, which a later release reads")]
    Version(u16),
    /// It belongs to another overlay, disk or layer.
    #[error("the log belongs to something else")]
    Foreign,
    /// A record in the middle is damaged: what was flushed is no longer known.
    #[error("a record of the log is damaged, at byte {0}")]
    Damaged(u64),
    /// A whole record says what cannot be.
    #[error("a record of the log makes no sense, at byte {0}")]
    Nonsense(u64),
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = CELL_SHIFT;
        bytes[12..16].copy_from_slice(&self.disk.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.layer.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.overlay);
        bytes[40..48].copy_from_slice(&self.size.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Cells of the disk; the last one may be part of one.
    pub(crate) fn cells(&self) -> u64 {
        self.size.div_ceil(1 << CELL_SHIFT)
    }

    /// Checks the header of a log.
    fn check(&self, bytes: &[u8]) -> Result<(), LogError> {
        let header = bytes.get(..HEADER).ok_or(LogError::Header)?;
        if header[..8] != *MAGIC || word(header, 60) != crc32c::crc32c(&header[..60]) {
            return Err(LogError::Header);
        }
        let version = u16::from_le_bytes([header[8], header[9]]);
        if version != VERSION || header[10] != CELL_SHIFT {
            return Err(LogError::Version(version));
        }
        if *header == self.encode() { Ok(()) } else { Err(LogError::Foreign) }
    }

    fn crc(&self, length: u32, sequence: u64, body: &[u8]) -> u32 {
        let crc = crc32c::crc32c(&self.overlay);
        let crc = crc32c::crc32c_append(crc, &self.disk.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &self.layer.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &length.to_le_bytes());
        let crc = crc32c::crc32c_append(crc, &sequence.to_le_bytes());
        crc32c::crc32c_append(crc, body)
    }

    /// A record. Sequence numbers begin with 1.
    pub fn record(&self, sequence: u64, entries: &[Entry]) -> Vec<u8> {
        let mut body = Vec::new();
        for entry in entries {
            encode(entry, &mut body);
        }
        self.sealed(sequence, &body)
    }

    /// A record of entries that are bytes already.
    pub fn sealed(&self, sequence: u64, body: &[u8]) -> Vec<u8> {
        // 2 KiB for each chunk of the largest disk are half of what the field can say.
        let length = body.len() as u32;
        let mut bytes = Vec::with_capacity(RECORD + body.len());
        bytes.extend(self.crc(length, sequence, body).to_le_bytes());
        bytes.extend(length.to_le_bytes());
        bytes.extend(sequence.to_le_bytes());
        bytes.extend(body);
        bytes
    }

    /// The record at the start of `bytes`: its number and its entries' bytes.
    fn whole<'b>(&self, bytes: &'b [u8]) -> Option<(u64, &'b [u8])> {
        let head = bytes.get(..RECORD)?;
        let (length, sequence) = (word(head, 4), long(head, 8));
        let body = bytes.get(RECORD..RECORD.checked_add(length as usize)?)?;
        (word(head, 0) == self.crc(length, sequence, body)).then_some((sequence, body))
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn long(bytes: &[u8], at: usize) -> u64 {
    let mut long = [0; 8];
    long.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(long)
}

fn encode(entry: &Entry, out: &mut Vec<u8>) {
    let mut head = |start: u64, count: u64, kind: u8| {
        // Counts have 40 bits: more cells than any disk here has.
        out.extend(start.to_le_bytes());
        out.extend(&count.to_le_bytes()[..5]);
        out.extend([kind, 0, 0]);
    };
    match entry {
        Entry::Run { start, count, state } => {
            head(*start, *count, if *state == State::Zero { ZERO } else { WRITTEN });
        }
        Entry::Bits { chunk, written, zero } => {
            head(chunk * CHUNK, CHUNK, BITS);
            out.extend(written.iter().chain(&**zero).flat_map(|word| word.to_le_bytes()));
        }
    }
}

/// What a log says.
#[derive(Debug)]
pub struct Replay {
    pub(crate) map: CellMap,
    /// Bytes that count; what is behind them was being written when its writer died.
    pub valid: u64,
    /// The number of the next record.
    pub next: u64,
}

impl Replay {
    /// Everything the log says, in as few words as possible.
    pub fn entries(&self) -> Vec<Entry> {
        self.map.all()
    }
}

/// Reads a log.
///
/// # Errors
/// [`LogError`]. A record that is not whole ends the log, which is no error.
pub fn replay(header: &Header, bytes: &[u8]) -> Result<Replay, LogError> {
    header.check(bytes)?;
    let mut replay = Replay { map: CellMap::default(), valid: HEADER as u64, next: 1 };
    let mut at = HEADER;
    while at < bytes.len() {
        let Some((sequence, body)) = header.whole(&bytes[at..]) else {
            return torn(header, bytes, at, replay.next).map(|()| replay);
        };
        let nonsense = LogError::Nonsense(at as u64);
        if sequence != replay.next {
            return Err(nonsense);
        }
        apply(header, body, &mut replay.map).ok_or(nonsense)?;
        at += RECORD + body.len();
        replay.valid = at as u64;
        replay.next += 1;
    }
    Ok(replay)
}

/// Sees to it that behind a record that is not whole there is none that is. A record is begun
/// after the one before it is durable, so such a record means that flushed ones are lost.
fn torn(header: &Header, bytes: &[u8], at: usize, next: u64) -> Result<(), LogError> {
    let later = (at + RECORD..bytes.len()).step_by(RECORD).any(|place| {
        // The checksum is only computed where the number fits: there may be many places.
        let near = bytes.get(place + 8..place + 16).map(|number| long(number, 0));
        near.is_some_and(|number| (next..next + (1 << 20)).contains(&number))
            && header.whole(&bytes[place..]).is_some()
    });
    if later { Err(LogError::Damaged(at as u64)) } else { Ok(()) }
}

/// Applies the entries of a record; nothing when one of them cannot be.
fn apply(header: &Header, mut body: &[u8], map: &mut CellMap) -> Option<()> {
    while !body.is_empty() {
        let head = body.get(..ENTRY)?;
        let (start, count) = (long(head, 0), long(head, 8) & ((1 << 40) - 1));
        body = &body[ENTRY..];
        let end = start.checked_add(count)?;
        let entry = match head[13] {
            BITS => {
                let maps = body.get(..BITMAPS)?;
                body = &body[BITMAPS..];
                bitmaps(header, start, maps)?
            }
            kind @ (WRITTEN | ZERO) if count > 0 && end <= header.cells() => {
                let state = if kind == ZERO { State::Zero } else { State::Written };
                Entry::Run { start, count, state }
            }
            _ => return None,
        };
        map.apply(&entry);
    }
    Some(())
}

fn bitmaps(header: &Header, start: u64, bytes: &[u8]) -> Option<Entry> {
    let read = |bytes: &[u8]| -> Box<Bits> {
        let mut bits = Box::new([0; WORDS]);
        bits.iter_mut().zip(bytes.chunks_exact(8)).for_each(|(word, b)| *word = long(b, 0));
        bits
    };
    let (written, zero) = bytes.split_at(BITMAPS / 2);
    let (written, zero) = (read(written), read(zero));
    let beyond = |cell: u64| start.checked_add(cell).is_none_or(|cell| cell >= header.cells());
    let known = |word: usize| written[word] | zero[word];
    let last = (0..WORDS).rev().find(|word| known(*word) != 0);
    let last = last.map(|word| word as u64 * 64 + 63 - u64::from(known(word).leading_zeros()));
    if !start.is_multiple_of(CHUNK) || last.is_some_and(beyond) {
        return None;
    }
    Some(Entry::Bits { chunk: start / CHUNK, written, zero })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { overlay: [7; 16], disk: 1, layer: 2, size: 100 << 20 }
    }

    fn run(start: u64, count: u64, state: State) -> Entry {
        Entry::Run { start, count, state }
    }

    fn log(records: &[Vec<Entry>]) -> Vec<u8> {
        let mut bytes = header().encode().to_vec();
        for (index, entries) in records.iter().enumerate() {
            bytes.extend(header().record(index as u64 + 1, entries));
        }
        bytes
    }

    #[test]
    fn a_log_says_what_was_put_into_it() {
        let mut bits = Box::new([0; WORDS]);
        bits[3] = 0x55;
        let bitmaps = Entry::Bits { chunk: 1, written: bits.clone(), zero: Box::new([0; WORDS]) };
        let bytes = log(&[
            vec![run(0, 10, State::Written), run(20, 5, State::Zero)],
            vec![run(5, 2, State::Zero), bitmaps],
        ]);
        let replay = replay(&header(), &bytes).unwrap();
        assert_eq!((replay.valid, replay.next), (bytes.len() as u64, 3));
        let first = CHUNK + 3 * 64;
        let mut wanted = vec![
            run(0, 5, State::Written),
            run(5, 2, State::Zero),
            run(7, 3, State::Written),
            run(20, 5, State::Zero),
        ];
        wanted.extend([0, 2, 4, 6].map(|bit| run(first + bit, 1, State::Written)));
        assert_eq!(replay.entries(), wanted);
    }

    #[test]
    fn a_torn_record_does_not_count_wherever_it_is_cut() {
        let all = [vec![run(0, 10, State::Written)], vec![run(3, 4, State::Zero)]];
        let (one, two) = (log(&all[..1]), log(&all));
        for cut in one.len()..two.len() {
            let replay = replay(&header(), &two[..cut]).unwrap();
            assert_eq!(replay.valid, one.len() as u64);
            assert_eq!(replay.entries(), all[0]);
            // A file that grew before its bytes were there.
            let mut zeroes = two[..cut].to_vec();
            zeroes.resize(two.len() + 512, 0);
            if zeroes[..two.len()] != two[..] {
                let replay = super::replay(&header(), &zeroes).unwrap();
                assert_eq!(replay.entries(), all[0]);
            }
        }
    }

    #[test]
    fn damage_before_a_whole_record_is_told() {
        let records: Vec<_> = (0..5).map(|at| vec![run(at * 9, 3, State::Written)]).collect();
        let bytes = log(&records);
        let last = log(&records[..4]).len();
        for at in (HEADER..last).step_by(5) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            let found = replay(&header(), &damaged);
            assert!(matches!(found, Err(LogError::Damaged(_))), "byte {at}: {found:?}");
        }
    }

    #[test]
    fn what_belongs_to_something_else_is_refused() {
        let bytes = log(&[vec![run(0, 10, State::Written)]]);
        for other in [
            Header { overlay: [8; 16], ..header() },
            Header { disk: 0, ..header() },
            Header { layer: 1, ..header() },
            Header { size: 1, ..header() },
        ] {
            assert_eq!(replay(&other, &bytes).unwrap_err(), LogError::Foreign);
        }
        assert_eq!(replay(&header(), &bytes[..63]).unwrap_err(), LogError::Header);
        let mut later = header().encode();
        later[8] = 2;
        let crc = crc32c::crc32c(&later[..60]);
        later[60..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(replay(&header(), &later).unwrap_err(), LogError::Version(2));
    }

    #[test]
    fn cells_beyond_the_disk_are_nonsense() {
        let cells = header().cells();
        for entry in [run(cells - 1, 2, State::Zero), run(0, 0, State::Zero)] {
            let bytes = log(&[vec![entry]]);
            let found = replay(&header(), &bytes).unwrap_err();
            assert_eq!(found, LogError::Nonsense(HEADER as u64));
        }
        let mut bits = Box::new([0; WORDS]);
        bits[0] = 1;
        let chunk = cells.div_ceil(CHUNK);
        let beyond = Entry::Bits { chunk, written: bits.clone(), zero: bits };
        assert!(replay(&header(), &log(&[vec![beyond]])).is_err());
    }
}

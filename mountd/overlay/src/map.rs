//! Which cells a layer knows: three bits for each, in chunks that exist where something is known.
//!
//! A chunk takes 3 KiB and stands for 32 MiB of disk, so the map of a disk that was written all
//! over takes a ten-thousandth of it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Cells of a chunk.
pub(crate) const CHUNK: u64 = 8192;
/// Words of each of a chunk's bitmaps.
pub(crate) const WORDS: usize = CHUNK as usize / 64;
/// A chunk with more runs than this is written down as bitmaps: they take the room of 128 runs.
const MOST_RUNS: usize = 128;

/// A bitmap of a chunk.
pub(crate) type Bits = [u64; WORDS];

/// What a layer knows of a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Nothing: what lies below counts.
    Below,
    /// The layer's data file holds it.
    Written,
    /// It reads as zeroes.
    Zero,
}

/// A statement of the log about cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Cells in a row that are alike; never [`State::Below`].
    Run {
        /// First cell.
        start: u64,
        /// Number of cells.
        count: u64,
        /// What they are.
        state: State,
    },
    /// Cells of one chunk; those in neither bitmap are not spoken of.
    Bits {
        /// Number of the chunk.
        chunk: u64,
        /// Cells the data file holds.
        written: Box<Bits>,
        /// Cells that read as zeroes.
        zero: Box<Bits>,
    },
}

#[derive(Debug, Clone)]
struct Chunk {
    written: Bits,
    zero: Bits,
    /// Cells of which the log does not know yet what is known here.
    dirty: Bits,
}

impl Chunk {
    fn new() -> Box<Self> {
        Box::new(Self { written: [0; WORDS], zero: [0; WORDS], dirty: [0; WORDS] })
    }

    fn state(&self, at: u64) -> State {
        let (word, bit) = ((at / 64) as usize, 1u64 << (at % 64));
        if self.written[word] & bit != 0 {
            State::Written
        } else if self.zero[word] & bit != 0 {
            State::Zero
        } else {
            State::Below
        }
    }

    /// The cells of a word that are in `state`.
    fn matching(&self, word: usize, state: State) -> u64 {
        match state {
            State::Written => self.written[word],
            State::Zero => self.zero[word],
            State::Below => !(self.written[word] | self.zero[word]),
        }
    }

    /// One past the last cell of the run of `state` that `at` begins.
    fn run_end(&self, at: u64, state: State) -> u64 {
        let mut at = at;
        while at < CHUNK {
            let others = !self.matching((at / 64) as usize, state) >> (at % 64);
            if others != 0 {
                return at + u64::from(others.trailing_zeros());
            }
            at = (at / 64 + 1) * 64;
        }
        CHUNK
    }

    /// Tells the cells in `only`, or all that are known.
    fn entries(&self, number: u64, only: Option<&Bits>, out: &mut Vec<Entry>) {
        let pick = |bits: &Bits| {
            let mut picked = Box::new(*bits);
            if let Some(only) = only {
                picked.iter_mut().zip(only).for_each(|(word, mask)| *word &= mask);
            }
            picked
        };
        let (written, zero) = (pick(&self.written), pick(&self.zero));
        let part = Self { written: *written, zero: *zero, dirty: [0; WORDS] };
        let before = out.len();
        let mut at = 0;
        while at < CHUNK {
            let state = part.state(at);
            let end = part.run_end(at, state);
            if state != State::Below {
                if out.len() - before == MOST_RUNS {
                    out.truncate(before);
                    out.push(Entry::Bits { chunk: number, written, zero });
                    return;
                }
                out.push(Entry::Run { start: number * CHUNK + at, count: end - at, state });
            }
            at = end;
        }
    }
}

/// What a layer knows of all cells of a disk.
#[derive(Debug, Default)]
pub(crate) struct CellMap {
    chunks: BTreeMap<u64, Box<Chunk>>,
    dirty: BTreeSet<u64>,
    written: u64,
    zero: u64,
}

impl CellMap {
    /// Number of cells the data file holds.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Number of cells that read as zeroes.
    pub(crate) fn zero(&self) -> u64 {
        self.zero
    }

    /// Whether the log knows everything.
    pub(crate) fn is_clean(&self) -> bool {
        self.dirty.is_empty()
    }

    /// What is known of a cell, and where the run of its like ends, at most at `end`.
    pub(crate) fn run(&self, cell: u64, end: u64) -> (State, u64) {
        let state = self.state(cell);
        let mut at = cell;
        while at < end {
            let number = at / CHUNK;
            match self.chunks.get(&number) {
                Some(chunk) => {
                    let stop = number * CHUNK + chunk.run_end(at % CHUNK, state);
                    if stop < (number + 1) * CHUNK {
                        return (state, stop.min(end));
                    }
                    at = stop;
                }
                None if state == State::Below => {
                    let next = self.chunks.range(number..).next();
                    at = next.map_or(end, |(next, _)| next * CHUNK);
                }
                None => break,
            }
        }
        (state, at.min(end))
    }

    /// What is known of a cell.
    pub(crate) fn state(&self, cell: u64) -> State {
        let chunk = self.chunks.get(&(cell / CHUNK));
        chunk.map_or(State::Below, |chunk| chunk.state(cell % CHUNK))
    }

    /// How many of these cells the data file holds.
    pub(crate) fn count_written(&self, cells: Range<u64>) -> u64 {
        let mut count = 0;
        for (number, chunk) in self.chunks.range(cells.start / CHUNK..cells.end.div_ceil(CHUNK)) {
            let within = clip(&cells, *number);
            for (word, mask) in masks(within) {
                count += u64::from((chunk.written[word] & mask).count_ones());
            }
        }
        count
    }

    /// Makes cells known as written or zero, for the log to be told. Returns how many of them the
    /// data file held before.
    pub(crate) fn mark(&mut self, cells: Range<u64>, state: State) -> u64 {
        self.set(cells, state, true)
    }

    fn set(&mut self, cells: Range<u64>, state: State, tell: bool) -> u64 {
        let mut held = 0;
        for number in cells.start / CHUNK..cells.end.div_ceil(CHUNK) {
            let chunk = self.chunks.entry(number).or_insert_with(Chunk::new);
            for (word, mask) in masks(clip(&cells, number)) {
                let (old_written, old_zero) = (chunk.written[word], chunk.zero[word]);
                held += u64::from((old_written & mask).count_ones());
                let on = |wanted: bool, old: u64| if wanted { old | mask } else { old & !mask };
                chunk.written[word] = on(state == State::Written, old_written);
                chunk.zero[word] = on(state == State::Zero, old_zero);
                let ones = |word: u64| u64::from(word.count_ones());
                self.written = self.written + ones(chunk.written[word]) - ones(old_written);
                self.zero = self.zero + ones(chunk.zero[word]) - ones(old_zero);
                if tell {
                    chunk.dirty[word] |= mask;
                }
            }
            if tell {
                self.dirty.insert(number);
            }
        }
        held
    }

    /// Takes over what a log says.
    pub(crate) fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Run { start, count, state } => {
                self.set(*start..start + count, *state, false);
            }
            Entry::Bits { chunk: number, written, zero } => {
                let chunk = self.chunks.entry(*number).or_insert_with(Chunk::new);
                let ones = |bits: &Bits| bits.iter().map(|word| u64::from(word.count_ones())).sum();
                let before: (u64, u64) = (ones(&chunk.written), ones(&chunk.zero));
                for word in 0..WORDS {
                    let spoken = written[word] | zero[word];
                    chunk.written[word] = chunk.written[word] & !spoken | written[word];
                    chunk.zero[word] = chunk.zero[word] & !spoken | zero[word] & !written[word];
                }
                self.written = self.written + ones(&chunk.written) - before.0;
                self.zero = self.zero + ones(&chunk.zero) - before.1;
            }
        }
    }

    /// What the log does not know yet; from now on it is taken to know.
    pub(crate) fn take_dirty(&mut self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for number in std::mem::take(&mut self.dirty) {
            if let Some(chunk) = self.chunks.get_mut(&number) {
                let dirty = std::mem::replace(&mut chunk.dirty, [0; WORDS]);
                chunk.entries(number, Some(&dirty), &mut entries);
            }
        }
        merge(entries)
    }

    /// Everything that is known; from now on the log is taken to know it.
    pub(crate) fn take_all(&mut self) -> Vec<Entry> {
        for number in std::mem::take(&mut self.dirty) {
            if let Some(chunk) = self.chunks.get_mut(&number) {
                chunk.dirty = [0; WORDS];
            }
        }
        self.all()
    }

    /// Everything that is known.
    pub(crate) fn all(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        for (number, chunk) in &self.chunks {
            chunk.entries(*number, None, &mut entries);
        }
        merge(entries)
    }
}

/// Joins runs that go on in the next chunk.
fn merge(entries: Vec<Entry>) -> Vec<Entry> {
    let mut merged: Vec<Entry> = Vec::with_capacity(entries.len());
    for entry in entries {
        if let (
            Some(Entry::Run { start, count, state }),
            Entry::Run { start: next, count: more, state: like },
        ) = (merged.last_mut(), &entry)
            && *start + *count == *next
            && state == like
        {
            *count += more;
            continue;
        }
        merged.push(entry);
    }
    merged
}

/// The part of a range that lies in a chunk, counted from the chunk's start.
fn clip(cells: &Range<u64>, number: u64) -> Range<u64> {
    let first = number * CHUNK;
    cells.start.max(first) - first..cells.end.min(first + CHUNK).max(first) - first
}

/// The words that a range within a chunk touches, each with the range's bits.
fn masks(within: Range<u64>) -> impl Iterator<Item = (usize, u64)> {
    (within.start / 64..within.end.div_ceil(64)).map(move |word| {
        let from = within.start.max(word * 64) - word * 64;
        let to = within.end.min(word * 64 + 64) - word * 64;
        let ones = if to - from == 64 { u64::MAX } else { ((1 << (to - from)) - 1) << from };
        (word as usize, ones)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop, prop_assert_eq, proptest};

    use super::*;

    const CELLS: u64 = 3 * CHUNK + 100;

    fn states(map: &CellMap) -> Vec<State> {
        let mut all = Vec::new();
        while (all.len() as u64) < CELLS {
            let at = all.len() as u64;
            let (state, end) = map.run(at, CELLS);
            assert!(end > at);
            all.resize(end as usize, state);
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn a_map_is_what_its_marks_made_it_and_its_entries_tell_it(
            marks in prop::collection::vec((0..CELLS, 1u64..3000, any::<bool>()), 0..60),
            small in prop::collection::vec((0u64..700, any::<bool>()), 0..400),
            taken in 0usize..60,
        ) {
            let mut model = vec![State::Below; CELLS as usize];
            let (mut map, mut copy) = (CellMap::default(), CellMap::default());
            let small = small.into_iter().map(|(cell, zero)| (cell * 3, 1, zero));
            for (step, (start, count, zero)) in marks.into_iter().chain(small).enumerate() {
                let end = (start + count).min(CELLS);
                let state = if zero { State::Zero } else { State::Written };
                let part = &mut model[start as usize..end as usize];
                let held = part.iter().filter(|state| **state == State::Written).count() as u64;
                prop_assert_eq!(map.count_written(start..end), held);
                prop_assert_eq!(map.mark(start..end, state), held);
                part.fill(state);
                if step == taken {
                    map.take_dirty().iter().for_each(|entry| copy.apply(entry));
                }
            }
            map.take_dirty().iter().for_each(|entry| copy.apply(entry));
            let mut whole = CellMap::default();
            map.all().iter().for_each(|entry| whole.apply(entry));
            for map in [&map, &copy, &whole] {
                prop_assert_eq!(&states(map), &model);
                let count = |of| model.iter().filter(|state| **state == of).count() as u64;
                prop_assert_eq!(map.written(), count(State::Written));
                prop_assert_eq!(map.zero(), count(State::Zero));
            }
            assert!(map.is_clean() && map.take_dirty().is_empty());
        }
    }

    #[test]
    fn a_chunk_full_of_short_runs_is_told_as_bitmaps() {
        let mut map = CellMap::default();
        (0..CHUNK).step_by(2).for_each(|cell| {
            map.mark(cell..cell + 1, State::Written);
        });
        assert!(matches!(map.take_dirty().as_slice(), [Entry::Bits { chunk: 0, .. }]));
        map.mark(0..5 * CHUNK, State::Zero);
        let whole = Entry::Run { start: 0, count: 5 * CHUNK, state: State::Zero };
        assert_eq!(map.take_all(), [whole]);
    }
}

//! Which slots are live: one bit each, and a row for each pack.
//!
//! The number of slots of a pack is not known from a listing, so bits come in segments of 256
//! slots, chained for each pack: 9 bits take the place of 8. A row tells how many bytes of a
//! pack are live without its table being read, because every reference says how long its slot is.

use std::collections::HashSet;

use crate::format::id::{PackId, PackKind};
use crate::format::page::Location;

const SEGMENT_SLOTS: u16 = 256;
const NONE: u32 = u32::MAX;

/// A listed pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    pub(crate) kind: PackKind,
    pub(crate) pack: PackId,
    pub(crate) generation: u32,
    /// Bytes of the object.
    pub(crate) size: u32,
    /// Stored bytes of live slots.
    pub(crate) live: u32,
    head: u32,
}

#[derive(Debug, Clone, Copy)]
struct Segment {
    bits: [u64; 4],
    next: u32,
}

/// Segments in blocks: one growing vector would take twice its size while it grows.
#[derive(Debug, Default)]
struct Arena {
    blocks: Vec<Vec<Segment>>,
}

impl Arena {
    const BLOCK: usize = 1 << 14;

    fn add(&mut self) -> u32 {
        if self.blocks.last().is_none_or(|block| block.len() == Self::BLOCK) {
            self.blocks.push(Vec::with_capacity(Self::BLOCK));
        }
        let number = (self.blocks.len() - 1) * Self::BLOCK;
        let block = self.blocks.last_mut().expect("one was just made sure of");
        block.push(Segment { bits: [0; 4], next: NONE });
        (number + block.len() - 1) as u32
    }

    fn get(&self, at: u32) -> &Segment {
        &self.blocks[at as usize / Self::BLOCK][at as usize % Self::BLOCK]
    }

    fn get_mut(&mut self, at: u32) -> &mut Segment {
        &mut self.blocks[at as usize / Self::BLOCK][at as usize % Self::BLOCK]
    }

    fn memory(&self) -> usize {
        self.blocks.len() * Self::BLOCK * size_of::<Segment>()
    }
}

/// All listed packs with their live slots.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    rows: Vec<Row>,
    segments: Arena,
    /// Live slots of packs that were not listed: younger than the listing.
    unlisted: HashSet<(PackKind, PackId, u16)>,
    /// Generations that a later one has replaced.
    pub(crate) replaced: Vec<(PackKind, PackId, u32)>,
    /// The row of the last lookup: references come in runs.
    last: usize,
}

impl Marks {
    /// Takes in a listed pack. [`seal`](Self::seal) follows the last one.
    pub(crate) fn list(&mut self, kind: PackKind, pack: PackId, generation: u32, size: u64) {
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        self.rows.push(Row { kind, pack, generation, size, live: 0, head: NONE });
    }

    /// Sorts the rows and keeps the newest generation of each pack.
    pub(crate) fn seal(&mut self) {
        self.rows.sort_unstable();
        let replaced = &mut self.replaced;
        self.rows.dedup_by(|next, kept| {
            let same = (next.kind, next.pack) == (kept.kind, kept.pack);
            if same {
                replaced.push((kept.kind, kept.pack, kept.generation));
                *kept = *next;
            }
            same
        });
        self.rows.shrink_to_fit();
    }

    /// Rows in order.
    pub(crate) fn rows(&self) -> &[Row] {
        &self.rows
    }

    fn find(&mut self, kind: PackKind, pack: PackId) -> Option<usize> {
        let wanted = (kind, pack);
        if self.rows.get(self.last).is_some_and(|row| (row.kind, row.pack) == wanted) {
            return Some(self.last);
        }
        let at = self.rows.binary_search_by_key(&wanted, |row| (row.kind, row.pack)).ok()?;
        self.last = at;
        Some(at)
    }

    /// Marks a slot as live; returns whether it was not.
    pub(crate) fn mark(&mut self, kind: PackKind, location: &Location) -> bool {
        let Location { pack, slot, stored_len, .. } = *location;
        let Some(row) = self.find(kind, pack) else {
            return self.unlisted.insert((kind, pack, slot));
        };
        let (mut at, mut before) = (self.rows[row].head, NONE);
        for _ in 0..=slot / SEGMENT_SLOTS {
            if at == NONE {
                at = self.segments.add();
                match before {
                    NONE => self.rows[row].head = at,
                    _ => self.segments.get_mut(before).next = at,
                }
            }
            (before, at) = (at, self.segments.get(at).next);
        }
        let within = slot % SEGMENT_SLOTS;
        let word = &mut self.segments.get_mut(before).bits[usize::from(within / 64)];
        let bit = 1u64 << (within % 64);
        let fresh = *word & bit == 0;
        *word |= bit;
        if fresh {
            self.rows[row].live = self.rows[row].live.saturating_add(stored_len);
        }
        fresh
    }

    /// Bytes of live slots of a pack.
    pub(crate) fn live(&mut self, kind: PackKind, pack: PackId) -> u32 {
        self.find(kind, pack).map_or(0, |row| self.rows[row].live)
    }

    /// Live slots of a pack, ascending.
    pub(crate) fn slots(&mut self, kind: PackKind, pack: PackId) -> Vec<u16> {
        let Some(row) = self.find(kind, pack) else { return Vec::new() };
        let (mut at, mut base, mut slots) = (self.rows[row].head, 0, Vec::new());
        while at != NONE {
            let segment = *self.segments.get(at);
            let live = |slot: &u16| segment.bits[usize::from(slot / 64)] >> (slot % 64) & 1 == 1;
            slots.extend((0..SEGMENT_SLOTS).filter(live).map(|slot| base + slot));
            (at, base) = (segment.next, base.saturating_add(SEGMENT_SLOTS));
        }
        slots
    }

    /// Bytes the marks take in memory.
    pub(crate) fn memory(&self) -> usize {
        self.rows.capacity() * size_of::<Row>() + self.segments.memory()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::*;

    use super::*;
    use crate::format::pack::Codec;

    fn place(pack: u8, slot: u16) -> Location {
        let pack = PackId([pack; 16]);
        Location { pack, slot, codec: Codec::Raw, offset: 0, stored_len: u32::from(slot) + 1 }
    }

    proptest! {
        #[test]
        fn what_is_marked_is_live_and_nothing_else(
            marked in proptest::collection::vec((0u8..6, 0u16..4096), 0..300),
        ) {
            let mut marks = Marks::default();
            for pack in (0..4).rev() {
                marks.list(PackKind::Data, PackId([pack; 16]), 0, 1 << 20);
            }
            marks.seal();
            let mut model: BTreeMap<u8, BTreeSet<u16>> = BTreeMap::new();
            for (pack, slot) in marked {
                let fresh = marks.mark(PackKind::Data, &place(pack, slot));
                prop_assert_eq!(fresh, model.entry(pack).or_default().insert(slot));
            }
            for pack in 0..4 {
                let expected: Vec<u16> =
                    model.get(&pack).into_iter().flatten().copied().collect();
                let bytes: u32 = expected.iter().map(|slot| u32::from(*slot) + 1).sum();
                let id = PackId([pack; 16]);
                prop_assert_eq!(marks.live(PackKind::Data, id), bytes);
                prop_assert_eq!(marks.slots(PackKind::Data, id), expected);
            }
        }
    }

    /// A hundredth of 10^9 blocks in packs of 512: 10^9 then take less than 256 MiB.
    #[test]
    fn a_slot_takes_one_bit_and_small_change() {
        const PACKS: u64 = 20_000;
        const SLOTS: u16 = 512;
        let mut marks = Marks::default();
        let id = |number: u64| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
            PackId(id)
        };
        for number in 0..PACKS {
            marks.list(PackKind::Data, id(number), 0, 32 << 20);
        }
        marks.seal();
        for number in 0..PACKS {
            for slot in 0..SLOTS {
                let codec = Codec::Raw;
                let location =
                    Location { pack: id(number), slot, codec, offset: 0, stored_len: 65_536 };
                assert!(marks.mark(PackKind::Data, &location));
            }
        }
        assert!(marks.rows().iter().all(|row| row.live == 32 << 20));
        let slots = PACKS * u64::from(SLOTS);
        let at_a_billion = marks.memory() as u64 * 1_000_000_000 / slots;
        assert!(at_a_billion < 256 << 20, "{at_a_billion}");
    }

    #[test]
    fn the_newest_generation_counts() {
        let mut marks = Marks::default();
        let pack = PackId([1; 16]);
        for generation in [1, 0, 2] {
            marks.list(PackKind::Data, pack, generation, 100 + u64::from(generation));
        }
        marks.list(PackKind::Meta, pack, 0, 7);
        marks.seal();
        let rows: Vec<_> = marks.rows().iter().map(|r| (r.kind, r.generation, r.size)).collect();
        assert_eq!(rows, [(PackKind::Data, 2, 102), (PackKind::Meta, 0, 7)]);
        let old: Vec<u32> = marks.replaced.iter().map(|(_, _, generation)| *generation).collect();
        assert_eq!(old, [0, 1]);
    }
}

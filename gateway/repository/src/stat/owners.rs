//! Who references which slot: two bytes each, and a row for each pack.
//!
//! Units (instances, or groups of them) are walked one after the other. A slot's word holds the
//! unit that came by last, and a bit that says whether any other did before. That is enough:
//! a unit that meets a slot whose last visitor was alone takes it away from that one's unique bytes,
//! and one that meets a slot again sees its own number.

use std::collections::{HashMap, HashSet};

use crate::crypto::TAG_LEN;
use crate::format::header::HEADER_LEN;
use crate::format::id::{PackId, PackKind, SessionId};
use crate::format::pack::{ENTRY_LEN, FOOTER_LEN};
use crate::format::page::Location;

/// Set when several units reference the slot.
const SHARED: u16 = 1 << 15;
/// Units that can be told apart; zero means nobody.
pub(super) const MAX_UNITS: usize = SHARED as usize - 1;
/// Words are added so many at a time: packs differ in how many slots they have.
const STEP: usize = 256;
/// Bytes of a pack that are neither slots nor entries of its table.
const FRAME: u64 = (HEADER_LEN + TAG_LEN + FOOTER_LEN) as u64;

#[derive(Debug, Default)]
struct Row {
    generation: u32,
    /// Bytes of the object; 0 when it is younger than the listing.
    size: u64,
    /// Stored bytes of referenced slots.
    live: u64,
    live_slots: u64,
    words: Vec<u16>,
}

/// What a visit of a slot found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// Nobody came by before.
    First,
    /// This unit was there before.
    Again,
    /// Another unit was there, and it was the only one.
    Second(u16),
    /// Several units were there.
    Later,
}

/// Packs with the owners of their slots.
#[derive(Debug, Default)]
pub(super) struct Owners {
    rows: HashMap<(PackKind, PackId), Row>,
    /// Bytes of generations that a later one has replaced.
    replaced: u64,
}

impl Owners {
    /// Takes in a listed pack.
    pub(super) fn list(&mut self, kind: PackKind, pack: PackId, generation: u32, size: u64) {
        let row = self.rows.entry((kind, pack)).or_default();
        if generation >= row.generation {
            self.replaced += row.size;
            (row.generation, row.size) = (generation, size);
        } else {
            self.replaced += size;
        }
    }

    /// Notes that `unit`, counted from one, references a slot.
    pub(super) fn visit(&mut self, kind: PackKind, location: &Location, unit: u16) -> Visit {
        let row = self.rows.entry((kind, location.pack)).or_default();
        let at = usize::from(location.slot);
        if at >= row.words.len() {
            let length = (at + 1).next_multiple_of(STEP);
            row.words.reserve_exact(length - row.words.len());
            row.words.resize(length, 0);
        }
        let word = &mut row.words[at];
        let (last, shared) = (*word & !SHARED, *word & SHARED);
        if last == unit {
            return Visit::Again;
        }
        if last == 0 {
            row.live += u64::from(location.stored_len);
            row.live_slots += 1;
            *word = unit;
            return Visit::First;
        }
        *word = unit | SHARED;
        if shared == 0 { Visit::Second(last) } else { Visit::Later }
    }

    /// Bytes that nothing references: of packs of these sessions, and of all others.
    pub(super) fn unreferenced(&self, open: &HashSet<SessionId>) -> (u64, u64) {
        let (mut pending, mut dead) = (0, self.replaced);
        for ((_, pack), row) in &self.rows {
            let needed = match row.live_slots {
                0 => 0,
                slots => FRAME + slots * ENTRY_LEN as u64 + row.live,
            };
            let of = if open.contains(&pack.session()) { &mut pending } else { &mut dead };
            *of += row.size.saturating_sub(needed);
        }
        (pending, dead)
    }

    /// Bytes this takes in memory.
    pub(super) fn memory(&self) -> u64 {
        let rows = self.rows.capacity() * size_of::<((PackKind, PackId), Row)>();
        let words: usize = self.rows.values().map(|row| row.words.capacity()).sum();
        (rows + words * size_of::<u16>()) as u64
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
        fn unique_and_shared_bytes_are_those_of_sets(
            units in proptest::collection::vec(
                proptest::collection::vec((0u8..3, 0u16..600), 0..80), 0..6),
        ) {
            let mut owners = Owners::default();
            let (mut unique, mut shared) = (vec![0u64; units.len()], vec![0u64; units.len()]);
            let mut model: BTreeMap<(u8, u16), BTreeSet<usize>> = BTreeMap::new();
            for (at, visits) in units.iter().enumerate() {
                for (pack, slot) in visits {
                    let bytes = u64::from(*slot) + 1;
                    let unit = at as u16 + 1;
                    match owners.visit(PackKind::Data, &place(*pack, *slot), unit) {
                        Visit::Again => {}
                        Visit::First => unique[at] += bytes,
                        Visit::Later => shared[at] += bytes,
                        Visit::Second(other) => {
                            shared[at] += bytes;
                            unique[usize::from(other) - 1] -= bytes;
                            shared[usize::from(other) - 1] += bytes;
                        }
                    }
                    model.entry((*pack, *slot)).or_default().insert(at);
                }
            }
            for at in 0..units.len() {
                let of = |alone: bool| -> u64 {
                    let fits = |by: &BTreeSet<usize>| by.contains(&at) && (by.len() == 1) == alone;
                    let kept = model.iter().filter(|(_, by)| fits(by));
                    kept.map(|((_, slot), _)| u64::from(*slot) + 1).sum()
                };
                prop_assert_eq!((unique[at], shared[at]), (of(true), of(false)));
            }
        }
    }

    #[test]
    fn what_nothing_references_can_be_freed_but_for_open_sessions() {
        let mut owners = Owners::default();
        let [dead, live, open] = [1, 2, 3].map(|byte| PackId([byte; 16]));
        owners.list(PackKind::Data, dead, 0, 1000);
        owners.list(PackKind::Data, live, 1, 5000);
        owners.list(PackKind::Data, live, 0, 70);
        owners.list(PackKind::Meta, open, 0, 300);
        owners.visit(PackKind::Data, &place(2, 99), 1);
        let kept = FRAME + ENTRY_LEN as u64 + 100;
        let sessions = HashSet::from([open.session()]);
        assert_eq!(owners.unreferenced(&sessions), (300, 1000 + 70 + 5000 - kept));
    }
}

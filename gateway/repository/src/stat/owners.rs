//! Who references which slot: two bytes each, and a row for each pack.
//!
//! Units (instances) are walked one after the other, those of a project in a row. A slot's word
//! holds the unit that came by last, and two bits: whether any other did before, and whether
//! one of another project did. That is enough: a unit that meets a slot whose last visitor was
//! alone takes it away from that one's unique bytes, and one that meets a slot again sees its own
//! number. The same holds for projects, since a project's earlier visit can only be the last one.

use std::collections::{HashMap, HashSet};

use crate::crypto::TAG_LEN;
use crate::format::header::HEADER_LEN;
use crate::format::id::{PackId, PackKind, SessionId};
use crate::format::pack::{ENTRY_LEN, FOOTER_LEN};
use crate::format::page::Location;

/// Set when several units reference the slot.
const SHARED: u16 = 1 << 15;
/// Set when several projects do.
const SPREAD: u16 = 1 << 14;
/// Units that can be told apart; zero means nobody.
pub(super) const MAX_UNITS: usize = SPREAD as usize - 1;
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

/// What a visit of a slot found; of instances or of projects, by their places in the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visit {
    /// Nobody came by before.
    First,
    /// This one was there before.
    Again,
    /// Another was there, and it was the only one.
    Second(usize),
    /// Several were there.
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

    /// Notes that a unit references a slot; `projects` has the project of each. What it found, of
    /// units and of projects.
    pub(super) fn visit(
        &mut self,
        kind: PackKind,
        location: &Location,
        unit: usize,
        projects: &[usize],
    ) -> (Visit, Visit) {
        let row = self.rows.entry((kind, location.pack)).or_default();
        let at = usize::from(location.slot);
        if at >= row.words.len() {
            let length = (at + 1).next_multiple_of(STEP);
            row.words.reserve_exact(length - row.words.len());
            row.words.resize(length, 0);
        }
        let word = &mut row.words[at];
        // There are fewer units than a word can name.
        let me = unit as u16 + 1;
        let (last, shared, spread) = (*word & !(SHARED | SPREAD), *word & SHARED, *word & SPREAD);
        if last == me {
            return (Visit::Again, Visit::Again);
        }
        if last == 0 {
            row.live += u64::from(location.stored_len);
            row.live_slots += 1;
            *word = me;
            return (Visit::First, Visit::First);
        }
        let last = usize::from(last) - 1;
        *word = me | SHARED | spread;
        let of_units = if shared == 0 { Visit::Second(last) } else { Visit::Later };
        if projects[last] == projects[unit] {
            return (of_units, Visit::Again);
        }
        *word |= SPREAD;
        let alone = spread == 0;
        (of_units, if alone { Visit::Second(projects[last]) } else { Visit::Later })
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

    /// Unique and shared bytes, as [`Visit`] tells them.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
    struct Bytes {
        unique: u64,
        shared: u64,
    }

    fn note(all: &mut [Bytes], at: usize, visit: Visit, bytes: u64) {
        match visit {
            Visit::Again => {}
            Visit::First => all[at].unique += bytes,
            Visit::Later => all[at].shared += bytes,
            Visit::Second(other) => {
                all[at].shared += bytes;
                all[other].unique -= bytes;
                all[other].shared += bytes;
            }
        }
    }

    /// What sets of visitors say.
    fn modelled(model: &BTreeMap<(u8, u16), BTreeSet<usize>>, at: usize) -> Bytes {
        let mut all = Bytes::default();
        for ((_, slot), by) in model.iter().filter(|(_, by)| by.contains(&at)) {
            let bytes = u64::from(*slot) + 1;
            if by.len() == 1 { all.unique += bytes } else { all.shared += bytes }
        }
        all
    }

    proptest! {
        #[test]
        fn unique_and_shared_bytes_are_those_of_sets(
            units in proptest::collection::vec(
                (0usize..2, proptest::collection::vec((0u8..3, 0u16..600), 0..80)), 0..6),
        ) {
            let mut owners = Owners::default();
            let mut project = 0;
            let mut projects = Vec::new();
            for (step, _) in &units {
                project += step;
                projects.push(project);
            }
            let mut of_units = vec![Bytes::default(); units.len()];
            let mut of_projects = vec![Bytes::default(); project + 1];
            let mut by_unit: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
            let mut by_project: BTreeMap<_, BTreeSet<usize>> = BTreeMap::new();
            for (at, (_, visits)) in units.iter().enumerate() {
                for (pack, slot) in visits {
                    let bytes = u64::from(*slot) + 1;
                    let place = place(*pack, *slot);
                    let (unit, of) = owners.visit(PackKind::Data, &place, at, &projects);
                    note(&mut of_units, at, unit, bytes);
                    note(&mut of_projects, projects[at], of, bytes);
                    by_unit.entry((*pack, *slot)).or_default().insert(at);
                    by_project.entry((*pack, *slot)).or_default().insert(projects[at]);
                }
            }
            for (at, bytes) in of_units.into_iter().enumerate() {
                prop_assert_eq!(bytes, modelled(&by_unit, at));
            }
            for (at, bytes) in of_projects.into_iter().enumerate() {
                prop_assert_eq!(bytes, modelled(&by_project, at));
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
        owners.visit(PackKind::Data, &place(2, 99), 0, &[0]);
        let kept = FRAME + ENTRY_LEN as u64 + 100;
        let sessions = HashSet::from([open.session()]);
        assert_eq!(owners.unreferenced(&sessions), (300, 1000 + 70 + 5000 - kept));
    }
}

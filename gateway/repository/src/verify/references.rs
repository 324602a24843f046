//! Which slots are named, in about two bits each.
//!
//! A slot may be named by many pages, and each must say of it what the pack's own table says. To
//! keep what they said would take tens of bytes for each slot; instead the pack has sums.
//!
//! Each slot has one bit in each of two planes. A reference `r` to it sets the bit to a new value
//! and adds `(new - old) * hash(r)` to the plane's sum. When all references agree, the sum
//! telescopes to `bit * hash`, so the sum over the pack can be computed from the table and the
//! bits alone. In the first plane the new value is always one: it holds what was named first, and
//! tells whether a slot was named before. In the second it is a coin: whichever of a slot's
//! references differs from the table, the sum is wrong in every second run, and surely so when
//! there are several such slots.
//!
//! Sums that differ tell the pack; the references themselves are then looked at again.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};

use crate::format::id::{PackId, PackKind};
use crate::format::pack::{MAX_SLOTS, SlotEntry};
use crate::format::page::{Entry, Location};

/// A pack of either kind.
pub(crate) type PackName = (PackKind, PackId);

const PLANES: usize = 2;
const SLOTS_PER_BYTE: usize = 8 / PLANES;

/// The slots of one pack that are named.
#[derive(Debug, Default)]
pub(super) struct Slots {
    bits: Vec<u8>,
    sums: [u64; PLANES],
    /// Stored bytes of the named slots.
    pub(super) bytes: u64,
    /// Named slots.
    pub(super) count: u32,
    /// A slot was named that no pack can have.
    impossible: bool,
}

/// All named slots, and how references to them are summed up.
#[derive(Debug, Default)]
pub(super) struct References {
    packs: HashMap<PackName, Slots>,
    sums: Sums,
}

/// Hashes and coins of one run.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    state: RandomState,
    tossed: u64,
}

impl Sums {
    fn hash(&self, slot: u16, id: &[u8], place: (u32, u8)) -> u64 {
        self.state.hash_one((slot, id, place))
    }

    fn coin(&mut self) -> bool {
        self.tossed += 1;
        self.state.hash_one(self.tossed) & 1 == 1
    }

    /// Whether the pack's table has all that is named, as far as sums tell.
    pub(super) fn agree(&self, slots: &Slots, table: &[SlotEntry]) -> bool {
        if slots.impossible {
            return false;
        }
        let mut sums = [0u64; PLANES];
        for slot in slots.iter() {
            let Some(entry) = table.get(usize::from(slot)).filter(|entry| entry.stored_len > 0)
            else {
                return false;
            };
            let place = (entry.stored_len, entry.codec as u8);
            let hash = self.hash(slot, &entry.id[..16], place);
            for (plane, sum) in sums.iter_mut().enumerate() {
                *sum = sum.wrapping_add(u64::from(slots.bit(plane, slot)).wrapping_mul(hash));
            }
        }
        sums == slots.sums
    }
}

impl Slots {
    fn bit(&self, plane: usize, slot: u16) -> bool {
        let (at, shift) = place_of(plane, slot);
        self.bits.get(at).is_some_and(|byte| byte >> shift & 1 == 1)
    }

    fn note(&mut self, slot: u16, hash: u64, coin: bool) -> bool {
        let at = usize::from(slot) / SLOTS_PER_BYTE;
        if at >= self.bits.len() {
            self.bits.resize(at + 1, 0);
        }
        let fresh = !self.bit(0, slot);
        for (plane, new) in [true, coin].into_iter().enumerate() {
            let (at, shift) = place_of(plane, slot);
            match (self.bit(plane, slot), new) {
                (false, true) => {
                    self.bits[at] |= 1 << shift;
                    self.sums[plane] = self.sums[plane].wrapping_add(hash);
                }
                (true, false) => {
                    self.bits[at] &= !(1 << shift);
                    self.sums[plane] = self.sums[plane].wrapping_sub(hash);
                }
                _ => {}
            }
        }
        fresh
    }

    /// The named slots, ascending.
    pub(super) fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        let end = (self.bits.len() * SLOTS_PER_BYTE).min(MAX_SLOTS) as u16;
        (0..end).filter(|slot| self.bit(0, *slot))
    }
}

fn place_of(plane: usize, slot: u16) -> (usize, usize) {
    let slot = usize::from(slot);
    (slot / SLOTS_PER_BYTE, slot % SLOTS_PER_BYTE * PLANES + plane)
}

impl References {
    /// Notes a reference; returns whether it is the first one to its slot.
    pub(super) fn note(&mut self, kind: PackKind, entry: &Entry) -> bool {
        let Location { pack, slot, codec, stored_len, .. } = entry.location;
        let hash = self.sums.hash(slot, &entry.id.0, (stored_len, codec as u8));
        let coin = self.sums.coin();
        let slots = self.packs.entry((kind, pack)).or_default();
        if usize::from(slot) >= MAX_SLOTS {
            return !std::mem::replace(&mut slots.impossible, true);
        }
        let fresh = slots.note(slot, hash, coin);
        if fresh {
            slots.bytes += u64::from(stored_len);
            slots.count += 1;
        }
        fresh
    }

    /// The packs in order, and what their sums mean.
    pub(super) fn into_packs(self) -> (Vec<(PackName, Slots)>, Sums) {
        let mut packs: Vec<_> = self.packs.into_iter().collect();
        packs.sort_unstable_by_key(|(name, _)| *name);
        (packs, self.sums)
    }
}

/// Whether a pack's table has what a page says. The offset is a hint, which compaction outdates.
pub(super) fn agrees(slot: Option<&SlotEntry>, entry: &Entry) -> bool {
    let place = &entry.location;
    slot.is_some_and(|slot| {
        slot.id[..16] == entry.id.0
            && slot.stored_len == place.stored_len
            && slot.codec == place.codec
    })
}

/// A set of slots: one bit for each.
#[derive(Debug, Default)]
pub(super) struct SlotSet(HashMap<PackName, Vec<u64>>);

impl SlotSet {
    /// Adds a slot; returns whether it was not there.
    pub(super) fn insert(&mut self, name: PackName, slot: u16) -> bool {
        let words = self.0.entry(name).or_default();
        let (word, bit) = (usize::from(slot) / 64, 1u64 << (slot % 64));
        if word >= words.len() {
            words.resize(word + 1, 0);
        }
        let fresh = words[word] & bit == 0;
        words[word] |= bit;
        fresh
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::format::id::Digest;
    use crate::format::pack::Codec;

    fn table(slots: u16) -> Vec<SlotEntry> {
        (0..slots)
            .map(|slot| SlotEntry {
                id: [slot as u8; 32],
                offset: 64 + u32::from(slot) * 100,
                stored_len: 100,
                plain_len: 200,
                codec: Codec::Raw,
            })
            .collect()
    }

    fn reference(table: &[SlotEntry], slot: u16) -> Entry {
        let entry = &table[usize::from(slot)];
        let mut id = [0; 16];
        id.copy_from_slice(&entry.id[..16]);
        let (offset, stored_len, codec) = (entry.offset, entry.stored_len, entry.codec);
        let location = Location { pack: PackId([1; 16]), slot, codec, offset, stored_len };
        Entry { id: Digest(id), location }
    }

    fn agree(references: References, table: &[SlotEntry]) -> bool {
        let (packs, sums) = references.into_packs();
        packs.iter().all(|(_, slots)| sums.agree(slots, table))
    }

    proptest! {
        #[test]
        fn whatever_is_named_how_often_agrees_with_the_table(
            named in proptest::collection::vec(0u16..500, 0..2000),
        ) {
            let table = table(500);
            let mut references = References::default();
            let mut seen = std::collections::BTreeSet::new();
            for slot in &named {
                let fresh = references.note(PackKind::Data, &reference(&table, *slot));
                prop_assert_eq!(fresh, seen.insert(*slot));
            }
            let listed: Vec<u16> =
                references.packs.values().flat_map(Slots::iter).collect();
            prop_assert_eq!(listed, seen.into_iter().collect::<Vec<_>>());
            prop_assert!(agree(references, &table));
        }

        #[test]
        fn a_first_reference_that_differs_is_always_found(
            slot in 0u16..500, field in 0u8..4, more in 0usize..4,
        ) {
            let table = table(500);
            let mut references = References::default();
            let mut wrong = reference(&table, slot);
            match field {
                0 => wrong.id.0[15] ^= 1,
                1 => wrong.location.stored_len -= 1,
                2 => wrong.location.codec = Codec::Zstd,
                _ => wrong.location.slot += 500,
            }
            references.note(PackKind::Data, &wrong);
            for _ in 0..more {
                references.note(PackKind::Data, &reference(&table, slot));
            }
            prop_assert!(!agree(references, &table));
        }
    }

    #[test]
    fn a_later_reference_that_differs_is_found_in_some_run() {
        let table = table(8);
        let found = |_: &u32| {
            let mut references = References::default();
            references.note(PackKind::Data, &reference(&table, 3));
            let mut wrong = reference(&table, 3);
            wrong.location.stored_len += 16;
            references.note(PackKind::Data, &wrong);
            references.note(PackKind::Data, &reference(&table, 3));
            !agree(references, &table)
        };
        // Half of the runs find it; that none of 256 does will not happen.
        let runs = (0..256).filter(found).count();
        assert!(runs > 0 && runs < 256, "{runs}");
    }

    #[test]
    fn dropped_and_impossible_slots_do_not_agree() {
        let mut table = table(8);
        let mut references = References::default();
        references.note(PackKind::Data, &reference(&table, 3));
        let mut far = reference(&table, 3);
        far.location.slot = u16::MAX;
        table[3].stored_len = 0;
        assert!(!agree(references, &table));
        let mut references = References::default();
        references.note(PackKind::Data, &far);
        assert!(!agree(references, &table));
    }

    #[test]
    fn memory_is_a_fraction_of_a_byte_for_each_slot() {
        let table = table(4096);
        let mut references = References::default();
        for _ in 0..3 {
            for slot in 0..4096 {
                references.note(PackKind::Data, &reference(&table, slot));
            }
        }
        let bytes: usize = references.packs.values().map(|slots| slots.bits.len()).sum();
        assert_eq!(bytes, 4096 * PLANES / 8);
    }
}

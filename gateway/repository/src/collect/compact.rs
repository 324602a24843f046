//! Compaction: the live slots of a pack in its next generation, under the same numbers.
//!
//! A generation goes only once a later one is known to have what is live in it. That there is an
//! object of the later one's name proves nothing: whoever may add objects, and remove none, could
//! have collections remove packs by putting rubbish beside them.

use sluice_block::Buffer;
use sluice_destination::{ByteRange, ErrorKind as DestinationKind};

use crate::crypto::random;
use crate::error::{RepositoryError, Result};
use crate::format::header::HEADER_LEN;
use crate::format::id::{PackId, PackKind, generation_key, next_generation};
use crate::format::pack::{MAX_TAIL, SlotEntry, compacted, open_table};
use crate::moved::PackNow;
use crate::replicate::merge::{Slot, slots};
use crate::repository::{Shared, parse_error};

/// Live slots with dead ones of fewer bytes between them are got together.
const GAP: u64 = 64 << 10;

/// What a compaction moved, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Moved {
    pub(super) read: u64,
    pub(super) written: u64,
}

impl Shared {
    /// Writes the next generation of a pack with these slots, which stay as they are: ciphertext,
    /// number, and all. Without the pack there is nothing to do.
    pub(super) async fn compact(
        &self,
        kind: PackKind,
        pack: PackId,
        now: &PackNow,
        live: &[u16],
    ) -> Result<Option<Moved>> {
        let mut moved = Moved::default();
        // Under a name that nobody reads it would be lost.
        let Some(generation) = next_generation(now.generation) else {
            return Err(RepositoryError::damaged(
                &now.key,
                "a pack cannot have a generation after it",
            ));
        };
        let get = async |range: ByteRange| match self.destination.get(&now.key, range).await {
            Err(error) if error.kind() == DestinationKind::NotFound => Ok(None),
            Err(error) => Err(RepositoryError::from(error)),
            Ok(bytes) => Ok(Some(bytes)),
        };
        let Some(tail) = get(ByteRange::Suffix(MAX_TAIL as u64)).await? else { return Ok(None) };
        moved.read += tail.len() as u64;
        let (_, table) = open_table(&self.keys, self.id, kind, pack, &tail)
            .map_err(|error| parse_error(&now.key, error))?;
        let head = ByteRange::Span { offset: 0, length: HEADER_LEN as u64 };
        let Some(header) = get(head).await? else { return Ok(None) };
        let mut kept = vec![false; table.len()];
        for slot in live {
            let there = table.get(usize::from(*slot)).is_some_and(|slot| slot.stored_len > 0);
            match kept.get_mut(usize::from(*slot)).filter(|_| there) {
                Some(kept) => *kept = true,
                None => {
                    let what = format!("its table has no slot {slot}, which is referenced");
                    return Err(RepositoryError::damaged(&now.key, what));
                }
            }
        }
        let mut bytes = Buffer::with_capacity(1 << 20);
        bytes.extend_from_slice(&header);
        let dropped = |slot: &SlotEntry| SlotEntry { offset: 0, stored_len: 0, ..*slot };
        let mut next: Vec<SlotEntry> = table.iter().map(dropped).collect();
        for (from, to) in spans(&table, &kept) {
            let span = ByteRange::Span { offset: from, length: to - from };
            let Some(part) = get(span).await? else { return Ok(None) };
            moved.read += part.len() as u64;
            let inside = |slot: &SlotEntry| (from..to).contains(&u64::from(slot.offset));
            for (at, slot) in table.iter().enumerate().filter(|(at, _)| kept[*at]) {
                if !inside(slot) {
                    continue;
                }
                let start = (u64::from(slot.offset) - from) as usize;
                let stored = part.get(start..start + slot.stored_len as usize);
                let cut = || RepositoryError::damaged(&now.key, "it is cut off");
                next[at] = SlotEntry { offset: bytes.len() as u32, ..*slot };
                bytes.extend_from_slice(stored.ok_or_else(cut)?);
            }
        }
        let bytes = compacted(&self.keys, kind, pack, bytes, &next, generation, random()?);
        moved.written = bytes.len() as u64;
        let key = generation_key(kind, pack, generation);
        match self.destination.put_new(&key, bytes).await {
            Ok(()) => {}
            // Another collector was faster; what it kept is enough as well.
            Err(error) if error.kind() == DestinationKind::AlreadyExists => {
                if !self.replaces(kind, pack, (now.generation, generation), live).await? {
                    return Err(RepositoryError::damaged(key, "it is no compaction of the pack"));
                }
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Some(moved))
    }

    /// Whether a later generation of a pack has the live slots of an earlier one, and nothing
    /// that the earlier one has not: byte for byte, for seals need not be opened then.
    pub(super) async fn replaces(
        &self,
        kind: PackKind,
        pack: PackId,
        (older, newer): (u32, u32),
        live: &[u16],
    ) -> Result<bool> {
        let get = async |generation: u32| {
            let key = generation_key(kind, pack, generation);
            match self.destination.get(&key, ByteRange::Full).await {
                Err(error) if error.is_retryable() => Err(RepositoryError::from(error)),
                other => Ok(other.ok()),
            }
        };
        let (Some(old), Some(new)) = (get(older).await?, get(newer).await?) else {
            return Ok(false);
        };
        let name = (kind, pack);
        let old = slots(&self.keys, self.id, name, &old);
        let (Ok(old), Ok(new)) = (old, slots(&self.keys, self.id, name, &new)) else {
            return Ok(false);
        };
        let there = |slot: &u16| matches!(new.get(usize::from(*slot)), Some(Some(_)));
        let same = |(at, slot): (usize, &Option<Slot<'_>>)| match (slot, old.get(at)) {
            (Some((_, new)), Some(Some((_, old)))) => new == old,
            (slot, _) => slot.is_none(),
        };
        Ok(live.iter().all(there) && new.iter().enumerate().all(same))
    }
}

/// Ranges of bytes that hold the kept slots.
fn spans(table: &[SlotEntry], kept: &[bool]) -> Vec<(u64, u64)> {
    let mut places: Vec<(u64, u64)> = table
        .iter()
        .zip(kept)
        .filter(|(_, kept)| **kept)
        .map(|(slot, _)| {
            (u64::from(slot.offset), u64::from(slot.offset) + u64::from(slot.stored_len))
        })
        .collect();
    places.sort_unstable();
    places
        .chunk_by(|one, next| next.0 <= one.1 + GAP)
        .map(|group| (group[0].0, group[group.len() - 1].1))
        .collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_destination::Destination;
    use sluice_destination::memory::MemoryDestination;

    use super::*;
    use crate::clock::Clock;
    use crate::error::ErrorKind;
    use crate::format::pack::{Codec, PackBuilder};
    use crate::repository::{InitOptions, Repository, Settings, Unlock};

    #[tokio::test]
    async fn what_lies_in_the_place_of_the_next_generation_must_be_one() {
        let place: Arc<dyn Destination> = Arc::new(MemoryDestination::new());
        let kdf = crate::KdfCost { memory_kib: 64, passes: 1, lanes: 1 };
        let options = InitOptions { unlock: Unlock::Open, recovery: false, kdf, lock: None };
        let made = Repository::init(place.clone(), Clock::system(), options, Settings::default());
        let shared = made.await.unwrap().0.shared;
        let (kind, pack) = (PackKind::Data, PackId([3; 16]));
        let mut builder = PackBuilder::new(&shared.keys, shared.id, kind, pack);
        for slot in 0..4u8 {
            builder.push([slot; 32], Codec::Raw, 100, &[slot; 100]);
        }
        let whole = builder.finish(&shared.keys, [1; 12]).0;
        let key = |generation| generation_key(kind, pack, generation);
        place.put(&key(0), whole.clone()).await.unwrap();
        let now = PackNow { generation: 0, key: key(0), size: whole.len() as u64 };
        let mut changed = whole.to_vec();
        changed[100] ^= 1;
        for rubbish in [whole.slice(..50), changed.into()] {
            place.put(&key(1), rubbish).await.unwrap();
            let refused = shared.compact(kind, pack, &now, &[1, 2]).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
        }
        place.delete(&key(1)).await.unwrap();
        // Another collector's, which has kept more, is enough; one that has kept less is not.
        shared.compact(kind, pack, &now, &[1, 2]).await.unwrap().unwrap();
        shared.compact(kind, pack, &now, &[2]).await.unwrap().unwrap();
        shared.compact(kind, pack, &now, &[2, 3]).await.unwrap_err();
    }
}

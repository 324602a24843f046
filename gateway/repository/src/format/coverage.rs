//! What scrubs have covered: packs and the day each was last proven (`docs/format/`, section 9).
//!
//! Written also by workers without keys, and so not sealed: a hash tells accidents, not forgery.

use super::header::{HEADER_LEN, Header, Kind};
use super::id::{PackId, PackKind, RepositoryId};
use super::{FormatError, Parsed, take, u16_at, u32_at};

/// Length of a run in bytes.
const RUN_LEN: usize = 28;
const HASH_LEN: usize = 32;
/// Runs in one object: 28 MiB.
pub const MAX_RUNS: usize = 1 << 20;

/// One generation of a pack; sorts so that packs of a session follow each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackObject {
    /// Its kind.
    pub kind: PackKind,
    /// Its generation.
    pub generation: u32,
    /// The pack.
    pub pack: PackId,
}

impl PackObject {
    fn serial(&self) -> u32 {
        u32::from_be_bytes([self.pack.0[12], self.pack.0[13], self.pack.0[14], self.pack.0[15]])
    }

    fn is_followed_by(&self, count: u32, next: &Self) -> bool {
        (self.kind, self.generation) == (next.kind, next.generation)
            && self.pack.session() == next.pack.session()
            && self.serial().checked_add(count) == Some(next.serial())
    }
}

/// Packs of one session with consecutive numbers, last proven on the same day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The first of them.
    pub first: PackObject,
    /// How many.
    pub count: u32,
    /// Days since 1970.
    pub day: u16,
}

/// Runs in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage(Vec<Run>);

impl Coverage {
    /// The coverage of packs in ascending order.
    pub fn of(packs: impl Iterator<Item = (PackObject, u16)>) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        for (pack, day) in packs {
            match runs.last_mut() {
                Some(run) if run.day == day && run.first.is_followed_by(run.count, &pack) => {
                    run.count += 1;
                }
                _ => runs.push(Run { first: pack, count: 1, day }),
            }
        }
        Self(runs)
    }

    /// Takes in another part of the same coverage.
    pub fn extend(&mut self, other: Self) {
        self.0.extend(other.0);
        self.0.sort_by_key(|run| run.first);
    }

    /// The day a pack was last proven.
    pub fn day(&self, pack: &PackObject) -> Option<u16> {
        let after = self.0.partition_point(|run| run.first <= *pack);
        let run = self.0.get(after.checked_sub(1)?)?;
        let within = (run.first.kind, run.first.generation) == (pack.kind, pack.generation)
            && run.first.pack.session() == pack.pack.session()
            && pack.serial().checked_sub(run.first.serial()).is_some_and(|at| at < run.count);
        within.then_some(run.day)
    }

    /// The objects to keep it in; at least one.
    pub fn encode(&self, repository: RepositoryId) -> Vec<Vec<u8>> {
        let parts: Vec<&[Run]> =
            if self.0.is_empty() { vec![&[]] } else { self.0.chunks(MAX_RUNS).collect() };
        let encode = |(number, part): (usize, &[Run])| {
            let header = Header {
                kind: Kind::Coverage,
                repository,
                object: object(number as u32),
                epoch: 0,
            };
            let mut bytes = Vec::with_capacity(HEADER_LEN + 4 + part.len() * RUN_LEN + HASH_LEN);
            bytes.extend_from_slice(&header.encode());
            bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
            for run in part {
                bytes.push(u8::from(run.first.kind == PackKind::Meta));
                bytes.push(0);
                bytes.extend_from_slice(&run.day.to_le_bytes());
                bytes.extend_from_slice(&run.first.generation.to_le_bytes());
                bytes.extend_from_slice(&run.first.pack.0);
                bytes.extend_from_slice(&run.count.to_le_bytes());
            }
            let hash = blake3::hash(&bytes);
            bytes.extend_from_slice(hash.as_bytes());
            bytes
        };
        parts.into_iter().enumerate().map(encode).collect()
    }

    /// Reads one object.
    ///
    /// # Errors
    /// When the bytes are not that part of this repository's coverage.
    pub fn decode(bytes: &[u8], repository: RepositoryId, number: u32) -> Parsed<Self> {
        let header = Header::decode(bytes)?;
        let expected =
            Header { kind: Kind::Coverage, repository, object: object(number), epoch: 0 };
        if header != expected {
            return Err(FormatError::Invalid("coverage belongs to another place"));
        }
        let count = u32_at(bytes, HEADER_LEN)? as usize;
        let hash_at = HEADER_LEN + 4 + count.min(MAX_RUNS) * RUN_LEN;
        if count > MAX_RUNS || bytes.len() != hash_at + HASH_LEN {
            return Err(FormatError::Invalid("coverage length"));
        }
        if *blake3::hash(&bytes[..hash_at]).as_bytes() != bytes[hash_at..] {
            return Err(FormatError::Invalid("coverage differs from its hash"));
        }
        let run = |at: usize| {
            let kind = if take::<1>(bytes, at)?[0] == 1 { PackKind::Meta } else { PackKind::Data };
            let day = u16_at(bytes, at + 2)?;
            let generation = u32_at(bytes, at + 4)?;
            let pack = PackId(take(bytes, at + 8)?);
            let count = u32_at(bytes, at + 24)?;
            Ok(Run { first: PackObject { kind, generation, pack }, count, day })
        };
        (0..count).map(|n| run(HEADER_LEN + 4 + n * RUN_LEN)).collect::<Parsed<_>>().map(Self)
    }
}

fn object(number: u32) -> [u8; 16] {
    let mut object = [0; 16];
    object[12..].copy_from_slice(&number.to_be_bytes());
    object
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::format::id::SessionId;

    fn pack() -> impl Strategy<Value = PackObject> {
        (any::<bool>(), 0u32..2, 0u8..3, 0u32..40).prop_map(
            |(meta, generation, session, serial)| {
                let kind = if meta { PackKind::Meta } else { PackKind::Data };
                PackObject { kind, generation, pack: PackId::new(SessionId([session; 12]), serial) }
            },
        )
    }

    proptest! {
        #[test]
        fn a_day_is_kept_for_each_pack(
            days in proptest::collection::btree_map(pack(), 100u16..104, 0..200),
            others in proptest::collection::vec(pack(), 50),
        ) {
            let days: BTreeMap<PackObject, u16> = days;
            let coverage = Coverage::of(days.iter().map(|(pack, day)| (*pack, *day)));
            let id = RepositoryId([5; 16]);
            let parts = coverage.encode(id);
            prop_assert_eq!(parts.len(), 1);
            let read = Coverage::decode(&parts[0], id, 0).unwrap();
            for pack in days.keys().chain(&others) {
                prop_assert_eq!(read.day(pack), days.get(pack).copied());
            }
            prop_assert!(Coverage::decode(&parts[0], id, 1).is_err());
            prop_assert!(Coverage::decode(&parts[0], RepositoryId([6; 16]), 0).is_err());
        }

        #[test]
        fn flipped_and_hostile_bytes_are_refused(
            at in any::<prop::sample::Index>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let id = RepositoryId([5; 16]);
            let pack = PackObject { kind: PackKind::Data, generation: 0, pack: PackId([1; 16]) };
            let mut part = Coverage::of(std::iter::once((pack, 7))).encode(id).remove(0);
            let at = at.index(part.len());
            part[at] ^= 1;
            // The last bytes of the header are reserved, but hashed.
            prop_assert!(Coverage::decode(&part, id, 0).is_err());
            prop_assert!(Coverage::decode(&bytes, id, 0).is_err());
        }
    }

    #[test]
    fn consecutive_packs_of_a_day_take_one_run() {
        let pack = |serial| PackObject {
            kind: PackKind::Data,
            generation: 0,
            pack: PackId::new(SessionId([1; 12]), serial),
        };
        let coverage = Coverage::of((0..1000).map(|serial| (pack(serial), 9)));
        assert_eq!(coverage.0.len(), 1);
        let gap = (0..1000).filter(|serial| *serial != 500).map(|serial| (pack(serial), 9));
        assert_eq!(Coverage::of(gap).0.len(), 2);
    }
}

//! What was seen of locks and of leaves, kept in the cache folder so that it is not asked again.
//!
//! A lock is never made shorter, so a lock that was seen holds at least that long; only an account
//! that may bypass governance can take one away, and `lock extend --recheck` asks anew. A leaf's
//! slot is written once, so the packs it names stay the same. Losing the file costs requests.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use sluice_destination::{Lock, LockMode};

use super::{ms_of, time};
use crate::format::id::{PackId, PackKind};

const MAGIC: [u8; 8] = *b"SLUICELK";
const HASH_LEN: usize = 32;
/// Leaves that no walk has met for so many days are forgotten.
const IDLE_DAYS: u16 = 60;

/// A pack and the lock seen on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SeenPack {
    kind: PackKind,
    pack: PackId,
    lock: Option<Lock>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct SeenLeaf {
    packs: Box<[u32]>,
    /// Day of the last walk that met it, since 1970.
    day: u16,
}

/// Packs by number, with what was seen of them.
#[derive(Debug, Default)]
pub(super) struct Seen {
    path: Option<PathBuf>,
    packs: Vec<SeenPack>,
    numbers: HashMap<(PackKind, PackId), u32>,
    leaves: HashMap<(PackId, u16), SeenLeaf>,
}

impl Seen {
    /// What the file at `path` holds; nothing when it is not whole.
    pub(super) fn load(path: Option<PathBuf>) -> Self {
        let bytes = path.as_ref().and_then(|path| fs::read(path).ok());
        let read = bytes.and_then(|bytes| Self::decode(&bytes)).unwrap_or_default();
        Self { path, ..read }
    }

    /// Writes the file; its failure costs requests later.
    pub(super) fn save(&self, today: u16) {
        let Some(path) = &self.path else { return };
        let write = || -> std::io::Result<()> {
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            // Two processes may write at once: each a file of its own, and the later one stays.
            let part = path.with_extension(format!("{}.part", std::process::id()));
            fs::write(&part, self.encode(today))?;
            fs::rename(part, path)
        };
        if let Err(error) = write() {
            tracing::warn!(path = %path.display(), %error, "what was seen of locks is not kept");
        }
    }

    /// The number of a pack.
    pub(super) fn number(&mut self, kind: PackKind, pack: PackId) -> u32 {
        *self.numbers.entry((kind, pack)).or_insert_with(|| {
            self.packs.push(SeenPack { kind, pack, lock: None });
            (self.packs.len() - 1) as u32
        })
    }

    /// The pack of this number.
    pub(super) fn pack(&self, number: u32) -> (PackKind, PackId) {
        let seen = &self.packs[number as usize];
        (seen.kind, seen.pack)
    }

    /// The lock seen on a pack.
    pub(super) fn lock(&self, number: u32) -> Option<Lock> {
        self.packs[number as usize].lock
    }

    /// Remembers the lock on a pack.
    pub(super) fn set_lock(&mut self, number: u32, lock: Option<Lock>) {
        self.packs[number as usize].lock = lock;
    }

    /// The packs a leaf names, when it was met before.
    pub(super) fn leaf(&mut self, place: (PackId, u16), today: u16) -> Option<&[u32]> {
        let leaf = self.leaves.get_mut(&place)?;
        leaf.day = today;
        Some(&leaf.packs)
    }

    /// Remembers a leaf.
    pub(super) fn set_leaf(&mut self, place: (PackId, u16), packs: Vec<u32>, today: u16) {
        self.leaves.insert(place, SeenLeaf { packs: packs.into(), day: today });
    }

    /// magic | packs u32 | leaves u32 | packs | leaves | BLAKE3 of all before.
    fn encode(&self, today: u16) -> Vec<u8> {
        let live = |leaf: &SeenLeaf| today.saturating_sub(leaf.day) <= IDLE_DAYS;
        let leaves: Vec<_> = self.leaves.iter().filter(|(_, leaf)| live(leaf)).collect();
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&(self.packs.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(leaves.len() as u32).to_le_bytes());
        for seen in &self.packs {
            bytes.extend_from_slice(&seen.pack.0);
            bytes.push(u8::from(seen.kind == PackKind::Meta));
            let (mode, until) = match seen.lock {
                None => (0, 0),
                Some(Lock { mode: LockMode::Governance, until }) => (1, ms_of(until)),
                Some(Lock { mode: LockMode::Compliance, until }) => (2, ms_of(until)),
            };
            bytes.push(mode);
            bytes.extend_from_slice(&until.to_le_bytes());
        }
        for ((pack, slot), leaf) in leaves {
            bytes.extend_from_slice(&pack.0);
            bytes.extend_from_slice(&slot.to_le_bytes());
            bytes.extend_from_slice(&leaf.day.to_le_bytes());
            bytes.extend_from_slice(&(leaf.packs.len() as u16).to_le_bytes());
            leaf.packs.iter().for_each(|pack| bytes.extend_from_slice(&pack.to_le_bytes()));
        }
        let hash = blake3::hash(&bytes);
        bytes.extend_from_slice(hash.as_bytes());
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_LEN)?)?;
        if *blake3::hash(body).as_bytes() != *hash {
            return None;
        }
        let mut rest = body.strip_prefix(&MAGIC[..])?;
        let (packs, leaves) =
            (u32::from_le_bytes(cut(&mut rest)?), u32::from_le_bytes(cut(&mut rest)?));
        let mut read = Self::default();
        for number in 0..packs {
            let pack = PackId(cut(&mut rest)?);
            let [meta, mode] = cut(&mut rest)?;
            let until = time(u64::from_le_bytes(cut(&mut rest)?).min(1 << 48));
            let kind = if meta == 1 { PackKind::Meta } else { PackKind::Data };
            let lock = match mode {
                0 => None,
                1 => Some(Lock { mode: LockMode::Governance, until }),
                _ => Some(Lock { mode: LockMode::Compliance, until }),
            };
            if read.number(kind, pack) != number {
                return None;
            }
            read.set_lock(number, lock);
        }
        for _ in 0..leaves {
            let place = (PackId(cut(&mut rest)?), u16::from_le_bytes(cut(&mut rest)?));
            let day = u16::from_le_bytes(cut(&mut rest)?);
            let count = u16::from_le_bytes(cut(&mut rest)?);
            let number = |_| Some(u32::from_le_bytes(cut(&mut rest)?)).filter(|n| *n < packs);
            let named = (0..count).map(number).collect::<Option<Vec<u32>>>()?;
            read.set_leaf(place, named, day);
        }
        rest.is_empty().then_some(read)
    }
}

fn cut<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Seen {
        let mut seen = Seen::default();
        let lock = Lock { mode: LockMode::Compliance, until: time(86_400_000) };
        for at in 0..5 {
            let number = seen.number(PackKind::Data, PackId([at; 16]));
            seen.set_lock(number, (at % 2 == 0).then_some(lock));
        }
        let meta = seen.number(PackKind::Meta, PackId([1; 16]));
        assert_eq!(meta, 5);
        seen.set_leaf((PackId([1; 16]), 7), vec![0, 3], 100);
        seen.set_leaf((PackId([1; 16]), 8), vec![], 20);
        seen
    }

    #[test]
    fn a_file_holds_what_was_seen_and_forgets_idle_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/locks");
        Seen { path: Some(path.clone()), ..sample() }.save(100);
        let mut read = Seen::load(Some(path.clone()));
        assert_eq!(read.packs, sample().packs);
        assert_eq!(read.leaf((PackId([1; 16]), 7), 101), Some(&[0, 3][..]));
        assert_eq!(read.leaf((PackId([1; 16]), 8), 101), None);
        let mut bytes = fs::read(&path).unwrap();
        for at in 0..bytes.len() {
            bytes[at] ^= 1;
            assert!(Seen::decode(&bytes).is_none(), "flip at {at}");
            bytes[at] ^= 1;
            assert!(Seen::decode(&bytes[..at]).is_none(), "cut at {at}");
        }
        fs::write(&path, &bytes[..40]).unwrap();
        assert!(Seen::load(Some(path)).packs.is_empty());
    }
}

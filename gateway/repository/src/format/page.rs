//! Pages of the block map (`docs/format/`, section 6).

use super::id::{Digest, PackId};
use super::pack::Codec;
use super::{FANOUT, FormatError, Parsed, take, u16_at, u32_at};
use crate::crypto::{KeyRing, digest16};

const FIXED_LEN: usize = 36;
const LOCATION_LEN: usize = 12;
/// Longest page in bytes: every entry present, each in a pack of its own.
pub const MAX_PAGE: usize = FIXED_LEN + FANOUT * (16 + 16 + LOCATION_LEN);

/// Where a chunk or page is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Location {
    /// The pack.
    pub pack: PackId,
    /// The slot in it; with the pack, a permanent address.
    pub slot: u16,
    /// How the payload is encoded.
    pub codec: Codec,
    /// Where the slot begins in generation 0 of the pack.
    pub offset: u32,
    /// Its stored length with tag.
    pub stored_len: u32,
}

/// One entry of a page: what it is, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// First 16 bytes of the chunk id, or the child page's digest.
    pub id: Digest,
    /// Where it is stored.
    pub location: Location,
}

/// A node of the block map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    level: u8,
    entries: Box<[Option<Entry>]>,
}

impl Page {
    /// A page without entries. `level` is 0 for a leaf, 1 for its parent.
    pub fn empty(level: u8) -> Self {
        Self { level, entries: vec![None; FANOUT].into_boxed_slice() }
    }

    /// The page's level.
    pub fn level(&self) -> u8 {
        self.level
    }

    /// The entry at `index` (below 256).
    pub fn get(&self, index: usize) -> Option<&Entry> {
        self.entries[index].as_ref()
    }

    /// Sets or clears the entry at `index` (below 256).
    pub fn set(&mut self, index: usize, entry: Option<Entry>) {
        self.entries[index] = entry;
    }

    /// The present entries with their index.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Entry)> {
        self.entries.iter().enumerate().filter_map(|(index, e)| e.as_ref().map(|e| (index, e)))
    }

    /// Number of present entries.
    pub fn count(&self) -> usize {
        self.iter().count()
    }

    /// Whether no entry is present.
    pub fn is_empty(&self) -> bool {
        self.entries.iter().all(Option::is_none)
    }

    /// The digest: over level, block size and logical ids, never over locations.
    pub fn digest(&self, keys: &KeyRing, block_size: u32) -> Digest {
        let ids = self.entries.iter().map(|entry| entry.as_ref().map(|entry| entry.id));
        ids_digest(keys, self.level, block_size, ids)
    }

    /// The page's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let present: Vec<(usize, &Entry)> = self.iter().collect();
        let mut packs: Vec<PackId> = Vec::new();
        let mut bitmap = [0u8; FANOUT / 8];
        let mut ids = Vec::with_capacity(present.len() * 16);
        let mut locations = Vec::with_capacity(present.len() * LOCATION_LEN);
        for (index, entry) in present {
            bitmap[index / 8] |= 1 << (index % 8);
            ids.extend_from_slice(&entry.id.0);
            let place = &entry.location;
            let pack = match packs.iter().rposition(|pack| *pack == place.pack) {
                Some(known) => known,
                None => {
                    packs.push(place.pack);
                    packs.len() - 1
                }
            };
            locations.extend_from_slice(&(pack as u16).to_le_bytes());
            locations.extend_from_slice(&place.slot.to_le_bytes());
            locations.extend_from_slice(&place.offset.to_le_bytes());
            locations.extend_from_slice(&place.stored_len.to_le_bytes()[..3]);
            locations.push(place.codec as u8);
        }
        let mut bytes =
            Vec::with_capacity(FIXED_LEN + ids.len() + packs.len() * 16 + locations.len());
        bytes.extend_from_slice(&[self.level, 0]);
        bytes.extend_from_slice(&(packs.len() as u16).to_le_bytes());
        bytes.extend_from_slice(&bitmap);
        bytes.extend_from_slice(&ids);
        for pack in packs {
            bytes.extend_from_slice(&pack.0);
        }
        bytes.extend_from_slice(&locations);
        bytes
    }

    /// Reads a page.
    ///
    /// # Errors
    /// When the bytes are no page.
    pub fn decode(bytes: &[u8]) -> Parsed<Self> {
        let [level, reserved] = take(bytes, 0)?;
        let packs = usize::from(u16_at(bytes, 2)?);
        if level > 1 || reserved != 0 || packs > FANOUT {
            return Err(FormatError::Invalid("page fields out of range"));
        }
        let bitmap: [u8; FANOUT / 8] = take(bytes, 4)?;
        let present: usize = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();
        let pack_table = FIXED_LEN + present * 16;
        let locations = pack_table + packs * 16;
        if bytes.len() != locations + present * LOCATION_LEN {
            return Err(FormatError::Invalid("page length"));
        }
        let mut page = Self::empty(level);
        let set = (0..FANOUT).filter(|index| bitmap[index / 8] >> (index % 8) & 1 == 1);
        for (ordinal, index) in set.enumerate() {
            let at = locations + ordinal * LOCATION_LEN;
            let pack = usize::from(u16_at(bytes, at)?);
            if pack >= packs {
                return Err(FormatError::Invalid("page names a pack it does not list"));
            }
            let length = u32_at(bytes, at + 8)?;
            let location = Location {
                pack: PackId(take(bytes, pack_table + pack * 16)?),
                slot: u16_at(bytes, at + 2)?,
                offset: u32_at(bytes, at + 4)?,
                stored_len: length & 0x00FF_FFFF,
                codec: Codec::from_u8((length >> 24) as u8)?,
            };
            let id = Digest(take(bytes, FIXED_LEN + ordinal * 16)?);
            page.entries[index] = Some(Entry { id, location });
        }
        Ok(page)
    }
}

/// The digest of a page with these ids, without building the page.
pub fn ids_digest(
    keys: &KeyRing,
    level: u8,
    block_size: u32,
    ids: impl Iterator<Item = Option<Digest>>,
) -> Digest {
    let mut flat = [0u8; 5 + FANOUT * 16];
    flat[0] = level;
    flat[1..5].copy_from_slice(&block_size.to_le_bytes());
    for (index, id) in ids.enumerate().take(FANOUT) {
        if let Some(id) = id {
            flat[5 + index * 16..21 + index * 16].copy_from_slice(&id.0);
        }
    }
    let mut hasher = keys.page_hasher();
    hasher.update(&flat);
    digest16(hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::crypto::MasterKey;

    fn entry() -> impl Strategy<Value = Option<Entry>> {
        let fields = (any::<[u8; 16]>(), 0u8..4, any::<u16>(), any::<u32>(), 0u32..1 << 24);
        proptest::option::of(fields.prop_map(|(id, pack, slot, offset, stored_len)| Entry {
            id: Digest(id),
            location: Location {
                pack: PackId([pack; 16]),
                slot,
                codec: if slot % 2 == 0 { Codec::Raw } else { Codec::Zstd },
                offset,
                stored_len,
            },
        }))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn pages_round_trip(
            entries in proptest::collection::vec(entry(), FANOUT),
            level in 0u8..2,
        ) {
            let page = Page { level, entries: entries.into_boxed_slice() };
            prop_assert_eq!(Page::decode(&page.encode()).unwrap(), page);
        }

        #[test]
        fn hostile_pages_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Page::decode(&bytes);
        }
    }

    #[test]
    fn the_digest_depends_on_ids_and_never_on_locations() {
        let keys = KeyRing::new(&MasterKey([1; 32]));
        let mut page = Page::empty(0);
        let place = |pack| Location {
            pack: PackId([pack; 16]),
            slot: 1,
            codec: Codec::Raw,
            offset: 64,
            stored_len: 100,
        };
        page.set(3, Some(Entry { id: Digest([4; 16]), location: place(1) }));
        let digest = page.digest(&keys, 131_072);
        page.set(3, Some(Entry { id: Digest([4; 16]), location: place(2) }));
        assert_eq!(page.digest(&keys, 131_072), digest);
        assert_ne!(page.digest(&keys, 65_536), digest);
        page.set(4, Some(Entry { id: Digest([4; 16]), location: place(2) }));
        assert_ne!(page.digest(&keys, 131_072), digest);
    }
}

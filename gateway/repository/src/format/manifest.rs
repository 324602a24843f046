//! The manifest of a restore point (`docs/format/`, section 7).

use minicbor::{Decode, Encode};

use super::id::{ChainId, Digest, PackId, PointId, RepositoryId};
use super::pack::Codec;
use super::page::Location;
use super::{FANOUT, FormatError, MAX_IMAGE, Parsed, is_block_size, take, u16_at, u32_at};
use crate::crypto::{KeyRing, digest16};

/// Length of a directory entry in bytes.
const DIRECTORY_ENTRY_LEN: usize = 36;

/// The part of a commit that needs no key.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct CommitPlain {
    /// The chain.
    #[n(0)]
    pub chain: ChainId,
    /// The point.
    #[n(1)]
    pub point: PointId,
    /// The point it was built on.
    #[n(2)]
    pub parent: Option<PointId>,
    /// When the source was read, in ms since 1970.
    #[n(3)]
    pub created_ms: u64,
    /// Not to be pruned before, in ms since 1970.
    #[n(4)]
    pub retain_until_ms: Option<u64>,
    /// Not to be pruned at all while set.
    #[n(5)]
    pub hold: bool,
    /// Root digest of each image.
    #[n(6)]
    pub roots: Vec<Digest>,
    /// Chosen by the writer; tells its own commit from another's after a lost answer.
    #[cbor(n(7), with = "minicbor::bytes")]
    pub nonce: [u8; 16],
}

/// The sealed part of a commit.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ManifestBody {
    /// The instance's name.
    #[n(0)]
    pub instance: String,
    /// The images, in the order they were given.
    #[n(1)]
    pub images: Vec<ImageRecord>,
    /// Metadata given by the caller, as JSON text (for example a VM definition).
    #[n(2)]
    pub metadata: Option<String>,
    /// What the backup did.
    #[n(3)]
    pub stats: BackupStats,
    /// The program that wrote it.
    #[n(4)]
    pub tool: String,
    /// The host that wrote it.
    #[n(5)]
    pub host: String,
    /// How consistent the images are with each other ("crash", "application", "unknown").
    #[n(6)]
    pub consistency: String,
    /// How the changes were found ("full", "regions", "rescan", "changed").
    #[n(7)]
    pub method: String,
    /// The point of another repository this one is a copy of.
    #[n(20)]
    pub origin: Option<Origin>,
}

/// A point of another repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Origin {
    /// The repository.
    #[n(0)]
    pub repository: RepositoryId,
    /// The point.
    #[n(1)]
    pub point: PointId,
}

/// What a backup did; all figures are for this point alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct BackupStats {
    /// Bytes of all images.
    #[n(0)]
    pub image_bytes: u64,
    /// Bytes read from the source.
    #[n(1)]
    pub read_bytes: u64,
    /// Bytes of blocks that were not in the repository.
    #[n(2)]
    pub new_bytes: u64,
    /// Bytes put to data packs for them.
    #[n(3)]
    pub stored_bytes: u64,
    /// Bytes of blocks found through the dedup index or earlier in the same backup.
    #[n(4)]
    pub dedup_bytes: u64,
    /// Bytes of blocks equal to the parent's.
    #[n(5)]
    pub unchanged_bytes: u64,
    /// Bytes of zeroes, read or known.
    #[n(6)]
    pub zero_bytes: u64,
    /// Bytes put to meta packs.
    #[n(7)]
    pub meta_bytes: u64,
    /// From begin to commit, in ms.
    #[n(8)]
    pub duration_ms: u64,
}

/// One image of a restore point.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct ImageRecord {
    /// The image's name, unique in the point.
    #[n(0)]
    pub name: String,
    /// Size in bytes.
    #[n(1)]
    pub size: u64,
    /// Block size in bytes.
    #[n(2)]
    pub block_size: u32,
    /// Root digest.
    #[n(3)]
    pub root: Digest,
    /// Blocks that are not all zero.
    #[n(4)]
    pub data_blocks: u64,
    /// Packs the directory names by index.
    #[n(5)]
    pub packs: Vec<PackId>,
    /// The encoded directory.
    #[cbor(n(6), with = "minicbor::bytes")]
    pub directory: Vec<u8>,
    /// Where the image came from, for people.
    #[n(7)]
    pub source: String,
}

/// An entry of the directory: a level-1 page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Number of the level-1 page.
    pub index: u32,
    /// Its digest.
    pub digest: Digest,
    /// Where it is stored.
    pub location: Location,
}

/// Encodes a directory, returning its pack table and bytes.
pub fn encode_directory(entries: &[DirectoryEntry]) -> (Vec<PackId>, Vec<u8>) {
    let mut packs: Vec<PackId> = Vec::new();
    let mut known = std::collections::HashMap::new();
    let mut bytes = Vec::with_capacity(entries.len() * DIRECTORY_ENTRY_LEN);
    for entry in entries {
        let place = &entry.location;
        let pack = *known.entry(place.pack).or_insert_with(|| {
            packs.push(place.pack);
            packs.len() as u32 - 1
        });
        bytes.extend_from_slice(&entry.index.to_le_bytes());
        bytes.extend_from_slice(&entry.digest.0);
        bytes.extend_from_slice(&pack.to_le_bytes());
        bytes.extend_from_slice(&place.slot.to_le_bytes());
        bytes.extend_from_slice(&[place.codec as u8, 0]);
        bytes.extend_from_slice(&place.offset.to_le_bytes());
        bytes.extend_from_slice(&place.stored_len.to_le_bytes());
    }
    (packs, bytes)
}

impl ImageRecord {
    /// Number of blocks, the last one perhaps partly beyond the size.
    pub fn blocks(&self) -> u64 {
        self.size.div_ceil(u64::from(self.block_size))
    }

    /// Decodes the directory and checks the record: sizes, order, and the root digest.
    ///
    /// # Errors
    /// When a field is out of range or the root digest differs.
    pub fn open_directory(&self, keys: &KeyRing) -> Parsed<Vec<DirectoryEntry>> {
        if !is_block_size(self.block_size) || self.size > MAX_IMAGE {
            return Err(FormatError::Invalid("image size or block size out of range"));
        }
        if !self.directory.len().is_multiple_of(DIRECTORY_ENTRY_LEN) {
            return Err(FormatError::Invalid("directory length"));
        }
        let span = FANOUT as u64 * FANOUT as u64;
        let pages = self.blocks().div_ceil(span);
        let mut entries: Vec<DirectoryEntry> =
            Vec::with_capacity(self.directory.len() / DIRECTORY_ENTRY_LEN);
        for bytes in self.directory.chunks_exact(DIRECTORY_ENTRY_LEN) {
            let index = u32_at(bytes, 0)?;
            let ascending = entries.last().is_none_or(|last| last.index < index);
            if !ascending || u64::from(index) >= pages {
                return Err(FormatError::Invalid("directory order"));
            }
            let pack = self.packs.get(u32_at(bytes, 20)? as usize);
            let location = Location {
                pack: *pack.ok_or(FormatError::Invalid("directory names an unknown pack"))?,
                slot: u16_at(bytes, 24)?,
                codec: Codec::from_u8(bytes[26])?,
                offset: u32_at(bytes, 28)?,
                stored_len: u32_at(bytes, 32)?,
            };
            entries.push(DirectoryEntry { index, digest: Digest(take(bytes, 4)?), location });
        }
        if root_digest(keys, self.block_size, self.size, &entries) != self.root {
            return Err(FormatError::Invalid("root digest differs"));
        }
        Ok(entries)
    }
}

/// The root digest of an image.
pub fn root_digest(
    keys: &KeyRing,
    block_size: u32,
    size: u64,
    entries: &[DirectoryEntry],
) -> Digest {
    let mut hasher = keys.page_hasher();
    hasher.update(&[2]);
    hasher.update(&block_size.to_le_bytes());
    hasher.update(&size.to_le_bytes());
    for entry in entries {
        hasher.update(&entry.index.to_le_bytes());
        hasher.update(&entry.digest.0);
    }
    digest16(hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::MasterKey;

    fn image(keys: &KeyRing, indexes: &[u32]) -> ImageRecord {
        let entries: Vec<DirectoryEntry> = indexes
            .iter()
            .map(|index| DirectoryEntry {
                index: *index,
                digest: Digest([*index as u8; 16]),
                location: Location {
                    pack: PackId([(*index % 2) as u8; 16]),
                    slot: 3,
                    codec: Codec::Zstd,
                    offset: 64,
                    stored_len: 5000,
                },
            })
            .collect();
        let (packs, directory) = encode_directory(&entries);
        let size = 100 << 40;
        let root = root_digest(keys, 131_072, size, &entries);
        let name = "disk".to_owned();
        let source = String::new();
        let data_blocks = 1;
        ImageRecord { name, size, block_size: 131_072, root, data_blocks, packs, directory, source }
    }

    #[test]
    fn a_directory_round_trips_and_any_change_breaks_the_root() {
        let keys = KeyRing::new(&MasterKey([1; 32]));
        let good = image(&keys, &[0, 1, 7, 500]);
        let entries = good.open_directory(&keys).unwrap();
        assert_eq!(entries.iter().map(|e| e.index).collect::<Vec<_>>(), [0, 1, 7, 500]);
        assert_eq!(good.packs.len(), 2);
        let mut resized = good.clone();
        resized.size += 1;
        assert!(resized.open_directory(&keys).is_err());
        for byte in 0..20 {
            let mut bad = good.clone();
            bad.directory[byte] ^= 1;
            assert!(bad.open_directory(&keys).is_err(), "byte {byte}");
        }
        assert!(image(&keys, &[5, 5]).open_directory(&keys).is_err(), "order");
    }
}

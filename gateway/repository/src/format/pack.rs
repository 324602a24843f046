//! Packs: slots, their table and the footer (`docs/format/`, section 5).

use bytes::Bytes;
use sluice_block::Buffer;

use super::header::{HEADER_LEN, Header, Kind};
use super::id::{PackId, PackKind, RepositoryId};
use super::{FormatError, MAJOR, Parsed, take, u32_at};
use crate::crypto::{KeyRing, MAX_EPOCHS, NONCE_LEN, SealKey, TAG_LEN};

/// A writer closes a pack at this many bytes.
pub const PACK_TARGET: usize = 32 << 20;
/// Most slots in a pack.
pub const MAX_SLOTS: usize = 4096;
/// A pack is smaller than this.
pub const MAX_PACK: usize = 256 << 20;
/// Length of the footer in bytes.
pub const FOOTER_LEN: usize = 96;
/// Length of a table entry in bytes.
pub const ENTRY_LEN: usize = 48;
/// A suffix of a pack that surely holds its table and footer.
pub const MAX_TAIL: usize = MAX_SLOTS * ENTRY_LEN + TAG_LEN + FOOTER_LEN;

const FOOTER_MAGIC: [u8; 8] = *b"SLUICEFT";

/// How a slot's payload is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// As it is.
    Raw = 0,
    /// One zstd frame.
    Zstd = 1,
}

impl Codec {
    /// The codec with this number.
    ///
    /// # Errors
    /// [`FormatError::Newer`] for a number not known.
    pub fn from_u8(value: u8) -> Parsed<Self> {
        match value {
            0 => Ok(Self::Raw),
            1 => Ok(Self::Zstd),
            other => Err(FormatError::Newer(format!("codec {other}"))),
        }
    }
}

/// One entry of a pack's table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotEntry {
    /// Chunk id, or page digest and zeroes.
    pub id: [u8; 32],
    /// Where the slot begins in the pack.
    pub offset: u32,
    /// Its length with tag; 0 when compaction dropped it.
    pub stored_len: u32,
    /// Length of the content.
    pub plain_len: u32,
    /// How the payload is encoded.
    pub codec: Codec,
}

/// The nonce of a slot.
pub fn slot_nonce(slot: u16) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[..4].copy_from_slice(&u32::from(slot).to_le_bytes());
    nonce
}

/// The additional data of a slot.
pub fn slot_aad(kind: Kind, pack: PackId, slot: u16, codec: Codec) -> [u8; 25] {
    let mut aad = [0; 25];
    aad[..2].copy_from_slice(&MAJOR.to_le_bytes());
    aad[2..4].copy_from_slice(&(kind as u16).to_le_bytes());
    aad[4..20].copy_from_slice(&pack.0);
    aad[20..24].copy_from_slice(&u32::from(slot).to_le_bytes());
    aad[24] = codec as u8;
    aad
}

/// The header kind of a pack.
pub fn header_kind(kind: PackKind) -> Kind {
    match kind {
        PackKind::Data => Kind::DataPack,
        PackKind::Meta => Kind::MetaPack,
    }
}

/// A pack being filled in memory.
pub struct PackBuilder {
    kind: Kind,
    pack: PackId,
    key: SealKey,
    bytes: Buffer,
    entries: Vec<SlotEntry>,
}

impl std::fmt::Debug for PackBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PackBuilder").field("pack", &self.pack).finish_non_exhaustive()
    }
}

/// How many bytes a pack takes for this content.
pub fn stored_len(payload: &[u8]) -> u64 {
    (payload.len() + TAG_LEN) as u64
}

impl PackBuilder {
    /// An empty pack of the epoch under which `keys` writes.
    pub fn new(keys: &KeyRing, repository: RepositoryId, kind: PackKind, pack: PackId) -> Self {
        let epoch = keys.epoch(kind);
        let header = Header { kind: header_kind(kind), repository, object: pack.0, epoch }.encode();
        let mut bytes = Buffer::with_capacity(match kind {
            PackKind::Data => PACK_TARGET + (1 << 20),
            PackKind::Meta => 1 << 20,
        });
        bytes.extend_from_slice(&header);
        let key = keys.pack_key(kind, pack, epoch);
        Self { kind: header_kind(kind), pack, key, bytes, entries: Vec::new() }
    }

    /// The pack's id.
    pub fn id(&self) -> PackId {
        self.pack
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether it is time to close the pack.
    pub fn is_full(&self) -> bool {
        self.bytes.len() >= PACK_TARGET || self.entries.len() >= MAX_SLOTS
    }

    /// Seals a payload into the next slot; returns its number and table entry.
    pub fn push(
        &mut self,
        id: [u8; 32],
        codec: Codec,
        plain_len: u32,
        payload: &[u8],
    ) -> (u16, SlotEntry) {
        let slot = self.entries.len() as u16;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(payload);
        let aad = slot_aad(self.kind, self.pack, slot, codec);
        let tag = self.key.seal(slot_nonce(slot), &aad, &mut self.bytes[start..]);
        self.bytes.extend_from_slice(&tag);
        let stored_len = stored_len(payload) as u32;
        let entry = SlotEntry { id, offset: start as u32, stored_len, plain_len, codec };
        self.entries.push(entry);
        (slot, entry)
    }

    /// Seals the table and closes the pack. `nonce` must be random.
    pub fn finish(self, keys: &KeyRing, nonce: [u8; NONCE_LEN]) -> (Bytes, Vec<SlotEntry>) {
        let bytes = close(keys, self.kind, self.pack, self.bytes, &self.entries, 0, nonce);
        (bytes, self.entries)
    }
}

/// Closes a later generation of a pack: `bytes` are its header and the slots that stay, `table`
/// says where they are now. `nonce` must be random.
pub fn compacted(
    keys: &KeyRing,
    kind: PackKind,
    pack: PackId,
    bytes: Buffer,
    table: &[SlotEntry],
    generation: u32,
    nonce: [u8; NONCE_LEN],
) -> Bytes {
    close(keys, header_kind(kind), pack, bytes, table, generation, nonce)
}

/// Appends the sealed table and the footer.
fn close(
    keys: &KeyRing,
    kind: Kind,
    pack: PackId,
    mut bytes: Buffer,
    entries: &[SlotEntry],
    origin: u32,
    nonce: [u8; NONCE_LEN],
) -> Bytes {
    let table_offset = bytes.len();
    for entry in entries {
        bytes.extend_from_slice(&encode_entry(entry));
    }
    let header: [u8; HEADER_LEN] =
        bytes[..HEADER_LEN].try_into().expect("a pack starts with its header");
    let key = keys.table_key(kind, pack);
    let tag = key.seal(nonce, &header, &mut bytes[table_offset..]);
    bytes.extend_from_slice(&tag);
    let footer = Footer {
        table_offset: table_offset as u32,
        table_len: (bytes.len() - table_offset) as u32,
        nonce,
        slots: entries.len() as u32,
        live: entries.iter().filter(|entry| entry.stored_len > 0).count() as u32,
        hash: *blake3::hash(&bytes).as_bytes(),
        origin,
    };
    bytes.extend_from_slice(&footer.encode());
    bytes.into()
}

pub(crate) fn encode_entry(entry: &SlotEntry) -> [u8; ENTRY_LEN] {
    let mut bytes = [0; ENTRY_LEN];
    bytes[..32].copy_from_slice(&entry.id);
    bytes[32..36].copy_from_slice(&entry.offset.to_le_bytes());
    bytes[36..40].copy_from_slice(&entry.stored_len.to_le_bytes());
    bytes[40..44].copy_from_slice(&entry.plain_len.to_le_bytes());
    bytes[44] = entry.codec as u8;
    bytes
}

fn decode_entry(bytes: &[u8]) -> Parsed<SlotEntry> {
    Ok(SlotEntry {
        id: take(bytes, 0)?,
        offset: u32_at(bytes, 32)?,
        stored_len: u32_at(bytes, 36)?,
        plain_len: u32_at(bytes, 40)?,
        codec: Codec::from_u8(take::<1>(bytes, 44)?[0])?,
    })
}

/// The last 96 bytes of a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Footer {
    /// Where the sealed table begins.
    pub table_offset: u32,
    /// Its length with tag.
    pub table_len: u32,
    /// The table's nonce.
    pub nonce: [u8; NONCE_LEN],
    /// Slots in the table.
    pub slots: u32,
    /// Slots not dropped.
    pub live: u32,
    /// BLAKE3 of everything before the footer.
    pub hash: [u8; 32],
    /// Generation the slot numbers come from.
    pub origin: u32,
}

impl Footer {
    /// The footer's bytes.
    pub fn encode(&self) -> [u8; FOOTER_LEN] {
        let mut bytes = [0; FOOTER_LEN];
        bytes[..8].copy_from_slice(&FOOTER_MAGIC);
        bytes[8..12].copy_from_slice(&self.table_offset.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.table_len.to_le_bytes());
        bytes[16..28].copy_from_slice(&self.nonce);
        bytes[28..32].copy_from_slice(&self.slots.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.live.to_le_bytes());
        bytes[36..68].copy_from_slice(&self.hash);
        bytes[68..72].copy_from_slice(&self.origin.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..92]);
        bytes[92..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the footer from the end of a pack or of a suffix of it.
    ///
    /// # Errors
    /// When it is no footer.
    pub fn decode(pack: &[u8]) -> Parsed<Self> {
        let at = pack.len().checked_sub(FOOTER_LEN).ok_or(FormatError::Invalid("too short"))?;
        let bytes: [u8; FOOTER_LEN] = take(pack, at)?;
        if bytes[..8] != FOOTER_MAGIC {
            return Err(FormatError::Invalid("no pack footer (truncated?)"));
        }
        if u32_at(&bytes, 92)? != crc32c::crc32c(&bytes[..92]) {
            return Err(FormatError::Invalid("footer checksum differs"));
        }
        let footer = Self {
            table_offset: u32_at(&bytes, 8)?,
            table_len: u32_at(&bytes, 12)?,
            nonce: take(&bytes, 16)?,
            slots: u32_at(&bytes, 28)?,
            live: u32_at(&bytes, 32)?,
            hash: take(&bytes, 36)?,
            origin: u32_at(&bytes, 68)?,
        };
        let fits = footer.slots as usize <= MAX_SLOTS
            && footer.table_len as usize == footer.slots as usize * ENTRY_LEN + TAG_LEN
            && footer.table_offset as usize >= HEADER_LEN
            && (footer.table_offset as usize) < MAX_PACK;
        if fits { Ok(footer) } else { Err(FormatError::Invalid("footer fields out of range")) }
    }

    /// Length of the whole pack in bytes.
    pub fn pack_len(&self) -> u64 {
        u64::from(self.table_offset) + u64::from(self.table_len) + FOOTER_LEN as u64
    }
}

/// Opens the table held in the last bytes of a pack (`tail`, at least [`MAX_TAIL`] bytes or the
/// whole pack).
///
/// # Errors
/// When the tail is not that of this pack.
pub fn open_table(
    keys: &KeyRing,
    repository: RepositoryId,
    kind: PackKind,
    pack: PackId,
    tail: &[u8],
) -> Parsed<(Footer, Vec<SlotEntry>)> {
    let footer = Footer::decode(tail)?;
    let end = tail.len() - FOOTER_LEN;
    let start = end
        .checked_sub(footer.table_len as usize)
        .ok_or(FormatError::Invalid("table is cut off"))?;
    let key = keys.table_key(header_kind(kind), pack);
    // The table's key is the same in every epoch, but its seal covers the header, which names one.
    let open = |epoch: u32| {
        let header = Header { kind: header_kind(kind), repository, object: pack.0, epoch };
        let mut table = tail[start..end].to_vec();
        let length = key.open(footer.nonce, &header.encode(), &mut table)?.len();
        table.truncate(length);
        Some((epoch, table))
    };
    let known = keys.epochs(kind, pack);
    let Some((epoch, plain)) = known.iter().copied().find_map(open) else {
        let later = known.len() as u32..=MAX_EPOCHS as u32;
        return Err(match later.into_iter().find_map(open).filter(|_| kind == PackKind::Data) {
            Some((epoch, _)) => FormatError::LaterEpoch(epoch),
            None => FormatError::Invalid("table fails authentication"),
        });
    };
    if known.len() > 1 {
        keys.remember(pack, epoch);
    }
    let entries: Vec<SlotEntry> =
        plain.chunks_exact(ENTRY_LEN).map(decode_entry).collect::<Parsed<_>>()?;
    Ok((footer, entries))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::MasterKey;
    use crate::format::id::SessionId;

    #[test]
    fn a_pack_round_trips_and_every_flip_in_its_tail_is_found() {
        let keys = KeyRing::new(&MasterKey([5; 32]));
        let repository = RepositoryId([9; 16]);
        let pack = PackId::new(SessionId([3; 12]), 1);
        let mut builder = PackBuilder::new(&keys, repository, PackKind::Data, pack);
        let payloads = [vec![1u8; 1000], vec![], vec![7u8; 77]];
        for payload in &payloads {
            builder.push(keys.chunk_id(payload), Codec::Raw, payload.len() as u32, payload);
        }
        let (bytes, entries) = builder.finish(&keys, [8; 12]);
        let (footer, table) = open_table(&keys, repository, PackKind::Data, pack, &bytes).unwrap();
        assert_eq!(table, entries);
        assert_eq!(footer.pack_len(), bytes.len() as u64);
        let key = keys.pack_key(PackKind::Data, pack, 0);
        for (slot, (entry, payload)) in table.iter().zip(&payloads).enumerate() {
            let slot = slot as u16;
            let from = entry.offset as usize;
            let mut stored = bytes[from..from + entry.stored_len as usize].to_vec();
            let aad = slot_aad(Kind::DataPack, pack, slot, entry.codec);
            assert_eq!(key.open(slot_nonce(slot), &aad, &mut stored).unwrap(), payload);
            let mut moved = bytes[from..from + entry.stored_len as usize].to_vec();
            let aad = slot_aad(Kind::DataPack, pack, slot + 1, entry.codec);
            assert!(key.open(slot_nonce(slot + 1), &aad, &mut moved).is_none(), "slot moved");
        }
        for at in footer.table_offset as usize..bytes.len() {
            let mut bad = bytes.to_vec();
            bad[at] ^= 0x10;
            assert!(open_table(&keys, repository, PackKind::Data, pack, &bad).is_err(), "{at}");
        }
        assert!(open_table(&keys, repository, PackKind::Meta, pack, &bytes).is_err());
    }
}

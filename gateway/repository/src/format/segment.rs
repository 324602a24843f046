//! Entries of the dedup index, in segments and in local runs (`docs/format/`, section 7).

use super::id::{Digest, PackId};
use super::pack::Codec;
use super::page::Location;
use super::{FormatError, Parsed, take, u16_at, u32_at};

/// Length of an entry in bytes.
pub const ENTRY_LEN: usize = 32;

/// Encodes an entry whose pack has this index in the pack table.
pub fn encode(id: Digest, pack: u32, location: &Location) -> [u8; ENTRY_LEN] {
    let mut bytes = [0; ENTRY_LEN];
    bytes[..16].copy_from_slice(&id.0);
    bytes[16..20].copy_from_slice(&pack.to_le_bytes());
    bytes[20..22].copy_from_slice(&location.slot.to_le_bytes());
    bytes[22] = location.codec as u8;
    bytes[24..28].copy_from_slice(&location.offset.to_le_bytes());
    bytes[28..32].copy_from_slice(&location.stored_len.to_le_bytes());
    bytes
}

/// Decodes an entry with its pack table.
///
/// # Errors
/// When the entry is cut off or names a pack that is not in the table.
pub fn decode(bytes: &[u8], packs: &[PackId]) -> Parsed<(Digest, Location)> {
    let pack = packs
        .get(u32_at(bytes, 16)? as usize)
        .ok_or(FormatError::Invalid("index entry names an unknown pack"))?;
    let location = Location {
        pack: *pack,
        slot: u16_at(bytes, 20)?,
        codec: Codec::from_u8(take::<1>(bytes, 22)?[0])?,
        offset: u32_at(bytes, 24)?,
        stored_len: u32_at(bytes, 28)?,
    };
    Ok((Digest(take(bytes, 0)?), location))
}

//! Putting two compacted generations of a pack together.
//!
//! Slots keep their numbers and their sealed bytes, so only the table is sealed anew. This takes
//! the key.

use crate::crypto::{KeyRing, NONCE_LEN};
use crate::format::header::HEADER_LEN;
use crate::format::id::RepositoryId;
use crate::format::pack::{Footer, MAX_PACK, SlotEntry, encode_entry, header_kind, open_table};
use crate::format::{FormatError, Parsed, take};

use super::listing::PackName;

/// A slot's entry and its sealed bytes.
pub(crate) type Slot<'b> = (SlotEntry, &'b [u8]);

/// The slots of a whole pack; nothing where one was dropped.
pub(crate) fn slots<'b>(
    keys: &KeyRing,
    repository: RepositoryId,
    name: PackName,
    bytes: &'b [u8],
) -> Parsed<Vec<Option<Slot<'b>>>> {
    let (_, table) = open_table(keys, repository, name.0, name.1, bytes)?;
    let slot = |entry: SlotEntry| {
        if entry.stored_len == 0 {
            return Ok(None);
        }
        let from = entry.offset as usize;
        let stored = bytes.get(from..from.saturating_add(entry.stored_len as usize));
        Ok(Some((entry, stored.ok_or(FormatError::Invalid("a slot lies outside of the pack"))?)))
    };
    table.into_iter().map(slot).collect()
}

/// A pack of these slots. The header is that of the pack they come from: it says under which key
/// they are sealed. `nonce` must be random.
pub(crate) fn assemble(
    keys: &KeyRing,
    header: [u8; HEADER_LEN],
    name: PackName,
    slots: &[Option<Slot<'_>>],
    origin: u32,
    nonce: [u8; NONCE_LEN],
) -> Vec<u8> {
    let kind = header_kind(name.0);
    let mut bytes = header.to_vec();
    let mut table = Vec::with_capacity(slots.len());
    for slot in slots {
        table.push(match slot {
            Some((entry, stored)) => {
                let offset = bytes.len() as u32;
                bytes.extend_from_slice(stored);
                SlotEntry { offset, ..*entry }
            }
            None => SlotEntry {
                id: [0; 32],
                offset: 0,
                stored_len: 0,
                plain_len: 0,
                codec: crate::format::pack::Codec::Raw,
            },
        });
    }
    let table_offset = bytes.len();
    table.iter().for_each(|entry| bytes.extend_from_slice(&encode_entry(entry)));
    let tag = keys.table_key(kind, name.1).seal(nonce, &header, &mut bytes[table_offset..]);
    bytes.extend_from_slice(&tag);
    let footer = Footer {
        table_offset: table_offset as u32,
        table_len: (bytes.len() - table_offset) as u32,
        nonce,
        slots: slots.len() as u32,
        live: slots.iter().flatten().count() as u32,
        hash: *blake3::hash(&bytes).as_bytes(),
        origin,
    };
    bytes.extend_from_slice(&footer.encode());
    bytes
}

/// A pack with the slots of both.
pub(crate) fn merge(
    keys: &KeyRing,
    repository: RepositoryId,
    name: PackName,
    (one, other): (&[u8], &[u8]),
    nonce: [u8; NONCE_LEN],
) -> Parsed<Vec<u8>> {
    let origin = Footer::decode(one)?.origin;
    let header = take(one, 0)?;
    if header != take(other, 0)? {
        return Err(FormatError::Invalid("its generations have different headers"));
    }
    let (one, other) = (slots(keys, repository, name, one)?, slots(keys, repository, name, other)?);
    if one.len() != other.len() {
        return Err(FormatError::Invalid("its generations have different numbers of slots"));
    }
    let both: Vec<Option<Slot<'_>>> =
        one.into_iter().zip(other).map(|(one, other)| one.or(other)).collect();
    let merged = assemble(keys, header, name, &both, origin, nonce);
    if merged.len() >= MAX_PACK {
        return Err(FormatError::Invalid("it would be larger than a pack can be"));
    }
    Ok(merged)
}

/// Whether every slot that `there` has, `here` has as well.
pub(crate) fn covers(here: &[SlotEntry], there: &[SlotEntry]) -> bool {
    here.len() == there.len()
        && here.iter().zip(there).all(|(here, there)| there.stored_len == 0 || here.stored_len > 0)
}

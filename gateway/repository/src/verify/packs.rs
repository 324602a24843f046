//! Checking packs: their tables, their bytes, their slots.
//!
//! A pack that is read whole is hashed and decoded on every core: packs go side by side, and the
//! slots of each are spread over the pool. What is held at a time is bounded in bytes.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::{ByteRange, DestinationError, ErrorKind as DestinationKind};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::crypto::digest16;
use crate::error::{RepositoryError, Result};
use crate::fetch::{SlotDecoder, coalesce};
use crate::format::header::{HEADER_LEN, Header};
use crate::format::id::{PackId, PackKind, pack_key};
use crate::format::pack::{
    FOOTER_LEN, Footer, MAX_PACK, MAX_TAIL, SlotEntry, header_kind, open_table,
};
use crate::format::page::{Entry, Location, MAX_PAGE};
use crate::moved::RunBytes;
use crate::repository::{Shared, parse_error};

/// Bytes held of packs for each core; a pack of common size and a quarter.
const HELD_PER_CORE: usize = 40 << 20;
/// Most bytes held of packs, however many cores there are.
const MOST_HELD: usize = 2 << 30;
/// Requests under way beyond one for each core, so that a core never waits for the next pack.
const AHEAD: usize = 4;
/// The semaphore counts in this unit, for its counter has 32 bits.
const UNIT: usize = 64 << 10;

/// Memory for packs that are held whole.
#[derive(Debug)]
pub(crate) struct Memory {
    units: Semaphore,
    all: usize,
    /// Packs looked at side by side.
    pub(crate) parallel: usize,
}

impl Memory {
    pub(crate) fn for_threads(threads: usize) -> Self {
        let all = ((threads + 1) * HELD_PER_CORE).clamp(4 * HELD_PER_CORE, MOST_HELD) / UNIT;
        Self { units: Semaphore::new(all), all, parallel: threads + AHEAD }
    }

    /// Waits until `bytes` may be held.
    pub(crate) async fn hold(&self, bytes: u64) -> SemaphorePermit<'_> {
        let units = bytes.div_ceil(UNIT as u64).min(self.all as u64) as u32;
        self.units.acquire_many(units).await.expect("the semaphore is never closed")
    }
}

/// What is wrong with a pack.
#[derive(Debug, Default)]
pub(crate) struct PackFlaws {
    /// With the pack as a whole.
    pub(crate) whole: Option<RepositoryError>,
    /// With slots of it.
    pub(crate) slots: Vec<(u16, RepositoryError)>,
    /// Its table, when that could be read.
    pub(crate) table: Option<Vec<SlotEntry>>,
    /// Slots decoded.
    pub(crate) decoded: u64,
    /// Bytes read.
    pub(crate) read: u64,
}

impl PackFlaws {
    pub(crate) fn is_sound(&self) -> bool {
        self.whole.is_none() && self.slots.is_empty()
    }

    fn whole(error: RepositoryError) -> Self {
        Self { whole: Some(error), ..Self::default() }
    }
}

/// Checks a pack's header, length and hash, piece by piece. Needs no key.
#[derive(Debug)]
pub(crate) struct PackHash {
    header: Header,
    size: u64,
    seen: u64,
    head: Vec<u8>,
    footer: Vec<u8>,
    hasher: blake3::Hasher,
}

impl PackHash {
    /// For a pack with this header, in an object of `size` bytes.
    pub(crate) fn new(header: Header, size: u64) -> Self {
        let (head, footer) = (Vec::with_capacity(HEADER_LEN), Vec::with_capacity(FOOTER_LEN));
        Self { header, size, seen: 0, head, footer, hasher: blake3::Hasher::new() }
    }

    /// Takes the next bytes.
    pub(crate) fn update(&mut self, piece: &[u8]) {
        let missing = HEADER_LEN - self.head.len();
        self.head.extend_from_slice(&piece[..missing.min(piece.len())]);
        let body = self.size.saturating_sub(FOOTER_LEN as u64).saturating_sub(self.seen);
        let body = usize::try_from(body).unwrap_or(usize::MAX).min(piece.len());
        self.hasher.update(&piece[..body]);
        self.footer.extend_from_slice(&piece[body..]);
        self.seen += piece.len() as u64;
    }

    /// What is wrong with the pack; nothing when it is sound.
    pub(crate) fn finish(self) -> Option<&'static str> {
        let Ok(footer) = Footer::decode(&self.footer) else {
            return Some("it has no valid footer");
        };
        if footer.pack_len() != self.size || self.seen != self.size {
            return Some("its length is not what its footer says");
        }
        if *self.hasher.finalize().as_bytes() != footer.hash {
            return Some("its bytes differ from its hash");
        }
        match Header::decode(&self.head) {
            Err(_) => Some("its header is not valid"),
            // The epoch is not in the name; slots tell whether it is the right one.
            Ok(found) if found != (Header { epoch: found.epoch, ..self.header }) => {
                Some("it is another object than its name says")
            }
            Ok(_) => None,
        }
    }
}

/// The entry by which a page would name a slot.
fn entry_of(pack: PackId, slot: u16, of: &SlotEntry) -> Entry {
    let SlotEntry { offset, stored_len, codec, .. } = *of;
    let location = Location { pack, slot, codec, offset, stored_len };
    Entry { id: digest16(&of.id), location }
}

impl Shared {
    fn pack_missing(kind: PackKind, pack: PackId, error: DestinationError) -> RepositoryError {
        let key = pack_key(kind, pack);
        match error.kind() {
            DestinationKind::NotFound => RepositoryError::damaged(key, "it is missing"),
            _ => error.into(),
        }
    }

    /// A pack's table, after comparing the pack's length with its footer.
    pub(crate) async fn check_table(&self, kind: PackKind, pack: PackId) -> Result<PackFlaws> {
        let missing = |error| Self::pack_missing(kind, pack, error);
        let key = pack_key(kind, pack);
        let read = async {
            let now = self.pack_now(kind, pack).await?;
            let now = now.ok_or_else(|| RepositoryError::damaged(&key, "it is missing"))?;
            let (key, size) = (now.key, now.size);
            let suffix = ByteRange::Suffix(MAX_TAIL as u64);
            let tail = self.destination.get(&key, suffix).await.map_err(missing)?;
            let (footer, table) = open_table(&self.keys, self.id, kind, pack, &tail)
                .map_err(|error| parse_error(&key, error))?;
            if footer.pack_len() != size {
                let what = "its length is not what its footer says";
                return Err(RepositoryError::damaged(&key, what));
            }
            Ok(table)
        };
        flaws_or_failure(
            read.await.map(|table| PackFlaws { table: Some(table), ..PackFlaws::default() }),
        )
    }

    /// Reads a pack whole and checks its hash, its table, and the slots that `choose` picks from
    /// the table; all of them when the hash is wrong, to tell where.
    pub(crate) async fn check_pack(
        self: &Arc<Self>,
        kind: PackKind,
        pack: PackId,
        memory: &Memory,
        choose: impl FnOnce(&[SlotEntry]) -> Vec<u16>,
    ) -> Result<PackFlaws> {
        let missing = |error| Self::pack_missing(kind, pack, error);
        let key = pack_key(kind, pack);
        let got = async {
            let now = self.pack_now(kind, pack).await?;
            let now = now.ok_or_else(|| RepositoryError::damaged(&key, "it is missing"))?;
            let (key, size) = (now.key, now.size);
            if size >= MAX_PACK as u64 {
                return Err(RepositoryError::damaged(&key, "it is longer than a pack may be"));
            }
            let held = memory.hold(size).await;
            let bytes = self.destination.get(&key, ByteRange::Full).await.map_err(missing)?;
            Ok((held, bytes))
        };
        match got.await {
            Ok((_held, bytes)) => self.check_pack_bytes(kind, pack, bytes, choose).await,
            Err(error) => flaws_or_failure(Err(error)),
        }
    }

    /// Checks the bytes of a pack held whole, as [`check_pack`](Self::check_pack).
    pub(crate) async fn check_pack_bytes(
        self: &Arc<Self>,
        kind: PackKind,
        pack: PackId,
        bytes: Bytes,
        choose: impl FnOnce(&[SlotEntry]) -> Vec<u16>,
    ) -> Result<PackFlaws> {
        let key = pack_key(kind, pack);
        let read = bytes.len() as u64;
        let header = self.header(header_kind(kind), pack.0);
        let (shared, body) = (self.clone(), bytes.clone());
        let opened = self
            .pool
            .run(move || {
                open_table(&shared.keys, shared.id, kind, pack, &body)
                    .map(|(_, table)| table)
                    .map_err(|error| parse_error(pack_key(kind, pack), error))
            })
            .await?;
        let table = match opened {
            Ok(table) => table,
            Err(error) => {
                return flaws_or_failure(Err(error)).map(|flaws| PackFlaws { read, ..flaws });
            }
        };
        let body = bytes.clone();
        let hashing = self.pool.run(move || {
            let mut hash = PackHash::new(header, body.len() as u64);
            hash.update(&body);
            hash.finish()
        });
        let chosen = choose(&table);
        let decoding = self.decode_slots(kind, pack, &table, chosen.clone(), &bytes);
        let (hashed, slots) = futures::future::join(hashing, decoding).await;
        let (hashed, mut slots) = (hashed?, slots?);
        let mut decoded = chosen.len() as u64;
        if hashed.is_some() && slots.is_empty() {
            let chosen: std::collections::HashSet<u16> = chosen.into_iter().collect();
            let others = (0..table.len() as u16)
                .filter(|slot| !chosen.contains(slot) && table[usize::from(*slot)].stored_len > 0);
            let others: Vec<u16> = others.collect();
            decoded += others.len() as u64;
            slots = self.decode_slots(kind, pack, &table, others, &bytes).await?;
        }
        // Damage that lies in slots is told of those; the others are as good as before.
        let whole = hashed
            .filter(|_| slots.is_empty())
            .map(|problem| RepositoryError::damaged(&key, problem));
        Ok(PackFlaws { whole, slots, table: Some(table), decoded, read })
    }

    /// Decodes slots of a pack held whole, spread over the pool; those that fail.
    async fn decode_slots(
        self: &Arc<Self>,
        kind: PackKind,
        pack: PackId,
        table: &[SlotEntry],
        chosen: Vec<u16>,
        bytes: &Bytes,
    ) -> Result<Vec<(u16, RepositoryError)>> {
        let part = chosen.len().div_ceil(self.pool.threads()).max(8);
        let parts = chosen.chunks(part).map(|part| {
            let slots = part
                .iter()
                .filter_map(|slot| Some((*slot, *table.get(usize::from(*slot))?)))
                .collect::<Vec<_>>();
            let (shared, bytes) = (self.clone(), bytes.clone());
            self.pool.run(move || shared.decode_part_of(kind, pack, &slots, &bytes))
        });
        let mut failed = Vec::new();
        for part in futures::future::join_all(parts).await {
            failed.extend(part?);
        }
        failed.sort_by_key(|(slot, _)| *slot);
        Ok(failed)
    }

    fn decode_part_of(
        &self,
        kind: PackKind,
        pack: PackId,
        slots: &[(u16, SlotEntry)],
        bytes: &[u8],
    ) -> Vec<(u16, RepositoryError)> {
        let decoder = SlotDecoder::new(&self.keys, kind, pack);
        let mut out = Vec::new();
        let mut failed = Vec::new();
        for (slot, of) in slots {
            let range: Range<usize> =
                of.offset as usize..of.offset as usize + of.stored_len as usize;
            let stored = bytes.get(range).unwrap_or_default();
            let entry = entry_of(pack, *slot, of);
            let decoded = match kind {
                PackKind::Data => decoder.chunk(&self.keys, &entry, stored, &mut out),
                PackKind::Meta => {
                    decoder.open(&self.keys, &entry.location, stored, &mut out, MAX_PAGE)
                }
            };
            if let Err(error) = decoded {
                failed.push((*slot, error));
            }
        }
        failed
    }

    /// Reads and decodes some slots of a data pack without reading the rest of it.
    pub(crate) async fn check_some_slots(
        self: &Arc<Self>,
        pack: PackId,
        chosen: &[u16],
        flaws: &mut PackFlaws,
    ) -> Result<()> {
        let Some(table) = &flaws.table else { return Ok(()) };
        let entry = |slot: &u16| {
            let of = table.get(usize::from(*slot))?;
            Some((u64::from(*slot), entry_of(pack, *slot, of)))
        };
        let wanted = chosen.iter().filter_map(entry).collect();
        let mut failed = Vec::new();
        for run in coalesce(PackKind::Data, wanted) {
            let bytes = match self.get_run(&run).await {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == crate::ErrorKind::Damaged => RunBytes::none(),
                Err(error) => return Err(error),
            };
            flaws.read += bytes.len() as u64;
            flaws.decoded += run.wanted.len() as u64;
            let shared = self.clone();
            let check = move || {
                let decoder = SlotDecoder::new(&shared.keys, PackKind::Data, pack);
                let mut out = Vec::new();
                let decode = |(slot, entry): &(u64, Entry)| {
                    let stored = bytes.slot(&entry.location);
                    let error = decoder.chunk(&shared.keys, entry, stored, &mut out).err()?;
                    Some((*slot as u16, error))
                };
                run.wanted.iter().filter_map(decode).collect::<Vec<_>>()
            };
            failed.extend(self.pool.run(check).await?);
        }
        flaws.slots.extend(failed);
        Ok(())
    }
}

/// Damage as a finding, any other failure as such.
fn flaws_or_failure(result: Result<PackFlaws>) -> Result<PackFlaws> {
    match result {
        Err(error) if error.kind() == crate::ErrorKind::Damaged => Ok(PackFlaws::whole(error)),
        other => other,
    }
}

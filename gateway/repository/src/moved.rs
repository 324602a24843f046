//! Packs that a collection compacted: the same slots in a later generation.
//!
//! Pages name a slot and, as a hint, where it began in the pack they knew. When that generation is
//! gone, the newest one is looked for, once, and its table says where the slot is now. A pack may
//! be compacted again while it is being read; then it is looked for again.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::{ByteRange, ErrorKind as DestinationKind, Key, list_all};

use crate::error::{ErrorKind, RepositoryError, Result};
use crate::fetch::{MAX_GAP, Run};
use crate::format::id::{
    PackId, PackKind, generation_key, generations_prefix, pack_key, parse_pack_key,
};
use crate::format::pack::{MAX_TAIL, SlotEntry, open_table};
use crate::format::page::Location;
use crate::repository::{Shared, parse_error};

/// How often a pack that vanishes while it is looked at is looked for again.
const ATTEMPTS: usize = 5;

/// A generation of a pack after the first.
#[derive(Debug)]
pub(crate) struct MovedPack {
    pub(crate) generation: u32,
    pub(crate) table: Vec<SlotEntry>,
}

/// A generation of a pack as an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackNow {
    pub(crate) generation: u32,
    pub(crate) key: Key,
    pub(crate) size: u64,
}

/// The stored bytes of a run's slots.
#[derive(Debug, Clone)]
pub struct RunBytes {
    bytes: Bytes,
    /// Where the bytes begin in the pack.
    base: u64,
    /// Where each slot is in them, when the pack is not the one the run was made for.
    moved: Option<HashMap<u16, Range<usize>>>,
}

impl RunBytes {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// No bytes at all: every slot is cut off.
    pub(crate) fn none() -> Self {
        Self { bytes: Bytes::new(), base: 0, moved: None }
    }

    /// The stored bytes of a slot; fewer than its length when the pack is cut off.
    pub(crate) fn slot(&self, location: &Location) -> &[u8] {
        let range = match &self.moved {
            Some(moved) => moved.get(&location.slot).cloned().unwrap_or_default(),
            None => {
                let from = u64::from(location.offset).saturating_sub(self.base) as usize;
                from..from + location.stored_len as usize
            }
        };
        self.bytes.get(range.start..range.end.min(self.bytes.len())).unwrap_or_default()
    }
}

impl Shared {
    /// Gets the bytes of a run. They may be fewer than asked when the pack is cut off; decoding
    /// the slots tells.
    pub(crate) async fn get_run(&self, run: &Run) -> Result<RunBytes> {
        let (kind, pack) = (run.kind, run.pack);
        let first = pack_key(kind, pack);
        for _ in 0..ATTEMPTS {
            let known = self.caches.moved.get(&(kind, pack));
            let got = match &known {
                None => {
                    let range = ByteRange::Span { offset: run.offset, length: run.length };
                    let got = self.destination.get(&first, range).await;
                    let whole = |bytes| RunBytes { bytes, base: run.offset, moved: None };
                    got.map(whole).map_err(|error| (first.clone(), error))
                }
                Some(moved) => self.get_moved(run, moved).await?,
            };
            match got {
                Ok(bytes) => return Ok(bytes),
                Err((_, error)) if error.kind() == DestinationKind::NotFound => {
                    self.caches.moved.remove(&(kind, pack));
                    match self.newest_generation(kind, pack).await? {
                        None => break,
                        Some(now) if now.generation > 0 => self.note_moved(kind, pack, now).await?,
                        Some(_) => {}
                    }
                }
                Err((key, error)) if error.kind() == DestinationKind::InvalidRange => {
                    return Err(RepositoryError::damaged(key, "it is cut off"));
                }
                Err((key, error)) => {
                    return Err(RepositoryError::caused(
                        ErrorKind::Destination(error.kind()),
                        format!("reading {key} failed"),
                        error,
                    ));
                }
            }
        }
        Err(RepositoryError::damaged(&first, "it is missing"))
    }

    /// Gets the slots of a run from a later generation.
    async fn get_moved(
        &self,
        run: &Run,
        moved: &MovedPack,
    ) -> Result<Result<RunBytes, (Key, sluice_destination::DestinationError)>> {
        let key = generation_key(run.kind, run.pack, moved.generation);
        let mut places: Vec<(u64, u64, u16)> = Vec::with_capacity(run.wanted.len());
        for (_, entry) in &run.wanted {
            let Location { slot, stored_len, .. } = entry.location;
            let now = moved.table.get(usize::from(slot)).filter(|now| now.stored_len == stored_len);
            let Some(now) = now.filter(|now| now.stored_len > 0) else {
                let object = format_args!("{key} slot {slot}").to_string();
                return Err(RepositoryError::damaged(object, "it was removed by a collection"));
            };
            let from = u64::from(now.offset);
            places.push((from, from + u64::from(stored_len), slot));
        }
        places.sort_unstable();
        places.dedup();
        let (mut bytes, mut slots) = (Vec::new(), HashMap::new());
        for group in places.chunk_by(|one, next| next.0 <= one.1 + MAX_GAP) {
            let (from, to) = (group[0].0, group[group.len() - 1].1);
            let range = ByteRange::Span { offset: from, length: to - from };
            let part = match self.destination.get(&key, range).await {
                Ok(part) => part,
                Err(error) => return Ok(Err((key, error))),
            };
            let base = bytes.len();
            bytes.extend_from_slice(&part);
            for (start, end, slot) in group {
                let place = base + (start - from) as usize..base + (end - from) as usize;
                slots.insert(*slot, place);
            }
        }
        Ok(Ok(RunBytes { bytes: bytes.into(), base: 0, moved: Some(slots) }))
    }

    /// The newest generation of a pack by a listing.
    pub(crate) async fn newest_generation(
        &self,
        kind: PackKind,
        pack: PackId,
    ) -> Result<Option<PackNow>> {
        let objects = list_all(&*self.destination, &generations_prefix(kind, pack)).await?;
        let generations = objects.into_iter().filter_map(|object| {
            let (_, generation) = parse_pack_key(&object.key)?;
            Some(PackNow { generation, key: object.key, size: object.size })
        });
        Ok(generations.max_by_key(|now| now.generation))
    }

    /// The generation of a pack that is there now.
    pub(crate) async fn pack_now(&self, kind: PackKind, pack: PackId) -> Result<Option<PackNow>> {
        let known = self.caches.moved.get(&(kind, pack)).map_or(0, |moved| moved.generation);
        let key = generation_key(kind, pack, known);
        match self.destination.head(&key).await {
            Ok(meta) => Ok(Some(PackNow { generation: known, key, size: meta.size })),
            Err(error) if error.kind() == DestinationKind::NotFound => {
                self.newest_generation(kind, pack).await
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn note_moved(&self, kind: PackKind, pack: PackId, now: PackNow) -> Result<()> {
        let Some(table) = self.table_of(kind, pack, &now.key).await? else { return Ok(()) };
        let moved = MovedPack { generation: now.generation, table };
        self.caches.moved.insert((kind, pack), Arc::new(moved));
        Ok(())
    }

    /// The table of a pack with its generation; nothing when there is no such pack.
    pub(crate) async fn pack_table(
        &self,
        kind: PackKind,
        pack: PackId,
    ) -> Result<Option<(u32, Vec<SlotEntry>)>> {
        if let Some(table) = self.table_of(kind, pack, &pack_key(kind, pack)).await? {
            return Ok(Some((0, table)));
        }
        for _ in 0..ATTEMPTS {
            let Some(now) = self.newest_generation(kind, pack).await? else { return Ok(None) };
            if let Some(table) = self.table_of(kind, pack, &now.key).await? {
                return Ok(Some((now.generation, table)));
            }
        }
        Ok(None)
    }

    /// The table in an object; nothing when it is not there.
    async fn table_of(
        &self,
        kind: PackKind,
        pack: PackId,
        key: &Key,
    ) -> Result<Option<Vec<SlotEntry>>> {
        match self.destination.get(key, ByteRange::Suffix(MAX_TAIL as u64)).await {
            Err(error) if error.kind() == DestinationKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
            Ok(tail) => open_table(&self.keys, self.id, kind, pack, &tail)
                .map(|(_, table)| Some(table))
                .map_err(|error| parse_error(key, error)),
        }
    }
}

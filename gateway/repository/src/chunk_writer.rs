//! Storing blocks: the way of a block into the store.
//!
//! A block becomes a hash; the hash is looked for where it is cheapest to find (the parent's entry
//! at the same place, this session, the index); only a block found nowhere is compressed, sealed
//! and appended to the open pack. Full packs are put in the background; the writer waits when
//! too many are under way, so memory stays bounded.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quick_cache::sync::Cache;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use crate::allowance::Allowance;
use crate::bad_slots::BadSlots;
use crate::crypto::{digest16, random};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::collection::{Sentence, Verdict};
use crate::format::id::{Digest, PackId, PackKind, SessionId, pack_key};
use crate::format::pack::{Codec, PackBuilder, SlotEntry, stored_len};
use crate::format::page::{Entry, Location};
use crate::index::{DedupIndex, SortedEntries};
use crate::lock::Locker;
use crate::repository::Shared;

/// Packs being put side by side.
const PUTS: usize = 3;
/// Packs finished but not yet durable; beyond this the writer waits. With the open pack this
/// bounds the writer's memory to about six packs.
const MAX_PENDING: usize = 4;
/// Chunks of this session remembered in memory; beyond, durable ones move to the index.
const MAX_KNOWN: usize = 512 << 10;
/// Tables of packs kept for confirming index hits.
const CONFIRMED_PACKS: usize = 1024;

/// What happened to the blocks of a session, in bytes of blocks unless said otherwise.
#[derive(Debug, Default)]
pub struct WriteCounters {
    /// New to the repository.
    pub new: AtomicU64,
    /// What the new ones take in packs.
    pub stored: AtomicU64,
    /// Found in the session or the index.
    pub dedup: AtomicU64,
    /// Equal to the parent's block.
    pub unchanged: AtomicU64,
    /// All zero.
    pub zero: AtomicU64,
    /// Bytes put as pages.
    pub meta: AtomicU64,
    /// Bytes of packs that are durable.
    pub durable: AtomicU64,
    /// Bytes of known blocks that are to be stored once more, to lie together.
    pub together: AtomicU64,
    /// What counts against the [`Allowance`]: bytes in packs, pages too, and those taken over from
    /// interrupted runs.
    pub charged: AtomicU64,
}

/// The full id of a block that is not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockHash(pub(crate) [u8; 32]);

impl BlockHash {
    /// The id's first 16 bytes, which stand in pages.
    pub fn id(&self) -> Digest {
        digest16(&self.0)
    }
}

#[derive(Debug, Default)]
struct Known {
    places: HashMap<Digest, Location>,
    durable: HashSet<PackId>,
    /// Generations of packs taken over from other sessions.
    adopted: HashMap<PackId, u32>,
}

/// Packs of other sessions.
#[derive(Debug, Default)]
struct Others {
    /// Not to be referenced any more, up to a generation: a collection has condemned them.
    barred: HashMap<PackId, u32>,
    /// All packs up to this one are barred.
    barred_to: Option<PackId>,
    /// Referenced by this session.
    referenced: HashSet<PackId>,
}

/// Writes chunks and pages of one session.
#[derive(Debug)]
pub(crate) struct ChunkWriter {
    shared: Arc<Shared>,
    session: SessionId,
    level: i32,
    allowance: Arc<Allowance>,
    data: Mutex<Option<PackBuilder>>,
    meta: Mutex<Option<PackBuilder>>,
    data_serial: AtomicU32,
    meta_serial: AtomicU32,
    known: Mutex<Known>,
    index: DedupIndex,
    /// Locks packs, where they are to be locked.
    pub(crate) locker: Option<Arc<Locker>>,
    /// Slots not to be taken for content that is there.
    pub(crate) bad: BadSlots,
    /// Blocks to store anew although they are known.
    anew: RwLock<HashSet<Digest>>,
    others: Mutex<Others>,
    confirmed: Cache<PackId, Arc<(u32, Vec<SlotEntry>)>>,
    puts: Arc<Semaphore>,
    pending: watch::Sender<usize>,
    failure: Mutex<Option<RepositoryError>>,
    runtime: Handle,
    pub(crate) counters: Arc<WriteCounters>,
}

impl Known {
    /// Where a chunk of this session is, or one it took over, and in which generation.
    fn place(&self, id: &Digest) -> Option<(Location, u32)> {
        let location = *self.places.get(id)?;
        Some((location, self.adopted.get(&location.pack).copied().unwrap_or_default()))
    }
}

thread_local! {
    static COMPRESSOR: RefCell<Option<(i32, zstd::bulk::Compressor<'static>, Vec<u8>)>> =
        const { RefCell::new(None) };
}

/// Whether all bytes are zero.
pub fn is_zero(bytes: &[u8]) -> bool {
    const ZEROES: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROES.len()).all(|part| *part == ZEROES[..part.len()])
}

/// Compresses `content` and hands over what to store.
fn compressed<T>(level: i32, content: &[u8], then: impl FnOnce(Codec, &[u8]) -> T) -> Result<T> {
    let failed = |error| crate::repository::local("zstd failed", error);
    COMPRESSOR.with_borrow_mut(|slot| {
        if slot.as_ref().is_none_or(|(known, ..)| *known != level) {
            let compressor = zstd::bulk::Compressor::new(level).map_err(failed)?;
            *slot = Some((level, compressor, Vec::new()));
        }
        let Some((_, compressor, out)) = slot else { unreachable!("it was just filled") };
        out.clear();
        out.reserve(zstd::zstd_safe::compress_bound(content.len()));
        compressor.compress_to_buffer(content, out).map_err(failed)?;
        // Decompression costs more than 3 % of space is worth.
        if out.len() as u64 * 100 > content.len() as u64 * 97 {
            Ok(then(Codec::Raw, content))
        } else {
            Ok(then(Codec::Zstd, out))
        }
    })
}

impl ChunkWriter {
    pub(crate) fn new(
        shared: Arc<Shared>,
        session: SessionId,
        (level, allowance): (i32, Arc<Allowance>),
        index: DedupIndex,
        bad: BadSlots,
        locker: Option<Arc<Locker>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            shared,
            session,
            level,
            allowance,
            data: Mutex::new(None),
            meta: Mutex::new(None),
            data_serial: AtomicU32::new(0),
            meta_serial: AtomicU32::new(0),
            known: Mutex::default(),
            index,
            locker,
            bad,
            anew: RwLock::default(),
            others: Mutex::default(),
            confirmed: Cache::new(CONFIRMED_PACKS),
            puts: Arc::new(Semaphore::new(PUTS)),
            pending: watch::Sender::new(0),
            failure: Mutex::new(None),
            runtime: Handle::current(),
            counters: Arc::default(),
        })
    }

    /// Waits until there is room for more packs.
    pub(crate) async fn ready(&self) -> Result<()> {
        let mut pending = self.pending.subscribe();
        // The sender lives in self, so waiting cannot fail.
        let _ = pending.wait_for(|pending| *pending <= MAX_PENDING).await;
        self.check()
    }

    /// Makes everything from now on fail.
    pub(crate) fn fail(&self, error: RepositoryError) {
        self.failure.lock().get_or_insert(error);
    }

    /// Fails when a put has failed.
    fn check(&self) -> Result<()> {
        match &*self.failure.lock() {
            None => Ok(()),
            Some(error) => {
                use std::error::Error;
                let context = error.to_string();
                Err(match error.source() {
                    Some(source) => {
                        let mut text = source.to_string();
                        let mut deeper = source.source();
                        while let Some(cause) = deeper {
                            text = format!("{text}: {cause}");
                            deeper = cause.source();
                        }
                        RepositoryError::caused(error.kind(), context, text)
                    }
                    None => RepositoryError::new(error.kind(), context),
                })
            }
        }
    }

    /// The id of a block; nothing when it is all zero.
    pub(crate) fn hash(&self, content: &[u8]) -> Option<BlockHash> {
        (!is_zero(content)).then(|| BlockHash(self.shared.keys.chunk_id(content)))
    }

    /// Counts blocks found to be as in the parent without being put.
    pub(crate) fn count_unchanged(&self, hashes: &[Option<BlockHash>], block_size: u32) {
        let data = hashes.iter().flatten().count();
        let bytes = |blocks: usize| blocks as u64 * u64::from(block_size);
        self.counters.unchanged.fetch_add(bytes(data), Ordering::Relaxed);
        self.counters.zero.fetch_add(bytes(hashes.len() - data), Ordering::Relaxed);
    }

    /// Stores a block with this hash; nothing when it is all zero. Called on the pool's threads.
    pub(crate) fn put(
        self: &Arc<Self>,
        content: &[u8],
        hash: Option<BlockHash>,
        parent: Option<&Entry>,
        trust_parent: bool,
    ) -> Result<Option<Entry>> {
        let size = content.len() as u64;
        let Some(BlockHash(full)) = hash else {
            self.counters.zero.fetch_add(size, Ordering::Relaxed);
            return Ok(None);
        };
        let id = digest16(&full);
        let same = |parent: &&Entry| {
            parent.id == id
                && !self.must_store(parent)
                && (trust_parent || self.is_stored(&full, &parent.location).is_some())
        };
        if let Some(parent) = parent.filter(same) {
            self.counters.unchanged.fetch_add(size, Ordering::Relaxed);
            return Ok(Some(*parent));
        }
        if let Some(location) = self.find(id, &full) {
            self.counters.dedup.fetch_add(size, Ordering::Relaxed);
            return Ok(Some(Entry { id, location }));
        }
        self.check()?;
        let location = compressed(self.level, content, |codec, payload| {
            self.append(full, id, codec, content.len() as u32, payload)
        })??;
        Ok(Some(Entry { id, location }))
    }

    /// Stores these blocks once more, whoever has them.
    pub(crate) fn store_anew(&self, blocks: HashSet<Digest>) {
        self.anew.write().extend(blocks);
    }

    /// Whether all blocks may be taken from where they are.
    pub(crate) fn all_may_stay(&self) -> bool {
        !self.bad.has(PackKind::Data) && self.anew.read().is_empty()
    }

    /// Whether a block must not be taken from where it is.
    pub(crate) fn must_store(&self, block: &Entry) -> bool {
        self.bad.holds(PackKind::Data, &block.location)
            || (block.location.pack.session() != self.session
                && self.anew.read().contains(&block.id))
    }

    fn find(&self, id: Digest, full: &[u8; 32]) -> Option<Location> {
        let known = self.known.lock().place(&id);
        if let Some((location, generation)) = known
            && !self.must_store(&Entry { id, location })
            && self.refer(location.pack, generation)
        {
            return Some(location);
        }
        let location = self.index.find(id)?;
        let sound = !self.must_store(&Entry { id, location });
        let generation = sound.then(|| self.is_stored(full, &location)).flatten()?;
        self.refer(location.pack, generation).then_some(location)
    }

    /// References a pack, unless a collection has condemned it.
    fn refer(&self, pack: PackId, generation: u32) -> bool {
        if pack.session() == self.session {
            return true;
        }
        // One lock for both: a pack is either referenced before it is barred, and then the
        // collection is told, or not at all.
        let mut others = self.others.lock();
        let barred = others.barred.get(&pack).is_some_and(|barred| generation <= *barred);
        if barred || others.barred_to.is_some_and(|last| pack <= last) {
            return false;
        }
        others.referenced.insert(pack);
        true
    }

    /// Bars packs from new references; returns those that were referenced before.
    pub(crate) fn bar(&self, verdicts: &[Verdict]) -> Vec<PackId> {
        let data = verdicts.iter().filter(|one| one.kind == PackKind::Data);
        let mut needs = Vec::new();
        {
            let mut others = self.others.lock();
            for one in data {
                if one.sentence == Sentence::TaintedUpTo {
                    others.barred_to = others.barred_to.max(Some(one.pack));
                    let up_to = others.referenced.iter().filter(|pack| **pack <= one.pack);
                    needs.extend(up_to.copied());
                    continue;
                }
                let barred = others.barred.entry(one.pack).or_default();
                *barred = one.generation.max(*barred);
                if others.referenced.contains(&one.pack) {
                    needs.push(one.pack);
                }
            }
        }
        needs.sort_unstable();
        needs.dedup();
        needs
    }

    /// The generation of the pack whose own table has this chunk at this place.
    fn is_stored(&self, full: &[u8; 32], location: &Location) -> Option<u32> {
        let confirmed = self.confirm(location.pack);
        let (generation, table) = &*confirmed;
        let entry = table.get(usize::from(location.slot))?;
        let stored = entry.id == *full
            && entry.stored_len == location.stored_len
            && entry.codec == location.codec
            // Compaction moves slots; their number stays.
            && (*generation > 0 || entry.offset == location.offset);
        stored.then_some(*generation)
    }

    /// The table of a pack; empty when the pack is missing or damaged.
    fn confirm(&self, pack: PackId) -> Arc<(u32, Vec<SlotEntry>)> {
        if let Some(table) = self.confirmed.get(&pack) {
            return table;
        }
        // On a pool thread, so waiting for the runtime is allowed; once for each pack.
        let table = self.runtime.block_on(self.shared.pack_table(PackKind::Data, pack));
        let table = Arc::new(match table {
            Ok(Some(table)) => table,
            Ok(None) => (0, Vec::new()),
            Err(error) => {
                tracing::warn!(%pack, %error, "a pack is not used again");
                (0, Vec::new())
            }
        });
        self.confirmed.insert(pack, table.clone());
        table
    }

    fn append(
        self: &Arc<Self>,
        full: [u8; 32],
        id: Digest,
        codec: Codec,
        plain_len: u32,
        payload: &[u8],
    ) -> Result<Location> {
        let mut open = self.data.lock();
        // Another thread may have stored the same content while this one compressed it.
        let known = self.known.lock().place(&id);
        if let Some((location, generation)) = known
            && self.refer(location.pack, generation)
        {
            self.counters.dedup.fetch_add(u64::from(plain_len), Ordering::Relaxed);
            return Ok(location);
        }
        self.allowance.charge(&self.counters, stored_len(payload))?;
        let builder = open.get_or_insert_with(|| self.builder(PackKind::Data));
        let (slot, entry) = builder.push(full, codec, plain_len, payload);
        let SlotEntry { offset, stored_len, .. } = entry;
        let location = Location { pack: builder.id(), slot, codec, offset, stored_len };
        self.known.lock().places.insert(id, location);
        let full_pack = if builder.is_full() { open.take() } else { None };
        drop(open);
        self.counters.new.fetch_add(u64::from(plain_len), Ordering::Relaxed);
        self.counters.stored.fetch_add(u64::from(stored_len), Ordering::Relaxed);
        if let Some(builder) = full_pack {
            self.launch(PackKind::Data, builder)?;
        }
        Ok(location)
    }

    fn builder(&self, kind: PackKind) -> PackBuilder {
        let serial = match kind {
            PackKind::Data => &self.data_serial,
            PackKind::Meta => &self.meta_serial,
        };
        let pack = PackId::new(self.session, serial.fetch_add(1, Ordering::Relaxed));
        PackBuilder::new(&self.shared.keys, self.shared.id, kind, pack)
    }

    /// Stores a page; called on the pool's threads.
    pub(crate) fn put_page(self: &Arc<Self>, digest: Digest, page: &[u8]) -> Result<Location> {
        let mut id = [0; 32];
        id[..16].copy_from_slice(&digest.0);
        let (location, full_pack) = compressed(1, page, |codec, payload| {
            let mut open = self.meta.lock();
            self.allowance.charge(&self.counters, stored_len(payload))?;
            let builder = open.get_or_insert_with(|| self.builder(PackKind::Meta));
            let (slot, entry) = builder.push(id, codec, page.len() as u32, payload);
            let SlotEntry { offset, stored_len, .. } = entry;
            let location = Location { pack: builder.id(), slot, codec, offset, stored_len };
            Ok::<_, RepositoryError>((location, if builder.is_full() { open.take() } else { None }))
        })??;
        self.counters.meta.fetch_add(u64::from(location.stored_len), Ordering::Relaxed);
        if let Some(builder) = full_pack {
            self.launch(PackKind::Meta, builder)?;
        }
        Ok(location)
    }

    /// Finishes a pack and starts putting it.
    fn launch(self: &Arc<Self>, kind: PackKind, builder: PackBuilder) -> Result<()> {
        let pack = builder.id();
        let (bytes, _) = builder.finish(&self.shared.keys, random()?);
        self.pending.send_modify(|pending| *pending += 1);
        let writer = self.clone();
        self.runtime.spawn(async move {
            let length = bytes.len() as u64;
            let put = writer.put_pack(kind, pack, bytes).await;
            match put {
                Ok(()) => {
                    writer.counters.durable.fetch_add(length, Ordering::Relaxed);
                    if kind == PackKind::Data {
                        writer.known.lock().durable.insert(pack);
                    }
                }
                Err(error) => {
                    writer.fail(error);
                }
            }
            writer.pending.send_modify(|pending| *pending -= 1);
        });
        Ok(())
    }

    async fn put_pack(&self, kind: PackKind, pack: PackId, bytes: Bytes) -> Result<()> {
        let _permit = self.puts.acquire().await;
        self.check()?;
        let key = pack_key(kind, pack);
        let put = match &self.locker {
            Some(locker) => locker.put_pack(&self.shared, kind, pack, bytes).await,
            None => self.shared.destination.put(&key, bytes).await,
        };
        put.map_err(|error| {
            let kind = ErrorKind::Destination(error.kind());
            RepositoryError::caused(kind, format!("writing {key} failed"), error)
        })
    }

    /// Closes the open packs and returns once everything put is durable.
    pub(crate) async fn barrier(self: &Arc<Self>) -> Result<()> {
        let open =
            [(PackKind::Data, self.data.lock().take()), (PackKind::Meta, self.meta.lock().take())];
        for (kind, builder) in open {
            if let Some(builder) = builder {
                let writer = self.clone();
                self.shared.pool.run(move || writer.launch(kind, builder)).await??;
            }
        }
        let mut pending = self.pending.subscribe();
        let _ = pending.wait_for(|pending| *pending == 0).await;
        self.check()
    }

    /// Takes in chunks whose place was confirmed elsewhere, such as those of a dead session.
    /// Returns how many bytes they take.
    pub(crate) fn adopt(&self, pack: PackId, generation: u32, table: &[SlotEntry]) -> u64 {
        let mut bytes = 0;
        let mut known = self.known.lock();
        known.durable.insert(pack);
        known.adopted.insert(pack, generation);
        for (slot, entry) in table.iter().enumerate().filter(|(_, entry)| entry.stored_len > 0) {
            let location = Location {
                pack,
                slot: slot as u16,
                codec: entry.codec,
                offset: entry.offset,
                stored_len: entry.stored_len,
            };
            if self.bad.holds(PackKind::Data, &location) {
                continue;
            }
            known.places.insert(digest16(&entry.id), location);
            bytes += u64::from(entry.stored_len);
        }
        bytes
    }

    /// Takes durable chunks out of memory for the index: when there are many, or all of them.
    pub(crate) fn take_durable(&self, all: bool) -> SortedEntries {
        let mut known = self.known.lock();
        if !all && known.places.len() < MAX_KNOWN {
            return Vec::new();
        }
        let Known { places, durable, .. } = &mut *known;
        let mut taken: SortedEntries = Vec::new();
        places.retain(|id, location| {
            let keep = !durable.contains(&location.pack);
            if !keep {
                taken.push((*id, *location));
            }
            keep
        });
        durable.clear();
        drop(known);
        taken.sort_unstable_by_key(|(id, _)| *id);
        taken
    }

    /// The local index.
    pub(crate) fn index(&self) -> &DedupIndex {
        &self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_told_at_every_length() {
        for length in [0, 1, 4095, 4096, 4097, 131_072] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            if let Some(last) = bytes.last_mut() {
                *last = 1;
                assert!(!is_zero(&bytes));
            }
        }
    }
}

//! Getting stored slots: coalesced ranged gets, decoded and verified on the pool.
//!
//! Slots that lie near each other in one pack come with one get. A slot several readers ask for
//! at the same time is got once. Nothing leaves this module unverified: AEAD, then the id of the
//! plaintext (`docs/format/`, invariant 6).

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared as SharedFuture};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use zstd::bulk::Decompressor;

use crate::crypto::{KeyRing, SealKey, TAG_LEN};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::MAX_BLOCK;
use crate::format::id::{Digest, PackId, PackKind, pack_key};
use crate::format::pack::{Codec, header_kind, slot_aad, slot_nonce};
use crate::format::page::{Entry, Location, MAX_PAGE, Page};
use crate::met::Reading;
use crate::moved::RunBytes;
use crate::repository::{Shared, parse_error};

/// Slots further apart than this come with two gets.
pub const MAX_GAP: u64 = 256 << 10;
/// Most bytes of one get.
pub const MAX_RUN: u64 = 8 << 20;

/// Slots of one pack to be got together, ascending by offset.
#[derive(Debug, Clone)]
pub struct Run {
    /// Kind of the pack.
    pub kind: PackKind,
    /// The pack.
    pub pack: PackId,
    /// First byte to get.
    pub offset: u64,
    /// Bytes to get.
    pub length: u64,
    /// What is wanted, each with the caller's own mark (such as a block number).
    pub wanted: Vec<(u64, Entry)>,
}

/// Groups entries into runs.
pub fn coalesce(kind: PackKind, mut wanted: Vec<(u64, Entry)>) -> Vec<Run> {
    wanted.sort_by_key(|(mark, entry)| (entry.location.pack, entry.location.offset, *mark));
    let mut runs: Vec<Run> = Vec::new();
    for (mark, entry) in wanted {
        let Location { pack, offset, stored_len, .. } = entry.location;
        let (from, to) = (u64::from(offset), u64::from(offset) + u64::from(stored_len));
        match runs.last_mut() {
            Some(run)
                if run.pack == pack
                    && from <= run.offset + run.length + MAX_GAP
                    && to - run.offset <= MAX_RUN =>
            {
                run.length = run.length.max(to - run.offset);
                run.wanted.push((mark, entry));
            }
            _ => {
                let wanted = vec![(mark, entry)];
                runs.push(Run { kind, pack, offset: from, length: to - from, wanted });
            }
        }
    }
    runs
}

/// What became of each chunk of a run: a damaged one takes no other with it.
type Landed = HashMap<Digest, Result<Bytes, Arc<Failure>>>;

/// Chunks being got, so that others who want them wait instead of asking again.
type Flight = SharedFuture<BoxFuture<'static, Result<Arc<Landed>, Arc<Failure>>>>;

/// A failure that several waiters share.
#[derive(Debug)]
struct Failure(RepositoryError);

impl Failure {
    /// The failure as an error of one's own.
    fn to_error(&self) -> RepositoryError {
        let (kind, context) = (self.0.kind(), self.0.to_string());
        match std::error::Error::source(&self.0) {
            Some(source) => RepositoryError::caused(kind, context, source.to_string()),
            None => RepositoryError::new(kind, context),
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Who gets a single chunk by himself: another task would cost a short read more than it saves.
/// Should he go away, the flight goes on without him, for others may wait for it.
struct Passenger(Option<Flight>);

impl Drop for Passenger {
    fn drop(&mut self) {
        if let Some(flight) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(flight);
        }
    }
}

/// The table of gets under way.
#[derive(Default)]
pub(crate) struct Flights(Mutex<HashMap<Digest, Flight>>);

#[cfg(test)]
impl Flights {
    /// Chunks that are being got.
    pub(crate) fn len(&self) -> usize {
        self.0.lock().len()
    }
}

impl std::fmt::Debug for Flights {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Flights")
    }
}

/// Keys and scratch space for decoding the slots of one pack.
#[derive(Debug)]
pub struct SlotDecoder {
    kind: PackKind,
    pack: PackId,
    /// Of the likeliest epoch.
    key: (u32, SealKey),
}

thread_local! {
    static SCRATCH: RefCell<(Vec<u8>, Option<Decompressor<'static>>)> =
        const { RefCell::new((Vec::new(), None)) };
}

impl SlotDecoder {
    /// A decoder for the slots of this pack.
    pub fn new(keys: &KeyRing, kind: PackKind, pack: PackId) -> Self {
        let epoch = keys.epochs(kind, pack)[0];
        Self { kind, pack, key: (epoch, keys.pack_key(kind, pack, epoch)) }
    }

    /// Decrypts a slot into `payload`, which has its length; nothing when it was sealed under
    /// no known epoch.
    fn unseal(
        &self,
        keys: &KeyRing,
        location: &Location,
        stored: &[u8],
        payload: &mut [u8],
    ) -> Option<()> {
        let aad = slot_aad(header_kind(self.kind), self.pack, location.slot, location.codec);
        let nonce = slot_nonce(location.slot);
        let (first, key) = &self.key;
        if key.open_into(nonce, &aad, stored, payload).is_some() {
            return Some(());
        }
        let others = keys.epochs(self.kind, self.pack).into_iter().filter(|one| one != first);
        others.into_iter().find_map(|epoch| {
            let key = keys.pack_key(self.kind, self.pack, epoch);
            key.open_into(nonce, &aad, stored, payload)?;
            keys.remember(self.pack, epoch);
            Some(())
        })
    }

    /// Opens a stored slot into `out`, which gets exactly its content. The content is
    /// authenticated but not yet compared with an id.
    pub(crate) fn open(
        &self,
        keys: &KeyRing,
        location: &Location,
        stored: &[u8],
        out: &mut Vec<u8>,
        most: usize,
    ) -> Result<()> {
        if location.codec == Codec::Raw {
            out.resize(self.payload_len(location, stored)?.min(most + 1), 0);
            return self.open_exact(keys, location, stored, out, most).map(drop);
        }
        self.compressed(keys, location, stored, most, |decompressor, payload, size| {
            out.clear();
            out.reserve_exact(size);
            decompressor.decompress_to_buffer(payload, out)
        })?;
        Ok(())
    }

    /// Opens a stored slot into the beginning of `out`, and says how long its content is.
    fn open_exact(
        &self,
        keys: &KeyRing,
        location: &Location,
        stored: &[u8],
        out: &mut [u8],
        most: usize,
    ) -> Result<usize> {
        let most = most.min(out.len());
        if location.codec != Codec::Raw {
            return self.compressed(keys, location, stored, most, |decompressor, payload, _| {
                decompressor.decompress_to_buffer(payload, out)
            });
        }
        let length = self.payload_len(location, stored)?;
        if length > most {
            return Err(self.damaged(location, "it is longer than it may be"));
        }
        let opened = self.unseal(keys, location, stored, &mut out[..length]);
        opened.ok_or_else(|| self.damaged(location, "it fails authentication"))?;
        Ok(length)
    }

    /// Decrypts a compressed slot and has `work` decompress it, which it says how long to become.
    fn compressed(
        &self,
        keys: &KeyRing,
        location: &Location,
        stored: &[u8],
        most: usize,
        work: impl FnOnce(&mut Decompressor<'static>, &[u8], usize) -> io::Result<usize>,
    ) -> Result<usize> {
        let length = self.payload_len(location, stored)?;
        SCRATCH.with_borrow_mut(|(scratch, decompressor)| {
            scratch.resize(length.max(scratch.len()), 0);
            let payload = &mut scratch[..length];
            let opened = self.unseal(keys, location, stored, payload);
            opened.ok_or_else(|| self.damaged(location, "it fails authentication"))?;
            // Frames say their size; a chunk must not take the memory of the largest.
            let size = zstd::zstd_safe::get_frame_content_size(payload);
            let size = size.ok().flatten().filter(|size| *size <= most as u64);
            let size = size.ok_or_else(|| self.damaged(location, "its size is out of range"))?;
            let decompressor = match decompressor {
                Some(decompressor) => decompressor,
                none => none.insert(
                    Decompressor::new().map_err(|error| crate::repository::local("zstd", error))?,
                ),
            };
            work(decompressor, payload, size as usize)
                .map_err(|_| self.damaged(location, "it does not decompress"))
        })
    }

    /// Bytes of a stored slot without its tag.
    fn payload_len(&self, location: &Location, stored: &[u8]) -> Result<usize> {
        match stored.len().checked_sub(TAG_LEN) {
            Some(length) if stored.len() == location.stored_len as usize => Ok(length),
            _ => Err(self.damaged(location, "it is cut off")),
        }
    }

    fn damaged(&self, location: &Location, what: &str) -> RepositoryError {
        let key = pack_key(self.kind, self.pack);
        RepositoryError::damaged(format_args!("{key} slot {}", location.slot), what)
    }

    /// Opens a chunk into `out` and verifies its id.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`].
    pub fn chunk(
        &self,
        keys: &KeyRing,
        entry: &Entry,
        stored: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<()> {
        self.open(keys, &entry.location, stored, out, MAX_BLOCK as usize)?;
        self.check_id(keys, entry, out)
    }

    /// Opens a chunk of exactly the length of `out` into it and verifies its id.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`]; `out` then holds anything.
    pub fn chunk_into(
        &self,
        keys: &KeyRing,
        entry: &Entry,
        stored: &[u8],
        out: &mut [u8],
    ) -> Result<()> {
        let length = self.open_exact(keys, &entry.location, stored, out, MAX_BLOCK as usize)?;
        if length != out.len() {
            let what = "its chunk has another size than the image's blocks";
            return Err(self.damaged(&entry.location, what));
        }
        self.check_id(keys, entry, out)
    }

    fn check_id(&self, keys: &KeyRing, entry: &Entry, content: &[u8]) -> Result<()> {
        if keys.chunk_id(content)[..16] == entry.id.0 {
            return Ok(());
        }
        Err(self.damaged(&entry.location, "its content is not what the block map says"))
    }

    /// Opens a page and verifies its digest.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`].
    pub fn page(
        &self,
        keys: &KeyRing,
        entry: &Entry,
        stored: &[u8],
        level: u8,
        block_size: u32,
    ) -> Result<Page> {
        let mut bytes = Vec::new();
        self.open(keys, &entry.location, stored, &mut bytes, MAX_PAGE)?;
        let key = pack_key(self.kind, self.pack);
        let name = format!("{key} slot {}", entry.location.slot);
        let page = Page::decode(&bytes).map_err(|error| parse_error(&name, error))?;
        if page.level() != level || page.digest(keys, block_size) != entry.id {
            return Err(RepositoryError::damaged(name, "its digest differs"));
        }
        Ok(page)
    }
}

impl Shared {
    /// The content of these chunks, from the cache, from gets under way, or got now; damage that
    /// is met on the way is noted.
    pub(crate) async fn chunks(
        self: &Arc<Self>,
        entries: impl Iterator<Item = Entry>,
        reading: Reading,
    ) -> Result<HashMap<Digest, Bytes>> {
        let mut found = HashMap::new();
        let mut flights: Vec<Flight> = Vec::new();
        let mut missing: Vec<(u64, Entry)> = Vec::new();
        let mut waited: Vec<Digest> = Vec::new();
        let mut own = None;
        {
            let mut under_way = self.flights.0.lock();
            let mut asked = std::collections::HashSet::new();
            for entry in entries {
                if !asked.insert(entry.id) {
                    continue;
                }
                if let Some(chunk) = self.caches.chunk(&entry.id) {
                    found.insert(entry.id, chunk);
                } else if let Some(flight) = under_way.get(&entry.id) {
                    waited.push(entry.id);
                    if !flights.iter().any(|known| known.ptr_eq(flight)) {
                        flights.push(flight.clone());
                    }
                } else {
                    missing.push((0, entry));
                }
            }
            let runs = coalesce(PackKind::Data, missing);
            let is_single = matches!(&runs[..], [run] if run.wanted.len() == 1);
            for run in runs {
                let ids: Vec<Digest> = run.wanted.iter().map(|(_, entry)| entry.id).collect();
                waited.extend(&ids);
                let flight = match is_single {
                    true => self.fly(run, ids.clone()).boxed().shared(),
                    false => self.launch(run, ids.clone()),
                };
                own = is_single.then(|| Passenger(Some(flight.clone())));
                for id in ids {
                    under_way.insert(id, flight.clone());
                }
                flights.push(flight);
            }
        }
        // Only what was asked for counts: a flight may carry chunks of others.
        let mut failure = None;
        for landed in futures::future::join_all(flights).await {
            match landed {
                Err(whole) => {
                    self.note_met(&whole.0, reading);
                    failure = Some(whole);
                }
                Ok(landed) => {
                    for id in &waited {
                        match landed.get(id) {
                            Some(Ok(chunk)) => {
                                found.insert(*id, chunk.clone());
                            }
                            Some(Err(damaged)) => {
                                self.note_met(&damaged.0, reading);
                                failure = Some(damaged.clone());
                            }
                            None => {}
                        }
                    }
                }
            }
        }
        if let Some(mut landed) = own {
            landed.0 = None;
        }
        match failure {
            None => Ok(found),
            Some(failure) => Err(failure.to_error()),
        }
    }

    /// Gets a run into the cache, and takes it off the table of what is under way.
    fn fly(
        self: &Arc<Self>,
        run: Run,
        ids: Vec<Digest>,
    ) -> impl Future<Output = Result<Arc<Landed>, Arc<Failure>>> + Send + 'static {
        let shared = self.clone();
        async move {
            let getting = AssertUnwindSafe(shared.clone().get_and_decode(run)).catch_unwind();
            let result = getting.await.unwrap_or_else(|_| {
                Err(RepositoryError::new(ErrorKind::Cancelled, "reading a block crashed"))
            });
            for (id, chunk) in result.iter().flatten() {
                if let Ok(chunk) = chunk {
                    shared.caches.keep_chunk(*id, chunk.clone());
                }
            }
            // Landed in the cache first, then off the table: nobody finds it in neither.
            let mut under_way = shared.flights.0.lock();
            for id in ids {
                under_way.remove(&id);
            }
            drop(under_way);
            result.map(Arc::new).map_err(|error| Arc::new(Failure(error)))
        }
    }

    /// Starts getting a run as a task of its own, so that several go side by side, and a caller
    /// who goes away does not take the chunks from others who wait for them.
    fn launch(self: &Arc<Self>, run: Run, ids: Vec<Digest>) -> Flight {
        let task = tokio::spawn(self.fly(run, ids));
        async move {
            task.await.unwrap_or_else(|_| {
                let error = RepositoryError::new(ErrorKind::Cancelled, "a read was cancelled");
                Err(Arc::new(Failure(error)))
            })
        }
        .boxed()
        .shared()
    }

    async fn get_and_decode(self: Arc<Self>, run: Run) -> Result<Landed> {
        let bytes = self.get_run(&run).await?;
        let pool = self.pool.clone();
        // Wide runs are decoded in parts, so that a single reader keeps every core busy.
        let parts = run.wanted.len().div_ceil(8).clamp(1, pool.threads());
        let size = run.wanted.len().div_ceil(parts);
        let run = Arc::new(run);
        let work = (0..run.wanted.len()).step_by(size).map(|from| {
            let (shared, run, bytes) = (self.clone(), run.clone(), bytes.clone());
            let to = (from + size).min(run.wanted.len());
            pool.run(move || shared.decode_part(&run, from..to, &bytes))
        });
        let mut landed = Landed::with_capacity(run.wanted.len());
        if run.wanted.len() == 1 {
            // Waking another thread, and being woken by it, would take as long as one chunk does.
            landed.extend(self.decode_part(&run, 0..1, &bytes));
        } else {
            for part in futures::future::join_all(work).await {
                landed.extend(part?);
            }
        }
        if run.kind == PackKind::Data && landed.values().any(Result::is_err) {
            self.is_of_a_known_epoch(run.pack).await?;
        }
        Ok(landed)
    }

    /// Fails when a pack that seems to be damaged was sealed under an epoch that began after
    /// this repository was opened. Its table tells, and cannot be forged.
    async fn is_of_a_known_epoch(&self, pack: PackId) -> Result<()> {
        match self.pack_table(PackKind::Data, pack).await {
            Err(error) if error.kind() == ErrorKind::Conflict => Err(error),
            _ => Ok(()),
        }
    }

    fn decode_part(
        &self,
        run: &Run,
        part: std::ops::Range<usize>,
        bytes: &RunBytes,
    ) -> Vec<(Digest, Result<Bytes, Arc<Failure>>)> {
        let decoder = SlotDecoder::new(&self.keys, run.kind, run.pack);
        let decode = |(_, entry): &(u64, Entry)| {
            let mut out = Vec::new();
            let stored = bytes.slot(&entry.location);
            let decoded = decoder.chunk(&self.keys, entry, stored, &mut out);
            let chunk = decoded.map(|()| Bytes::from(out));
            (entry.id, chunk.map_err(|error| Arc::new(Failure(error))))
        };
        run.wanted[part].iter().map(decode).collect()
    }

    /// The pages these entries of their parent name, in the same order.
    pub(crate) async fn pages(
        self: &Arc<Self>,
        entries: &[Entry],
        level: u8,
        block_size: u32,
    ) -> Result<Vec<Arc<Page>>> {
        let mut pages: Vec<Option<Arc<Page>>> =
            entries.iter().map(|entry| self.caches.page(entry)).collect();
        let missing = (entries.iter().enumerate())
            .filter(|(at, _)| pages[*at].is_none())
            .map(|(at, entry)| (at as u64, *entry))
            .collect();
        let runs = coalesce(PackKind::Meta, missing);
        let got = futures::future::join_all(runs.into_iter().map(|run| async move {
            let bytes = self.get_run(&run).await?;
            let (shared, is_single) = (self.clone(), run.wanted.len() == 1);
            let decode = move || -> Result<Vec<(u64, Arc<Page>)>> {
                let decoder = SlotDecoder::new(&shared.keys, run.kind, run.pack);
                let decode = |(at, entry): &(u64, Entry)| {
                    let stored = bytes.slot(&entry.location);
                    let page = decoder.page(&shared.keys, entry, stored, level, block_size)?;
                    Ok((*at, Arc::new(page)))
                };
                run.wanted.iter().map(decode).collect()
            };
            // As with a single chunk.
            if is_single { decode() } else { self.pool.run(decode).await? }
        }))
        .await;
        for result in got {
            for (at, page) in result? {
                self.caches.keep_page(&entries[at as usize], page.clone());
                pages[at as usize] = Some(page);
            }
        }
        Ok(pages.into_iter().map(|page| page.expect("every missing page was got")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(pack: u8, offset: u32, stored_len: u32) -> Entry {
        let location =
            Location { pack: PackId([pack; 16]), slot: 0, codec: Codec::Raw, offset, stored_len };
        Entry { id: Digest([0; 16]), location }
    }

    #[test]
    fn neighbours_come_together_and_strangers_apart() {
        let wanted = vec![
            (0, entry(1, 1000, 100)),
            (1, entry(1, 64, 900)),
            (2, entry(2, 64, 900)),
            (3, entry(1, (MAX_GAP + 2000) as u32, 10)),
        ];
        let runs = coalesce(PackKind::Data, wanted);
        let shape: Vec<(u8, u64, u64, usize)> =
            runs.iter().map(|r| (r.pack.0[0], r.offset, r.length, r.wanted.len())).collect();
        assert_eq!(shape, [(1, 64, 1036, 2), (1, MAX_GAP + 2000, 10, 1), (2, 64, 900, 1)]);
    }

    #[test]
    fn a_run_never_grows_beyond_its_bound() {
        let slot = 1 << 20;
        let wanted = (0..20).map(|n| (n, entry(1, 64 + n as u32 * slot, slot))).collect();
        let runs = coalesce(PackKind::Data, wanted);
        assert!(runs.iter().all(|run| run.length <= MAX_RUN));
        assert_eq!(runs.iter().map(|run| run.wanted.len()).sum::<usize>(), 20);
    }
}

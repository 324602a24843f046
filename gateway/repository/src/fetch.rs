//! Getting stored slots: coalesced ranged gets, decoded and verified on the pool.
//!
//! Slots that lie near each other in one pack come with one get. A slot several readers ask for
//! at the same time is got once. Nothing leaves this module unverified: AEAD, then the id of the
//! plaintext (`docs/format/`, invariant 6).

mod decoder;

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared as SharedFuture};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::id::{Digest, PackId, PackKind};
use crate::format::page::{Entry, Location, Page};
use crate::met::Reading;
use crate::moved::RunBytes;
use crate::repository::Shared;

pub use decoder::SlotDecoder;

/// Slots further apart than this come with two gets.
pub const MAX_GAP: u64 = 256 << 10;
/// Most bytes of one get.
pub const MAX_RUN: u64 = 4 << 20;

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
            let stored = bytes.slot(&entry.location);
            let decoded = decoder.chunk_in(&self.keys, entry, stored, &self.buffers);
            // What the cache drops is what the next one is decoded into.
            let chunk = decoded.map(Bytes::from_owner);
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
    use crate::format::pack::Codec;

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

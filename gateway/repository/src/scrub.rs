//! Reading back what lies longest unread, a budget at a time.
//!
//! A scrub lists the packs, asks the coverage (`c/`) when each was last read back, and reads the
//! longest unread ones first. What was proven is written down when it ends, when it is stopped,
//! and every ten minutes. Losing the coverage costs reading again.
//!
//! Without keys, a pack is proven by the hash in its footer. With keys, its table and slots are
//! opened as well and their contents compared with their ids. Packs that are missing are no
//! matter of a scrub: nothing in a listing tells of them; verification does.

mod coverage;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures::stream::{self, StreamExt};
use sluice_destination::{ByteRange, Destination, ErrorKind as DestinationKind, Key};

use crate::clock::Clock;
use crate::error::{RepositoryError, Result};
use crate::format::coverage::PackObject;
use crate::format::header::Header;
use crate::format::id::{RepositoryId, generation_key};
use crate::format::pack::{MAX_PACK, header_kind};
use crate::pool::Pool;
use crate::repository::{Repository, Shared, parse_error};
use crate::verify::{Damage, Memory, PackFlaws, PackHash, VerifyReport, damage_of};

pub use coverage::ScrubStatus;
use coverage::{Listed, Listing};

/// How often what was proven is written down while a scrub runs, in ms.
const SAVE_MS: u64 = 10 * 60 * 1000;

/// Bytes of a pack got at once where it is only hashed: memory of this size is used again and
/// again, while that of whole packs would come from the system each time.
const PIECE: u64 = 2 << 20;
/// Pieces of a pack under way: one comes while one is hashed.
const PIECES: usize = 2;

/// What to scrub.
#[derive(Debug, Clone, Copy, Default)]
pub struct ScrubOptions {
    /// Most bytes to read; at least one pack is read.
    pub budget: Option<u64>,
    /// Only packs that were not read back within so many days.
    pub max_age_days: Option<u16>,
}

/// Counts of a scrub under way, and the way to stop it.
#[derive(Debug, Default)]
pub struct ScrubProgress {
    /// Bytes to read; 0 until known.
    pub total_bytes: AtomicU64,
    /// Bytes read.
    pub bytes: AtomicU64,
    /// Set to end early; what was proven is kept.
    pub stop: AtomicBool,
}

/// What a scrub did.
#[derive(Debug, Clone, Default)]
pub struct ScrubReport {
    /// Packs read.
    pub packs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Whether it was stopped before it was through.
    pub stopped: bool,
    /// What is damaged. Which points need it, a verification tells.
    pub damage: Vec<Damage>,
    /// Coverage after it.
    pub status: ScrubStatus,
    /// Packs recorded as damaged that were found sound.
    pub(crate) proven: Vec<crate::verify::PackName>,
}

impl ScrubReport {
    /// The findings, for [`Repository::record_findings`].
    pub fn findings(&self) -> VerifyReport {
        VerifyReport {
            warnings: self.damage.clone(),
            proven: self.proven.clone(),
            ..VerifyReport::default()
        }
    }
}

/// Scrubs a repository, with or without its keys.
#[derive(Debug)]
pub struct Scrubber {
    destination: Arc<dyn Destination>,
    id: RepositoryId,
    clock: Clock,
    pool: Pool,
    /// With keys.
    shared: Option<Arc<Shared>>,
}

impl Repository {
    /// A scrubber with this repository's keys.
    pub fn scrubber(&self) -> Scrubber {
        let shared = self.shared.clone();
        Scrubber {
            destination: shared.destination.clone(),
            id: shared.id,
            clock: shared.clock.clone(),
            pool: shared.pool.clone(),
            shared: Some(shared),
        }
    }
}

impl Scrubber {
    /// A scrubber without keys, with so many threads (0 for one each core).
    ///
    /// # Errors
    /// As [`Repository::peek`].
    pub async fn keyless(
        destination: Arc<dyn Destination>,
        clock: Clock,
        threads: usize,
    ) -> Result<Self> {
        let key = crate::format::id::descriptor_key();
        let descriptor = Repository::peek(&*destination).await?;
        let id = descriptor.id().map_err(|error| parse_error(key, error))?;
        let pool = Pool::new(threads)?;
        Ok(Self { destination, id, clock, pool, shared: None })
    }

    /// What has been read back, and when.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn status(&self) -> Result<ScrubStatus> {
        let listing = Listing::read(&*self.destination, self.id).await?;
        Ok(listing.status(self.today()))
    }

    /// Reads back packs, the longest unread first.
    ///
    /// # Errors
    /// When the destination fails. Damage is not an error but in the report.
    pub async fn run(
        &self,
        options: &ScrubOptions,
        progress: &ScrubProgress,
    ) -> Result<ScrubReport> {
        let mut listing = Listing::read(&*self.destination, self.id).await?;
        let chosen = listing.oldest(options, self.today());
        let total = chosen.iter().map(|at| u64::from(listing.packs[*at].size)).sum();
        progress.total_bytes.store(total, Ordering::Relaxed);
        let bad = match &self.shared {
            Some(shared) => shared.bad_slots().await?,
            None => Default::default(),
        };
        let memory = Memory::for_threads(self.pool.threads());
        keep_memory();
        let mut report = ScrubReport::default();
        let mut saved_ms = self.clock.now_ms();
        let wanted: Vec<(usize, Listed)> =
            chosen.into_iter().map(|at| (at, listing.packs[at])).collect();
        let going =
            |_: &(usize, Listed)| std::future::ready(!progress.stop.load(Ordering::Relaxed));
        let mut checks = stream::iter(wanted)
            .take_while(going)
            .map(|(at, listed)| {
                let memory = &memory;
                async move { (at, self.check(&listed.object, memory).await) }
            })
            .buffer_unordered(memory.parallel);
        while let Some((at, flaws)) = checks.next().await {
            let Listed { object, size, .. } = listing.packs[at];
            let Some(flaws) = flaws? else { continue };
            progress.bytes.fetch_add(u64::from(size), Ordering::Relaxed);
            report.packs += 1;
            report.bytes += flaws.read;
            if flaws.is_sound() {
                listing.packs[at].day = Some(self.today());
                if bad.holds_pack((object.kind, object.pack)) {
                    report.proven.push((object.kind, object.pack));
                }
            } else {
                (listing.packs[at].day, listing.packs[at].damaged) = (None, true);
                report.damage.extend(damage_of(object.kind, object.pack, &flaws));
            }
            if self.clock.now_ms().saturating_sub(saved_ms) > SAVE_MS {
                self.save(&mut listing).await?;
                saved_ms = self.clock.now_ms();
            }
        }
        drop(checks);
        if report.packs > 0 {
            self.save(&mut listing).await?;
        }
        report.damage.sort_by(|a, b| (&a.object, &a.problem).cmp(&(&b.object, &b.problem)));
        report.stopped = progress.stop.load(Ordering::Relaxed);
        report.status = listing.status(self.today());
        Ok(report)
    }

    /// Writes down what was proven, where that can be done.
    async fn save(&self, listing: &mut Listing) -> Result<()> {
        match listing.save(&*self.destination, self.id).await {
            Err(error) if error.is_unwritable() => {
                tracing::warn!(%error, "what was proven is not remembered");
                Ok(())
            }
            other => other,
        }
    }

    fn today(&self) -> u16 {
        u16::try_from(self.clock.now_ms() / 86_400_000).unwrap_or(u16::MAX)
    }

    /// Checks a pack; nothing when it was removed since the listing.
    async fn check(&self, object: &PackObject, memory: &Memory) -> Result<Option<PackFlaws>> {
        let PackObject { kind, pack, generation } = *object;
        if let Some(shared) = self.shared.as_ref().filter(|_| generation == 0) {
            let all = |table: &[crate::format::pack::SlotEntry]| {
                let live = |slot: &u16| table[usize::from(*slot)].stored_len > 0;
                (0..table.len() as u16).filter(live).collect()
            };
            let flaws = shared.check_pack(kind, pack, memory, all).await?;
            if flaws.read > 0 || !is_gone(&*self.destination, &object_key(object)).await? {
                return Ok(Some(flaws));
            }
            return Ok(None);
        }
        let key = object_key(object);
        let size = match self.destination.head(&key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => return Ok(None),
            other => other?.size,
        };
        let damaged = |problem: &str| RepositoryError::damaged(&key, problem);
        if size >= MAX_PACK as u64 {
            let whole = Some(damaged("it is longer than a pack may be"));
            return Ok(Some(PackFlaws { whole, read: 0, ..PackFlaws::default() }));
        }
        let header =
            Header { kind: header_kind(kind), repository: self.id, object: pack.0, epoch: 0 };
        let mut hash = PackHash::new(header, size);
        let span = |offset| ByteRange::Span { offset, length: PIECE.min(size - offset) };
        let mut pieces = stream::iter((0..size).step_by(PIECE as usize))
            .map(|offset| self.destination.get(&key, span(offset)))
            .buffered(PIECES);
        let mut read = 0;
        while let Some(piece) = pieces.next().await {
            let piece = match piece {
                Err(error) if error.kind() == DestinationKind::NotFound => return Ok(None),
                // It has become shorter; that its length is wrong is told by the end.
                Err(error) if error.kind() == DestinationKind::InvalidRange => break,
                other => other?,
            };
            read += piece.len() as u64;
            let update = move || {
                hash.update(&piece);
                hash
            };
            hash = self.pool.run(update).await?;
        }
        let whole = hash.finish().map(damaged);
        Ok(Some(PackFlaws { whole, read, ..PackFlaws::default() }))
    }
}

/// The C library gives pieces of memory back to the system as they are freed, and the system hands
/// out zeroed pages anew: that takes as long as hashing them. It stops doing so for sizes up to
/// that of a piece that was freed once. No byte of this one is touched.
fn keep_memory() {
    drop(std::hint::black_box(vec![0u8; 31 << 20]));
}

async fn is_gone(destination: &dyn Destination, key: &Key) -> Result<bool> {
    match destination.head(key).await {
        Err(error) if error.kind() == DestinationKind::NotFound => Ok(true),
        other => Ok(other.map(|_| false)?),
    }
}

/// The key of a generation of a pack.
fn object_key(object: &PackObject) -> Key {
    generation_key(object.kind, object.pack, object.generation)
}

//! Proving that restore points can be read.
//!
//! *Structure*: every page of every point is read and its digest compared, and every chunk a
//! page names is looked up in its pack's own table: id, place and length must agree, and the pack
//! must be as long as its footer says. *Data*: packs are also read whole, their hash compared, and
//! the chunks in them decrypted and compared with their ids.
//!
//! ```text
//!  1  walk     every page once                  ->  which slots are named, two bits each
//!  2  packs    every named pack's table once    ->  what is damaged
//!  3  tracing  when something is: walk again    ->  which points and bytes need it
//! ```
//!
//! Memory is the two bits and a little for each pack, however many points share them.

mod flaw;
mod packs;
mod references;
#[cfg(test)]
mod tests;
mod touched;
mod walk;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{self, StreamExt};
use sluice_destination::{ErrorKind as DestinationKind, list_all};

use crate::bad_slots::BadSlots;
use crate::bounded::get_record;
use crate::error::{ErrorKind, Result};
use crate::format::header::Kind;
use crate::format::id::{PackKind, PointId, SessionId, pack_key, segments_prefix};
use crate::format::pack::SlotEntry;
use crate::format::record::session_object;
use crate::points::RestorePoint;
use crate::repository::{Repository, Shared, parse_error};

use flaw::Flaws;
pub use flaw::{Damage, Place, Touched};
pub(crate) use flaw::{damage_of, split};
pub(crate) use packs::{Memory, PackFlaws, PackHash};
pub(crate) use references::PackName;
use references::{Slots, Sums};
use touched::Tracing;
use walk::Walk;

/// Index segments read side by side.
const SEGMENTS: usize = 8;
/// Tables kept to tell which slots they lack; of more packs only the pack is told.
const MOST_TABLES: usize = 64;

/// What to verify.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Depth {
    /// Pages and pack tables.
    Structure,
    /// Also this share of the chunks, 0.0 to 1.0; which ones changes with `seed`.
    Sample {
        /// Share of the chunks.
        share: f64,
        /// Chooses the chunks.
        seed: u64,
    },
    /// Also every chunk.
    Data,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Points looked at.
    pub points: u64,
    /// Their ids, by instance: of what is not here, nothing is known.
    pub looked: BTreeMap<String, Vec<PointId>>,
    /// Different pages read.
    pub pages: u64,
    /// Different packs whose table was compared.
    pub packs: u64,
    /// Different chunks looked up.
    pub chunks: u64,
    /// Chunks read and compared.
    pub chunks_read: u64,
    /// Bytes read for them.
    pub bytes_read: u64,
    /// Everything that is damaged and that points need.
    pub damage: Vec<Damage>,
    /// What is damaged but none of the points needs: it costs space or time, and no data.
    pub warnings: Vec<Damage>,
    /// Packs recorded as damaged that were read whole and found sound, or that are gone together
    /// with all points that needed them.
    pub proven: Vec<(PackKind, crate::PackId)>,
}

/// Counts of a verification under way.
#[derive(Debug, Default)]
pub struct VerifyProgress {
    /// Points done.
    pub points: AtomicU64,
    /// All points.
    pub total_points: AtomicU64,
    /// Bytes of packs to read; 0 until known.
    pub total_bytes: AtomicU64,
    /// Bytes of packs read.
    pub bytes: AtomicU64,
}

impl Repository {
    /// Verifies the given points, or all when there are none given.
    ///
    /// # Errors
    /// When the destination fails. Damage is not an error but in the report.
    pub async fn verify(
        &self,
        points: Option<Vec<RestorePoint>>,
        depth: Depth,
        progress: Arc<VerifyProgress>,
    ) -> Result<VerifyReport> {
        let mut report = VerifyReport::default();
        let walk = Walk::new(self.shared.clone());
        let everything = points.is_none();
        let points = match points {
            Some(points) => points,
            None => {
                report.warnings = self.shared.damaged_segments().await?;
                let listing = self.list(None).await?;
                let flaws = &mut walk.found.lock().flaws;
                for damaged in listing.damaged {
                    let (object, problem) = split(&damaged.error, damaged.key.as_str());
                    flaws.add_for(object, problem, damaged.key.as_str());
                }
                listing.points
            }
        };
        report.points = points.len() as u64;
        progress.total_points.store(report.points, Ordering::Relaxed);
        for point in &points {
            walk.point(point).await?;
            report.looked.entry(point.instance.clone()).or_default().push(point.id);
            progress.points.fetch_add(1, Ordering::Relaxed);
        }
        report.pages = walk.pages.load(Ordering::Relaxed);
        let found = walk.found.into_inner();
        let mut flaws = found.flaws;
        let (packs, sums) = found.references.into_packs();
        report.packs = packs.len() as u64;
        let data = packs.iter().filter(|((kind, _), _)| *kind == PackKind::Data);
        report.chunks = data.map(|(_, slots)| u64::from(slots.count)).sum();
        let shared = &self.shared;
        let bad = shared.bad_slots().await?;
        let named: HashSet<PackName> =
            packs.iter().map(|(name, _)| *name).filter(|name| bad.holds_pack(*name)).collect();
        let todo = Todo { packs, sums, depth, bad };
        let misfits = shared.check_packs(&todo, &mut flaws, &mut report, &progress).await?;
        if everything {
            // Damage that was collected with the points that needed it is over.
            for name in todo.bad.packs().filter(|name| !named.contains(name)) {
                if shared.is_gone(name).await? {
                    report.proven.push(name);
                }
            }
        }
        if flaws.is_empty() && misfits.is_empty() {
            return Ok(report);
        }
        let mut tracing = Tracing::new(shared.clone(), flaws.into_vec(), misfits);
        for point in &points {
            tracing.point(point).await?;
        }
        let (damage, unneeded): (Vec<Damage>, Vec<Damage>) =
            tracing.damage.into_iter().partition(|one| !one.points.is_empty());
        report.damage = damage;
        report.damage.sort_by(|a, b| (&a.object, &a.problem).cmp(&(&b.object, &b.problem)));
        report.warnings.extend(unneeded);
        Ok(report)
    }
}

/// The packs to check, and against what.
struct Todo {
    packs: Vec<(PackName, Slots)>,
    sums: Sums,
    depth: Depth,
    /// Damage that is known.
    bad: BadSlots,
}

/// What became of one pack.
struct Checked {
    name: PackName,
    bytes: u64,
    flaws: PackFlaws,
    /// Whether its table has what is named.
    agrees: bool,
    depth: Depth,
}

impl Shared {
    /// Checks every named pack. Returns the tables of packs that lack what is named.
    async fn check_packs(
        self: &Arc<Self>,
        todo: &Todo,
        flaws: &mut Flaws,
        report: &mut VerifyReport,
        progress: &VerifyProgress,
    ) -> Result<HashMap<PackName, Vec<SlotEntry>>> {
        let total = todo.packs.iter().map(|(_, slots)| slots.bytes).sum();
        progress.total_bytes.store(total, Ordering::Relaxed);
        let memory = Memory::for_threads(self.pool.threads());
        let mut misfits = HashMap::new();
        let mut checks = stream::iter(&todo.packs)
            .map(|(name, slots)| self.check_named(*name, slots, todo, &memory))
            .buffer_unordered(memory.parallel);
        while let Some(checked) = checks.next().await {
            let checked = checked?;
            progress.bytes.fetch_add(checked.bytes, Ordering::Relaxed);
            checked.tell(flaws, report, &mut misfits, &todo.bad);
        }
        Ok(misfits)
    }

    async fn check_named(
        self: &Arc<Self>,
        name: PackName,
        slots: &Slots,
        todo: &Todo,
        memory: &Memory,
    ) -> Result<Checked> {
        let ((kind, pack), depth) = (name, todo.depth);
        let flaws = match depth {
            Depth::Data => {
                // Pages were read and compared on the way here.
                let chosen = |_: &[SlotEntry]| match kind {
                    PackKind::Data => slots.iter().collect(),
                    PackKind::Meta => Vec::new(),
                };
                self.check_pack(kind, pack, memory, chosen).await?
            }
            Depth::Structure | Depth::Sample { .. } => {
                let mut flaws = self.check_table(kind, pack).await?;
                if kind == PackKind::Data {
                    let chosen = sampled(depth, slots, flaws.table.as_deref());
                    self.check_some_slots(pack, &chosen, &mut flaws).await?;
                }
                flaws
            }
        };
        let agrees = flaws.table.as_ref().is_none_or(|table| todo.sums.agree(slots, table));
        Ok(Checked { name, bytes: slots.bytes, flaws, agrees, depth })
    }

    async fn is_gone(&self, (kind, pack): PackName) -> Result<bool> {
        Ok(self.pack_now(kind, pack).await?.is_none())
    }

    /// Damaged index segments.
    async fn damaged_segments(&self) -> Result<Vec<Damage>> {
        let prefix = segments_prefix();
        let objects = list_all(&*self.destination, &prefix).await?;
        let mut reads = stream::iter(objects)
            .map(|object| async move {
                let name = object.key.as_str().rsplit('/').next().unwrap_or_default();
                let session = SessionId::parse(name.split('-').next().unwrap_or_default())
                    .map_err(|error| parse_error(&object.key, error))?;
                let bytes = match get_record(&*self.destination, &object.key).await {
                    // Removed since the listing.
                    Err(error) if error.kind() == DestinationKind::NotFound => return Ok(()),
                    other => other?,
                };
                let id = session_object(session.0);
                self.open_record(&object.key, Kind::Segment, id, &bytes).map(drop)
            })
            .buffer_unordered(SEGMENTS);
        let mut flaws = Flaws::default();
        while let Some(read) = reads.next().await {
            match read {
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    let (object, problem) = split(&error, &prefix);
                    flaws.add(object, problem, None);
                }
                other => other?,
            }
        }
        Ok(flaws.into_vec())
    }
}

impl Checked {
    fn tell(
        self,
        flaws: &mut Flaws,
        report: &mut VerifyReport,
        misfits: &mut HashMap<PackName, Vec<SlotEntry>>,
        bad: &BadSlots,
    ) {
        let (kind, pack) = self.name;
        let key = pack_key(kind, pack);
        report.bytes_read += self.flaws.read;
        if kind == PackKind::Data {
            report.chunks_read += self.flaws.decoded;
        }
        flaws.add_pack(kind, pack, &self.flaws);
        if !self.agrees {
            match self.flaws.table {
                Some(table) if misfits.len() < MOST_TABLES => {
                    misfits.insert(self.name, table);
                }
                _ => {
                    let problem = "its table does not have all that block maps name";
                    let place = Place { kind, pack, slot: None };
                    flaws.add(key.to_string(), problem.into(), Some(place));
                }
            }
        } else if self.depth == Depth::Data && self.flaws.is_sound() && bad.holds_pack(self.name) {
            report.proven.push(self.name);
        }
    }
}

/// The slots of a sample.
fn sampled(depth: Depth, slots: &Slots, table: Option<&[SlotEntry]>) -> Vec<u16> {
    let (Depth::Sample { share, seed }, Some(table)) = (depth, table) else { return Vec::new() };
    let chosen = |slot: &u16| {
        // Ids are evenly spread; the seed turns the wheel.
        let Some(entry) = table.get(usize::from(*slot)) else { return false };
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&entry.id[..16]);
        let hash = hasher.finalize();
        let point = u32::from_le_bytes(hash.as_bytes()[..4].try_into().unwrap_or_default());
        f64::from(point) < share * f64::from(u32::MAX)
    };
    slots.iter().filter(chosen).collect()
}

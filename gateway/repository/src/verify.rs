//! Proving that restore points can be read.
//!
//! *Structure*: every page of every point is read and its digest compared, and every chunk a
//! page names is looked up in its pack's own table: id, place and length must agree, and the pack
//! must be as long as its footer says. *Data*: chunks are also read, decrypted and compared with
//! their ids. Each pack and each chunk is looked at once, however many points share it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use sluice_destination::{ByteRange, DestinationError, ErrorKind as DestinationKind};

use crate::error::{ErrorKind, RepositoryError, Result};
use crate::fetch::{SlotDecoder, coalesce};
use crate::format::FANOUT;
use crate::format::id::{Digest, PackId, PackKind, commit_key, pack_key};
use crate::format::pack::{FOOTER_LEN, MAX_TAIL, SlotEntry, open_table};
use crate::format::page::Entry;
use crate::points::RestorePoint;
use crate::repository::{Repository, Shared, parse_error};

/// Packs looked at side by side. With [`Depth::Data`] each is held whole, so this bounds memory.
const PARALLEL: usize = 4;

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

/// Something that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The object, and the slot where one is to blame.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
    /// Points that need it, as INSTANCE@ID.
    pub points: BTreeSet<String>,
}

/// What a verification found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Points looked at.
    pub points: u64,
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
    /// Everything that is damaged.
    pub damage: Vec<Damage>,
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

#[derive(Default)]
struct Found {
    damage: BTreeMap<(String, String), BTreeSet<String>>,
    /// Pages seen, with whether they were sound.
    pages: HashMap<Digest, bool>,
    /// Slots to look up, by pack.
    slots: BTreeMap<(PackKind, PackId), HashMap<u16, Wanted>>,
}

struct Wanted {
    entry: Entry,
    points: Vec<u32>,
}

impl Found {
    /// Notes that a point needs what this entry names.
    fn want(&mut self, kind: PackKind, entry: &Entry, point: u32) {
        let slots = self.slots.entry((kind, entry.location.pack)).or_default();
        let fresh = || Wanted { entry: *entry, points: Vec::new() };
        let wanted = slots.entry(entry.location.slot).or_insert_with(fresh);
        if wanted.points.last() != Some(&point) {
            wanted.points.push(point);
        }
    }

    fn add(&mut self, object: String, problem: String, point: &str) {
        self.damage.entry((object, problem)).or_default().insert(point.to_owned());
    }
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
        let mut found = Found::default();
        let points = match points {
            Some(points) => points,
            None => {
                let listing = self.list(None).await?;
                for damaged in listing.damaged {
                    let (object, problem) = split(&damaged.error, damaged.key.as_str());
                    found.add(object, problem, damaged.key.as_str());
                }
                listing.points
            }
        };
        progress.total_points.store(points.len() as u64, Ordering::Relaxed);
        let names: Vec<String> = points.iter().map(ToString::to_string).collect();
        for (number, point) in points.iter().enumerate() {
            self.walk(point, number as u32, &names, &mut found).await?;
            progress.points.fetch_add(1, Ordering::Relaxed);
        }
        let mut report = VerifyReport {
            points: points.len() as u64,
            pages: found.pages.len() as u64,
            packs: found.slots.len() as u64,
            chunks: (found.slots.iter())
                .filter(|((kind, _), _)| *kind == PackKind::Data)
                .map(|(_, slots)| slots.len() as u64)
                .sum(),
            ..VerifyReport::default()
        };
        let slots = std::mem::take(&mut found.slots);
        self.check_packs(slots, depth, &names, &mut found, &mut report, &progress).await?;
        let damage = found.damage.into_iter();
        report.damage =
            damage.map(|((object, problem), points)| Damage { object, problem, points }).collect();
        Ok(report)
    }

    /// Reads a point's pages and notes the chunks they name.
    async fn walk(
        &self,
        point: &RestorePoint,
        number: u32,
        names: &[String],
        found: &mut Found,
    ) -> Result<()> {
        let name = &names[number as usize];
        for record in &point.images {
            let image = match self.shared.open_image(point, record) {
                Ok(image) => image,
                Err(error) => {
                    let key = commit_key(point.chain, point.id);
                    let (object, problem) = split(&error, key.as_str());
                    found.add(object, problem, name);
                    continue;
                }
            };
            for top in image.inner.directory.clone() {
                let entry = Entry { id: top.digest, location: top.location };
                found.want(PackKind::Meta, &entry, number);
                let pages = self.shared.pages(&[entry], 1, record.block_size).await;
                let Some(page) = first(pages, &entry, name, found)? else { continue };
                found.pages.insert(entry.id, true);
                page.iter().for_each(|(_, leaf)| found.want(PackKind::Meta, leaf, number));
                let leaves: Vec<Entry> = page.iter().map(|(_, entry)| *entry).collect();
                for batch in leaves.chunks(FANOUT / 4) {
                    self.walk_leaves(batch, record.block_size, number, name, found).await?;
                }
            }
        }
        Ok(())
    }

    async fn walk_leaves(
        &self,
        leaves: &[Entry],
        block_size: u32,
        number: u32,
        name: &str,
        found: &mut Found,
    ) -> Result<()> {
        // Together when they are sound, which they nearly always are; else one by one, to
        // name the damaged one.
        let together = self.shared.pages(leaves, 0, block_size).await;
        let pages = match together {
            Ok(pages) => pages.into_iter().zip(leaves).map(|(p, e)| (Some(p), *e)).collect(),
            Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
            Err(_) => {
                let mut pages = Vec::new();
                for entry in leaves {
                    let page = self.shared.pages(&[*entry], 0, block_size).await;
                    pages.push((first(page, entry, name, found)?, *entry));
                }
                pages
            }
        };
        for (page, entry) in pages {
            let Some(page) = page else { continue };
            found.pages.insert(entry.id, true);
            page.iter().for_each(|(_, chunk)| found.want(PackKind::Data, chunk, number));
        }
        Ok(())
    }

    async fn check_packs(
        &self,
        packs: BTreeMap<(PackKind, PackId), HashMap<u16, Wanted>>,
        depth: Depth,
        names: &[String],
        found: &mut Found,
        report: &mut VerifyReport,
        progress: &VerifyProgress,
    ) -> Result<()> {
        let length = |slots: &HashMap<u16, Wanted>| -> u64 {
            slots.values().map(|wanted| u64::from(wanted.entry.location.stored_len)).sum()
        };
        progress.total_bytes.store(packs.values().map(length).sum(), Ordering::Relaxed);
        let mut checks = stream::iter(packs)
            .map(|((kind, pack), slots)| {
                let shared = self.shared.clone();
                async move {
                    let bytes = length(&slots);
                    (bytes, shared.check_pack(kind, pack, slots, depth).await)
                }
            })
            .buffer_unordered(PARALLEL);
        while let Some((bytes, result)) = checks.next().await {
            let checked = result?;
            progress.bytes.fetch_add(bytes, Ordering::Relaxed);
            report.chunks_read += checked.chunks_read;
            report.bytes_read += checked.bytes_read;
            for (problem, object, points) in checked.damage {
                for point in points {
                    found.add(object.clone(), problem.clone(), &names[point as usize]);
                }
            }
        }
        Ok(())
    }
}

/// The one page asked for, or its damage noted.
fn first<T>(
    pages: Result<Vec<T>>,
    entry: &Entry,
    point: &str,
    found: &mut Found,
) -> Result<Option<T>> {
    match pages {
        Ok(mut pages) => Ok(pages.pop()),
        Err(error) if error.kind() == ErrorKind::Damaged => {
            let key = pack_key(PackKind::Meta, entry.location.pack);
            let (object, problem) = split(&error, key.as_str());
            found.pages.insert(entry.id, false);
            found.add(object, problem, point);
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Splits "object X is damaged: Y" into X and Y.
pub(crate) fn split(error: &RepositoryError, object: &str) -> (String, String) {
    let text = error.to_string();
    match text.strip_prefix("object ").and_then(|rest| rest.split_once(" is damaged: ")) {
        Some((object, problem)) => (object.to_owned(), problem.to_owned()),
        None => (object.to_owned(), text),
    }
}

#[derive(Default)]
struct Checked {
    chunks_read: u64,
    bytes_read: u64,
    /// Problem, object, and numbers of the points.
    damage: Vec<(String, String, Vec<u32>)>,
}

impl Shared {
    async fn check_pack(
        self: Arc<Self>,
        kind: PackKind,
        pack: PackId,
        slots: HashMap<u16, Wanted>,
        depth: Depth,
    ) -> Result<Checked> {
        let mut checked = Checked::default();
        let key = pack_key(kind, pack);
        let mut whole = None;
        let read = self.whole_pack_table(kind, pack, depth, &mut checked, &mut whole).await;
        let table = match read {
            Ok(table) => Some(table),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                let points: BTreeSet<u32> = slots.values().flat_map(|w| w.points.clone()).collect();
                let (object, problem) = split(&error, key.as_str());
                checked.damage.push((problem, object, points.into_iter().collect()));
                None
            }
            Err(error) => return Err(error),
        };
        for (slot, wanted) in table.iter().flat_map(|_| &slots) {
            let entry = table.as_ref().and_then(|table| table.get(usize::from(*slot)));
            if !agrees(entry, &wanted.entry) {
                let problem = "the pack's table does not have what the block map names";
                let object = format!("{key} slot {slot}");
                checked.damage.push((problem.into(), object, wanted.points.clone()));
            }
        }
        // Pages were read and compared on the way here. Chunks of a pack with damage elsewhere
        // may still be sound, each for itself.
        if kind == PackKind::Data {
            let chosen: HashSet<u16> = slots
                .iter()
                .filter(|(_, wanted)| chosen(depth, wanted.entry.id))
                .map(|(slot, _)| *slot)
                .collect();
            self.read_chunks(pack, &slots, &chosen, whole, &mut checked).await?;
        }
        checked.damage.sort();
        checked.damage.dedup_by(|a, b| a.1 == b.1);
        Ok(checked)
    }

    /// A pack's table, after comparing the pack's length with its footer, and with
    /// [`Depth::Data`] all its bytes with its hash.
    async fn whole_pack_table(
        self: &Arc<Self>,
        kind: PackKind,
        pack: PackId,
        depth: Depth,
        checked: &mut Checked,
        bytes: &mut Option<Bytes>,
    ) -> Result<Vec<SlotEntry>> {
        let key = pack_key(kind, pack);
        let missing = |error: DestinationError| match error.kind() {
            DestinationKind::NotFound => RepositoryError::damaged(&key, "it is missing"),
            _ => error.into(),
        };
        let meta = self.destination.head(&key).await.map_err(missing)?;
        let whole = depth == Depth::Data;
        let range = if whole { ByteRange::Full } else { ByteRange::Suffix(MAX_TAIL as u64) };
        let tail = self.destination.get(&key, range).await.map_err(missing)?;
        if whole {
            checked.bytes_read += tail.len() as u64;
            *bytes = Some(tail.clone());
        }
        let (footer, table) = open_table(&self.keys, self.id, kind, pack, &tail)
            .map_err(|error| parse_error(&key, error))?;
        if footer.pack_len() != meta.size || meta.size < FOOTER_LEN as u64 {
            return Err(RepositoryError::damaged(&key, "its length is not what its footer says"));
        }
        if whole {
            let body = tail.slice(..tail.len() - FOOTER_LEN);
            let hash = self.pool.run(move || *blake3::hash(&body).as_bytes()).await?;
            if hash != footer.hash {
                return Err(RepositoryError::damaged(&key, "its bytes differ from its hash"));
            }
        }
        Ok(table)
    }

    async fn read_chunks(
        self: &Arc<Self>,
        pack: PackId,
        slots: &HashMap<u16, Wanted>,
        chosen: &HashSet<u16>,
        whole: Option<Bytes>,
        checked: &mut Checked,
    ) -> Result<()> {
        let wanted = chosen.iter().map(|slot| (u64::from(*slot), slots[slot].entry)).collect();
        for run in coalesce(PackKind::Data, wanted) {
            let bytes = match (&whole, self.get_run(&run)) {
                (Some(whole), _) => {
                    let from = (run.offset as usize).min(whole.len());
                    whole.slice(from..(from + run.length as usize).min(whole.len()))
                }
                (None, got) => match got.await {
                    Ok(bytes) => bytes,
                    Err(error) if error.kind() == ErrorKind::Damaged => Bytes::new(),
                    Err(error) => return Err(error),
                },
            };
            checked.bytes_read += if whole.is_some() { 0 } else { bytes.len() as u64 };
            checked.chunks_read += run.wanted.len() as u64;
            let shared = self.clone();
            let check = move || {
                let decoder = SlotDecoder::new(&shared.keys, PackKind::Data, pack);
                let mut out = Vec::new();
                let mut bad = Vec::new();
                for (slot, entry) in &run.wanted {
                    let stored = run.slice(&bytes, &entry.location);
                    if let Err(error) = decoder.chunk(&shared.keys, entry, stored, &mut out) {
                        bad.push((*slot as u16, error));
                    }
                }
                bad
            };
            for (slot, error) in self.pool.run(check).await? {
                let (object, problem) = split(&error, pack_key(PackKind::Data, pack).as_str());
                checked.damage.push((problem, object, slots[&slot].points.clone()));
            }
        }
        Ok(())
    }
}

/// Whether a pack's table has what a page says.
fn agrees(slot: Option<&SlotEntry>, entry: &Entry) -> bool {
    let place = &entry.location;
    slot.is_some_and(|slot| {
        slot.id[..16] == entry.id.0
            && slot.stored_len == place.stored_len
            && slot.offset == place.offset
            && slot.codec == place.codec
    })
}

/// Whether a chunk is read at this depth.
fn chosen(depth: Depth, id: Digest) -> bool {
    match depth {
        Depth::Structure => false,
        Depth::Data => true,
        Depth::Sample { share, seed } => {
            // Ids are evenly spread; the seed turns the wheel.
            let mut hasher = blake3::Hasher::new();
            hasher.update(&seed.to_le_bytes()).update(&id.0);
            let hash = hasher.finalize();
            let point = u32::from_le_bytes(hash.as_bytes()[..4].try_into().unwrap_or_default());
            f64::from(point) < share * f64::from(u32::MAX)
        }
    }
}

//! Damage that was found, told to all writers.
//!
//! Whoever finds damage in a pack, twice in a row, leaves a record of it (`b/`, see
//! `docs/format/`). A session reads them when it begins, and takes no damaged slot for content
//! that is there: what the source still has is stored again, and new points are whole. When a
//! pack is sound again, a record that names those before it says so; once nothing is damaged any
//! more, all are removed.
//!
//! Records are advisory: a missing one costs a point that could have been healed, one too many
//! costs space.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use sluice_destination::{ErrorKind as DestinationKind, Key, list_all};

use crate::bounded::get_record;
use crate::crypto::random;
use crate::error::{ErrorKind, Result};
use crate::format::findings::{BadPack, FindingsBody, MAX_PACKS, PackRef};
use crate::format::header::Kind;
use crate::format::id::{FINDINGS_PREFIX, FindingId, PackId, PackKind, finding_key};
use crate::format::page::{Location, Page};
use crate::format::record::{from_cbor, session_object, to_cbor};
use crate::host;
use crate::repository::{Repository, Shared, parse_error};
use crate::verify::{Memory, PackName, Place, VerifyReport};

/// Records read side by side.
const PARALLEL: usize = 16;

/// The places known to be damaged.
#[derive(Debug, Clone, Default)]
pub(crate) struct BadSlots {
    packs: HashMap<PackName, Bad>,
    records: Vec<FindingId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Bad {
    Whole,
    Slots(BTreeSet<u16>),
}

impl BadSlots {
    /// Whether nothing is known to be damaged.
    pub(crate) fn is_empty(&self) -> bool {
        self.packs.is_empty()
    }

    /// Whether any pack of this kind is.
    pub(crate) fn has(&self, kind: PackKind) -> bool {
        self.packs.keys().any(|(bad, _)| *bad == kind)
    }

    /// Whether this slot is.
    pub(crate) fn holds(&self, kind: PackKind, location: &Location) -> bool {
        self.packs.get(&(kind, location.pack)).is_some_and(|bad| bad.holds(location.slot))
    }

    /// Whether any chunk that the leaf names is.
    pub(crate) fn any_of(&self, leaf: &Page) -> bool {
        leaf.iter().any(|(_, chunk)| self.holds(PackKind::Data, &chunk.location))
    }

    pub(crate) fn holds_pack(&self, name: PackName) -> bool {
        self.packs.contains_key(&name)
    }

    /// The packs with damage.
    pub(crate) fn packs(&self) -> impl Iterator<Item = PackName> + '_ {
        self.packs.keys().copied()
    }

    fn add(&mut self, pack: &BadPack) {
        let Some(kind) = pack.pack.kind() else { return };
        let known = self.packs.entry((kind, pack.pack.pack));
        let known = known.or_insert_with(|| Bad::Slots(BTreeSet::new()));
        match known {
            Bad::Slots(slots) if !pack.slots.is_empty() => slots.extend(&pack.slots),
            whole => *whole = Bad::Whole,
        }
    }
}

impl Bad {
    fn holds(&self, slot: u16) -> bool {
        match self {
            Self::Whole => true,
            Self::Slots(slots) => slots.contains(&slot),
        }
    }
}

/// What [`Repository::record_findings`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Packs now known to be damaged that were not before.
    pub bad: usize,
    /// Packs known to be damaged that are sound again.
    pub healed: usize,
}

impl Repository {
    /// Records what a verification found, so that the next backups heal what their sources still
    /// have. Every damaged pack is read once more before; on a destination that cannot be written
    /// nothing is recorded.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn record_findings(&self, found: &VerifyReport) -> Result<Recorded> {
        let damage = found.damage.iter().chain(&found.warnings);
        let places = damage.filter_map(|one| Some((one.place?, one.is_misfit())));
        let places: Vec<(Place, bool)> = places.collect();
        match self.shared.record_places(&places, &found.proven).await {
            Err(error) if error.is_unwritable() => {
                tracing::warn!(%error, "damage is not recorded in the repository");
                Ok(Recorded::default())
            }
            other => other,
        }
    }
}

/// The pack that a key names.
pub(crate) fn parse_pack_name(text: &str) -> Option<PackName> {
    let kind = match text.split('/').next()? {
        "d" => PackKind::Data,
        "m" => PackKind::Meta,
        _ => return None,
    };
    let (name, _generation) = text.rsplit('/').next()?.split_once('.')?;
    Some((kind, PackId::parse(name).ok()?))
}

impl Shared {
    /// What is known to be damaged now.
    pub(crate) async fn bad_slots(&self) -> Result<BadSlots> {
        let mut records: Vec<(FindingId, FindingsBody)> = Vec::new();
        let objects = list_all(&*self.destination, FINDINGS_PREFIX).await?;
        let keys = objects.into_iter().map(|object| object.key);
        let mut reads = stream::iter(keys).map(|key| self.read_finding(key)).buffered(PARALLEL);
        while let Some(read) = reads.next().await {
            match read {
                Ok(Some(record)) => records.push(record),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(%error, "skipping a record of findings");
                }
                Err(error) => return Err(error),
            }
        }
        let over: HashSet<(FindingId, u8, PackId)> = records
            .iter()
            .flat_map(|(_, body)| body.answers.iter().map(move |id| (*id, &body.healed)))
            .flat_map(|(id, healed)| healed.iter().map(move |one| (id, one.kind, one.pack)))
            .collect();
        let mut bad = BadSlots::default();
        for (id, body) in &records {
            bad.records.push(*id);
            let live = |pack: &&BadPack| !over.contains(&(*id, pack.pack.kind, pack.pack.pack));
            body.bad.iter().filter(live).for_each(|pack| bad.add(pack));
        }
        Ok(bad)
    }

    async fn read_finding(&self, key: Key) -> Result<Option<(FindingId, FindingsBody)>> {
        let Ok(id) = FindingId::parse(&key.as_str()[FINDINGS_PREFIX.len()..]) else {
            return Ok(None);
        };
        let bytes = match get_record(&*self.destination, &key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => return Ok(None),
            other => other?,
        };
        let body = self.open_record(&key, Kind::Findings, session_object(id.0), &bytes)?;
        let body = from_cbor(&body).map_err(|error| parse_error(&key, error))?;
        Ok(Some((id, body)))
    }

    pub(crate) async fn record_places(
        self: &Arc<Self>,
        places: &[(Place, bool)],
        proven: &[PackName],
    ) -> Result<Recorded> {
        let known = self.bad_slots().await?;
        let bad = self.confirmed(places, &known).await?;
        let healed: Vec<PackRef> = proven
            .iter()
            .filter(|name| known.holds_pack(**name))
            .map(|(kind, pack)| PackRef::new(*kind, *pack))
            .collect();
        let recorded = Recorded { bad: bad.len(), healed: healed.len() };
        for part in bad.chunks(MAX_PACKS) {
            let bad = part.to_vec();
            self.put_finding(FindingsBody { bad, ..FindingsBody::default() }).await?;
        }
        if healed.is_empty() {
            return Ok(recorded);
        }
        let answers = known.records.clone();
        self.put_finding(FindingsBody { healed, answers, ..FindingsBody::default() }).await?;
        self.clear_findings().await?;
        Ok(recorded)
    }

    /// Removes all records when they say that nothing is damaged.
    async fn clear_findings(&self) -> Result<()> {
        let mut now = self.bad_slots().await?;
        if now.is_empty() {
            // In order of age, so that an answer goes after what it answers.
            now.records.sort_unstable();
            for id in now.records {
                self.destination.delete(&finding_key(id)).await?;
            }
        }
        Ok(())
    }

    async fn put_finding(&self, body: FindingsBody) -> Result<()> {
        let now = self.clock.now_ms();
        let id = FindingId::new(now, random()?);
        let body = FindingsBody { found_ms: now, host: host::name(), ..body };
        let object = session_object(id.0);
        let sealed = self.seal_record(Kind::Findings, object, &[], &to_cbor(&body))?;
        Ok(self.destination.put_new(&finding_key(id), sealed).await?)
    }

    /// Damage that a second look confirms and that is not known yet. A flipped bit on the wire,
    /// or in memory, is not one in the store.
    async fn confirmed(
        self: &Arc<Self>,
        places: &[(Place, bool)],
        known: &BadSlots,
    ) -> Result<Vec<BadPack>> {
        // A block map and a table that contradict each other are both authentic: no second look
        // changes that.
        let mut by_pack: HashMap<PackName, BTreeSet<u16>> = HashMap::new();
        for (place, misfit) in places {
            let certain = by_pack.entry((place.kind, place.pack)).or_default();
            certain.extend(place.slot.filter(|_| *misfit));
        }
        let memory = Memory::for_threads(self.pool.threads());
        let mut bad = Vec::new();
        for ((kind, pack), certain) in by_pack {
            let pick = |table: &[_]| (0..table.len() as u16).collect();
            let again = self.check_pack(kind, pack, &memory, pick).await?;
            let reference = PackRef::new(kind, pack);
            let mut found: BTreeSet<u16> = again.slots.iter().map(|(slot, _)| *slot).collect();
            found.extend(certain);
            let slots: Vec<u16> = match (&again.whole, known.packs.get(&(kind, pack))) {
                (_, Some(Bad::Whole)) => continue,
                (Some(_), _) => Vec::new(),
                (None, known) => {
                    let fresh = |slot: &u16| !known.is_some_and(|known| known.holds(*slot));
                    let slots: Vec<u16> = found.into_iter().filter(fresh).collect();
                    if slots.is_empty() {
                        continue;
                    }
                    slots
                }
            };
            bad.push(BadPack { pack: reference, slots });
        }
        bad.sort_by_key(|one| (one.pack.kind, one.pack.pack));
        Ok(bad)
    }
}

//! What must stay: points, pinned points, and what open sessions build on.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, SystemTime};

use sluice_destination::{ErrorKind as DestinationKind, Key, MAX_PAGE, ObjectMeta, list_all};

use crate::bounded::get_record;
use crate::collect::marks::Marks;
use crate::doctor::repair::advise;
use crate::error::Result;
use crate::format::header::Kind;
use crate::format::id::{
    ChainId, CollectionPart, PackId, PinId, PointId, SessionId, collection_key, commits_prefix,
    parse_pack_key, parse_point_key, protections_prefix, tombstones_prefix,
};
use crate::format::record::{PinRecord, SessionRecord, from_cbor, session_object};
use crate::repository::{Shared, parse_error};

/// A place in a chain.
pub(crate) type Place = (ChainId, PointId);

/// An open session, as its record tells.
#[derive(Debug, Clone)]
pub(crate) struct Open {
    pub(crate) key: Key,
    pub(crate) record: SessionRecord,
    /// How long it has shown no sign of life, by the destination's own clock.
    pub(crate) silent: Duration,
}

/// What a look at the destination found.
#[derive(Debug, Default)]
pub(crate) struct Roots {
    pub(crate) sessions: Vec<Open>,
    /// Points that must stay readable.
    pub(crate) points: BTreeSet<Place>,
    /// Points that were pruned and nobody reads.
    pub(crate) gone: BTreeSet<Place>,
    /// Records of pins that have expired.
    pub(crate) expired_pins: Vec<Key>,
}

impl Roots {
    /// Sessions whose packs must not be touched.
    pub(crate) fn owners(&self) -> HashSet<SessionId> {
        self.sessions.iter().map(|open| open.record.session).collect()
    }

    /// Packs that open sessions referenced before they knew that they are condemned.
    pub(crate) fn needs(&self) -> HashSet<PackId> {
        let needs = self.sessions.iter().filter_map(|open| open.record.needs.as_ref());
        needs.flatten().copied().collect()
    }
}

impl Shared {
    /// Lists all packs.
    pub(crate) async fn list_packs(&self) -> Result<Marks> {
        let mut marks = Marks::default();
        for prefix in ["d/", "m/"] {
            let mut after: Option<Key> = None;
            loop {
                let page = self.destination.list(prefix, after.as_ref(), MAX_PAGE).await?;
                for object in &page.objects {
                    if let Some(((kind, pack), generation)) = parse_pack_key(&object.key) {
                        marks.list(kind, pack, generation, object.size);
                    }
                }
                after = page.objects.last().map(|object| object.key.clone());
                if !page.more || after.is_none() {
                    break;
                }
            }
        }
        marks.seal();
        Ok(marks)
    }

    /// Looks at tombstones, holds, pins, sessions and commits, in this order. Whoever puts a pin or
    /// a session record and then finds no tombstone relies on being seen by those who did find it;
    /// and a session that commits goes on from the records of sessions to those of commits.
    pub(crate) async fn roots(&self, number: u64, silent: Duration) -> Result<Roots> {
        let mut roots = Roots::default();
        let places = async |prefix: String| -> Result<BTreeSet<Place>> {
            let objects = list_all(&*self.destination, &prefix).await?;
            Ok(objects.iter().filter_map(|object| parse_point_key(&object.key)).collect())
        };
        let tombstones = places(tombstones_prefix()).await?;
        // A hold that came while its point was being pruned: the tombstone will be taken back.
        let held = places(protections_prefix()).await?;
        for (chain, point) in tombstones.intersection(&held) {
            let protection = self.protection_or_hold(*chain, *point).await?;
            if protection.is_some_and(|one| one.keeper(self.clock.now_ms()).is_some()) {
                roots.points.insert((*chain, *point));
            }
        }
        let now = self.time_there(number).await?;
        for object in list_all(&*self.destination, "p/").await? {
            if silence(now, &object, None, self.clock.now_ms()).is_some_and(|long| long > silent) {
                roots.expired_pins.push(object.key);
            } else if let Some(place) = self.read_pin(&object.key).await? {
                roots.points.insert(place);
            }
        }
        roots.sessions = self.sessions(number).await?;
        let commits = places(commits_prefix()).await?;
        for open in &roots.sessions {
            roots.points.extend(open.record.parent.map(|parent| (open.record.chain, parent)));
        }
        roots.points.retain(|place| commits.contains(place));
        roots.gone = commits.intersection(&tombstones).copied().collect();
        roots.gone.retain(|place| !roots.points.contains(place));
        roots.points.extend(commits.difference(&tombstones));
        Ok(roots)
    }

    /// All session records.
    pub(crate) async fn sessions(&self, number: u64) -> Result<Vec<Open>> {
        let now = self.time_there(number).await?;
        let mut sessions = Vec::new();
        for object in list_all(&*self.destination, "s/").await? {
            let Some(record) = self.read_session(&object.key).await? else { continue };
            let heartbeat = Some(record.heartbeat_ms);
            let silent = silence(now, &object, heartbeat, self.clock.now_ms());
            let silent = silent.unwrap_or_default();
            sessions.push(Open { key: object.key, record, silent });
        }
        Ok(sessions)
    }

    /// A session record; nothing when it is gone. One that cannot be read is an error: what it
    /// protects is not known.
    async fn read_session(&self, key: &Key) -> Result<Option<SessionRecord>> {
        let Ok(id) = SessionId::parse(key.as_str().trim_start_matches("s/")) else {
            return Ok(None);
        };
        let Some(bytes) = self.get_if_there(key).await? else { return Ok(None) };
        let body = self.open_record(key, Kind::Session, session_object(id.0), &bytes);
        let body = body.map_err(advise)?;
        from_cbor(&body).map(Some).map_err(|error| parse_error(key, error))
    }

    async fn read_pin(&self, key: &Key) -> Result<Option<Place>> {
        let Ok(id) = PinId::parse(key.as_str().trim_start_matches("p/")) else { return Ok(None) };
        let Some(bytes) = self.get_if_there(key).await? else { return Ok(None) };
        let body = self.open_record(key, Kind::Pin, session_object(id.0), &bytes);
        let body = body.map_err(advise)?;
        let pin: PinRecord = from_cbor(&body).map_err(|error| parse_error(key, error))?;
        Ok(Some((pin.chain, pin.point)))
    }

    async fn get_if_there(&self, key: &Key) -> Result<Option<bytes::Bytes>> {
        match get_record(&*self.destination, key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => Ok(None),
            other => Ok(Some(other?)),
        }
    }

    /// The destination's own time, as it marked the collector's last sign of life.
    async fn time_there(&self, number: u64) -> Result<Option<SystemTime>> {
        match self.destination.head(&collection_key(number, CollectionPart::Alive)).await {
            Ok(meta) => Ok(meta.modified),
            // A plan that changes nothing leaves no sign of life.
            Err(error) if error.kind() == DestinationKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// How long an object was not written: by the destination's clock, which needs no other to agree
/// with it; else by what its record says.
fn silence(
    now: Option<SystemTime>,
    object: &ObjectMeta,
    heartbeat_ms: Option<u64>,
    now_ms: u64,
) -> Option<Duration> {
    match (now, object.modified) {
        (Some(now), Some(modified)) => Some(now.duration_since(modified).unwrap_or_default()),
        _ => heartbeat_ms.map(|then| Duration::from_millis(now_ms.saturating_sub(then))),
    }
}

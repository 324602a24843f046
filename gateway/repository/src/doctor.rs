//! Examining a repository: all that can be told about its state, beyond what verification tells.

pub mod partitions;
pub mod repair;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use sluice_destination::{Destination, ErrorKind as DestinationKind, Key, list_all};

use crate::bounded::get_record;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::checked::{Check, check};
use crate::format::collection::collection_object;
use crate::format::coverage::Coverage;
use crate::format::descriptor::Descriptor;
use crate::format::header::Kind;
use crate::format::id::{
    COLLECTIONS_PREFIX, COVERAGE_PREFIX, CollectionPart, FINDINGS_PREFIX, PinId, SessionId,
    descriptor_key, parse_collection_key, parse_point_key, protections_prefix, tombstones_prefix,
};
use crate::format::keyslot::KeySlot;
use crate::format::record::{PinRecord, SessionRecord, epoch_object, from_cbor, session_object};
use crate::heal::{descriptor_flaw, slot_flaw, witnessed};
use crate::host;
use crate::repository::{Repository, Shared, parse_error};

/// Records read side by side.
const PARALLEL: usize = 16;
/// Who gave no sign of life for this long is taken for dead, in ms.
const SILENT_MS: u64 = 24 * 3600 * 1000;

/// An object, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flawed {
    /// The object's key.
    pub object: String,
    /// What is wrong with it.
    pub problem: String,
}

/// A key slot as it lies there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// Its name.
    pub name: String,
    /// Its kind and label, when it can be read.
    pub kind: Option<(String, String)>,
    /// Whether it has a checksum, without which not every flipped bit can be told.
    pub checked: bool,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// What can be told without a key.
#[derive(Debug, Clone)]
pub struct Surface {
    /// The descriptor, when it can be read.
    pub descriptor: Option<Descriptor>,
    /// What is wrong with it.
    pub descriptor_problem: Option<String>,
    /// The key slots.
    pub key_slots: Vec<SlotState>,
}

/// Reads what can be read without a key.
///
/// # Errors
/// When the destination fails.
pub async fn examine(destination: &dyn Destination) -> Result<Surface> {
    let bytes = read(destination, &descriptor_key()).await?;
    let id = witnessed(destination).await?;
    let mut key_slots = Vec::new();
    for object in list_all(destination, "keys/").await? {
        let Some(bytes) = read(destination, &object.key).await? else { continue };
        let slot = KeySlot::decode(&bytes).ok();
        key_slots.push(SlotState {
            name: object.key.as_str().trim_start_matches("keys/").to_owned(),
            kind: slot.as_ref().map(|slot| {
                let (label, kind, _) = slot.describe();
                (kind.to_owned(), label.to_owned())
            }),
            checked: check(&bytes) != Check::Absent,
            problem: slot_flaw(&bytes),
        });
    }
    // A repository that never was is no damaged one.
    let is_one = bytes.is_some() || id.is_some() || !key_slots.is_empty();
    Ok(Surface {
        descriptor: bytes.as_deref().and_then(|bytes| Descriptor::decode(bytes).ok()),
        descriptor_problem: descriptor_flaw(bytes.as_deref(), id).filter(|_| is_one),
        key_slots,
    })
}

async fn read(destination: &dyn Destination, key: &Key) -> Result<Option<Bytes>> {
    match get_record(destination, key).await {
        Err(error) if error.kind() == DestinationKind::NotFound => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// A session that left a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionTrace {
    /// Its id.
    pub session: String,
    /// The instance it backs up.
    pub instance: String,
    /// The host that runs it.
    pub host: String,
    /// When it began, in ms since 1970.
    pub started_ms: u64,
    /// Its last sign of life, in ms since 1970.
    pub heartbeat_ms: u64,
    /// Whether it is dead for all that can be told from here.
    pub dead: bool,
}

/// A pin somebody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinTrace {
    /// Its id.
    pub pin: String,
    /// The pinned point.
    pub point: String,
    /// The host that holds it.
    pub host: String,
    /// What for.
    pub purpose: String,
    /// Its last sign of life, in ms since 1970.
    pub heartbeat_ms: u64,
    /// Whether it gave none for a day.
    pub silent: bool,
}

/// What running programs, or such as ran, left behind.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    /// Sessions.
    pub sessions: Vec<SessionTrace>,
    /// Pins.
    pub pins: Vec<PinTrace>,
    /// The generation of a collection that began and did not end.
    pub unfinished_collection: Option<u64>,
    /// Packs recorded as damaged.
    pub known_bad: usize,
    /// Damaged records that no point needs: sessions, pins, tombstones, protections, collections,
    /// epochs, findings, coverage.
    pub damaged: Vec<Flawed>,
}

impl Repository {
    /// Looks at what running programs, or such as ran, left behind.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn traces(&self) -> Result<Traces> {
        let shared = &self.shared;
        let mut traces = Traces::default();
        let mut damaged = Vec::new();
        for (_, read) in shared.all_below("s/", Shared::session_trace).await? {
            keep(read, &mut traces.sessions, &mut damaged)?;
        }
        for (_, read) in shared.all_below("p/", Shared::pin_trace).await? {
            keep(read, &mut traces.pins, &mut damaged)?;
        }
        for (key, read) in shared.all_below(&tombstones_prefix(), Shared::record_flaw).await? {
            damaged.extend(read?.map(|problem| (key, problem)));
        }
        for prefix in [protections_prefix(), COLLECTIONS_PREFIX.into(), "e/".into()] {
            for (_, read) in shared.all_below(&prefix, Shared::open_known).await? {
                keep(read, &mut Vec::new(), &mut damaged)?;
            }
        }
        for (_, read) in shared.all_below(FINDINGS_PREFIX, Shared::open_finding).await? {
            keep(read, &mut Vec::new(), &mut damaged)?;
        }
        let coverage = |shared: &Shared, key: &Key, bytes: &Bytes| {
            let number = key.as_str()[COVERAGE_PREFIX.len()..].parse().unwrap_or(u32::MAX);
            Ok(Coverage::decode(bytes, shared.id, number).err().map(|error| error.to_string()))
        };
        for (key, read) in shared.all_below(COVERAGE_PREFIX, coverage).await? {
            damaged.extend(read?.map(|problem| (key, problem)));
        }
        traces.damaged = damaged
            .into_iter()
            .map(|(key, problem)| Flawed { object: key.to_string(), problem })
            .collect();
        traces.known_bad = shared.bad_slots().await?.packs().count();
        let keys = list_all(&*shared.destination, "g/").await?;
        traces.unfinished_collection = unfinished(keys.iter().map(|object| object.key.as_str()));
        Ok(traces)
    }
}

/// What kind of record must be at a key, and of what: sessions, pins, tombstones, protections,
/// collections and epochs.
fn record_of(key: &Key) -> Option<(Kind, [u8; 16])> {
    let (place, rest) = key.as_str().split_once('/')?;
    match place {
        "s" => Some((Kind::Session, session_object(SessionId::parse(rest).ok()?.0))),
        "p" => Some((Kind::Pin, session_object(PinId::parse(rest).ok()?.0))),
        "t" => parse_point_key(key).map(|(_, point)| (Kind::Tombstone, point.0)),
        "h" => parse_point_key(key).map(|(_, point)| (Kind::Protection, point.0)),
        "e" => Some((Kind::Epoch, epoch_object(rest.parse().ok()?))),
        _ => {
            let (number, part) = parse_collection_key(key)?;
            let kind = match part {
                CollectionPart::Plan | CollectionPart::Alive => Kind::Plan,
                CollectionPart::Condemned => Kind::Condemned,
                CollectionPart::Done => Kind::Collected,
            };
            Some((kind, collection_object(number)))
        }
    }
}

/// Keeps what was read, or notes its damage.
fn keep<T>(read: Result<T>, sound: &mut Vec<T>, damaged: &mut Vec<(Key, String)>) -> Result<()> {
    match read {
        Ok(value) => sound.push(value),
        Err(error) if error.kind() == ErrorKind::Damaged => {
            let text = error.to_string();
            let parts = text.strip_prefix("object ").and_then(|t| t.split_once(" is damaged: "));
            if let Some((key, problem)) = parts {
                damaged.push((Key::new(key)?, problem.to_owned()));
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// The generation with a plan and no end.
fn unfinished<'k>(keys: impl Iterator<Item = &'k str>) -> Option<u64> {
    let (mut planned, mut done) = (None, None);
    for key in keys {
        let mut parts = key.split('/').skip(1);
        let generation = parts.next().and_then(|number| number.parse::<u64>().ok());
        match parts.next() {
            Some("plan") => planned = planned.max(generation),
            Some("done") => done = done.max(generation),
            _ => {}
        }
    }
    planned.filter(|_| planned > done)
}

impl Shared {
    /// What `parse` makes of every object below a prefix. Each is let go before others are read.
    async fn all_below<T>(
        &self,
        prefix: &str,
        parse: impl Fn(&Self, &Key, &Bytes) -> Result<T>,
    ) -> Result<Vec<(Key, Result<T>)>> {
        let (objects, parse) = (list_all(&*self.destination, prefix).await?, &parse);
        let mut reads = stream::iter(objects)
            .map(|object| async move {
                let bytes = read(&*self.destination, &object.key).await?;
                let parsed = bytes.map(|bytes| parse(self, &object.key, &bytes));
                Ok::<_, RepositoryError>(parsed.map(|parsed| (object.key, parsed)))
            })
            .buffered(PARALLEL);
        let mut all = Vec::new();
        while let Some(read) = reads.next().await {
            all.extend(read?);
        }
        Ok(all)
    }

    /// Opens a record of a known kind.
    fn open_known(&self, key: &Key, bytes: &Bytes) -> Result<()> {
        let Some((kind, object)) = record_of(key) else { return Ok(()) };
        self.open_record(key, kind, object, bytes).map(drop)
    }

    fn open_finding(&self, key: &Key, bytes: &Bytes) -> Result<()> {
        let id = SessionId::parse(&key.as_str()[FINDINGS_PREFIX.len()..]);
        let id = id.map_err(|error| parse_error(key, error))?;
        self.open_record(key, Kind::Findings, session_object(id.0), bytes).map(drop)
    }

    fn session_trace(&self, key: &Key, bytes: &Bytes) -> Result<SessionTrace> {
        let id = SessionId::parse(key.as_str().trim_start_matches("s/"));
        let id = id.map_err(|error| parse_error(key, error))?;
        let body = self.open_record(key, Kind::Session, session_object(id.0), bytes)?;
        let record: SessionRecord = from_cbor(&body).map_err(|error| parse_error(key, error))?;
        let silent = self.clock.now_ms().saturating_sub(record.heartbeat_ms) > SILENT_MS;
        let here = record.host == host::scope();
        let runs = host::process_start(record.process) == Some(record.process_start);
        Ok(SessionTrace {
            session: id.to_string(),
            instance: record.instance,
            host: host::display(&record.host),
            started_ms: record.started_ms,
            heartbeat_ms: record.heartbeat_ms,
            dead: silent || (here && !runs),
        })
    }

    fn pin_trace(&self, key: &Key, bytes: &Bytes) -> Result<PinTrace> {
        let id = PinId::parse(key.as_str().trim_start_matches("p/"));
        let id = id.map_err(|error| parse_error(key, error))?;
        let body = self.open_record(key, Kind::Pin, session_object(id.0), bytes)?;
        let record: PinRecord = from_cbor(&body).map_err(|error| parse_error(key, error))?;
        Ok(PinTrace {
            pin: id.to_string(),
            point: record.point.to_string(),
            host: record.host,
            purpose: record.purpose,
            heartbeat_ms: record.heartbeat_ms,
            silent: self.clock.now_ms().saturating_sub(record.heartbeat_ms) > SILENT_MS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collection_with_a_plan_and_no_end_is_unfinished() {
        let of = |keys: &[&str]| unfinished(keys.iter().copied());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&["g/1/plan", "g/1/condemned", "g/1/done"]), None);
        assert_eq!(of(&["g/1/done", "g/1/plan", "g/2/plan"]), Some(2));
        assert_eq!(of(&["g/10/plan", "g/9/done"]), Some(10));
        assert_eq!(of(&["g/1/done", "g/x/plan"]), None);
    }
}

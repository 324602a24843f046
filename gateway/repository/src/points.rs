//! Restore points: naming, listing, resolving, pinning.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use sluice_destination::{ErrorKind as DestinationKind, Key, list_all};

use crate::bounded::get_record;
use crate::crypto::random;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::header::Kind;
use crate::format::id::{
    ChainId, PinId, PointId, chain_prefix, chain_tombstones_prefix, commit_key, commits_prefix,
    parse_point_key, pin_key, tombstone_key, tombstones_prefix,
};
use crate::format::manifest::{BackupStats, CommitPlain, ImageRecord, ManifestBody, Origin};
use crate::format::protection::Protection;
use crate::format::record::{Envelope, PinRecord, from_cbor, session_object, to_cbor};
use crate::host;
use crate::repository::{Repository, Shared, parse_error};

/// Manifests fetched side by side while listing.
const LIST_PARALLEL: usize = 16;
/// How often a pin shows a sign of life.
const PIN_HEARTBEAT: Duration = Duration::from_secs(300);

/// One consistent moment of an instance, as its manifest tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestorePoint {
    /// Its id; sorts by time within the chain.
    pub id: PointId,
    /// The chain it belongs to.
    pub chain: ChainId,
    /// The instance's name.
    pub instance: String,
    /// When the source was read, in ms since 1970.
    pub created_ms: u64,
    /// The point it was built on.
    pub parent: Option<PointId>,
    /// Not to be pruned before, in ms since 1970.
    pub retain_until_ms: Option<u64>,
    /// Not to be pruned while set.
    pub hold: bool,
    /// All that keeps it, with the two before. As committed, unless the point comes from a
    /// listing or from [`Repository::with_protection`].
    pub protection: Protection,
    /// Its images.
    pub images: Vec<ImageRecord>,
    /// Metadata given by the caller, as JSON text.
    pub metadata: Option<String>,
    /// What the backup did.
    pub stats: BackupStats,
    /// The program that wrote it.
    pub tool: String,
    /// The host that wrote it.
    pub host: String,
    /// Consistency of the images.
    pub consistency: String,
    /// How changes were found.
    pub method: String,
    /// The point of another repository this one is a copy of.
    pub origin: Option<Origin>,
}

impl RestorePoint {
    /// The image of this name, or the only one when no name is given.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], or [`ErrorKind::Ambiguous`] when a name is needed.
    pub fn image(&self, name: Option<&str>) -> Result<&ImageRecord> {
        let names = || self.images.iter().map(|i| i.name.as_str()).collect::<Vec<_>>().join(", ");
        match (name, self.images.as_slice()) {
            (Some(name), images) => {
                images.iter().find(|image| image.name == name).ok_or_else(|| {
                    RepositoryError::new(
                        ErrorKind::NotFound,
                        format!("{self} has no image {name:?}; it has: {}", names()),
                    )
                })
            }
            (None, [only]) => Ok(only),
            (None, _) => Err(RepositoryError::new(
                ErrorKind::Ambiguous,
                format!("{self} has several images; add one of :{}", names().replace(", ", ", :")),
            )),
        }
    }
}

impl std::fmt::Display for RestorePoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.instance, self.id)
    }
}

/// Which point of an instance is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PointSelector {
    /// The newest.
    Latest,
    /// That many before the newest.
    Before(u32),
    /// By id, or a prefix of it that fits only one.
    Id(String),
    /// The newest at or before this time, in ms since 1970.
    At(u64),
}

/// `INSTANCE@latest`, `INSTANCE@latest~1` for the one before, `INSTANCE@ID`,
/// `INSTANCE@2026-11-21T03:00`, each perhaps with `:IMAGE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointSpec {
    /// The instance's name.
    pub instance: String,
    /// Which of its points.
    pub selector: PointSelector,
    /// One of the point's images.
    pub image: Option<String>,
}

impl PointSpec {
    /// Reads a point's name. A time without zone is in `zone`; an instance alone means its
    /// latest point.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`].
    pub fn parse(text: &str, zone: &TimeZone) -> Result<Self> {
        let invalid = |what: &str| {
            RepositoryError::new(
                ErrorKind::Invalid,
                format!(
                    "{text:?} names no restore point: {what}; write INSTANCE@latest, \
                         INSTANCE@latest~1 for the one before, INSTANCE@ID or \
                         INSTANCE@2026-11-21T03:00, and :IMAGE to name one image"
                ),
            )
        };
        let Some((instance, rest)) = text.rsplit_once('@') else {
            let (instance, image) = split_image(text);
            if instance.is_empty() {
                return Err(invalid("it is empty"));
            }
            return Ok(Self { instance: instance.into(), selector: PointSelector::Latest, image });
        };
        if instance.is_empty() {
            return Err(invalid("the instance is missing"));
        }
        // The whole may be a time, whose colons are not an image's; else the last colon is.
        let (selector, image) = match selector(rest, zone) {
            Some(selector) => (selector, None),
            None => {
                let (point, image) = rest.rsplit_once(':').ok_or_else(|| invalid("bad point"))?;
                let point = selector(point, zone).ok_or_else(|| invalid("bad point"))?;
                if image.is_empty() {
                    return Err(invalid("the image is empty"));
                }
                (point, Some(image.to_owned()))
            }
        };
        Ok(Self { instance: instance.into(), selector, image })
    }
}

fn split_image(text: &str) -> (&str, Option<String>) {
    match text.rsplit_once(':') {
        Some((instance, image)) if !image.is_empty() => (instance, Some(image.to_owned())),
        _ => (text, None),
    }
}

fn selector(text: &str, zone: &TimeZone) -> Option<PointSelector> {
    if text == "latest" {
        return Some(PointSelector::Latest);
    }
    if let Some(before) = text.strip_prefix("latest~") {
        let digits = before.bytes().all(|byte| byte.is_ascii_digit());
        return before.parse().ok().filter(|_| digits).map(PointSelector::Before);
    }
    let base32hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'v').contains(&byte);
    let lower = text.to_ascii_lowercase();
    if (1..=26).contains(&text.len()) && lower.bytes().all(base32hex) {
        return Some(PointSelector::Id(lower));
    }
    let time = text
        .parse::<Timestamp>()
        .ok()
        .or_else(|| zone.to_timestamp(text.parse::<DateTime>().ok()?).ok())?;
    Some(PointSelector::At(u64::try_from(time.as_millisecond()).ok()?))
}

/// A manifest that could not be read.
#[derive(Debug)]
pub struct DamagedPoint {
    /// Its object.
    pub key: Key,
    /// Why.
    pub error: RepositoryError,
}

/// Restore points, oldest first within each instance, and those that could not be read.
#[derive(Debug, Default)]
pub struct Listing {
    /// Readable points.
    pub points: Vec<RestorePoint>,
    /// Points whose manifest is damaged.
    pub damaged: Vec<DamagedPoint>,
}

impl Repository {
    /// All points, or those of one instance. Pruned ones are left out.
    ///
    /// # Errors
    /// When the destination fails; a damaged manifest is an entry of the listing instead.
    pub async fn list(&self, instance: Option<&str>) -> Result<Listing> {
        let mut listing = self.list_as_committed(instance).await?;
        let chain = instance.map(|name| self.shared.keys.chain(name));
        self.shared.protect_all(chain, &mut listing.points).await?;
        Ok(listing)
    }

    /// The same without asking what was said of the points after their commit, for callers to
    /// whom it does not matter what keeps them.
    ///
    /// # Errors
    /// As [`list`](Self::list).
    pub async fn list_as_committed(&self, instance: Option<&str>) -> Result<Listing> {
        let chain = instance.map(|name| self.shared.keys.chain(name));
        let places = self.shared.live_points(chain).await?;
        let mut read = stream::iter(places)
            .map(|(chain, point)| async move {
                (commit_key(chain, point), self.shared.read_point(chain, point).await)
            })
            .buffered(LIST_PARALLEL);
        let mut listing = Listing::default();
        while let Some((key, result)) = read.next().await {
            match result {
                Ok(Some(point)) => listing.points.push(point),
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    listing.damaged.push(DamagedPoint { key, error });
                }
                Err(error) => return Err(error),
            }
        }
        listing.points.sort_by(|a, b| (&a.instance, a.id).cmp(&(&b.instance, b.id)));
        Ok(listing)
    }

    /// The point that `spec` names.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Ambiguous`], or what reading it met.
    pub async fn resolve(&self, spec: &PointSpec) -> Result<RestorePoint> {
        let chain = self.shared.keys.chain(&spec.instance);
        let mut points = self.shared.live_points(Some(chain)).await?;
        points.reverse();
        let mut fitting =
            points.iter().map(|(_, point)| *point).filter(|point| match &spec.selector {
                PointSelector::Latest | PointSelector::Before(_) => true,
                PointSelector::Id(prefix) => point.to_string().starts_with(prefix.as_str()),
                PointSelector::At(_) => true,
            });
        if let PointSelector::Id(prefix) = &spec.selector {
            let all: Vec<PointId> = fitting.by_ref().collect();
            return match all.as_slice() {
                [one] => self.shared.must_read(chain, *one).await,
                [] => Err(self.not_found(spec, points.is_empty())),
                many => Err(RepositoryError::new(
                    ErrorKind::Ambiguous,
                    format!("{prefix} fits {} points of {}", many.len(), spec.instance),
                )),
            };
        }
        let mut newer = 0;
        for point in fitting {
            let Some(found) = self.shared.read_point(chain, point).await? else { continue };
            match spec.selector {
                PointSelector::At(ms) if found.created_ms > ms => {}
                PointSelector::Before(many) if newer < many => newer += 1,
                _ => return Ok(found),
            }
        }
        Err(self.not_found(spec, points.is_empty()))
    }

    fn not_found(&self, spec: &PointSpec, none: bool) -> RepositoryError {
        let instance = &spec.instance;
        RepositoryError::new(
            ErrorKind::NotFound,
            if none {
                format!("there is no restore point of {instance:?} in this repository")
            } else {
                format!("no restore point of {instance:?} fits; `sluice list {instance}` shows all")
            },
        )
    }

    /// Pins a point while it is being read, so that a collection keeps what it needs. On a
    /// read-only destination nothing can be collected either, and no pin is left.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when the point was pruned meanwhile; or the destination fails.
    pub async fn pin(&self, point: &RestorePoint, purpose: &str) -> Result<Pin> {
        let id = PinId::new(self.shared.clock.now_ms(), random()?);
        let mut record = PinRecord {
            chain: point.chain,
            point: point.id,
            host: host::name(),
            purpose: purpose.into(),
            heartbeat_ms: self.shared.clock.now_ms(),
        };
        match self.shared.put_pin(id, &record).await {
            Err(error) if error.kind() == ErrorKind::Destination(DestinationKind::NoSpace) => {
                tracing::warn!("the destination is full: nothing keeps {point} while it is read");
                return Ok(Pin { id, shared: None, heartbeat: None });
            }
            Err(error) if error.is_unwritable() => {
                tracing::debug!(%error, "what is read is not pinned");
                self.shared.met.turn_off();
                return Ok(Pin { id, shared: None, heartbeat: None });
            }
            other => other?,
        }
        let shared = self.shared.clone();
        let heartbeat = tokio::spawn(async move {
            loop {
                tokio::time::sleep(PIN_HEARTBEAT).await;
                record.heartbeat_ms = shared.clock.now_ms();
                if let Err(error) = shared.put_pin(id, &record).await {
                    tracing::warn!(%error, "a pin could not be renewed");
                }
            }
        });
        let pin = Pin { id, shared: Some(self.shared.clone()), heartbeat: Some(heartbeat) };
        // Pin first, tombstone second: a collector looks at them in the opposite order.
        match self.shared.destination.head(&tombstone_key(point.chain, point.id)).await {
            Err(error) if error.kind() == DestinationKind::NotFound => Ok(pin),
            Err(error) => {
                pin.release().await;
                Err(error.into())
            }
            Ok(_) => {
                pin.release().await;
                let text = format!("{point} was pruned");
                Err(RepositoryError::new(ErrorKind::NotFound, text))
            }
        }
    }
}

/// A held pin; see [`Repository::pin`].
#[derive(Debug)]
pub struct Pin {
    id: PinId,
    shared: Option<Arc<Shared>>,
    heartbeat: Option<tokio::task::JoinHandle<()>>,
}

impl Pin {
    /// Releases the pin. A pin that is dropped instead stops its heartbeat and expires.
    pub async fn release(mut self) {
        if let Some(heartbeat) = self.heartbeat.take() {
            heartbeat.abort();
        }
        if let Some(shared) = self.shared.take()
            && let Err(error) = shared.destination.delete(&pin_key(self.id)).await
        {
            tracing::debug!(%error, "a pin could not be removed; it expires by itself");
        }
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if let Some(heartbeat) = self.heartbeat.take() {
            heartbeat.abort();
        }
    }
}

impl Shared {
    async fn put_pin(&self, id: PinId, record: &PinRecord) -> Result<()> {
        let body = self.seal_record(Kind::Pin, session_object(id.0), &[], &to_cbor(record))?;
        Ok(self.destination.put(&pin_key(id), body).await?)
    }

    /// Points with a commit record and no tombstone, ascending. An ABORT is told apart only
    /// when it is read.
    pub(crate) async fn live_points(
        &self,
        chain: Option<ChainId>,
    ) -> Result<Vec<(ChainId, PointId)>> {
        let (mut places, buried) = self.places(chain).await?;
        places.retain(|place| !buried.contains(place));
        Ok(places)
    }

    /// Points with a commit record, ascending, and those with a tombstone.
    pub(crate) async fn places(
        &self,
        chain: Option<ChainId>,
    ) -> Result<(Vec<(ChainId, PointId)>, HashSet<(ChainId, PointId)>)> {
        let (commits, tombstones) = match chain {
            Some(chain) => (chain_prefix(chain), chain_tombstones_prefix(chain)),
            None => (commits_prefix(), tombstones_prefix()),
        };
        let objects = list_all(&*self.destination, &commits).await?;
        let tombstones = list_all(&*self.destination, &tombstones).await?;
        let points = objects.iter().filter_map(|object| parse_point_key(&object.key)).collect();
        let buried = tombstones.iter().filter_map(|object| parse_point_key(&object.key)).collect();
        Ok((points, buried))
    }

    async fn must_read(&self, chain: ChainId, point: PointId) -> Result<RestorePoint> {
        self.read_point(chain, point).await?.ok_or_else(|| {
            RepositoryError::new(ErrorKind::NotFound, format!("backup {point} was aborted"))
        })
    }

    /// Reads a manifest; nothing when the record is an ABORT.
    pub(crate) async fn read_point(
        &self,
        chain: ChainId,
        point: PointId,
    ) -> Result<Option<RestorePoint>> {
        if let Some(known) = self.caches.manifests.get(&point).filter(|p| p.chain == chain) {
            return Ok(Some(known));
        }
        let key = commit_key(chain, point);
        let bytes = match get_record(&*self.destination, &key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => {
                return Err(RepositoryError::damaged(&key, "it is missing"));
            }
            other => other?,
        };
        let read = self.parse_point(&key, chain, point, &bytes)?;
        if let Some(found) = &read {
            self.caches.manifests.insert(point, found.clone());
        }
        Ok(read)
    }

    pub(crate) fn parse_point(
        &self,
        key: &Key,
        chain: ChainId,
        point: PointId,
        bytes: &Bytes,
    ) -> Result<Option<RestorePoint>> {
        let envelope = Envelope::parse(bytes).map_err(|error| parse_error(key, error))?;
        if envelope.header.kind == Kind::Abort {
            self.open_record(key, Kind::Abort, point.0, bytes)?;
            return Ok(None);
        }
        let body = self.open_record(key, Kind::Commit, point.0, bytes)?;
        let plain: CommitPlain =
            from_cbor(envelope.plain).map_err(|error| parse_error(key, error))?;
        let body: ManifestBody = from_cbor(&body).map_err(|error| parse_error(key, error))?;
        let fits = plain.chain == chain
            && plain.point == point
            && self.keys.chain(&body.instance) == chain;
        if !fits {
            return Err(RepositoryError::damaged(key, "it belongs to another chain"));
        }
        Ok(Some(RestorePoint {
            id: point,
            chain,
            instance: body.instance,
            created_ms: plain.created_ms,
            parent: plain.parent,
            retain_until_ms: plain.retain_until_ms,
            hold: plain.hold,
            protection: Protection::committed(plain.hold, plain.retain_until_ms),
            images: body.images,
            metadata: body.metadata,
            stats: body.stats,
            tool: body.tool,
            host: body.host,
            consistency: body.consistency,
            method: body.method,
            origin: body.origin,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<PointSpec> {
        PointSpec::parse(text, &TimeZone::UTC)
    }

    #[test]
    fn point_names_are_read_as_documented() {
        let spec = parse("web-1@latest").unwrap();
        assert_eq!((spec.instance.as_str(), spec.selector), ("web-1", PointSelector::Latest));
        let spec = parse("web-1@latest~2:vda").unwrap();
        assert_eq!((spec.selector, spec.image.as_deref()), (PointSelector::Before(2), Some("vda")));
        let spec = parse("web-1:vda").unwrap();
        assert_eq!(spec.image.as_deref(), Some("vda"));
        let spec = parse("a@b@0CH3:vda").unwrap();
        assert_eq!(spec.instance, "a@b");
        assert_eq!(spec.selector, PointSelector::Id("0ch3".into()));
        assert_eq!(spec.image.as_deref(), Some("vda"));
        let at = PointSelector::At(1_795_230_000_000);
        for text in ["x@2026-11-21T03:00", "x@2026-11-21T03:00:00Z", "x@2026-11-21T04:00+01:00"] {
            assert_eq!(parse(text).unwrap().selector, at, "{text}");
        }
        let spec = parse("x@2026-11-21T03:00:vda").unwrap();
        assert_eq!((spec.selector, spec.image.as_deref()), (at, Some("vda")));
        let mistakes = ["x@latest~", "x@latest~-1", "x@latest~+1", "x@latest~99999999999"];
        let others = ["", "@latest", "x@", "x@!", "x@latest:", "x@2026-13-01T00:00"];
        for bad in mistakes.into_iter().chain(others) {
            assert_eq!(parse(bad).unwrap_err().kind(), ErrorKind::Invalid, "{bad:?}");
        }
    }
}

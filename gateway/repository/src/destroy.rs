//! Destroying a repository: asked for first, done later, and resumable once begun.
//!
//! # Order of things
//!
//! 1. Put the wish (`destroy`), with the time from which it may be done.
//! 2. From that time on, look again for what forbids it, and mark the wish as begun. From here
//!    on no key is needed, for soon there is none.
//! 3. Remove manifests, then key slots, then everything else, the descriptor, the wish.
//!
//! Points vanish first, so nobody takes what is left for damage; a crash leaves a wish that has
//! begun, and the next try goes on.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use sluice_destination::{Destination, ErrorKind as DestinationKind, Key, ObjectMeta, list_all};

use crate::bounded::get_record;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::header::Kind;
use crate::format::id::{
    PinId, RepositoryId, SessionId, commits_prefix, descriptor_key, destroy_key, lock_key,
    parse_point_key,
};
use crate::format::protection::ProtectionBody;
use crate::format::record::{
    DestroyPlain, Envelope, PinRecord, SessionRecord, from_cbor, session_object, to_cbor,
};
use crate::host;
use crate::points::Listing;
use crate::repository::{Repository, Shared, parse_error, rfc3339};

/// Removals side by side.
const PARALLEL: usize = 16;
/// Who has shown no sign of life for this long is not asked. Signs come every five minutes.
const SILENT_MS: u64 = 3600 * 1000;

/// A wish to destroy the repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestroyRequest {
    /// When it was said, in ms since 1970.
    pub requested_ms: u64,
    /// Not to be done before, in ms since 1970.
    pub effective_ms: u64,
    /// Whether it has begun.
    pub begun: bool,
    /// Who else has agreed.
    pub approved_by: Vec<String>,
}

impl From<DestroyPlain> for DestroyRequest {
    fn from(plain: DestroyPlain) -> Self {
        let DestroyPlain { requested_ms, effective_ms, begun, approved_by } = plain;
        Self { requested_ms, effective_ms, begun, approved_by }
    }
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Destroyed {
    /// Objects removed.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects below the same prefix that are none of a repository, and stay.
    pub left: u64,
}

impl Repository {
    /// The wish to destroy this repository, when there is one.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when it cannot be read; or the destination fails.
    pub async fn destroy_request(&self) -> Result<Option<DestroyRequest>> {
        let key = destroy_key();
        let Some(bytes) = get(&*self.shared.destination, &key).await? else { return Ok(None) };
        let envelope = Envelope::parse(&bytes).map_err(|error| parse_error(&key, error))?;
        if envelope.header.repository != self.shared.id {
            return Ok(None); // what is left of another repository at this place
        }
        self.shared.open_record(&key, Kind::Destroy, self.shared.id.0, &bytes)?;
        let plain: DestroyPlain =
            from_cbor(envelope.plain).map_err(|error| parse_error(&key, error))?;
        Ok(Some(plain.into()))
    }

    /// Asks for the repository to be destroyed, `delay` from now at the earliest, and not before
    /// the destination's locks end. Asked for already, the first wish stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::Protected`] when a hold, a retention, a backup or a reader forbids it.
    pub async fn request_destroy(&self, delay: Duration, by: &str) -> Result<DestroyRequest> {
        if let Some(known) = self.destroy_request().await? {
            return Ok(known);
        }
        self.must_be_free().await?;
        let now = self.shared.clock.now_ms();
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        // What the destination keeps for longer than that cannot go earlier.
        let locked = self.shared.last_lock_of_all(false).await?.unwrap_or(0);
        let plain = DestroyPlain {
            requested_ms: now,
            effective_ms: now.saturating_add(delay).max(locked),
            begun: false,
            approved_by: Vec::new(),
        };
        self.put_wish(&plain, by).await?;
        Ok(plain.into())
    }

    /// Takes the wish back. Returns whether there was one.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when destroying has begun; or the destination fails.
    pub async fn cancel_destroy(&self) -> Result<bool> {
        let Some(request) = self.destroy_request().await? else { return Ok(false) };
        if request.begun {
            let text = "destroying has begun; what was removed does not come back";
            return Err(RepositoryError::new(ErrorKind::Conflict, text));
        }
        self.shared.destination.delete(&destroy_key()).await?;
        Ok(true)
    }

    /// Destroys the repository, when that was asked for and its time has come. `progress` is
    /// told how many objects of how many are removed.
    ///
    /// # Errors
    /// [`ErrorKind::Protected`] before that time, or when something forbids it; after an error
    /// in its middle, [`resume_destroy`](Self::resume_destroy) goes on.
    pub async fn destroy(
        &self,
        by: &str,
        progress: impl Fn(u64, u64) + Send + Sync,
    ) -> Result<Destroyed> {
        let Some(request) = self.destroy_request().await? else {
            let text = "nobody has asked for this repository to be destroyed";
            return Err(RepositoryError::new(ErrorKind::Invalid, text));
        };
        if self.shared.clock.now_ms() < request.effective_ms {
            let until = rfc3339(request.effective_ms);
            let text = format!("this repository may not be destroyed before {until}");
            return Err(RepositoryError::new(ErrorKind::Protected, text));
        }
        if !request.begun {
            self.must_be_free().await?;
            if let Some(until) = self.shared.last_lock_of_all(true).await? {
                let text = format!(
                    "the destination keeps objects of this repository until {}; it may not be \
                     destroyed before",
                    rfc3339(until)
                );
                return Err(RepositoryError::new(ErrorKind::Protected, text));
            }
        }
        let DestroyRequest { requested_ms, effective_ms, approved_by, .. } = request;
        let plain = DestroyPlain { requested_ms, effective_ms, begun: true, approved_by };
        self.put_wish(&plain, by).await?;
        if let Some(folder) = &self.shared.settings.cache_dir {
            // The local index of a repository that is gone; nothing depends on its removal.
            let _ = std::fs::remove_dir_all(folder.join(self.shared.id.hex()));
        }
        erase(&*self.shared.destination, progress).await
    }

    /// The repository whose destruction has begun at this place, and can only go on. Needs no
    /// key.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn destroy_begun(destination: &dyn Destination) -> Result<Option<RepositoryId>> {
        let Some(bytes) = get(destination, &destroy_key()).await? else { return Ok(None) };
        let Ok(envelope) = Envelope::parse(&bytes) else { return Ok(None) };
        let plain = from_cbor::<DestroyPlain>(envelope.plain);
        let id = envelope.header.repository;
        if envelope.header.kind != Kind::Destroy || !plain.is_ok_and(|plain| plain.begun) {
            return Ok(None);
        }
        match Self::peek(destination).await {
            Ok(there) if there.id != id.hex() => Ok(None), // a new repository at the same place
            Err(error) if error.kind() != ErrorKind::NotARepository => Err(error),
            _ => Ok(Some(id)),
        }
    }

    /// Goes on with destroying what [`destroy_begun`](Self::destroy_begun) has named.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when there is no such thing any more; or the destination fails.
    pub async fn resume_destroy(
        destination: &dyn Destination,
        id: RepositoryId,
        progress: impl Fn(u64, u64) + Send + Sync,
    ) -> Result<Destroyed> {
        if Self::destroy_begun(destination).await? != Some(id) {
            let text = "there is nothing left whose destruction has begun";
            return Err(RepositoryError::new(ErrorKind::Conflict, text));
        }
        erase(destination, progress).await
    }

    async fn put_wish(&self, plain: &DestroyPlain, by: &str) -> Result<()> {
        let body = ProtectionBody { by: by.to_owned(), host: host::name() };
        let (plain, body) = (to_cbor(plain), to_cbor(&body));
        let id = self.shared.id.0;
        let sealed = self.shared.seal_record(Kind::Destroy, id, &plain, &body)?;
        Ok(self.shared.put_in_need(&destroy_key(), sealed).await?)
    }

    /// Fails when something forbids destroying the repository.
    async fn must_be_free(&self) -> Result<()> {
        let now = self.shared.clock.now_ms();
        let refuse = |what: String| {
            let text = format!("this repository may not be destroyed: {what}");
            Err(RepositoryError::new(ErrorKind::Protected, text))
        };
        let Listing { points, damaged } = self.list(None).await?;
        let mut kept: Vec<String> = points
            .iter()
            .filter(|point| point.protection.keeper(now).is_some())
            .map(ToString::to_string)
            .collect();
        for one in damaged {
            // What was said of a point counts although its manifest cannot be read.
            let Some((chain, point)) = parse_point_key(&one.key) else { continue };
            let protection = self.shared.protection_or_hold(chain, point).await?;
            if protection.is_some_and(|protection| protection.keeper(now).is_some()) {
                kept.push(one.key.to_string());
            }
        }
        match kept.as_slice() {
            [] => {}
            [one] => return refuse(format!("{one} is on hold or under retention")),
            [one, more @ ..] => {
                let more = more.len();
                return refuse(format!("{one} and {more} more are on hold or under retention"));
            }
        }
        if let Some(user) = self.shared.somebody(now).await? {
            return refuse(user);
        }
        Ok(())
    }
}

impl Shared {
    /// Who uses the repository right now, in words.
    async fn somebody(&self, now: u64) -> Result<Option<String>> {
        let lives = |heartbeat: u64| now.saturating_sub(heartbeat) < SILENT_MS;
        for object in list_all(&*self.destination, "s/").await? {
            let Ok(id) = SessionId::parse(object.key.as_str().trim_start_matches("s/")) else {
                continue;
            };
            let id = session_object(id.0);
            let record: Option<SessionRecord> = self.record(&object.key, Kind::Session, id).await?;
            let runs = |record: &SessionRecord| {
                lives(record.heartbeat_ms)
                    && (record.host != host::scope()
                        || host::process_start(record.process) == Some(record.process_start))
            };
            if let Some(record) = record.filter(runs) {
                let (instance, host) = (record.instance, host::display(&record.host));
                return Ok(Some(format!("a backup of {instance} runs on {host}")));
            }
        }
        for object in list_all(&*self.destination, "p/").await? {
            let Ok(id) = PinId::parse(object.key.as_str().trim_start_matches("p/")) else {
                continue;
            };
            let record: Option<PinRecord> =
                self.record(&object.key, Kind::Pin, session_object(id.0)).await?;
            if let Some(record) = record.filter(|record| lives(record.heartbeat_ms)) {
                let (point, host) = (record.point, record.host);
                return Ok(Some(format!("{point} is being read on {host} ({})", record.purpose)));
            }
        }
        Ok(None)
    }

    /// A record, when it is there and can be read.
    async fn record<T>(&self, key: &Key, kind: Kind, object: [u8; 16]) -> Result<Option<T>>
    where
        T: for<'b> minicbor::Decode<'b, ()>,
    {
        let Some(bytes) = get(&*self.destination, key).await? else { return Ok(None) };
        let body = self.open_record(key, kind, object, &bytes);
        Ok(body.ok().and_then(|body| from_cbor(&body).ok()))
    }
}

async fn get(destination: &dyn Destination, key: &Key) -> Result<Option<Bytes>> {
    match get_record(destination, key).await {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == DestinationKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// When an object goes: manifests, keys, the rest, the descriptor, the wish. Nothing for what is
/// none of a repository.
fn turn(key: &Key) -> Option<u8> {
    let text = key.as_str();
    match text.split('/').next() {
        _ if *key == destroy_key() => Some(4),
        _ if *key == descriptor_key() => Some(3),
        _ if text == "ballast" || text == "replica" => Some(2),
        _ if text.starts_with(&commits_prefix()) => Some(0),
        Some("keys") => Some(1),
        _ if *key == lock_key() => Some(2),
        Some(room) if room.len() == 1 && text.len() > 2 => Some(2),
        _ => None,
    }
}

async fn erase(
    destination: &dyn Destination,
    progress: impl Fn(u64, u64) + Send + Sync,
) -> Result<Destroyed> {
    let all = list_all(destination, "").await?;
    let mut turns: [Vec<ObjectMeta>; 5] = Default::default();
    let mut done = Destroyed::default();
    for object in all {
        match turn(&object.key) {
            Some(turn) => turns[usize::from(turn)].push(object),
            None => done.left += 1,
        }
    }
    let total = turns.iter().map(|objects| objects.len() as u64).sum();
    for objects in turns {
        let removals = stream::iter(objects).map(Ok).map_ok(|object| async move {
            destination.delete(&object.key).await.map(|()| object.size)
        });
        let mut removals = removals.try_buffer_unordered(PARALLEL);
        while let Some(size) = removals.try_next().await? {
            done.objects += 1;
            done.bytes += size;
            progress(done.objects, total);
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_go_first_and_the_wish_last_and_strange_files_stay() {
        let turn = |text: &str| turn(&Key::new(text).unwrap());
        let order = ["r/default/a/b", "keys/0123", "d/00/x.0", "format", "destroy"].map(turn);
        assert_eq!(order, [0, 1, 2, 3, 4].map(Some));
        assert_eq!(turn("h/default/a/b"), Some(2));
        for one in ["x/default/a-1", "ballast", "replica", "lock"] {
            assert_eq!(turn(one), Some(2), "{one}");
        }
        for strange in ["notes.txt", "photos/a.png", "destroyer", "format.bak", "locks"] {
            assert_eq!(turn(strange), None, "{strange}");
        }
    }
}

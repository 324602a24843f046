//! Healing what is not a pack: descriptor, key slots, records.

use bytes::Bytes;
use sluice_destination::{ByteRange, Destination, ErrorKind as DestinationKind, Key, list_all};

use crate::error::{ErrorKind, Result};
use crate::format::checked::{Check, check};
use crate::format::descriptor::Descriptor;
use crate::format::header::{Header, Kind};
use crate::format::id::{
    RepositoryId, SessionId, commits_prefix, descriptor_key, parse_point_key, segments_prefix,
    tombstones_prefix,
};
use crate::format::keyslot::KeySlot;
use crate::format::record::session_object;
use crate::heal::{Healing, not_the_same};
use crate::keys::{Standing, try_slot};
use crate::repository::{Shared, Unlock, parse_error};

/// Objects asked which repository they belong to.
const WITNESSES: usize = 16;

/// The bytes of an object; nothing when there is none.
pub(super) async fn read(destination: &dyn Destination, key: &Key) -> Result<Option<Bytes>> {
    match destination.get(key, ByteRange::Full).await {
        Err(error) if error.kind() == DestinationKind::NotFound => Ok(None),
        other => Ok(Some(other?)),
    }
}

/// What is wrong with a descriptor; nothing when it is sound.
pub(crate) fn descriptor_flaw(bytes: Option<&[u8]>, id: Option<RepositoryId>) -> Option<String> {
    let Some(bytes) = bytes else { return Some("it is missing".into()) };
    if check(bytes) == Check::Damaged {
        return Some("its checksum differs".into());
    }
    let descriptor = match Descriptor::decode(bytes) {
        Ok(descriptor) => descriptor,
        // With a checksum it is what was written: really newer, and not damaged.
        Err(crate::format::FormatError::Newer(_)) if check(bytes) == Check::Sound => return None,
        Err(error) => return Some(error.to_string()),
    };
    let known = ["aes-256-gcm", "open"].contains(&descriptor.encryption.as_str())
        && descriptor.arbiter == "store";
    match descriptor.id() {
        Err(error) => Some(error.to_string()),
        Ok(found) if id.is_some_and(|id| id != found) => {
            Some("it names another repository than the objects beside it".into())
        }
        Ok(_) if !known && check(bytes) == Check::Absent => Some("it has unknown fields".into()),
        Ok(_) => None,
    }
}

/// The repository that objects at a destination say they belong to.
pub(crate) async fn witnessed(destination: &dyn Destination) -> Result<Option<RepositoryId>> {
    for prefix in ["r/", "m/", "d/", "x/", "t/"] {
        let page = destination.list(prefix, None, WITNESSES).await?;
        for object in page.objects {
            let head = ByteRange::Span { offset: 0, length: 64 };
            let bytes = match destination.get(&object.key, head).await {
                Ok(bytes) => bytes,
                Err(error) if error.is_retryable() => return Err(error.into()),
                Err(_) => continue,
            };
            if let Ok(header) = Header::decode(&bytes) {
                return Ok(Some(header.repository));
            }
        }
    }
    Ok(None)
}

/// Refuses to mix repositories.
pub(super) async fn must_be_the_same(
    destination: &dyn Destination,
    id: RepositoryId,
) -> Result<()> {
    let place = destination.location();
    let bytes = read(destination, &descriptor_key()).await?;
    let named = bytes.as_deref().and_then(|bytes| Descriptor::decode(bytes).ok());
    let named = named.and_then(|descriptor| descriptor.id().ok());
    let witnessed = witnessed(destination).await?;
    match witnessed.or(named) {
        Some(found) if found == id => Ok(()),
        Some(_) => Err(not_the_same(format!("{place} holds another repository, not a replica"))),
        None => Err(not_the_same(format!(
            "nothing at {place} tells that it is the same repository; to copy a repository to an \
             empty place, copy its objects"
        ))),
    }
}

impl Healing {
    pub(super) async fn descriptor(&mut self) -> Result<()> {
        let key = descriptor_key();
        let id = self.here().id;
        let bytes = read(&*self.here().destination, &key).await?;
        let Some(problem) = descriptor_flaw(bytes.as_deref(), Some(id)) else { return Ok(()) };
        let theirs = read(&*self.there.shared.destination, &key).await?;
        match theirs {
            Some(theirs) if descriptor_flaw(Some(&theirs), Some(id)).is_none() => {
                self.replace(&key, theirs, &problem).await
            }
            _ => {
                self.fail(&key, &format!("{problem}; the replica's is not sound either"));
                Ok(())
            }
        }
    }

    pub(super) async fn key_slots(&mut self, unlock: &Unlock) -> Result<()> {
        let ours = list_all(&*self.here().destination, "keys/").await?;
        let theirs = self.there.key_slots().await?;
        let vouched = theirs.iter().any(|slot| slot.standing == Some(Standing::Vouched));
        let mut sound = 0;
        for object in &ours {
            let Some(bytes) = read(&*self.here().destination, &object.key).await? else { continue };
            if self.key_slot(&object.key, &bytes, unlock).await? {
                sound += usize::from(!vouched || !self.is_strange(&object.key).await?);
            }
        }
        if sound > 0 {
            // One that is not here may have been removed on purpose.
            return Ok(());
        }
        for object in list_all(&*self.there.shared.destination, "keys/").await? {
            if ours.iter().any(|known| known.key == object.key) {
                continue;
            }
            let bytes = read(&*self.there.shared.destination, &object.key).await?;
            if let Some(bytes) = bytes.filter(|bytes| slot_flaw(bytes).is_none()) {
                self.replace(&object.key, bytes, "no key slot was sound").await?;
            }
        }
        Ok(())
    }

    /// Whether nobody with the key vouches for a slot here. Where the copy's are vouched for, real
    /// ones here are as well, and others were put there by whoever can.
    async fn is_strange(&self, key: &Key) -> Result<bool> {
        let Some(bytes) = read(&*self.here().destination, key).await? else { return Ok(true) };
        let name = key.as_str().trim_start_matches("keys/");
        let slot = KeySlot::decode(&bytes);
        Ok(!slot.is_ok_and(|slot| self.here.standing(name, &slot) == Standing::Vouched))
    }

    /// Heals a key slot; returns whether it is sound now.
    async fn key_slot(&mut self, key: &Key, ours: &Bytes, unlock: &Unlock) -> Result<bool> {
        let theirs = read(&*self.there.shared.destination, key).await?;
        let theirs = theirs.filter(|bytes| slot_flaw(bytes).is_none());
        let problem = match (slot_flaw(ours), &theirs) {
            (Some(problem), _) => problem,
            (None, Some(theirs)) if theirs != ours && check(ours) == Check::Absent => {
                // Slots without a checksum: only opening them tells.
                match (self.opens(ours, unlock).await?, self.opens(theirs, unlock).await?) {
                    (false, true) => "it does not open, and the replica's does".to_owned(),
                    (true, _) => return Ok(true),
                    (false, false) => {
                        self.report.notes.push(format!(
                            "{key} differs from the replica's, and neither opens with the key \
                             given: heal once more with the passphrase or recovery key it is for"
                        ));
                        return Ok(true);
                    }
                }
            }
            (None, _) => return Ok(true),
        };
        match theirs {
            Some(theirs) => self.replace(key, theirs, &problem).await.map(|()| true),
            None => {
                self.fail(key, &format!("{problem}; the replica has no sound one"));
                Ok(false)
            }
        }
    }

    async fn opens(&self, bytes: &[u8], unlock: &Unlock) -> Result<bool> {
        let Ok(slot) = KeySlot::decode(bytes) else { return Ok(false) };
        let (id, unlock) = (self.here().id, unlock.clone());
        Ok(matches!(try_slot(slot, id, unlock).await?, Ok(Some(_))))
    }

    /// Commit records, tombstones, index segments.
    pub(super) async fn records(&mut self) -> Result<()> {
        for prefix in [commits_prefix(), tombstones_prefix(), segments_prefix()] {
            for object in list_all(&*self.here().destination, &prefix).await? {
                let Some(ours) = read(&*self.here().destination, &object.key).await? else {
                    continue;
                };
                if let Some(problem) = self.here().record_flaw(&object.key, &ours)? {
                    self.record(&object.key, &problem).await?;
                }
            }
        }
        Ok(())
    }

    async fn record(&mut self, key: &Key, problem: &str) -> Result<()> {
        let Some(theirs) = read(&*self.there.shared.destination, key).await? else {
            self.fail(key, &format!("{problem}; the replica does not have it"));
            return Ok(());
        };
        match self.there.shared.record_flaw(key, &theirs)? {
            None => self.replace(key, theirs, problem).await,
            Some(flaw) => {
                let why = format!("the replica's is not sound either: {flaw}");
                self.fail(key, &format!("{problem}; {why}"));
                Ok(())
            }
        }
    }
}

/// What is wrong with a key slot, as far as its bytes tell.
pub(crate) fn slot_flaw(bytes: &[u8]) -> Option<String> {
    if check(bytes) == Check::Damaged {
        return Some("its checksum differs".into());
    }
    KeySlot::decode(bytes).err().map(|error| error.to_string())
}

impl Shared {
    /// What is wrong with a commit record, tombstone or index segment; nothing when it is sound.
    pub(crate) fn record_flaw(&self, key: &Key, bytes: &Bytes) -> Result<Option<String>> {
        let opened = match key.as_str().split('/').next() {
            Some("x") => {
                let name = key.as_str().rsplit('/').next().unwrap_or_default();
                let session = SessionId::parse(name.split('-').next().unwrap_or_default());
                session.map_err(|error| parse_error(key, error)).and_then(|session| {
                    self.open_record(key, Kind::Segment, session_object(session.0), bytes)
                })
            }
            place => match parse_point_key(key) {
                None => return Ok(None),
                Some((_, point)) if place == Some("t") => {
                    self.open_record(key, Kind::Tombstone, point.0, bytes)
                }
                Some((chain, point)) => {
                    let parsed = self.parse_point(key, chain, point, bytes);
                    parsed.and_then(|found| {
                        let images = found.iter().flat_map(|found| &found.images);
                        for image in images {
                            let directory = image.open_directory(&self.keys);
                            directory.map_err(|error| parse_error(key, error))?;
                        }
                        Ok(Vec::new())
                    })
                }
            },
        };
        match opened {
            Ok(_) => Ok(None),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                let text = error.to_string();
                let problem = text.split_once(" is damaged: ").map(|(_, problem)| problem);
                Ok(Some(problem.unwrap_or(&text).to_owned()))
            }
            Err(error) => Err(error),
        }
    }
}

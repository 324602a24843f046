//! The ways to unlock a repository: opening, listing, adding, proving and removing key slots.
//!
//! Each slot wraps all secrets: the master key and those of the data epochs. A new epoch comes
//! with [`Repository::rotate_data`], in [`rotate`]; who made a slot is told in [`vouch`]. A slot
//! for a recipient can be made without knowing its private key, so what a recovery key opens is
//! compared with what is sealed in the repository, in [`recovery`].

mod recovery;
mod rotate;
mod vouch;

use std::sync::Arc;

use bytes::Bytes;
use sluice_destination::{Destination, ErrorKind as DestinationKind, Key, list_all};
use zeroize::Zeroizing;

use crate::bounded::{get_record, get_small};
use crate::crypto::{KeyRing, Secrets, digest16, random};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::fetch::{SlotDecoder, coalesce};
use crate::format::FormatError;
use crate::format::descriptor::Descriptor;
use crate::format::header::Kind;
use crate::format::id::{
    EPOCHS_PREFIX, PackId, PackKind, RepositoryId, commits_prefix, epoch_key, epoch_number,
    pack_key, parse_point_key,
};
use crate::format::keyslot::{KdfCost, KeySlot, RecoveryKey};
use crate::format::pack::SlotEntry;
use crate::format::page::{Entry, Location};
use crate::format::record::{Envelope, EpochRecord, epoch_object, from_cbor};
use crate::repository::{Repository, Shared, Unlock, local, parse_error, rfc3339};

pub use rotate::{RotateData, RotatedData};
pub use vouch::{Standing, VouchedSlots};

/// A key slot is smaller than this, in bytes.
const MAX_SLOT: u64 = 64 << 10;

/// What a key slot gave.
#[derive(Debug, Clone)]
pub(crate) struct Opened {
    pub(crate) secrets: Secrets,
    /// The epoch under which to write.
    pub(crate) epoch: u32,
    /// The slot's name.
    pub(crate) slot: String,
    /// The slot itself, as it was when it opened.
    pub(crate) content: Option<KeySlot>,
}

impl Opened {
    /// What a new repository begins with.
    pub(crate) fn first(secrets: Secrets) -> Self {
        Self { secrets, epoch: 0, slot: String::new(), content: None }
    }
}

/// What [`Repository::check_key`] found.
#[derive(Debug, Clone)]
pub struct KeyCheck {
    /// Name of the slot that opened the repository.
    pub slot: String,
    /// The slot itself.
    pub content: KeySlot,
    /// What is known of who made it.
    pub standing: Standing,
    /// The data epoch under which packs are written.
    pub epoch: u32,
    /// The sealed objects that were opened with it.
    pub proven: Vec<String>,
    /// Slots that have no secret of the newest epoch: what an interrupted rotation left behind.
    pub left_behind: Vec<String>,
    /// Other slots of which it is not known that somebody with the key made them.
    pub not_vouched: Vec<(String, Standing)>,
}

/// A key slot as it lies there.
#[derive(Debug, Clone)]
pub struct ListedSlot {
    /// Its name.
    pub name: String,
    /// What it says, or why it cannot be read.
    pub slot: Result<KeySlot, FormatError>,
    /// What is known of who made it; nothing when it cannot be read.
    pub standing: Option<Standing>,
}

pub(crate) type Slots = Vec<(Key, Result<KeySlot, FormatError>)>;

/// Tries the key slots with what the caller has.
pub(crate) async fn unlock(
    destination: &dyn Destination,
    id: RepositoryId,
    descriptor: &Descriptor,
    unlock: &Unlock,
) -> Result<Opened> {
    let mut slots = read_slots(destination).await?;
    // Those of the newest epoch first; others are what an interrupted rotation left.
    slots.sort_by_key(|(_, slot)| std::cmp::Reverse(slot.as_ref().map_or(0, KeySlot::epoch)));
    let (mut damaged, mut left_behind, mut unknown) = (None, false, None);
    let mut found = Vec::new();
    for (key, slot) in slots {
        let attempt = match &slot {
            Err(error) => Err(error.clone()),
            Ok(slot) => try_slot(slot.clone(), id, unlock.clone()).await?,
        };
        match attempt {
            Ok(None) => {}
            Ok(Some(secrets)) => match epoch_of(destination, id, descriptor, &secrets).await? {
                Fit::Newest(epoch) => {
                    let (slot, content) = (name_of(&key), slot.ok());
                    found.push(Opened { secrets, epoch, slot, content });
                    // Only who knows the passphrase can have made a slot for it.
                    if !matches!(unlock, Unlock::Recovery(_)) {
                        break;
                    }
                }
                Fit::Another => left_behind = true,
                Fit::Unknown(error) => unknown = Some(error),
            },
            Err(error) => damaged = Some(parse_error(key, error)),
        }
    }
    if let Some(opened) = recovery::the_right_one(destination, id, found).await? {
        return Ok(opened);
    }
    if let Some(error) = unknown {
        return Err(error);
    }
    if left_behind {
        let place = destination.location();
        return Err(RepositoryError::new(
            ErrorKind::WrongKey,
            format!("this key of {place} was dropped when the data key was changed; use another"),
        ));
    }
    Err(damaged.unwrap_or_else(|| wrong_key(destination, unlock)))
}

/// Stretching takes a good part of a second and must not stall the runtime.
pub(crate) async fn try_slot(
    slot: KeySlot,
    id: RepositoryId,
    unlock: Unlock,
) -> Result<Result<Option<Secrets>, FormatError>> {
    let attempt = move || {
        match &unlock {
            // Only who expects no secrecy takes a key that lies there in clear: whoever can write
            // to the destination can put one of their own beside the others.
            Unlock::Open => Ok(slot.open_key()?.map(Secrets::from)),
            Unlock::Passphrase(passphrase) => slot.unlock(id, passphrase),
            Unlock::Recovery(recovery) => slot.recover(id, recovery),
        }
    };
    tokio::task::spawn_blocking(attempt)
        .await
        .map_err(|error| local("unlocking was interrupted", error))
}

/// The number of the newest data epoch, from the names of the epochs' records.
async fn newest_epoch(destination: &dyn Destination, descriptor: &Descriptor) -> Result<u32> {
    if !descriptor.has_epochs() {
        return Ok(0);
    }
    let records = list_all(destination, EPOCHS_PREFIX).await?;
    Ok(records.iter().filter_map(|record| epoch_number(&record.key)).max().unwrap_or(0))
}

/// What secrets are to the newest epoch.
enum Fit {
    /// They are of this one, which is the newest.
    Newest(u32),
    /// They were dropped when it began.
    Another,
    /// Its record cannot be read, and they have not as many epochs: either they were dropped, or
    /// somebody has put the record there.
    Unknown(RepositoryError),
}

/// Whether these are the secrets of the newest epoch.
async fn epoch_of(
    destination: &dyn Destination,
    id: RepositoryId,
    descriptor: &Descriptor,
    secrets: &Secrets,
) -> Result<Fit> {
    let newest = newest_epoch(destination, descriptor).await?;
    if newest == 0 {
        return Ok(Fit::Newest(0));
    }
    let key = epoch_key(newest);
    let bytes = get_record(destination, &key).await?;
    let keys = KeyRing::new(&secrets.master);
    let record = Envelope::parse(&bytes)
        .and_then(|record| record.open(&keys, Kind::Epoch, id, &epoch_object(newest)))
        .and_then(|body| from_cbor::<EpochRecord>(&body));
    Ok(match record {
        Ok(record) if secrets.fit(record.checks()) => Fit::Newest(newest),
        Ok(_) => Fit::Another,
        Err(error) => {
            // Nothing else depends on it, so damage to it must not take the backups away.
            tracing::warn!(%key, %error, "the record of a data epoch is damaged");
            match secrets.epochs.len() == newest as usize {
                true => Fit::Newest(newest),
                false => Fit::Unknown(not_an_epoch(&key, &error, secrets.epochs.len())),
            }
        }
    })
}

/// Nothing is lost by such a record, but nobody here may say which of the two it is.
fn not_an_epoch(key: &Key, error: &FormatError, known: usize) -> RepositoryError {
    let text = format!(
        "{error}; and this key knows {known} changes of the data key, fewer than this record \
         stands for. If the data key was changed that often, use a key that was kept then; if it \
         was not, somebody else has put the object there: remove it, and nothing is lost"
    );
    RepositoryError::damaged(key, text)
}

pub(crate) async fn read_slots(destination: &dyn Destination) -> Result<Slots> {
    let mut slots = Vec::new();
    for object in list_all(destination, "keys/").await? {
        let slot = if object.size > MAX_SLOT {
            Err(FormatError::Invalid("key slot is too large"))
        } else {
            match get_small(destination, &object.key).await {
                // Removed since it was listed.
                Err(error) if error.kind() == DestinationKind::NotFound => continue,
                other => KeySlot::decode(&other?),
            }
        };
        slots.push((object.key, slot));
    }
    Ok(slots)
}

pub(crate) fn name_of(key: &Key) -> String {
    key.as_str().trim_start_matches("keys/").to_owned()
}

fn wrong_key(destination: &dyn Destination, unlock: &Unlock) -> RepositoryError {
    let place = destination.location();
    RepositoryError::new(
        ErrorKind::WrongKey,
        match unlock {
            Unlock::Open => format!("the repository at {place} is encrypted"),
            Unlock::Passphrase(_) => format!("the passphrase does not open {place}"),
            Unlock::Recovery(_) => format!("the recovery key does not open {place}"),
        },
    )
}

impl Repository {
    /// All key slots with their names; one that cannot be read is an error beside its name.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn key_slots(&self) -> Result<Vec<ListedSlot>> {
        let slots = read_slots(&*self.shared.destination).await?;
        let listed = slots.into_iter().map(|(key, slot)| {
            let name = name_of(&key);
            let standing = slot.as_ref().ok().map(|slot| self.standing(&name, slot));
            ListedSlot { name, slot, standing }
        });
        Ok(listed.collect())
    }

    /// Name of the slot that opened the repository.
    pub fn opened_by(&self) -> &str {
        &self.shared.slot
    }

    /// The data epoch under which packs are written.
    pub fn data_epoch(&self) -> u32 {
        self.shared.keys.epoch(PackKind::Data)
    }

    /// Adds a passphrase; returns the slot's name.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when a data epoch began meanwhile; or the destination fails.
    pub async fn add_passphrase(
        &self,
        label: &str,
        passphrase: &str,
        kdf: KdfCost,
    ) -> Result<String> {
        let secrets = self.shared.current_secrets();
        let slot = self.shared.wrap(&secrets, passphrase, kdf, self.note(label)).await?;
        self.add_slot(slot, &secrets).await
    }

    /// Adds a recovery key; returns the slot's name and the key, which is kept nowhere else.
    ///
    /// # Errors
    /// As [`add_passphrase`](Self::add_passphrase).
    pub async fn add_recovery(&self, label: &str) -> Result<(String, RecoveryKey)> {
        let recovery = RecoveryKey::new(random()?);
        let (shared, secrets) = (&self.shared, self.shared.current_secrets());
        let slot =
            KeySlot::for_recovery(shared.id, &secrets, &recovery, random()?, self.note(label))
                .map_err(|error| local("cannot make a key slot", error))?;
        Ok((self.add_slot(slot, &secrets).await?, recovery))
    }

    /// Changes the passphrase of a slot, by default the one that opened the repository: adds
    /// the new one, proves that it opens, and only then removes the old one. Returns the name of
    /// the slot that went and of the one that came. A crash leaves both or the old one.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Invalid`] for a slot without a passphrase.
    pub async fn change_passphrase(
        &self,
        slot: Option<&str>,
        passphrase: &str,
        kdf: KdfCost,
    ) -> Result<(String, String)> {
        let old = slot.unwrap_or(self.opened_by()).to_owned();
        let slots = self.key_slots().await?;
        let Some(found) = slots.iter().find(|listed| listed.name == old) else {
            return Err(no_slot(&old));
        };
        let label = match &found.slot {
            Ok(KeySlot::Passphrase { label, .. }) => label.clone(),
            Err(_) => "passphrase".to_owned(),
            Ok(other) => {
                let kind = other.describe().1;
                let text = format!("key slot {old} is of kind {kind}: it has no passphrase");
                return Err(RepositoryError::new(ErrorKind::Invalid, text));
            }
        };
        let new = self.add_passphrase(&label, passphrase, kdf).await?;
        let unlock = Unlock::Passphrase(Zeroizing::new(passphrase.to_owned()));
        self.shared.prove(&new, unlock).await?;
        self.remove_key_slot(&old).await?;
        Ok((old, new))
    }

    /// Removes a key slot by name. The last slot that is sure to unlock stays, whatever others
    /// there are: anybody who can write to the destination can put some there.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Invalid`] for the last slot.
    pub async fn remove_key_slot(&self, name: &str) -> Result<()> {
        let slots = self.key_slots().await?;
        if !slots.iter().any(|listed| listed.name == name) {
            return Err(no_slot(name));
        }
        self.must_leave_a_way_in(name, &slots)?;
        self.delete_slot(name).await
    }

    async fn delete_slot(&self, name: &str) -> Result<()> {
        let key = Key::new(format!("keys/{name}"))?;
        Ok(self.shared.destination.delete(&key).await?)
    }

    /// Proves that the key this repository was opened with opens what is sealed: a manifest and
    /// a pack, as far as there are any. Changes nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] when a sealed object does not open.
    pub async fn check_key(&self) -> Result<KeyCheck> {
        let shared = &self.shared;
        let slots = self.key_slots().await?;
        let epoch = self.data_epoch();
        let (mut left_behind, mut not_vouched) = (Vec::new(), Vec::new());
        for ListedSlot { name, slot, standing } in &slots {
            match (slot, standing) {
                (Ok(slot), _) if slot.epoch() < epoch => left_behind.push(name.clone()),
                (Ok(_), Some(Standing::Vouched)) => {}
                (Ok(_), Some(standing)) if *name != shared.slot => {
                    not_vouched.push((name.clone(), *standing));
                }
                _ => {}
            }
        }
        let opened = slots.into_iter().find(|listed| listed.name == shared.slot);
        let content = match opened {
            Some(listed) => listed.slot.map_err(|error| parse_error(&shared.slot, error))?,
            None => return Err(no_slot(&shared.slot)),
        };
        let standing = self.standing(&shared.slot, &content);
        let mut proven = Vec::new();
        let commits = shared.destination.list(&commits_prefix(), None, 1).await?;
        for key in commits.objects.into_iter().map(|object| object.key) {
            if let Some((chain, point)) = parse_point_key(&key) {
                shared.read_point(chain, point).await?;
                proven.push(key.to_string());
            }
        }
        let packs = shared.destination.list("d/", None, 1).await?;
        for key in packs.objects.into_iter().map(|object| object.key) {
            let name = key.as_str().rsplit('/').next().unwrap_or_default();
            let pack = name.split('.').next().and_then(|name| PackId::parse(name).ok());
            if let Some(pack) = pack.filter(|pack| pack_key(PackKind::Data, *pack) == key) {
                shared.first_chunk(pack).await?;
                proven.push(key.to_string());
            }
        }
        let slot = shared.slot.clone();
        Ok(KeyCheck { slot, content, standing, epoch, proven, left_behind, not_vouched })
    }

    fn note(&self, label: &str) -> (String, String) {
        (label.to_owned(), rfc3339(self.shared.clock.now_ms()))
    }

    /// Puts a slot, and takes it back when it came too late for a new epoch.
    async fn add_slot(&self, slot: KeySlot, secrets: &Secrets) -> Result<String> {
        let name = self.put_slot(slot, secrets).await?;
        let descriptor = match Self::peek(&*self.shared.destination).await {
            // Being created: nobody else is there yet.
            Err(error) if error.kind() == ErrorKind::NotARepository => return Ok(name),
            other => other?,
        };
        let newest = newest_epoch(&*self.shared.destination, &descriptor).await?;
        if newest == self.data_epoch() {
            return Ok(name);
        }
        self.delete_slot(&name).await?;
        Err(RepositoryError::new(
            ErrorKind::Conflict,
            "the data key was changed meanwhile; run the command again",
        ))
    }

    /// Puts a slot under a new name, vouched for with the secrets that it wraps.
    pub(crate) async fn put_slot(&self, slot: KeySlot, secrets: &Secrets) -> Result<String> {
        let name = data_encoding::HEXLOWER.encode(&random::<6>()?);
        let slot = slot.vouched(self.shared.id, &name, secrets);
        let key = Key::new(format!("keys/{name}"))?;
        self.shared.destination.put_new(&key, Bytes::from(slot.encode())).await?;
        Ok(name)
    }
}

fn no_slot(name: &str) -> RepositoryError {
    RepositoryError::new(
        ErrorKind::NotFound,
        format!("no key slot {name}; `sluice key list` shows them"),
    )
}

impl Shared {
    /// The secrets of the epochs that have begun; a slot may have had some of one that has not.
    fn current_secrets(&self) -> Secrets {
        let mut secrets = self.secrets.clone();
        secrets.epochs.truncate(self.keys.epoch(PackKind::Data) as usize);
        secrets
    }

    /// A slot for a passphrase.
    async fn wrap(
        &self,
        secrets: &Secrets,
        passphrase: &str,
        kdf: KdfCost,
        note: (String, String),
    ) -> Result<KeySlot> {
        let (id, secrets) = (self.id, secrets.clone());
        let passphrase = Zeroizing::new(passphrase.to_owned());
        let random = random()?;
        tokio::task::spawn_blocking(move || {
            KeySlot::for_passphrase(id, &secrets, &passphrase, kdf, random, note)
        })
        .await
        .map_err(|error| local("stretching the passphrase was interrupted", error))?
        .map_err(|error| local("cannot make a key slot", error))
    }

    /// Opens the first chunk of a pack.
    async fn first_chunk(self: &Arc<Self>, pack: PackId) -> Result<()> {
        let Some(table) = self.pack_table(PackKind::Data, pack).await? else {
            return Err(RepositoryError::damaged(pack_key(PackKind::Data, pack), "it is missing"));
        };
        let live = table.1.iter().enumerate().find(|(_, slot)| slot.stored_len > 0);
        let Some((number, slot)) = live else { return Ok(()) };
        let SlotEntry { offset, stored_len, codec, .. } = *slot;
        let location = Location { pack, slot: number as u16, codec, offset, stored_len };
        let entry = Entry { id: digest16(&slot.id), location };
        let run = coalesce(PackKind::Data, vec![(0, entry)]).remove(0);
        let bytes = self.get_run(&run).await?;
        let shared = self.clone();
        let open = move || {
            let decoder = SlotDecoder::new(&shared.keys, PackKind::Data, pack);
            decoder.chunk(&shared.keys, &entry, bytes.slot(&location), &mut Vec::new())
        };
        self.pool.run(open).await?
    }

    /// Reads a slot back from the destination and opens it.
    async fn prove(&self, name: &str, unlock: Unlock) -> Result<Secrets> {
        let key = Key::new(format!("keys/{name}"))?;
        let bytes = get_small(&*self.destination, &key).await?;
        let slot = KeySlot::decode(&bytes).map_err(|error| parse_error(&key, error))?;
        let opened = try_slot(slot, self.id, unlock).await?;
        match opened.map_err(|error| parse_error(&key, error))? {
            Some(secrets) if secrets.master.0 == self.secrets.master.0 => Ok(secrets),
            _ => Err(RepositoryError::damaged(key, "the new key does not open it")),
        }
    }
}

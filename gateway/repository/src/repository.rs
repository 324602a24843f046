//! Creating and opening a repository; the keys to it.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use sluice_destination::{
    ByteRange, Destination, ErrorKind as DestinationKind, Key, list_all, probe,
};
use zeroize::Zeroizing;

use crate::cache::Caches;
use crate::clock::Clock;
use crate::crypto::{KeyRing, MasterKey, random};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::fetch::Flights;
use crate::format::descriptor::Descriptor;
use crate::format::header::{Header, Kind};
use crate::format::id::{RepositoryId, descriptor_key};
use crate::format::keyslot::{KdfCost, KeySlot, RecoveryKey};
use crate::format::{FormatError, record};
use crate::pool::Pool;

/// The store itself decides who commits first.
const STORE: &str = "store";

/// Another destination than the one with the data decides.
const EXTERNAL: &str = "external";

/// How to unlock a repository.
#[derive(Clone)]
pub enum Unlock {
    /// Only works for repositories created without a key.
    Open,
    /// With a passphrase.
    Passphrase(Zeroizing<String>),
    /// With the recovery key.
    Recovery(RecoveryKey),
}

impl std::fmt::Debug for Unlock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Open => "Open",
            Self::Passphrase(_) => "Passphrase(..)",
            Self::Recovery(_) => "Recovery(..)",
        })
    }
}

/// What to create.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The first way to unlock; [`Unlock::Open`] means without a key.
    pub unlock: Unlock,
    /// Whether to add a recovery key.
    pub recovery: bool,
    /// Cost of stretching the passphrase.
    pub kdf: KdfCost,
}

/// What an opened repository may use of this machine.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of the local dedup index; without one, every backup starts with an empty index.
    pub cache_dir: Option<PathBuf>,
    /// Most bytes of decoded chunks kept in memory.
    pub chunk_cache_bytes: u64,
    /// Most bytes of parsed pages kept in memory.
    pub page_cache_bytes: u64,
    /// Threads that hash, compress and seal; 0 for one each core.
    pub threads: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache_dir: None,
            chunk_cache_bytes: 128 << 20,
            page_cache_bytes: 32 << 20,
            threads: 0,
        }
    }
}

/// An opened repository. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Repository {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) destination: Arc<dyn Destination>,
    pub(crate) id: RepositoryId,
    pub(crate) keys: KeyRing,
    pub(crate) master: MasterKey,
    pub(crate) descriptor: Descriptor,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) caches: Caches,
    pub(crate) pool: Pool,
    pub(crate) flights: Flights,
}

/// Turns a failure to parse `object` into an error that names it.
pub(crate) fn parse_error(object: impl std::fmt::Display, error: FormatError) -> RepositoryError {
    match error {
        FormatError::Newer(_) => {
            RepositoryError::caused(ErrorKind::NewerFormat, format!("cannot read {object}"), error)
        }
        FormatError::Invalid(what) => RepositoryError::damaged(object, what),
    }
}

/// RFC 3339 of milliseconds since 1970.
pub fn rfc3339(ms: u64) -> String {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).map_or_else(|_| format!("{ms} ms"), |time| time.to_string())
}

impl Repository {
    /// Creates a repository and opens it. The destination is probed first: one that cannot
    /// create an object atomically is refused, for a commit rests on that.
    ///
    /// # Errors
    /// [`ErrorKind::AlreadyARepository`]; [`ErrorKind::Destination`] when the destination fails
    /// or is unfit.
    pub async fn init(
        destination: Arc<dyn Destination>,
        clock: Clock,
        options: InitOptions,
        settings: Settings,
    ) -> Result<(Self, Option<RecoveryKey>)> {
        let place = destination.location();
        match destination.head(&descriptor_key()).await {
            Ok(_) => return Err(already(&place)),
            Err(error) if error.kind() == DestinationKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let capabilities = probe::probe(&*destination).await?;
        if !capabilities.can_arbitrate() {
            return Err(RepositoryError::new(
                ErrorKind::Destination(DestinationKind::Unfit),
                format!(
                    "{place} cannot hold a repository: it does not keep the promises a commit \
                     rests on ({capabilities:?}); use a store with conditional writes, or add \
                     arbiter=URL with a destination that has them, such as a folder"
                ),
            ));
        }
        let id = RepositoryId(random()?);
        let master = MasterKey::generate()?;
        let now = rfc3339(clock.now_ms());
        let open = matches!(options.unlock, Unlock::Open);
        let mut descriptor = Descriptor::new(id, now, open, capabilities);
        if destination.arbitrated() {
            descriptor.arbiter = EXTERNAL.into();
        }
        let repository =
            Self::assemble(destination, id, master, descriptor, clock.clone(), settings)?;
        let recovery = repository.write_first_slots(&options).await?;
        // The descriptor comes last: a repository exists once it can be unlocked.
        let body = Bytes::from(repository.shared.descriptor.encode());
        match repository.shared.destination.put_new(&descriptor_key(), body).await {
            Ok(()) => Ok((repository, recovery)),
            Err(e) if e.kind() == DestinationKind::AlreadyExists => Err(already(&place)),
            Err(error) => Err(error.into()),
        }
    }

    async fn write_first_slots(&self, options: &InitOptions) -> Result<Option<RecoveryKey>> {
        match &options.unlock {
            Unlock::Passphrase(passphrase) => {
                self.add_passphrase("main", passphrase, options.kdf).await?;
            }
            Unlock::Open => {
                let created = self.shared.descriptor.created.clone();
                let slot = KeySlot::open(&self.shared.master, ("open".into(), created));
                self.put_slot(&slot).await?;
            }
            Unlock::Recovery(_) => {
                return Err(RepositoryError::new(
                    ErrorKind::Invalid,
                    "a new repository needs a passphrase; the recovery key is made with it",
                ));
            }
        }
        let wanted = options.recovery && !matches!(options.unlock, Unlock::Open);
        Ok(if wanted { Some(self.add_recovery("recovery").await?.1) } else { None })
    }

    /// What a destination says of the repository on it, without unlocking it.
    ///
    /// # Errors
    /// [`ErrorKind::NotARepository`], [`ErrorKind::NewerFormat`], [`ErrorKind::Damaged`];
    /// [`ErrorKind::Invalid`] without the arbiter it was made with.
    pub async fn peek(destination: &dyn Destination) -> Result<Descriptor> {
        let key = descriptor_key();
        let bytes = match destination.get(&key, ByteRange::Full).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == DestinationKind::NotFound => {
                return Err(RepositoryError::new(
                    ErrorKind::NotARepository,
                    format!("there is no repository at {}", destination.location()),
                ));
            }
            Err(error) => return Err(error.into()),
        };
        let descriptor = Descriptor::decode(&bytes).map_err(|error| parse_error(&key, error))?;
        check_arbiter(destination, &descriptor)?;
        Ok(descriptor)
    }

    /// Opens a repository.
    ///
    /// # Errors
    /// As [`peek`](Self::peek); [`ErrorKind::WrongKey`] when nothing opens with `unlock`.
    pub async fn open(
        destination: Arc<dyn Destination>,
        clock: Clock,
        unlock: Unlock,
        settings: Settings,
    ) -> Result<Self> {
        let descriptor = Self::peek(&*destination).await?;
        let id = descriptor.id().map_err(|error| parse_error(descriptor_key(), error))?;
        let slots = read_slots(&*destination).await?;
        let mut damaged = None;
        for (key, slot) in slots {
            let attempt = match slot {
                Err(error) => Err(error),
                Ok(slot) => {
                    let unlock = unlock.clone();
                    // Stretching takes a good part of a second and must not stall the runtime.
                    tokio::task::spawn_blocking(move || try_slot(&slot, id, &unlock))
                        .await
                        .map_err(|error| local("unlocking was interrupted", error))?
                }
            };
            match attempt {
                Ok(Some(master)) => {
                    return Self::assemble(destination, id, master, descriptor, clock, settings);
                }
                Ok(None) => {}
                Err(error) => damaged = Some(parse_error(key, error)),
            }
        }
        Err(damaged.unwrap_or_else(|| wrong_key(&*destination, &unlock)))
    }

    fn assemble(
        destination: Arc<dyn Destination>,
        id: RepositoryId,
        master: MasterKey,
        descriptor: Descriptor,
        clock: Clock,
        settings: Settings,
    ) -> Result<Self> {
        let keys = KeyRing::new(&master);
        let caches = Caches::new(&settings);
        let pool = Pool::new(settings.threads)?;
        let flights = Flights::default();
        let shared = Shared {
            destination,
            id,
            keys,
            master,
            descriptor,
            clock,
            settings,
            caches,
            pool,
            flights,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The repository's descriptor.
    pub fn descriptor(&self) -> &Descriptor {
        &self.shared.descriptor
    }

    /// The destination it rests on.
    pub fn destination(&self) -> &Arc<dyn Destination> {
        &self.shared.destination
    }

    /// The clock it goes by.
    pub fn clock(&self) -> &Clock {
        &self.shared.clock
    }

    /// The pool of threads for hashing, compressing and sealing.
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
    }

    /// All key slots with their names; one that cannot be read is an error beside its name.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn key_slots(&self) -> Result<Vec<(String, Result<KeySlot, FormatError>)>> {
        let slots = read_slots(&*self.shared.destination).await?;
        let name = |key: Key| key.as_str().trim_start_matches("keys/").to_owned();
        Ok(slots.into_iter().map(|(key, slot)| (name(key), slot)).collect())
    }

    /// Adds a passphrase; returns the slot's name.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn add_passphrase(
        &self,
        label: &str,
        passphrase: &str,
        kdf: KdfCost,
    ) -> Result<String> {
        let shared = self.shared.clone();
        let (label, passphrase) = (self.note(label), Zeroizing::new(passphrase.to_owned()));
        let random = random()?;
        let slot = tokio::task::spawn_blocking(move || {
            KeySlot::for_passphrase(shared.id, &shared.master, &passphrase, kdf, random, label)
        })
        .await
        .map_err(|error| local("stretching the passphrase was interrupted", error))?
        .map_err(|error| local("cannot make a key slot", error))?;
        self.put_slot(&slot).await
    }

    /// Adds a recovery key; returns the slot's name and the key, which is kept nowhere else.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn add_recovery(&self, label: &str) -> Result<(String, RecoveryKey)> {
        let recovery = RecoveryKey::new(random()?);
        let shared = &self.shared;
        let note = self.note(label);
        let slot = KeySlot::for_recovery(shared.id, &shared.master, &recovery, random()?, note)
            .map_err(|error| local("cannot make a key slot", error))?;
        Ok((self.put_slot(&slot).await?, recovery))
    }

    /// Removes a key slot by name. The last slot that unlocks stays.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Invalid`] for the last slot.
    pub async fn remove_key_slot(&self, name: &str) -> Result<()> {
        let slots = self.key_slots().await?;
        if !slots.iter().any(|(known, _)| known == name) {
            return Err(RepositoryError::new(
                ErrorKind::NotFound,
                format!("no key slot {name}; `sluice key list` shows them"),
            ));
        }
        if !slots.iter().any(|(known, slot)| known != name && slot.is_ok()) {
            return Err(RepositoryError::new(
                ErrorKind::Invalid,
                "this is the last key slot; without it the data is lost, add another first",
            ));
        }
        let key = Key::new(format!("keys/{name}"))?;
        Ok(self.shared.destination.delete(&key).await?)
    }

    fn note(&self, label: &str) -> (String, String) {
        (label.to_owned(), rfc3339(self.shared.clock.now_ms()))
    }

    async fn put_slot(&self, slot: &KeySlot) -> Result<String> {
        let name = data_encoding::HEXLOWER.encode(&random::<6>()?);
        let key = Key::new(format!("keys/{name}"))?;
        self.shared.destination.put_new(&key, Bytes::from(slot.encode())).await?;
        Ok(name)
    }
}

impl Shared {
    /// The header of an object of this repository.
    pub(crate) fn header(&self, kind: Kind, object: [u8; 16]) -> Header {
        Header { kind, repository: self.id, object, epoch: 0 }
    }

    /// Seals a record.
    pub(crate) fn seal_record(
        &self,
        kind: Kind,
        object: [u8; 16],
        plain: &[u8],
        body: &[u8],
    ) -> Result<Bytes> {
        let header = self.header(kind, object);
        Ok(Bytes::from(record::seal(&self.keys, &header, plain, body, random()?)))
    }

    /// Opens a record got from `key`.
    pub(crate) fn open_record(
        &self,
        key: &Key,
        kind: Kind,
        object: [u8; 16],
        bytes: &[u8],
    ) -> Result<Vec<u8>> {
        record::Envelope::parse(bytes)
            .and_then(|envelope| envelope.open(&self.keys, kind, self.id, &object))
            .map_err(|error| parse_error(key, error))
    }
}

/// Refuses to go on where another destination decides races than the repository was made with.
fn check_arbiter(destination: &dyn Destination, descriptor: &Descriptor) -> Result<()> {
    let place = destination.location();
    let context = match (descriptor.arbiter.as_str(), destination.arbitrated()) {
        (STORE, false) | (EXTERNAL, true) => return Ok(()),
        (EXTERNAL, false) => format!(
            "the repository at {place} needs its arbiter: add arbiter=URL, with the place that was \
             given when it was made, or set SLUICE_ARBITER"
        ),
        (STORE, true) => {
            format!("the repository at {place} has no arbiter: remove arbiter= and SLUICE_ARBITER")
        }
        (other, _) => {
            let what = format!("commit arbiter {other:?}");
            return Err(parse_error(descriptor_key(), FormatError::Newer(what)));
        }
    };
    Err(RepositoryError::new(ErrorKind::Invalid, context))
}

fn try_slot(
    slot: &KeySlot,
    id: RepositoryId,
    unlock: &Unlock,
) -> Result<Option<MasterKey>, FormatError> {
    if let Some(master) = slot.open_key()? {
        return Ok(Some(master));
    }
    match unlock {
        Unlock::Open => Ok(None),
        Unlock::Passphrase(passphrase) => slot.unlock(id, passphrase),
        Unlock::Recovery(recovery) => slot.recover(id, recovery),
    }
}

async fn read_slots(
    destination: &dyn Destination,
) -> Result<Vec<(Key, Result<KeySlot, FormatError>)>> {
    let mut slots = Vec::new();
    for object in list_all(destination, "keys/").await? {
        let slot = if object.size > 64 << 10 {
            Err(FormatError::Invalid("key slot is too large"))
        } else {
            KeySlot::decode(&destination.get(&object.key, ByteRange::Full).await?)
        };
        slots.push((object.key, slot));
    }
    Ok(slots)
}

fn already(place: &str) -> RepositoryError {
    RepositoryError::new(
        ErrorKind::AlreadyARepository,
        format!("there is a repository at {place} already"),
    )
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

/// A failure of this machine, not of the repository.
pub(crate) fn local(
    context: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> RepositoryError {
    RepositoryError::caused(ErrorKind::Local, context, source)
}

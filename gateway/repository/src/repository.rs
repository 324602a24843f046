//! Creating and opening a repository.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jiff::Timestamp;
use sluice_destination::{Destination, ErrorKind as DestinationKind, Key, probe};
use zeroize::Zeroizing;

use crate::bounded::get_small;
use crate::cache::{CacheCounts, Caches};
use crate::clock::Clock;
use crate::crypto::{KeyRing, Secrets, random};
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::fetch::Flights;
use crate::format::descriptor::Descriptor;
use crate::format::header::{Header, Kind};
use crate::format::id::{RepositoryId, descriptor_key};
use crate::format::keyslot::{KdfCost, KeySlot, RecoveryKey};
use crate::format::{FormatError, MAX_BLOCK, record};
use crate::keys::{self, Opened};
use crate::lock::LockRule;
use crate::met::Met;
use crate::pool::Pool;

/// The store itself decides who commits first.
const STORE: &str = "store";

/// Another destination than the one with the data decides.
const EXTERNAL: &str = "external";
/// Bytes of memory kept for chunks that are decoded next: as much as is read ahead at once.
const SPARE: usize = 8 << 20;

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
    /// How long the destination is to lock restore points; nothing: not at all.
    pub lock: Option<LockRule>,
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
    /// How often a backup shows a sign of life, and looks whether a collection waits for it.
    pub heartbeat: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cache_dir: None,
            chunk_cache_bytes: 128 << 20,
            page_cache_bytes: 32 << 20,
            threads: 0,
            heartbeat: Duration::from_secs(60),
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
    pub(crate) secrets: Secrets,
    /// Name of the key slot that opened it; empty while it is being created.
    pub(crate) slot: String,
    /// What that key slot was when it opened it.
    pub(crate) opened: Option<KeySlot>,
    pub(crate) descriptor: Descriptor,
    pub(crate) clock: Clock,
    pub(crate) settings: Settings,
    pub(crate) caches: Caches,
    pub(crate) pool: Pool,
    /// Memory of chunks on their way into the cache and out of it.
    pub(crate) buffers: Arc<sluice_block::Pool>,
    pub(crate) flights: Flights,
    /// Damage that readers met.
    pub(crate) met: Met,
}

/// Turns a failure to parse `object` into an error that names it.
pub(crate) fn parse_error(object: impl std::fmt::Display, error: FormatError) -> RepositoryError {
    match error {
        FormatError::Newer(_) => {
            RepositoryError::caused(ErrorKind::NewerFormat, format!("cannot read {object}"), error)
        }
        FormatError::LaterEpoch(_) => {
            RepositoryError::caused(ErrorKind::Conflict, format!("cannot read {object}"), error)
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
    /// [`ErrorKind::AlreadyARepository`]; [`ErrorKind::Destination`] when the destination fails,
    /// is unfit, or cannot lock objects as asked.
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
        if let Some(rule) = options.lock {
            rule.check(capabilities.object_lock, &place)?;
        }
        let id = RepositoryId(random()?);
        let opened = Opened::first(Secrets::generate()?);
        let now = rfc3339(clock.now_ms());
        let open = matches!(options.unlock, Unlock::Open);
        let mut descriptor = Descriptor::new(id, now, open, capabilities);
        if destination.arbitrated() {
            descriptor.arbiter = EXTERNAL.into();
        }
        let repository =
            Self::assemble(destination, id, opened, descriptor, clock.clone(), settings)?;
        let recovery = repository.write_first_slots(&options).await?;
        if let Some(rule) = options.lock {
            repository.first_lock(rule).await?;
        }
        // The descriptor comes last: a repository exists once it can be unlocked.
        let body = Bytes::from(repository.shared.descriptor.encode());
        match repository.shared.destination.put_new(&descriptor_key(), body).await {
            Ok(()) => {
                repository.shared.load_ballast().await;
                Ok((repository, recovery))
            }
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
                let slot = KeySlot::open(&self.shared.secrets.master, ("open".into(), created));
                self.put_slot(slot, &self.shared.secrets).await?;
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
        let bytes = match get_small(destination, &key).await {
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
        let opened = keys::unlock(&*destination, id, &descriptor, &unlock).await?;
        Self::assemble(destination, id, opened, descriptor, clock, settings)
    }

    pub(crate) fn assemble(
        destination: Arc<dyn Destination>,
        id: RepositoryId,
        opened: Opened,
        descriptor: Descriptor,
        clock: Clock,
        settings: Settings,
    ) -> Result<Self> {
        let keys = KeyRing::of(&opened.secrets, opened.epoch);
        let caches = Caches::new(&settings);
        let pool = Pool::new(settings.threads)?;
        let flights = Flights::default();
        let shared = Shared {
            destination,
            id,
            keys,
            secrets: opened.secrets,
            slot: opened.slot,
            opened: opened.content,
            descriptor,
            clock,
            settings,
            caches,
            pool,
            buffers: Arc::new(sluice_block::Pool::new(MAX_BLOCK as usize, SPARE)),
            flights,
            met: Met::default(),
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

    /// How often blocks were found in memory since the repository was opened.
    pub fn cache_counts(&self) -> CacheCounts {
        self.shared.caches.counts()
    }

    /// The pool of threads for hashing, compressing and sealing.
    pub fn pool(&self) -> &Pool {
        &self.shared.pool
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
fn already(place: &str) -> RepositoryError {
    RepositoryError::new(
        ErrorKind::AlreadyARepository,
        format!("there is a repository at {place} already"),
    )
}

/// A failure of this machine, not of the repository.
pub(crate) fn local(
    context: impl Into<String>,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> RepositoryError {
    RepositoryError::caused(ErrorKind::Local, context, source)
}

//! Immutability: restore points that the destination itself keeps until a time.
//!
//! The setting is the record `lock` ([`format::lock`](crate::format::lock)). While it is on, packs
//! and manifests are written with a lock of the destination, and a session makes sure before its
//! commit that every pack the point references is locked as long as the point must be kept. Locks
//! are only ever made longer, and only for what a restore point references; what nothing references
//! any more runs out by itself.
//!
//! # Cost
//!
//! A lock is given 30 days more than needed, so that a pack is extended once in 30 days and not by
//! every backup. What was seen of packs and of leaves is kept in the cache folder
//! (`seen`): an incremental backup reads the leaves it wrote and asks for the packs it
//! met for the first time.

mod ask;
mod extend;
mod locker;
mod seen;
mod status;
mod walk;

use std::time::{Duration, SystemTime};

use sluice_destination::{ErrorKind as DestinationKind, LockMode, list_all, probe};

use crate::bounded::get_small;
use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::header::Kind;
use crate::format::id::{commit_key, lock_key};
use crate::format::lock::{LONGEST_MS, LockRecord, LockTerms};
use crate::format::record::{from_cbor, to_cbor};
use crate::host;
use crate::points::RestorePoint;
use crate::repository::{Repository, Shared, parse_error};

pub use extend::ExtendReport;
pub(crate) use locker::Locker;
pub use locker::{LockCounts, LockProgress};
pub use status::{LockStatus, LockedPoint};

/// A clock that differs from the destination's by more than this gives no locks.
const CLOCKS_APART: Duration = Duration::from_secs(24 * 3600);

/// How strictly and for how long points are kept from the time of their backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockRule {
    /// How strictly.
    pub mode: LockMode,
    /// For how long.
    pub keep: Duration,
}

/// The setting as it is, and as it will be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LockSetting {
    /// What holds; nothing when nothing is locked.
    pub now: Option<LockRule>,
    /// What will hold, and from when on, in ms since 1970.
    pub later: Option<(u64, Option<LockRule>)>,
}

impl LockRule {
    fn terms(self) -> Result<LockTerms> {
        let for_ms = u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX);
        if for_ms == 0 || for_ms > LONGEST_MS {
            let text = "a lock lasts longer than no time and at most 100 years";
            return Err(RepositoryError::new(ErrorKind::Invalid, text));
        }
        let mode = match self.mode {
            LockMode::Governance => 1,
            LockMode::Compliance => 2,
        };
        Ok(LockTerms { mode, for_ms })
    }

    fn of(terms: LockTerms) -> Option<Self> {
        let keep = Duration::from_millis(terms.for_ms);
        (!terms.is_off()).then_some(Self { mode: mode_of(terms), keep })
    }
}

fn mode_of(terms: LockTerms) -> LockMode {
    if terms.mode == 2 { LockMode::Compliance } else { LockMode::Governance }
}

fn time(ms: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(ms)
}

pub(crate) fn ms_of(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Repository {
    /// How long points are locked.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], [`ErrorKind::NewerFormat`], or the destination fails.
    pub async fn lock_setting(&self) -> Result<LockSetting> {
        let now = self.shared.clock.now_ms();
        Ok(self.shared.lock_record().await?.map_or_else(LockSetting::default, |record| {
            LockSetting {
                now: LockRule::of(record.at(now)),
                later: record.pending(now).map(|l| (l.from_ms, LockRule::of(l.terms))),
            }
        }))
    }

    /// Sets how long points are locked; nothing: not at all. What is longer or stricter holds for
    /// the next backup, what is weaker a week from now. Locks that exist stay.
    ///
    /// # Errors
    /// [`ErrorKind::Destination`] with [`DestinationKind::Unsupported`] when the destination locks
    /// nothing: it is tried. [`ErrorKind::Invalid`] for a time out of range.
    pub async fn set_lock(&self, rule: Option<LockRule>) -> Result<LockSetting> {
        let shared = &self.shared;
        let terms = rule.map_or(Ok(LockTerms::OFF), LockRule::terms)?;
        if rule.is_some() {
            // Collections rest on what was seen at the beginning, a lock on what is so now.
            let known = shared.descriptor.capabilities.object_lock;
            if !known || !probe::probe(&*shared.destination).await?.object_lock {
                return Err(no_locks(&shared.destination.location()));
            }
        }
        self.put_lock(terms).await?;
        self.lock_setting().await
    }

    /// Puts the record.
    async fn put_lock(&self, terms: LockTerms) -> Result<()> {
        let shared = &self.shared;
        let before = shared.lock_record().await?;
        let now = shared.clock.now_ms();
        let record = LockRecord::following(before.as_ref(), terms, now, host::name());
        let body = shared.seal_record(Kind::Lock, [0; 16], &[], &to_cbor(&record))?;
        Ok(shared.destination.put(&lock_key(), body).await?)
    }

    /// Puts the first record, while the repository is being made.
    pub(crate) async fn first_lock(&self, rule: LockRule) -> Result<()> {
        self.put_lock(rule.terms()?).await
    }
}

/// The refusal to go without.
pub(crate) fn no_locks(place: &str) -> RepositoryError {
    RepositoryError::new(
        ErrorKind::Destination(DestinationKind::Unsupported),
        format!(
            "{place} cannot lock objects: it removed a locked one when it was tried; use an S3 \
             bucket that was made with object lock and versions, or go without --object-lock"
        ),
    )
}

impl LockRule {
    /// Refuses what cannot be kept, before anything is written.
    pub(crate) fn check(self, has_locks: bool, place: &str) -> Result<()> {
        self.terms()?;
        if has_locks { Ok(()) } else { Err(no_locks(place)) }
    }
}

impl Shared {
    pub(crate) async fn lock_record(&self) -> Result<Option<LockRecord>> {
        let key = lock_key();
        let bytes = match get_small(&*self.destination, &key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => return Ok(None),
            other => other?,
        };
        let body = self.open_record(&key, Kind::Lock, [0; 16], &bytes)?;
        let record = from_cbor(&body).and_then(LockRecord::checked);
        record.map(Some).map_err(|error| parse_error(&key, error))
    }

    /// The terms for a session that begins; the record of the session is put already.
    pub(crate) async fn session_terms(
        &self,
        session: &sluice_destination::Key,
        parent: Option<&RestorePoint>,
    ) -> Result<LockTerms> {
        let now = self.clock.now_ms();
        let Some(record) = self.lock_record().await? else {
            self.check_not_lost(parent).await?;
            return Ok(LockTerms::OFF);
        };
        let terms = record.at(now);
        if !terms.is_off() {
            self.check_clock(session).await?;
        }
        Ok(terms)
    }

    /// Whoever may delete objects may delete the setting: a parent that is locked tells.
    async fn check_not_lost(&self, parent: Option<&RestorePoint>) -> Result<()> {
        let Some(parent) = parent.filter(|_| self.descriptor.capabilities.object_lock) else {
            return Ok(());
        };
        let lock = match self.destination.lock_of(&commit_key(parent.chain, parent.id)).await {
            // Without the permission to ask, or on a copy elsewhere, there is nothing to compare.
            Err(error) => {
                tracing::debug!(%error, "whether the parent is locked is not known");
                return Ok(());
            }
            Ok(lock) => lock,
        };
        if lock.is_none_or(|lock| lock.until <= time(self.clock.now_ms())) {
            return Ok(());
        }
        Err(RepositoryError::new(
            ErrorKind::Invalid,
            format!(
                "{parent} is locked, but the setting that says so is gone: somebody removed the \
                 object `lock`; run `sluice lock set` before the next backup"
            ),
        ))
    }

    /// Locks end by the destination's clock: with a wrong one here they would end far too soon, or
    /// never.
    async fn check_clock(&self, object: &sluice_destination::Key) -> Result<()> {
        let Some(theirs) = self.destination.head(object).await?.modified else { return Ok(()) };
        let (theirs, ours) = (ms_of(theirs), self.clock.now_ms());
        if theirs.abs_diff(ours) <= CLOCKS_APART.as_millis() as u64 {
            return Ok(());
        }
        Err(RepositoryError::new(
            ErrorKind::Invalid,
            format!(
                "this machine's clock and the destination's differ by {} hours: locks would end at \
                 the wrong time, and cannot be taken back; set the clock",
                theirs.abs_diff(ours) / 3_600_000
            ),
        ))
    }

    /// Objects without which no point can be read: descriptor, key slots, records of epochs.
    async fn foundations(&self) -> Result<Vec<sluice_destination::Key>> {
        let mut keys = vec![crate::format::id::descriptor_key()];
        for prefix in ["keys/", crate::format::id::EPOCHS_PREFIX] {
            let objects = list_all(&*self.destination, prefix).await?;
            keys.extend(objects.into_iter().map(|object| object.key));
        }
        Ok(keys)
    }
}

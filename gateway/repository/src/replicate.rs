//! Copying a repository to another destination, restore point by restore point.
//!
//! # Model
//!
//! A **replica** has the same repository id, the same keys, and objects with the same bytes under
//! the same keys; what is copied is ciphertext, and copying needs no key. What is missing is told
//! by comparing listings, so there is no state to lose: a copy that was killed goes on where it
//! was, and one that was carried by hand on a disk is gone on from.
//!
//! ```text
//!  source: commits, tombstones ── which points ──┐
//!          packs ─────────────── which packs ────┤ Plan ── packs, then index, then commits
//!  target: the same listings ────────────────────┘
//! ```
//!
//! # Invariants
//!
//! * A commit record is put when every pack it needs is durable at the target: the replica is
//!   valid at any moment.
//! * A pack whose bytes differ from the hash in its footer is not copied, and no point that needs
//!   it is committed.
//! * Nothing at the target is removed, but what the target's own retention prunes, points that the
//!   source has pruned, if asked for, and, with the key, key slots the source no longer has, while
//!   one is left that is known to open the repository.
//! * What is kept at either side is not pruned at the target.
//! * No backup begins in a replica, and no collection goes on while a copy is under way.
//!
//! # With and without a key
//!
//! Without a key all packs the source has are copied. The key is needed to tell which packs a
//! point needs: when only some points are wanted, when the target has pruned points of its own,
//! and to go on past a damaged pack; and to tell which key slots can be trusted, before any goes.

mod admit;
mod bury;
mod check;
mod copied;
mod copies;
mod listing;
pub(crate) mod merge;
mod needs;
mod plan;
mod protections;
mod reconcile;
mod retain;
mod run;
mod select;
mod slots;
pub mod state;
pub mod throttle;
mod throttled;
mod transfer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use jiff::tz::TimeZone;
use sluice_destination::Destination;

use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::repository::Repository;
use crate::retention::Policy;
use crate::verify::Damage;

pub use copied::Copied;
pub use copies::{Copies, NewId};
pub use plan::{Plan, plan};
pub use throttle::Throttle;
pub use throttled::Throttled;

/// Where points come from.
#[derive(Debug, Clone)]
pub struct Source {
    /// The destination to copy from.
    pub destination: Arc<dyn Destination>,
    /// The same repository, opened; not needed when everything is copied.
    pub key: Option<Repository>,
}

/// Which points are wanted; all when nothing is set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only of these instances.
    pub instances: Vec<String>,
    /// Only so many of the newest of each instance.
    pub latest: Option<u32>,
    /// Only those made at or after this time, in ms since 1970.
    pub since_ms: Option<u64>,
}

impl Filter {
    /// Whether it leaves nothing out.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// How to replicate.
#[derive(Debug, Clone)]
pub struct Options {
    /// Which points are wanted.
    pub filter: Filter,
    /// What the target keeps; points that it would not keep are not copied, and what it no
    /// longer keeps is pruned there.
    pub keep: Option<Policy>,
    /// Who prunes, for the record.
    pub by: String,
    /// Copy the source's tombstones as well.
    pub mirror_prunes: bool,
    /// Also look for packs of points that the target has, should it have lost some. Without a
    /// filter or policy that is done anyway.
    pub repair: bool,
    /// Packs copied side by side, each held in memory.
    pub parallel: usize,
    /// The zone of the policy's days.
    pub zone: TimeZone,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            filter: Filter::default(),
            keep: None,
            by: "replicate".into(),
            mirror_prunes: false,
            repair: false,
            parallel: 4,
            zone: TimeZone::UTC,
        }
    }
}

impl Options {
    /// Whether these can only be followed with the key.
    pub fn need_key(&self) -> bool {
        !self.filter.is_empty() || self.keep.is_some()
    }
}

/// What a destination is to a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// It holds no repository: it can become a replica.
    Empty,
    /// It is a replica of the same repository.
    Replica,
    /// It is the same repository, and takes backups of its own.
    Twin,
    /// It is another repository, with keys of its own.
    Other,
}

/// What `target` is to `source`.
///
/// # Errors
/// [`ErrorKind::NotARepository`] for the source; or a destination fails.
pub async fn relation(source: &dyn Destination, target: &dyn Destination) -> Result<Relation> {
    let ours = Repository::peek(source).await?;
    let theirs = match Repository::peek(target).await {
        Err(error) if error.kind() == ErrorKind::NotARepository => return Ok(Relation::Empty),
        other => other?,
    };
    if ours.id != theirs.id {
        return Ok(Relation::Other);
    }
    let marked = state::mark(target).await?.is_some();
    Ok(if marked { Relation::Replica } else { Relation::Twin })
}

/// Counts of a replication under way. Shared between tasks.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes of packs to copy; 0 until known.
    pub total_bytes: AtomicU64,
    /// Bytes of packs copied, or found not to be copied.
    pub bytes: AtomicU64,
    /// Packs copied.
    pub packs: AtomicU64,
    /// Points that exist at the target now and did not before.
    pub points: AtomicU64,
    stop: AtomicBool,
}

impl Progress {
    /// Asks the replication to end soon. What was copied is kept.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}

/// What a replication came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Points that exist at the target now and did not before.
    pub points: Vec<String>,
    /// Points that were pruned at the source meanwhile.
    pub gone: Vec<String>,
    /// Packs copied.
    pub packs: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Packs that were damaged at the target and are sound now.
    pub repaired: u64,
    /// Points pruned at the target: by its own retention, or as at the source.
    pub pruned: Vec<String>,
    /// Points that would have been, and that something keeps: a hold, or retention.
    pub kept: Vec<String>,
    /// Names of key slots that only the target has, and that were not removed: without the key, or
    /// because no other is known to open the repository.
    pub kept_slots: Vec<String>,
    /// What is damaged at the source, and the points that therefore were not copied.
    pub damage: Vec<Damage>,
}

/// What a replication needs of its surroundings.
#[derive(Debug, Clone)]
pub struct Means {
    /// Tells the time.
    pub clock: Clock,
    /// Keeps to a rate.
    pub throttle: Option<Arc<Throttle>>,
    /// Counts.
    pub progress: Arc<Progress>,
}

//! Collection: giving back the space of what nothing references any more, while everything goes on.
//!
//! There is no lock. Collection `n` says in `g/<n>/condemned` what it wants to remove, waits until
//! every open session has said that it knows, looks again at what is referenced, and only then
//! removes what still is not. The protocol, with the reasons for each step, is in
//! `docs/decisions/0010-collection-protocol.md`; its names (C1 to C9) are used here.
//!
//! # Invariants
//!
//! * A pack is removed only when it is condemned, every session alive has seen the list, and
//!   nothing that is or may become a restore point references it.
//! * A collection that dies is finished by the next one. Two collectors on the same collection do
//!   no harm.
//! * Memory is a row for each pack and nine bits for eight slots, whatever the points.

pub(crate) mod budget;
mod compact;
mod mark;
mod marks;
mod plan;
mod roots;
mod run;
mod verdicts;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::collection::MAX_VERDICTS;

pub use plan::{CollectionPlan, Requests};
pub use run::{CollectReport, Waiting};

/// How to collect.
#[derive(Debug, Clone)]
pub struct CollectOptions {
    /// Packs with less than this share of live bytes are compacted, 0.0 to 1.0.
    pub compact_below: f64,
    /// Packs of which compaction would free fewer bytes than this are left alone.
    pub min_saving: u64,
    /// A session or pin that shows no sign of life for so long is taken for dead: a session is
    /// fenced and can never commit, a pin no longer holds a pruned point.
    pub silent: Duration,
    /// How long to wait for open sessions to learn what is condemned.
    pub wait: Duration,
    /// Most bytes to move in a second.
    pub limit: Option<u64>,
    /// Most packs that its lists name, [`MAX_VERDICTS`] and no more: what is beyond that is left
    /// to the next collections.
    pub most_named: usize,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            compact_below: 0.5,
            min_saving: 8 << 20,
            silent: Duration::from_secs(24 * 3600),
            wait: Duration::from_secs(15 * 60),
            limit: None,
            most_named: MAX_VERDICTS,
        }
    }
}

/// What a collection is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CollectPhase {
    /// Listing packs.
    Listing,
    /// Reading the block maps of restore points.
    Marking,
    /// Waiting for open sessions.
    Waiting,
    /// Removing packs.
    Removing,
    /// Compacting packs.
    Compacting,
}

const PHASES: [CollectPhase; 5] = [
    CollectPhase::Listing,
    CollectPhase::Marking,
    CollectPhase::Waiting,
    CollectPhase::Removing,
    CollectPhase::Compacting,
];

/// Counts of a collection under way, and the means to stop it.
#[derive(Debug, Default)]
pub struct CollectProgress {
    phase: AtomicU8,
    /// Steps of the phase that are done: points, sessions, or packs.
    pub done: AtomicU64,
    /// All steps of the phase; 0 when not known.
    pub total: AtomicU64,
    /// Bytes moved by compaction.
    pub moved: AtomicU64,
    stop: AtomicBool,
}

impl CollectProgress {
    /// What is going on.
    pub fn phase(&self) -> CollectPhase {
        PHASES[usize::from(self.phase.load(Ordering::Relaxed)) % PHASES.len()]
    }

    /// Asks the collection to stop at the next step. What it has done stays, and the next
    /// collection goes on from there.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn check_stop(&self) -> Result<()> {
        if self.is_stopped() { Err(stopped()) } else { Ok(()) }
    }

    fn start(&self, phase: CollectPhase, total: u64) {
        let at = PHASES.iter().position(|one| *one == phase).unwrap_or_default();
        self.phase.store(at as u8, Ordering::Relaxed);
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }
}

fn stopped() -> RepositoryError {
    RepositoryError::new(ErrorKind::Cancelled, "the collection was stopped; run it again to go on")
}

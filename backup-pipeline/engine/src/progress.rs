//! What a run has done so far, for people who wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use parking_lot::RwLock;
use sluice_repository::WriteCounters;

/// What a run is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Phase {
    /// Opening things, looking at what an interrupted run left.
    #[default]
    Preparing,
    /// Moving data.
    Running,
    /// Waiting for the last bytes to be durable, committing.
    Finishing,
    /// Done.
    Done,
}

/// Counts of a run, readable while it goes on. Shared between tasks.
#[derive(Debug, Default)]
pub struct Progress {
    phase: AtomicU8,
    total: AtomicU64,
    done: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    counters: RwLock<Option<Arc<WriteCounters>>>,
}

/// A moment of a run's counts, all in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Snapshot {
    /// What the run is doing.
    pub phase: Phase,
    /// Bytes of all images; 0 while not known.
    pub total: u64,
    /// Bytes dealt with, whether read, known to be zero, or known to be unchanged.
    pub done: u64,
    /// Bytes read from the source or the repository.
    pub read: u64,
    /// Bytes written to the target (restore).
    pub written: u64,
    /// Bytes of blocks new to the repository.
    pub new: u64,
    /// Bytes the new blocks take in packs.
    pub stored: u64,
    /// Bytes of blocks found in the repository.
    pub dedup: u64,
    /// Bytes of blocks equal to the last point's.
    pub unchanged: u64,
    /// Bytes of zeroes among what was read.
    pub zero: u64,
    /// Bytes of packs already durable.
    pub durable: u64,
    /// Bytes that count against what may be stored, those of interrupted runs included.
    pub charged: u64,
}

impl Progress {
    /// A run that has not begun.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// The counts now.
    pub fn snapshot(&self) -> Snapshot {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = self.counters.read();
        let of = |pick: fn(&WriteCounters) -> &AtomicU64| {
            counters.as_ref().map_or(0, |counters| load(pick(counters)))
        };
        Snapshot {
            phase: match self.phase.load(Ordering::Relaxed) {
                0 => Phase::Preparing,
                1 => Phase::Running,
                2 => Phase::Finishing,
                _ => Phase::Done,
            },
            total: load(&self.total),
            done: load(&self.done),
            read: load(&self.read),
            written: load(&self.written),
            new: of(|c| &c.new),
            stored: of(|c| &c.stored),
            dedup: of(|c| &c.dedup),
            unchanged: of(|c| &c.unchanged),
            zero: of(|c| &c.zero),
            durable: of(|c| &c.durable),
            charged: of(|c| &c.charged),
        }
    }

    pub(crate) fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn watch(&self, counters: Arc<WriteCounters>) {
        *self.counters.write() = Some(counters);
    }

    pub(crate) fn add_total(&self, bytes: u64) {
        self.total.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_done(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn add_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Ordering::Relaxed);
    }
}

//! How many bytes a session may store.
//!
//! Each slot of a pack is charged before it is placed, and what does not fit is not stored: so an
//! allowance is never passed, not by a byte. What interrupted runs left and a session takes over
//! is charged to it as well; else any amount could be stored by being stopped again and again.
//! Headers, tables and footers of packs are not charged, as nobody meters them.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::chunk_writer::WriteCounters;
use crate::error::{ErrorKind, RepositoryError, Result};

/// The most that a session may store, in bytes; may be changed while it runs.
#[derive(Debug)]
pub struct Allowance(AtomicU64);

impl Default for Allowance {
    /// As much as it wants.
    fn default() -> Self {
        Self::of(u64::MAX)
    }
}

impl Allowance {
    /// So much at most.
    pub fn of(bytes: u64) -> Self {
        Self(AtomicU64::new(bytes))
    }

    /// So much at most from now on. What is stored already stays.
    pub fn set(&self, bytes: u64) {
        self.0.store(bytes, Ordering::Relaxed);
    }

    /// So much at most, unless something was said before.
    pub fn begin_with(&self, bytes: u64) {
        let (order, untold) = (Ordering::Relaxed, u64::MAX);
        // Whoever was faster knows better.
        let _ = self.0.compare_exchange(untold, bytes, order, order);
    }

    /// Charges what is to be stored.
    ///
    /// # Errors
    /// [`ErrorKind::Allowance`] when it does not fit: it must not be stored then.
    pub(crate) fn charge(&self, counters: &WriteCounters, bytes: u64) -> Result<()> {
        let most = self.0.load(Ordering::Relaxed);
        let fits = |charged: u64| charged.checked_add(bytes).filter(|sum| *sum <= most);
        let (order, charged) = (Ordering::Relaxed, &counters.charged);
        charged.fetch_update(order, order, fits).map(drop).map_err(|charged| {
            let text = format!(
                "this backup may store {most} bytes and needs more: {charged} are stored, and kept \
                 for its next run"
            );
            RepositoryError::new(ErrorKind::Allowance, text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_not_charged_and_less_still_may_be() {
        let (allowance, counters) = (Allowance::of(100), WriteCounters::default());
        allowance.charge(&counters, 60).unwrap();
        let refused = allowance.charge(&counters, 41).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Allowance);
        assert!(refused.to_string().contains("may store 100 bytes"), "{refused}");
        allowance.charge(&counters, 40).unwrap();
        allowance.set(101);
        allowance.charge(&counters, 1).unwrap();
        assert_eq!(counters.charged.load(Ordering::Relaxed), 101);
        allowance.set(50);
        assert!(allowance.charge(&counters, 1).is_err(), "less than was stored already");
    }

    #[test]
    fn what_was_said_while_it_ran_is_not_forgotten() {
        let allowance = Allowance::default();
        allowance.begin_with(7);
        allowance.begin_with(9);
        assert!(allowance.charge(&WriteCounters::default(), 8).is_err());
    }
}

//! How long a task is this node's.
//!
//! ```text
//!   asked ───────────────── lease ─────────────────► over
//!     └─ asked again ────────────── lease ───────────┼───────► over
//!                                   told to end ─────┘ margin
//! ```
//!
//! A lease is counted from when the node *asked* for it, or for its renewal, however long the
//! answer took: the server counts from later, and lets some time pass beyond. What runs is told to
//! end before the lease does, and is killed before it is over. So nobody else has begun by then,
//! also when every report hangs.

use std::ops::Deref;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sluice_node_api::Lease;
use tokio::time::Instant;

/// The most by which what runs is told to end before its lease does.
const MARGIN: Duration = Duration::from_secs(5);

/// A task that is this node's.
pub(crate) struct Tenure {
    lease: Lease,
    asked: Mutex<Instant>,
}

impl Deref for Tenure {
    type Target = Lease;

    fn deref(&self) -> &Lease {
        &self.lease
    }
}

impl Tenure {
    /// What was asked for at `asked`. A server of an earlier release does not say how long it kept
    /// the node waiting: there it counts from the answer.
    pub(crate) fn new(lease: Lease, asked: Instant) -> Self {
        let begun = lease.waited_ms.map(|waited| asked + Duration::from_millis(waited));
        let now = Instant::now();
        let asked = Mutex::new(begun.map_or(now, |begun| begun.min(now)));
        Self { lease, asked }
    }

    /// The server has heard what was said at `asked`.
    pub(crate) fn renewed(&self, asked: Instant) {
        let mut last = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        *last = asked.max(*last);
    }

    fn margin(&self) -> Duration {
        MARGIN.min(self.length() / 4)
    }

    /// How long what runs may take to end by itself; killed after that, it is gone in time.
    pub(crate) fn patience(&self) -> Duration {
        self.margin() * 3 / 4
    }

    fn length(&self) -> Duration {
        Duration::from_millis(self.lease.lease_ms)
    }

    /// When what runs is told to end, if nothing is heard until then.
    fn end(&self) -> Instant {
        let asked = *self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        asked + self.length().saturating_sub(self.margin())
    }

    /// Returns when what runs must end. May be cancelled.
    pub(crate) async fn ends(&self) {
        let mut end = self.end();
        loop {
            tokio::time::sleep_until(end).await;
            match self.end() {
                later if later > end => end = later,
                _ => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use sluice_node_api::Work;

    use super::*;

    fn lease(waited_ms: Option<u64>) -> Lease {
        let work = Work::without_repository();
        Lease { task: "t".into(), attempt: 1, lease_ms: 60_000, waited_ms, work }
    }

    #[test]
    fn a_lease_is_counted_from_when_it_was_asked_for() {
        let asked = Instant::now() - Duration::from_secs(30);
        let end = |waited| Tenure::new(lease(waited), asked).end();
        assert_eq!(end(Some(0)), asked + Duration::from_secs(55));
        assert_eq!(end(Some(20_000)), asked + Duration::from_secs(75));
        // Nobody has waited longer than it took.
        assert!(end(Some(40_000)) < asked + Duration::from_secs(95));
        assert!(end(None) >= asked + Duration::from_secs(85));
    }

    #[test]
    fn a_renewal_counts_from_its_question_and_one_that_was_late_takes_nothing() {
        let asked = Instant::now() - Duration::from_secs(30);
        let tenure = Tenure::new(lease(Some(0)), asked);
        tenure.renewed(asked + Duration::from_secs(8));
        tenure.renewed(asked + Duration::from_secs(4));
        assert_eq!(tenure.end(), asked + Duration::from_secs(63));
    }
}

//! Which leases are over, told by how long nothing was heard, and by no clock that can be set.
//!
//! ```text
//!   node:    asks ────────── lease ─────────► its process has ended
//!   server:       hears, looks ────────── lease ──────── grace ─────────► another node
//! ```
//!
//! Whatever a node says of a task leaves another mark at its lease ([`LeaseMark`]). The server
//! looks at all marks each second, and counts by a clock of its own, which only goes forward, how
//! long one has stayed the same. So it does not matter what time it is, whether the clock was set
//! meanwhile, and what time other servers of the same database believe it is: a lease ends when
//! nothing was written for its length and the grace.
//!
//! Time in which the server did not look counts for little: nodes could not be heard then. A server
//! that was started again begins to count anew.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sluice_catalog::{LeaseMark, TaskId};

/// How long a lease must be over before the task is given to another node: the node counts from
/// when it asked, and by then its process has ended.
const GRACE: Duration = Duration::from_secs(10);
/// The most that the time between two looks counts for.
const LONGEST_STEP: Duration = Duration::from_secs(5);

/// Watches leases.
#[derive(Debug)]
pub(crate) struct Leases {
    patience: Duration,
    step: Duration,
    /// The time that was counted.
    time: Duration,
    looked: Option<Instant>,
    /// The marks, and since when each is as it is.
    seen: BTreeMap<TaskId, (LeaseMark, Duration)>,
}

impl Leases {
    /// For leases of this length.
    pub(crate) fn new(lease: Duration) -> Self {
        let patience = lease + GRACE.min(lease);
        let step = LONGEST_STEP.min(patience / 4);
        Self { patience, step, time: Duration::ZERO, looked: None, seen: BTreeMap::new() }
    }

    /// Looks at all leases at `now`; those that are over.
    pub(crate) fn over(&mut self, marks: Vec<LeaseMark>, now: Instant) -> Vec<LeaseMark> {
        if let Some(looked) = self.looked.replace(now) {
            self.time += now.saturating_duration_since(looked).min(self.step);
        }
        let mut before = std::mem::take(&mut self.seen);
        for mark in marks {
            let known = before.remove(&mark.task).filter(|(known, _)| *known == mark);
            let since = known.map_or(self.time, |(_, since)| since);
            self.seen.insert(mark.task, (mark, since));
        }
        let silent = |(_, since): &&(LeaseMark, Duration)| self.time - *since >= self.patience;
        self.seen.values().filter(silent).map(|(mark, _)| *mark).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Leases of a minute, a moment, and a mark of a task.
    fn watch() -> (Leases, Instant, LeaseMark) {
        let mark = LeaseMark { task: TaskId::new(1), attempt: 1, until_ms: 1_000_000 };
        (Leases::new(60 * SECOND), Instant::now(), mark)
    }

    #[test]
    fn a_lease_is_over_when_nothing_was_heard_for_its_length_and_the_grace() {
        let (mut leases, begun, mark) = watch();
        for second in 0..70 {
            assert_eq!(leases.over(vec![mark], begun + second * SECOND), [], "{second}");
        }
        assert_eq!(leases.over(vec![mark], begun + 70 * SECOND), [mark]);
        // Until somebody takes it back.
        assert_eq!(leases.over(vec![mark], begun + 71 * SECOND), [mark]);
        let next = LeaseMark { attempt: 2, ..mark };
        assert_eq!(leases.over(vec![next], begun + 72 * SECOND), []);
    }

    #[test]
    fn it_does_not_matter_what_time_the_renewals_say() {
        let (mut leases, begun, mark) = watch();
        // A node is heard each half minute, by servers whose clocks are hours apart.
        let clocks = [7_200_000, 0, 90_000_000, 90_000_001, 5];
        for (turn, until_ms) in (0u32..).zip(clocks) {
            let mark = LeaseMark { until_ms, ..mark };
            for second in 0..30 {
                let now = begun + (turn * 30 + second) * SECOND;
                assert_eq!(leases.over(vec![mark], now), [], "{turn} {second}");
            }
        }
        // And one that is not heard any more is lost as soon as with any other clock.
        let last = LeaseMark { until_ms: 5, ..mark };
        for second in 150..190 {
            assert_eq!(leases.over(vec![last], begun + second * SECOND), [], "{second}");
        }
        assert_eq!(leases.over(vec![last], begun + 190 * SECOND), [last]);
    }

    #[test]
    fn while_the_server_does_not_look_no_lease_ends() {
        let (mut leases, begun, mark) = watch();
        leases.over(vec![mark], begun);
        let back = begun + 86_400 * SECOND;
        for second in 0..65 {
            assert_eq!(leases.over(vec![mark], back + second * SECOND), [], "{second}");
        }
        assert_eq!(leases.over(vec![mark], back + 65 * SECOND), [mark]);
    }

    #[test]
    fn a_server_that_looks_seldom_finds_it_in_the_end() {
        let (mut leases, mut now, mark) = watch();
        let looks = std::iter::from_fn(|| {
            now += 20 * SECOND;
            Some(leases.over(vec![mark], now))
        });
        assert!(looks.take(30).any(|over| over == [mark]));
    }
}

//! What is mounted and what is to be done about it, as a function of what happened and the time.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Most mounts one daemon keeps: each is a process.
pub const MAX_MOUNTS: usize = 256;
/// The wait before the first new attempt, in ms; each further one waits twice as long.
const FIRST_WAIT_MS: u64 = 1_000;
/// The longest wait between attempts, in ms.
const LONGEST_WAIT_MS: u64 = 60_000;

/// What is stored of a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its name for people and programs.
    pub id: String,
    /// What it is; only the runner reads it.
    pub spec: Value,
    /// What must be the same when it comes back; only the runner reads it.
    pub identity: Value,
    /// When it was asked for, in ms since 1970.
    pub created_ms: u64,
    /// When it ends by itself, in ms since 1970; never without.
    pub lease_end_ms: Option<u64>,
    /// Names of secrets it was started with. Their values are not stored.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub secret_names: BTreeSet<String>,
}

/// How a mount is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "kebab-case")]
pub enum State {
    /// It is being started; this many attempts failed before.
    Starting {
        /// Attempts that failed since it last ran.
        failed: u32,
    },
    /// It serves.
    Running,
    /// It failed, and is tried again.
    Waiting {
        /// Attempts that failed since it last ran.
        failed: u32,
        /// When it is tried again, in ms since 1970.
        again_ms: u64,
        /// Why it failed; empty when it was not tried yet.
        reason: String,
    },
    /// It failed, and trying again would not help.
    Failed {
        /// Why, and what to do.
        reason: String,
    },
    /// It is being stopped.
    Stopping,
}

/// A mount and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What is stored of it.
    pub record: Record,
    /// How it is.
    pub state: State,
}

/// What is to be done now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start it. It is `Starting` from now on.
    Start(String),
    /// Stop it, for its lease is over. It is `Stopping` from now on.
    Stop(String),
    /// Nothing of it runs: clean up after it. It is no longer in the table.
    Forget(Record),
}

/// How a stop begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stop {
    /// What runs must be told; [`Table::ended`] is called when it has ended.
    Tell,
    /// Nothing runs; it is no longer in the table.
    Forget(Record),
    /// There is no such mount.
    Unknown,
}

/// How a mount ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// As it should: somebody unmounted it.
    Finished,
    /// It could not be started, or broke.
    Failed(String),
    /// It could not be started, and trying again would not help.
    Hopeless(String),
}

/// All mounts.
#[derive(Debug, Default)]
pub struct Table {
    entries: BTreeMap<String, Entry>,
}

impl Table {
    /// A table of what was stored, to be started at once.
    pub fn recovered(records: impl IntoIterator<Item = Record>) -> Self {
        let waiting = || State::Waiting { failed: 0, again_ms: 0, reason: String::new() };
        let entries = records.into_iter().map(|record| {
            let entry = Entry { record, state: waiting() };
            (entry.record.id.clone(), entry)
        });
        Self { entries: entries.collect() }
    }

    /// Adds a mount that runs.
    pub fn insert_running(&mut self, record: Record) {
        let entry = Entry { record, state: State::Running };
        self.entries.insert(entry.record.id.clone(), entry);
    }

    /// All mounts, by id.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// The mount of this id.
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.entries.get(id)
    }

    /// Whether there is no mount.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The number of mounts.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// What is to be done at this time. Each action is returned once.
    pub fn due(&mut self, now_ms: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        let mut over = Vec::new();
        for (id, entry) in &mut self.entries {
            let expired = entry.record.lease_end_ms.is_some_and(|end| end <= now_ms);
            match entry.state {
                State::Running | State::Starting { .. } if expired => {
                    entry.state = State::Stopping;
                    actions.push(Action::Stop(id.clone()));
                }
                State::Waiting { .. } | State::Failed { .. } if expired => over.push(id.clone()),
                State::Waiting { failed, again_ms, .. } if again_ms <= now_ms => {
                    entry.state = State::Starting { failed };
                    actions.push(Action::Start(id.clone()));
                }
                _ => {}
            }
        }
        let forgotten = over.iter().filter_map(|id| self.entries.remove(id));
        actions.extend(forgotten.map(|entry| Action::Forget(entry.record)));
        actions
    }

    /// When [`due`](Self::due) will have something, in ms since 1970.
    pub fn next_due(&self) -> Option<u64> {
        let next = |entry: &Entry| {
            let lease = entry.record.lease_end_ms;
            match entry.state {
                State::Stopping => None,
                State::Waiting { again_ms, .. } => Some(lease.unwrap_or(again_ms).min(again_ms)),
                _ => lease,
            }
        };
        self.entries.values().filter_map(next).min()
    }

    /// A mount that was being started now runs.
    pub fn started(&mut self, id: &str) {
        if let Some(entry) = self.entries.get_mut(id)
            && matches!(entry.state, State::Starting { .. })
        {
            entry.state = State::Running;
        }
    }

    /// A mount told of itself what is to be known from now on.
    pub fn identify(&mut self, id: &str, identity: Value) {
        if let Some(entry) = self.entries.get_mut(id) {
            entry.record.identity = identity;
        }
    }

    /// Nothing of a mount runs any more. Returns its record if it is no longer in the table.
    pub fn ended(&mut self, id: &str, end: End, now_ms: u64) -> Option<Record> {
        let entry = self.entries.get_mut(id)?;
        let failed = match entry.state {
            State::Stopping => return self.entries.remove(id).map(|entry| entry.record),
            State::Starting { failed } => failed,
            _ => 0,
        };
        match end {
            End::Finished => return self.entries.remove(id).map(|entry| entry.record),
            End::Failed(reason) => {
                let again_ms = now_ms.saturating_add(wait_ms(failed));
                let failed = failed.saturating_add(1);
                entry.state = State::Waiting { failed, again_ms, reason };
            }
            End::Hopeless(reason) => entry.state = State::Failed { reason },
        }
        None
    }

    /// Lets a mount that does not run be tried at once, whatever it failed of. Returns whether
    /// there is such a mount.
    pub fn retry(&mut self, id: &str) -> bool {
        let Some(entry) = self.entries.get_mut(id) else { return false };
        if matches!(entry.state, State::Waiting { .. } | State::Failed { .. }) {
            entry.state = State::Waiting { failed: 0, again_ms: 0, reason: String::new() };
        }
        true
    }

    /// Begins to stop a mount.
    pub fn stop(&mut self, id: &str) -> Stop {
        let Some(entry) = self.entries.get_mut(id) else { return Stop::Unknown };
        match entry.state {
            State::Waiting { .. } | State::Failed { .. } => {
                self.entries.remove(id).map_or(Stop::Unknown, |entry| Stop::Forget(entry.record))
            }
            _ => {
                entry.state = State::Stopping;
                Stop::Tell
            }
        }
    }

    /// Gives a mount another end; `None` is never. Returns the record to store, or nothing when
    /// there is no such mount or it is ending already.
    pub fn renew(&mut self, id: &str, lease_end_ms: Option<u64>) -> Option<&Record> {
        let entry = self.entries.get_mut(id)?;
        if entry.state == State::Stopping {
            return None;
        }
        entry.record.lease_end_ms = lease_end_ms;
        Some(&entry.record)
    }
}

/// The wait after an attempt failed, when `failed` others had before it.
fn wait_ms(failed: u32) -> u64 {
    let doubled = FIRST_WAIT_MS.checked_shl(failed.min(16)).unwrap_or(LONGEST_WAIT_MS);
    doubled.min(LONGEST_WAIT_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(id: &str, lease_end_ms: Option<u64>) -> Record {
        Record {
            id: id.into(),
            spec: Value::Null,
            identity: Value::Null,
            created_ms: 0,
            lease_end_ms,
            secret_names: BTreeSet::new(),
        }
    }

    fn running(id: &str, lease_end_ms: Option<u64>) -> Table {
        let mut table = Table::default();
        table.insert_running(record(id, lease_end_ms));
        table
    }

    #[test]
    fn a_lease_ends_at_its_time_and_not_before() {
        let mut table = running("a", Some(1_000));
        assert_eq!(table.next_due(), Some(1_000));
        assert!(table.due(999).is_empty());
        assert_eq!(table.due(1_000), [Action::Stop("a".into())]);
        assert!(table.due(2_000).is_empty(), "it is told once");
        assert_eq!(table.next_due(), None);
        assert!(table.renew("a", None).is_none(), "what is ending cannot be renewed");
        assert!(table.ended("a", End::Failed("killed".into()), 2_000).is_some());
        assert!(table.is_empty());
    }

    #[test]
    fn renewal_moves_the_end_in_both_directions() {
        let mut table = running("a", Some(1_000));
        assert_eq!(table.renew("a", Some(5_000)).unwrap().lease_end_ms, Some(5_000));
        assert!(table.due(4_999).is_empty());
        table.renew("a", None).unwrap();
        assert!(table.due(u64::MAX).is_empty() && table.next_due().is_none());
        table.renew("a", Some(10)).unwrap();
        assert_eq!(table.due(10), [Action::Stop("a".into())]);
        assert!(table.renew("b", None).is_none());
    }

    #[test]
    fn what_broke_is_tried_again_with_growing_waits_and_counts_anew_once_it_ran() {
        let mut table = running("a", None);
        let mut now = 0;
        for wait in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            assert!(table.ended("a", End::Failed("x".into()), now).is_none());
            assert_eq!(table.next_due(), Some(now + wait));
            assert!(table.due(now + wait - 1).is_empty());
            now += wait;
            assert_eq!(table.due(now), [Action::Start("a".into())]);
        }
        table.started("a");
        assert!(table.ended("a", End::Failed("x".into()), now).is_none());
        assert_eq!(table.next_due(), Some(now + 1_000));
    }

    #[test]
    fn what_was_stored_is_started_unless_its_lease_is_over() {
        let mut table = Table::recovered([record("a", Some(100)), record("b", Some(101))]);
        let forgotten = Action::Forget(record("a", Some(100)));
        assert_eq!(table.due(100), [Action::Start("b".into()), forgotten]);
        assert!(table.get("a").is_none());
        // A lease that ends during the start ends the start.
        assert_eq!(table.due(101), [Action::Stop("b".into())]);
    }

    #[test]
    fn hopeless_ones_stay_visible_until_stopped_or_expired() {
        let mut table = running("a", Some(50));
        assert!(table.ended("a", End::Hopeless("no key".into()), 10).is_none());
        assert_eq!(table.get("a").unwrap().state, State::Failed { reason: "no key".into() });
        assert!(table.due(49).is_empty());
        assert_eq!(table.next_due(), Some(50));
        assert!(matches!(table.due(50)[..], [Action::Forget(_)]));
    }

    #[test]
    fn a_hopeless_one_is_tried_at_once_when_somebody_has_helped() {
        let mut table = running("a", None);
        assert!(table.ended("a", End::Hopeless("no key".into()), 10).is_none());
        assert!(table.retry("a") && !table.retry("b"));
        assert_eq!(table.due(10), [Action::Start("a".into())]);
        table.started("a");
        assert!(table.retry("a"));
        assert_eq!(table.get("a").unwrap().state, State::Running, "what runs is left alone");
    }

    #[test]
    fn stopping_tells_what_runs_and_forgets_what_does_not() {
        let mut table = running("a", None);
        assert_eq!(table.stop("a"), Stop::Tell);
        assert_eq!(table.stop("a"), Stop::Tell, "a second one waits for the same end");
        assert!(table.ended("a", End::Finished, 0).is_some());
        assert_eq!(table.stop("a"), Stop::Unknown);
        table = Table::recovered([record("a", None)]);
        assert!(matches!(table.stop("a"), Stop::Forget(_)));
        assert!(table.is_empty());
    }
}

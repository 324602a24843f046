use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::hook::Hooks;
use super::policy::{Schedule, check_schedules};
use crate::error::{CatalogError, Result};
use crate::id::{InstanceId, NodeId, PolicyId, ProjectId, SnapshotId, TaskId};

/// The most snapshots of an instance that a rule keeps by their number.
const MOST: u32 = 1000;
/// The longest that a rule keeps one by its age, in hours.
const LONGEST_HOURS: u32 = 3660 * 24;

/// How far a snapshot is.
///
/// ```text
///       ┌─────── nobody has begun it ────────┐
///       │         ┌─ its node was removed ───┐ │
///       │         │                          ▼ ▼
///   requested ──► ready ──► removing ──────► gone      nothing is left of it at the source
///       │                      ▲
///       └── its task failed ───┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SnapshotState {
    /// A node is to make it.
    Requested,
    /// It is there.
    Ready,
    /// A node is to remove what there is of it.
    Removing,
    /// Nothing of it is left.
    Gone,
}

impl SnapshotState {
    /// Every state.
    pub const ALL: [Self; 4] = [Self::Requested, Self::Ready, Self::Removing, Self::Gone];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Ready => "ready",
            Self::Removing => "removing",
            Self::Gone => "gone",
        }
    }

    /// The state of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// An image of a snapshot, on its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotImage {
    /// The image's name within restore points.
    pub name: String,
    /// Where it lies.
    pub path: String,
    /// Its size as a file, in bytes.
    #[serde(default)]
    pub bytes: u64,
}

/// A snapshot to add.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSnapshot {
    /// The project of the instance.
    pub project: Option<ProjectId>,
    /// What it is of.
    pub instance: InstanceId,
    /// The policy that wanted it; nothing when somebody did by hand.
    pub policy: Option<PolicyId>,
    /// The policy's rule for snapshots.
    pub rule: String,
    /// The task that makes it.
    pub task: TaskId,
    /// When it is removed by itself, in milliseconds since 1970; 0 when its rule says, or nobody.
    pub expires_ms: u64,
}

/// A snapshot of an instance that stays at its source.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceSnapshot {
    /// Its id, which is also its name on the node.
    pub id: SnapshotId,
    /// As it was asked for; the task is the one that makes or removes it, or did so last.
    pub new: NewSnapshot,
    /// Where it is, once it is there.
    pub node: Option<NodeId>,
    /// How far it is.
    pub state: SnapshotState,
    /// What moment it holds, in milliseconds since 1970; 0 before it is ready.
    pub made_ms: u64,
    /// Its images, once it is ready.
    pub images: Vec<SnapshotImage>,
    /// Why it is in this state, in one line.
    pub message: String,
    /// Grows with every change.
    pub revision: u64,
    /// When it was asked for, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was changed last, in milliseconds since 1970.
    pub updated_ms: u64,
}

/// Which snapshots to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SnapshotFilter {
    /// Those in this state; without, all but those that are gone.
    pub state: Option<SnapshotState>,
    /// Those of this instance.
    pub instance: Option<InstanceId>,
}

/// Snapshots that a policy makes and that stay at the source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotRule {
    /// Its name within the policy.
    pub name: String,
    /// None are made while it is paused; those that are there go as they would.
    #[serde(default)]
    pub paused: bool,
    /// Which are kept. They take space at the source, so it says something.
    pub keep: SnapshotKeep,
    /// When they are made.
    pub schedules: Vec<Schedule>,
    /// Commands around each of them.
    #[serde(default, skip_serializing_if = "Hooks::is_empty")]
    pub hooks: Hooks,
}

/// Which snapshots of an instance a rule keeps: what either says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotKeep {
    /// So many of the newest.
    pub last: u32,
    /// All that are not older than so many hours.
    pub within_hours: u32,
}

impl SnapshotKeep {
    /// Which of these moments, in milliseconds since 1970, are kept no more.
    pub fn expired(self, made_ms: &[u64], now_ms: u64) -> Vec<bool> {
        let mut newest: Vec<usize> = (0..made_ms.len()).collect();
        newest.sort_by_key(|at| std::cmp::Reverse(made_ms[*at]));
        let oldest = now_ms.saturating_sub(u64::from(self.within_hours) * 3_600_000);
        let mut expired = vec![false; made_ms.len()];
        for (rank, at) in newest.into_iter().enumerate() {
            let young = self.within_hours > 0 && made_ms[at] >= oldest;
            expired[at] = rank >= self.last as usize && !young;
        }
        expired
    }
}

impl SnapshotRule {
    pub(crate) fn sense(&self) -> Result<()> {
        let no = |text: &str| Err(CatalogError::invalid(text));
        crate::record::check_name("snapshot rule", &self.name)?;
        check_schedules(&self.schedules)?;
        let SnapshotKeep { last, within_hours } = self.keep;
        if last == 0 && within_hours == 0 {
            return no("a rule for snapshots says how many it keeps (last), or how long \
                       (within_hours)");
        }
        if last > MOST || within_hours > LONGEST_HOURS {
            return no("a rule keeps 1000 snapshots, and each for 10 years, at most");
        }
        self.hooks.sense()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn a_snapshot_goes_when_neither_number_nor_age_keeps_it() {
        let now = 100 * HOUR;
        let made = [90, 99, 95, 60].map(|hour| hour * HOUR);
        let expired = |last, within_hours| SnapshotKeep { last, within_hours }.expired(&made, now);
        assert_eq!(expired(2, 0), [true, false, false, true]);
        assert_eq!(expired(0, 5), [true, false, false, true]);
        assert_eq!(expired(1, 10), [false, false, false, true]);
        assert_eq!(expired(4, 0), [false; 4]);
        // What is made within the millisecond in which it is looked at is there.
        assert_eq!(SnapshotKeep { last: 0, within_hours: 1 }.expired(&[now], now), [false]);
    }

    #[test]
    fn a_rule_says_what_it_keeps() {
        let fits = |text: &str| serde_json::from_str::<SnapshotRule>(text).unwrap().sense().is_ok();
        assert!(fits(r#"{"name": "hourly", "keep": {"last": 24}, "schedules": []}"#));
        assert!(fits(r#"{"name": "hourly", "keep": {"within_hours": 48}, "schedules": []}"#));
        assert!(!fits(r#"{"name": "hourly", "keep": {}, "schedules": []}"#));
        assert!(!fits(r#"{"name": "hourly", "keep": {"last": 1001}, "schedules": []}"#));
        assert!(!fits(r#"{"name": "", "keep": {"last": 1}, "schedules": []}"#));
        let around = |hooks: &str| {
            let text = r#"{"name": "a", "keep": {"last": 1}, "schedules": [], "hooks": HOOKS}"#;
            let rule = serde_json::from_str::<SnapshotRule>(&text.replace("HOOKS", hooks));
            rule.is_ok_and(|rule| rule.sense().is_ok())
        };
        assert!(around(r#"{"before": [{"command": ["/bin/true"]}]}"#));
        assert!(!around(r#"{"before": [{"command": ["true"]}]}"#), "no path");
        assert!(!around(r#"{"after": [{"command": []}]}"#));
        assert!(!around(r#"{"during": []}"#));
    }
}

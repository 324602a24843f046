use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::grant::Resource;
use crate::found::Span;
use crate::id::{DestinationId, InstanceId, NodeId, PolicyId, ProjectId, TaskId};

/// How far a task is.
///
/// ```text
///   queued ──lease──► running ──report──► succeeded | warnings | failed | cancelled
///     ▲  ╲cancel         │
///     │   └─► cancelled  │ the lease ran out, or it failed and may be tried again
///     └──────────────────┘
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TaskState {
    /// Waits for a node.
    Queued,
    /// A node has its lease.
    Running,
    /// Done.
    Succeeded,
    /// Done, with warnings in the log.
    Warnings,
    /// Failed for good.
    Failed,
    /// Ended because somebody wanted so.
    Cancelled,
}

impl TaskState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Queued,
        Self::Running,
        Self::Succeeded,
        Self::Warnings,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Warnings => "warnings",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// Whether nothing more happens.
    pub fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }
}

/// How far the work is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Progress {
    /// What is being done, in a word.
    pub phase: String,
    /// Bytes in all; 0 while unknown.
    pub total: u64,
    /// Bytes done.
    pub done: u64,
    /// Bytes per second.
    pub rate: u64,
    /// Seconds left, when that can be told.
    pub eta: Option<u64>,
}

/// A task to add.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTask {
    /// The project of what it works on.
    pub project: Option<ProjectId>,
    /// What it works on.
    pub instance: Option<InstanceId>,
    /// The policy that made it due.
    pub policy: Option<PolicyId>,
    /// The destination it uses.
    pub destination: Option<DestinationId>,
    /// The only node that may run it.
    pub wanted_node: Option<NodeId>,
    /// What sort of task, in a word.
    pub kind: String,
    /// 0 to 100, higher goes first.
    pub priority: u32,
    /// A task with the same key is not added again.
    pub due_key: Option<String>,
    /// How often it may be tried.
    pub max_attempts: u32,
    /// Not before this time, in milliseconds since 1970.
    pub not_before_ms: u64,
    /// What the node is told.
    pub spec: serde_json::Value,
}

/// A task.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// As it was added.
    pub new: NewTask,
    /// Where it reads beside its destination, when it copies.
    pub from: Option<DestinationId>,
    /// How far it is.
    pub state: TaskState,
    /// Who runs it, or ran it last.
    pub node: Option<NodeId>,
    /// How often it was started; the fence of reports.
    pub attempt: u32,
    /// Until when the node may go without a word, by the clock of the server that heard it last,
    /// in milliseconds since 1970.
    pub lease_until_ms: u64,
    /// When it was added, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was started last, in milliseconds since 1970.
    pub started_ms: Option<u64>,
    /// When it ended, in milliseconds since 1970.
    pub finished_ms: Option<u64>,
    /// Whether somebody wants it to end.
    pub cancel_requested: bool,
    /// Grows with every change.
    pub revision: u64,
    /// How far the work is.
    pub progress: Progress,
    /// What came of it; null in lists.
    pub result: serde_json::Value,
    /// Why it is in this state, in one line.
    pub message: String,
}

impl Task {
    /// What it comes with: its instance, or its destination when it concerns all of that.
    pub fn resource(&self) -> Option<Resource> {
        match (self.new.instance, self.new.destination) {
            (Some(instance), _) => Some(Resource::Instance(instance)),
            (None, destination) => destination.map(Resource::Destination),
        }
    }
}

/// How a lease stands: whatever its node says, and whoever gets the task next, changes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeaseMark {
    /// The task.
    pub task: TaskId,
    /// The fence of reports.
    pub attempt: u32,
    /// The end that its last renewal gave it, by the clock of the server that heard it.
    pub until_ms: u64,
}

/// A task that waits or runs, as far as it matters for who goes first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InLine {
    /// Its id.
    pub id: TaskId,
    /// Who runs it; nobody while it waits.
    pub node: Option<NodeId>,
    /// The project of what it works on.
    pub project: Option<ProjectId>,
    /// What it works on.
    pub instance: Option<InstanceId>,
    /// The destination it uses.
    pub destination: Option<DestinationId>,
    /// Where it reads beside that, when it copies.
    pub from: Option<DestinationId>,
    /// The only node that may run it.
    pub wanted_node: Option<NodeId>,
    /// What sort of task, in a word.
    pub kind: String,
    /// What its node must be able to do beside that.
    pub needs: BTreeSet<String>,
    /// 0 to 100, higher goes first.
    pub priority: u32,
    /// When it was added, in milliseconds since 1970.
    pub created_ms: u64,
    /// Not before this time, in milliseconds since 1970.
    pub not_before_ms: u64,
}

/// Which tasks to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TaskFilter {
    /// Those in this state.
    pub state: Option<TaskState>,
    /// Those of this instance.
    pub instance: Option<InstanceId>,
    /// Those of this kind.
    pub kind: Option<String>,
    /// Those of this project.
    pub project: Option<ProjectId>,
    /// Those that this policy wanted.
    pub policy: Option<PolicyId>,
    /// Those that use this destination.
    pub destination: Option<DestinationId>,
    /// Those that this node runs, or ran last.
    pub node: Option<NodeId>,
    /// Those that were added within this time.
    pub added: Span,
    /// The oldest first.
    pub oldest_first: bool,
}

/// A line of a task's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    /// Its number within the task.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// In which attempt.
    pub attempt: u32,
    /// `info`, `warning` or `error`.
    pub level: String,
    /// What it says.
    pub line: String,
}

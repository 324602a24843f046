use crate::id::{Guid, InstanceId, ProjectId, TaskId};

/// A message that waits to be sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Notice {
    /// Its id.
    pub id: Guid,
    /// By which channel.
    pub channel: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// How often it was tried.
    pub attempts: u32,
    /// What it says.
    pub body: serde_json::Value,
    /// Why it could not be sent.
    pub failure: String,
}

/// A task that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedTask {
    /// The task.
    pub id: TaskId,
    /// What sort of task, in a word.
    pub kind: String,
    /// Whose it is.
    pub project: Option<ProjectId>,
    /// What it worked on.
    pub instance: Option<InstanceId>,
    /// Why it failed.
    pub message: String,
    /// When it ended, in milliseconds since 1970.
    pub finished_ms: u64,
}

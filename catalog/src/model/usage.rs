use crate::id::{DestinationId, InstanceId, PolicyId, ProjectId, TaskId};

/// What one task moved, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The task.
    pub task: TaskId,
    /// When it ended, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whose it is.
    pub project: Option<ProjectId>,
    /// What it worked on.
    pub instance: Option<InstanceId>,
    /// Under which policy.
    pub policy: Option<PolicyId>,
    /// Where it rests.
    pub destination: Option<DestinationId>,
    /// What sort of task, in a word.
    pub kind: String,
    /// Bytes of the source that it covered.
    pub logical_bytes: u64,
    /// Bytes that were new to the repository.
    pub unique_bytes: u64,
    /// Bytes that the repository had already.
    pub shared_bytes: u64,
    /// Bytes that went to or from the destination.
    pub transferred_bytes: u64,
}

/// How much there is from a moment on, until the next one of the same instance, policy and
/// destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Level {
    /// From when, in milliseconds since 1970.
    pub at_ms: u64,
    /// Whose it is.
    pub project: Option<ProjectId>,
    /// What was backed up.
    pub instance: InstanceId,
    /// Under which policy; none for what is protected.
    pub policy: Option<PolicyId>,
    /// Where it rests; none for what is protected, which counts once at however many places.
    pub destination: Option<DestinationId>,
    /// Bytes at the destination.
    pub stored_bytes: u64,
    /// Bytes of what is protected.
    pub front_end_bytes: u64,
}

/// What is there of an instance at a destination.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// What was backed up.
    pub instance: InstanceId,
    /// Where it rests.
    pub destination: DestinationId,
    /// Whose it is.
    pub project: Option<ProjectId>,
    /// Under which policy the last backup was made.
    pub policy: Option<PolicyId>,
    /// Bytes that were stored for it and are not known to be gone.
    pub stored_bytes: u64,
    /// Size of its disks at the last backup, in bytes.
    pub front_end_bytes: u64,
    /// What moment the last good backup holds, in milliseconds since 1970.
    pub last_good_ms: u64,
}

/// What a project or an instance has in use, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct InUse {
    /// Size of what is protected, each instance once.
    pub front_end_bytes: u64,
    /// What is stored for it, at all destinations.
    pub stored_bytes: u64,
}

/// By what usage is grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UsageBy {
    /// By project.
    Project,
    /// By instance.
    Instance,
    /// By policy.
    Policy,
    /// By destination.
    Destination,
}

/// Whose usage, and when. What is not named does not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct UsageFilter {
    /// From this moment on, in milliseconds since 1970.
    pub from_ms: u64,
    /// Until before this moment, in milliseconds since 1970.
    pub until_ms: u64,
    /// Of this project.
    pub project: Option<ProjectId>,
    /// Of this instance.
    pub instance: Option<InstanceId>,
    /// Under this policy.
    pub policy: Option<PolicyId>,
    /// At this destination.
    pub destination: Option<DestinationId>,
    /// Not at this destination.
    pub without_destination: Option<DestinationId>,
}

/// What tasks of a kind have moved together, in bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moved {
    /// The id of the group, or the empty text.
    pub group: String,
    /// What sort of tasks, in a word.
    pub kind: String,
    /// How many.
    pub tasks: u64,
    /// Bytes of the source that they covered.
    pub logical_bytes: u64,
    /// Bytes that were new to the repository.
    pub unique_bytes: u64,
    /// Bytes that the repository had already.
    pub shared_bytes: u64,
    /// Bytes that went to or from the destination.
    pub transferred_bytes: u64,
}

/// What was stored within a time, of one series of levels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The id of the group, or the empty text.
    pub group: String,
    /// Bytes times the seconds for which they were stored.
    pub byte_seconds: u128,
    /// Bytes at the end.
    pub stored_bytes: u64,
    /// Bytes of what is protected, at the end.
    pub front_end_bytes: u64,
}

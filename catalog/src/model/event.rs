use crate::id::{InstanceId, PointId, ProjectId, RetentionEventId};

/// Which events.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Those of this instance, and of its restore points.
    pub instance: Option<InstanceId>,
    /// Those of this project.
    pub project: Option<ProjectId>,
    /// Those that rules call so.
    pub event: Option<String>,
}

/// An event that has happened: what retention was waiting for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetentionEvent {
    /// Its id.
    pub id: RetentionEventId,
    /// The project of the instance.
    pub project: Option<ProjectId>,
    /// Whose restore points it is about.
    pub instance: InstanceId,
    /// The only restore point that it is about, with its copies; all of the instance without.
    pub point: Option<PointId>,
    /// What rules call it.
    pub event: String,
    /// When it happened, in milliseconds since 1970.
    pub at_ms: u64,
}

use crate::id::{InstanceId, PointId, ProjectId, RetentionEventId};

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

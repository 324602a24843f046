use crate::found::Span;
use crate::id::{DestinationId, InstanceId, PointId, ProjectId, TaskId};
use crate::model::proof::{BackupType, Proof};

/// What the catalog knows of a restore point. The repository is the truth; this is its mirror.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Its id here.
    pub id: PointId,
    /// What was backed up.
    pub instance: InstanceId,
    /// The project of that.
    pub project: Option<ProjectId>,
    /// The rest.
    pub new: NewPoint,
    /// The restore point at another destination that it is a copy of.
    pub copy_of: Option<PointId>,
    /// What its backup took for granted; nothing when that is not known.
    pub backup_type: Option<BackupType>,
    /// What its last verification found; nothing when there was none.
    pub proof: Option<Proof>,
    /// When it was found to be gone, in milliseconds since 1970.
    pub removed_ms: Option<u64>,
}

/// A restore point as it was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewPoint {
    /// Where it lies.
    pub destination: DestinationId,
    /// The task that made it.
    pub task: Option<TaskId>,
    /// Its id in the repository.
    pub point: String,
    /// What moment it holds, in milliseconds since 1970.
    pub taken_ms: u64,
    /// Size of its disks, in bytes.
    pub image_bytes: u64,
    /// Bytes that were new to the repository.
    pub new_bytes: u64,
    /// Bytes that were stored for it.
    pub stored_bytes: u64,
}

/// Which restore points to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PointFilter {
    /// Those of this instance.
    pub instance: Option<InstanceId>,
    /// Those of this project.
    pub project: Option<ProjectId>,
    /// Those at this destination.
    pub destination: Option<DestinationId>,
    /// Those that hold a moment of this time.
    pub taken: Span,
    /// In the order of the moments that they hold: the oldest first, or the newest. Without, in
    /// the order in which they became known.
    pub newest_first: Option<bool>,
}

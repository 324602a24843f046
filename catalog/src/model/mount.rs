use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::found::Span;
use crate::id::{DestinationId, InstanceId, MountId, NodeId, PointId, ProjectId, TaskId};

/// How far a mount is.
///
/// ```text
///   requested ──► ready ◄──► failed       the node has it, or says why not
///       ╲           │          │
///        ╲   it is ended, or its lease is over
///         ╲         ▼          ▼
///          └──► releasing ──► gone        the node has nothing of it any more
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MountState {
    /// A node is to make it.
    Requested,
    /// Clients can use it.
    Ready,
    /// It does not serve; the message says why.
    Failed,
    /// It is to end.
    Releasing,
    /// It has ended.
    Gone,
}

impl MountState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Requested, Self::Ready, Self::Failed, Self::Releasing, Self::Gone];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Ready => "ready",
            Self::Failed => "failed",
            Self::Releasing => "releasing",
            Self::Gone => "gone",
        }
    }

    /// The state of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }

    /// Whether somebody wants it.
    pub fn is_wanted(self) -> bool {
        matches!(self, Self::Requested | Self::Ready | Self::Failed)
    }
}

/// How clients use a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MountProtocol {
    /// Network block device.
    Nbd,
    /// A SCSI disk over TCP.
    Iscsi,
    /// Files that can be read at any range, for who knows a token.
    Http,
    /// Files in a folder of the node.
    Fuse,
}

impl MountProtocol {
    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Nbd => "nbd",
            Self::Iscsi => "iscsi",
            Self::Http => "http",
            Self::Fuse => "fuse",
        }
    }
}

/// How a restore point is to be shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// The restore point, as the repository calls it.
    pub point: String,
    /// The only image that is shown; all without.
    #[serde(default)]
    pub image: Option<String>,
    /// How clients use it.
    pub protocol: MountProtocol,
    /// The name of its folder on the node; without, one is made of its id.
    #[serde(default)]
    pub folder: Option<String>,
    /// Whether clients may write; what they write goes to an overlay on the node.
    #[serde(default)]
    pub writable: bool,
    /// Networks of the clients that may connect, such as `192.0.2.0/24`.
    pub clients: Vec<String>,
    /// Names of the iSCSI initiators that may connect; all without.
    #[serde(default)]
    pub initiators: Vec<String>,
    /// The user that initiators must prove to be, whose secret is sealed beside the mount.
    #[serde(default)]
    pub chap_user: Option<String>,
}

/// A mount to add.
#[derive(Debug, Clone, PartialEq)]
pub struct NewMount {
    /// The project of the restore point.
    pub project: Option<ProjectId>,
    /// What was backed up.
    pub instance: InstanceId,
    /// The restore point.
    pub point: PointId,
    /// Where that lies.
    pub destination: DestinationId,
    /// The node that shows it.
    pub node: NodeId,
    /// When it ends by itself, in milliseconds since 1970.
    pub lease_end_ms: u64,
    /// How it is shown.
    pub spec: MountSpec,
}

/// A mounted restore point.
#[derive(Debug, Clone, PartialEq)]
pub struct Mount {
    /// Its id.
    pub id: MountId,
    /// What was asked for; the end of its lease as it is now.
    pub new: NewMount,
    /// How far it is.
    pub state: MountState,
    /// The task that makes or ends it, or did so last.
    pub task: Option<TaskId>,
    /// What the node told of it when it was ready first: addresses above all. Null before.
    pub place: Value,
    /// Why it is in this state, in one line.
    pub message: String,
    /// Grows with every change.
    pub revision: u64,
    /// When it was asked for, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was changed last, in milliseconds since 1970.
    pub updated_ms: u64,
}

/// Which mounts to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MountFilter {
    /// Those in this state; without, all but those that are gone.
    pub state: Option<MountState>,
    /// Those of this instance.
    pub instance: Option<InstanceId>,
    /// Those of this project.
    pub project: Option<ProjectId>,
    /// Those of restore points at this destination.
    pub destination: Option<DestinationId>,
    /// Those that this node shows.
    pub node: Option<NodeId>,
    /// Those that were asked for within this time.
    pub added: Span,
    /// The oldest first.
    pub oldest_first: bool,
}

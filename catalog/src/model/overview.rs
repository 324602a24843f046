use crate::id::{DestinationId, NodeId};

/// How many tasks there are of a kind in a state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskCount {
    /// What sort of tasks, in a word.
    pub kind: String,
    /// In which state.
    pub state: String,
    /// How many.
    pub tasks: u64,
    /// Their time from start to end added up, in milliseconds.
    pub ran_ms: u64,
}

/// How many instances have which protection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Protected {
    /// Instances whose sources are still there.
    pub total: u64,
    /// Those without any good backup.
    pub never: u64,
    /// Those whose last good backup is too old.
    pub late: u64,
}

/// What there is at a destination, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtDestination {
    /// The destination.
    pub destination: DestinationId,
    /// How many instances have backups there.
    pub instances: u64,
    /// What is stored for them.
    pub stored_bytes: u64,
}

/// A node and when it was heard of last, in milliseconds since 1970.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// When it was heard of last, in milliseconds since 1970.
    pub last_seen_ms: u64,
}

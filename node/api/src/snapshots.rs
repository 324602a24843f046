//! What is said about snapshots at their sources.

use serde::{Deserialize, Serialize};

/// Where a snapshot lies on a node, and what it is called there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotOrder {
    /// Its name.
    pub name: String,
    /// Folders for snapshots: it lies in the first that is on the file system of its images.
    pub folders: Vec<String>,
}

/// From which snapshot a backup is made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotUse {
    /// The id of one that is there, and stays. Without, one is made first and removed afterwards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
    /// The one that is made; said when the task is given away.
    pub order: SnapshotOrder,
}

//! What is said about images at their sources: snapshots, and those of new instances.

use serde::{Deserialize, Serialize};

/// Where a snapshot lies on a node, and what it is called there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SnapshotOrder {
    /// Its name.
    pub name: String,
    /// Folders for snapshots: it lies in the first that is on the file system of its images.
    pub folders: Vec<String>,
    /// Folders in which it was seen, when it is to be removed: while one of them is not there, its
    /// disk is not, and the snapshot is not gone.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub seen: Vec<String>,
}

/// Where image files of a new instance are made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportOrder {
    /// The folder in which its own folder is made.
    pub folder: String,
    /// The name of its folder, which must not be there.
    pub name: String,
    /// What tells this import from all others.
    pub id: String,
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

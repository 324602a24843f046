//! What is said about places that are looked through for disks.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// A place to look through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryOrder {
    /// The inventory's id at the server.
    pub inventory: String,
    /// Which of its revisions says so.
    pub revision: u64,
    /// The folder.
    pub folder: String,
    /// Whether block devices are wanted, and no files.
    pub devices: bool,
    /// Patterns of names; those of image files when there are none.
    pub names: Vec<String>,
    /// Patterns of what is passed over.
    pub except: Vec<String>,
    /// How many levels of folders in it are looked through.
    pub depth: u32,
    /// More disks are an error.
    pub most: u32,
}

/// What is there: the document of the task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryReport {
    /// `INVENTORY:REVISION` of the order.
    pub order: String,
    /// In the order of their paths.
    pub disks: Vec<FoundDisk>,
    /// Of what lies at these paths and in them nothing is known.
    pub unread: Vec<InventoryTrouble>,
    /// What is there and cannot be told of.
    pub passed: Vec<InventoryTrouble>,
    /// Where in the folder other file systems are mounted.
    pub mounts: BTreeSet<String>,
    /// Where the file system of the folder is mounted.
    pub mounted_on: String,
}

/// A disk that is there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FoundDisk {
    /// Its path.
    pub path: String,
    /// How large it is.
    pub size_bytes: u64,
    /// Its format, in a word.
    pub format: String,
    /// What stays when it is called otherwise; nothing where that cannot be told. A file and its
    /// copy in a snapshot of their file system have the same.
    pub identity: String,
    /// The same for one file by several names, and for no other one of this report. Nothing from
    /// older nodes.
    pub file: String,
}

/// Something that could not be looked at, or was passed over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InventoryTrouble {
    /// Its path.
    pub path: String,
    /// Why.
    pub why: String,
}

impl InventoryOrder {
    /// What a report on it says that it is one on.
    pub fn name(&self) -> String {
        format!("{}:{}", self.inventory, self.revision)
    }
}

//! What tasks do, and how urgent they are.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// What a task does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum TaskKind {
    /// Sees that a destination can be used.
    Init,
    /// From the source to the destination in one go.
    Backup,
    /// From the source to a staging space.
    Export,
    /// From a staging space to the destination.
    Store,
    /// From the destination to files.
    Restore,
    /// From files to a new resource on its platform.
    Import,
    /// Removes what an import has left.
    Unimport,
    /// Offers a restore point.
    Mount,
    /// Ends such an offer.
    Unmount,
    /// A snapshot that stays at the source.
    Snapshot,
    /// Removes one of those.
    Unsnapshot,
    /// Which resources a source has.
    Inventory,
    /// Reads back what is stored.
    Verify,
    /// Drops restore points by their retention.
    Prune,
    /// Frees the space of what was dropped.
    Collect,
    /// Copies to another destination.
    Replicate,
    /// Starts a restore point in isolation and sees whether it answers.
    RestoreTest,
    /// Counts what is stored.
    Stat,
    /// Runs a command of a recovery plan.
    Script,
    /// Makes a restore point of what was written to a mount.
    Commit,
    /// Throws away what was written to a mount that has ended.
    Discard,
    /// Copies the restore points of a resource to another destination.
    Copy,
}

impl TaskKind {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::Init,
        Self::Backup,
        Self::Export,
        Self::Store,
        Self::Restore,
        Self::Import,
        Self::Unimport,
        Self::Mount,
        Self::Unmount,
        Self::Snapshot,
        Self::Unsnapshot,
        Self::Inventory,
        Self::Verify,
        Self::Prune,
        Self::Collect,
        Self::Replicate,
        Self::RestoreTest,
        Self::Stat,
        Self::Script,
        Self::Commit,
        Self::Discard,
        Self::Copy,
    ];

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The name, as in configuration files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Export => "export",
            Self::Store => "store",
            Self::Restore => "restore",
            Self::Import => "import",
            Self::Unimport => "unimport",
            Self::Mount => "mount",
            Self::Unmount => "unmount",
            Self::Snapshot => "snapshot",
            Self::Unsnapshot => "unsnapshot",
            Self::Inventory => "inventory",
            Self::Verify => "verify",
            Self::Prune => "prune",
            Self::Collect => "collect",
            Self::Replicate => "replicate",
            Self::RestoreTest => "restore-test",
            Self::Stat => "stat",
            Self::Script => "script",
            Self::Commit => "commit",
            Self::Discard => "discard",
            Self::Copy => "copy",
        }
    }
}

impl fmt::Display for TaskKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How urgent a task is, from 0 to 100; 50 unless it is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = u8, maximum = 100))]
pub struct Priority(u8);

impl Priority {
    /// The most urgent.
    pub const MAX: Self = Self(100);

    /// The number.
    pub fn value(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<u8> for Priority {
    type Error = Invalid;

    fn try_from(value: u8) -> Result<Self, Invalid> {
        if value > 100 {
            return Err(Invalid::new("priority", format!("{value} is above 100, the most urgent")));
        }
        Ok(Self(value))
    }
}

impl From<Priority> for u8 {
    fn from(priority: Priority) -> Self {
        priority.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Priority, TaskKind};

    #[test]
    fn kinds_are_stored_under_their_names() {
        for kind in TaskKind::ALL {
            assert_eq!(TaskKind::from_name(kind.name()), Some(kind));
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{kind}\""));
        }
    }

    #[test]
    fn a_priority_above_100_is_refused() {
        assert!(serde_json::from_str::<Priority>("100").is_ok());
        assert!(serde_json::from_str::<Priority>("101").is_err());
    }
}

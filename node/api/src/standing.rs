//! How a node stands: what works there, and which executable lies where it was started from.

use serde::{Deserialize, Serialize};

/// The abilities by which tasks choose nodes. One that says nothing of abilities has all of these.
pub const NEEDED: [&str; 7] = [
    "source:formats",
    "export:nbd",
    "export:iscsi",
    "export:http",
    "export:fuse",
    "test:uefi",
    "test:ssh",
];

/// Since this contract, a node tells how it stands, and starts itself again when it is told to.
pub const STANDS: u32 = 3;

/// Something that a node may be able to do, as it was tried there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ability {
    /// `source:...`, `export:...` or `test:...`.
    pub name: String,
    /// Whether it works.
    pub works: bool,
    /// Why it does not, or what is to be known of it.
    pub why: String,
    /// The package or the setting that is missing.
    pub fix: String,
}

impl Ability {
    /// Something that works.
    pub fn works(name: &str) -> Self {
        Self { name: name.to_owned(), works: true, ..Self::default() }
    }

    /// Something that does not, why, and what is missing.
    pub fn lacks(name: &str, why: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name: name.to_owned(), works: false, why: why.into(), fix: fix.into() }
    }
}

/// An executable that was installed where a node was started from, after that.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Installed {
    /// Its version.
    pub version: String,
    /// The contract that it speaks.
    pub contract: u32,
    /// Why it cannot be started; empty when it can.
    pub problem: String,
}

/// What a node is to do, beside tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Orders {
    /// To start itself again, as soon as what it runs has ended.
    pub restart: bool,
}

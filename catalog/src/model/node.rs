use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::kind;
use crate::error::Result;
use crate::id::{DestinationId, NodeConfigId, NodeId};

/// A machine that runs tasks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Whether it gets tasks.
    #[serde(default)]
    pub state: NodeState,
    /// The destinations it may use; all when there is no list.
    #[serde(default)]
    pub destinations: Option<Vec<DestinationId>>,
    /// How many tasks it runs at a time at most, however many it asks for.
    #[serde(default)]
    pub slots: Option<u32>,
    /// How many of a kind at a time.
    #[serde(default)]
    pub slots_by_kind: BTreeMap<String, u32>,
    /// Its configuration; the one named `default` when it has none of its own, if there is that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<NodeConfigId>,
    /// What it told of itself.
    #[serde(default)]
    pub capabilities: Capabilities,
    /// That it is to start again with what is installed there, and how far that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upgrade: Option<Upgrade>,
}

/// How far a node's upgrade is.
///
/// ```text
///   waiting ──its turn──► draining ──nothing runs──► restarting ──it is back──► (none)
///      │                                                 │ another release, or none
///      └──── one before it has failed ───► failed ◄──────┘
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Upgrade {
    /// How far.
    pub state: UpgradeState,
    /// When it was asked for, in milliseconds since 1970.
    pub requested_ms: u64,
    /// Since when it is that far, in milliseconds since 1970.
    pub since_ms: u64,
    /// The version that ran.
    pub from: String,
    /// The version that was installed.
    pub to: String,
    /// What it waits for, or why it failed.
    #[serde(default)]
    pub message: String,
}

/// How far a node's upgrade is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum UpgradeState {
    /// Another node is upgraded before.
    Waiting,
    /// It finishes what it has and gets nothing new.
    Draining,
    /// It was told to start again.
    Restarting,
    /// It was not upgraded, and gets tasks if it is there.
    Failed,
}

/// Whether a node gets tasks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It does.
    #[default]
    Enabled,
    /// It finishes what it has and gets nothing new.
    Draining,
    /// It gets nothing.
    Disabled,
}

/// What a node told of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    /// Version of its executable.
    pub version: String,
    /// Name of the machine.
    pub host: String,
    /// How many tasks it runs at a time.
    pub slots: u32,
    /// Kinds of tasks it can run.
    pub kinds: Vec<String>,
    /// What is missing for more, with the package that has it.
    pub missing: Vec<String>,
    /// Protocols of the mounts that it makes; `nbd` and `iscsi` when there is no list.
    pub mounts: Vec<String>,
    /// Version of the contract that it speaks; 0 is that of nodes which do not say.
    pub contract: u32,
    /// What works there and what does not, as it was tried; nodes of earlier releases do not say.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub abilities: Vec<Ability>,
    /// What was installed in the place of the executable that runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installed: Option<Installed>,
}

/// Something that a node may be able to do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
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

/// An executable that follows the one that runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Installed {
    /// Its version.
    pub version: String,
    /// The contract that it speaks.
    pub contract: u32,
    /// Why it cannot be started; empty when it can.
    pub problem: String,
}

/// When a node was heard of last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeLiveness {
    /// In milliseconds since 1970.
    pub last_seen_ms: u64,
    /// How many tasks it holds leases of.
    pub running: u64,
}

impl Node {
    /// Whether it gets tasks, as far as its record tells: one that is to start again gets none.
    pub fn takes_tasks(&self) -> bool {
        self.state == NodeState::Enabled && !self.is_leaving()
    }

    /// Whether it is being upgraded: its turn has come, and it is not back yet.
    pub fn is_leaving(&self) -> bool {
        self.upgrade.as_ref().is_some_and(|upgrade| {
            matches!(upgrade.state, UpgradeState::Draining | UpgradeState::Restarting)
        })
    }

    fn sense(&self) -> Result<()> {
        Ok(())
    }
}

kind!(Node, NodeId, "nodes", "node", shared: false);

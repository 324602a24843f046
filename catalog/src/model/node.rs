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
    fn sense(&self) -> Result<()> {
        Ok(())
    }
}

kind!(Node, NodeId, "nodes", "node", shared: false);

//! Where a task may run.

use std::collections::HashMap;

use super::{Hold, Node, NodeState, Running, Waiting};
use crate::NodeId;
use crate::work::TaskKind;

/// Nodes with what they run.
#[derive(Debug)]
pub struct Nodes<'a> {
    nodes: Vec<Load<'a>>,
}

#[derive(Debug)]
struct Load<'a> {
    node: &'a Node,
    used: u32,
    used_by_kind: HashMap<TaskKind, u32>,
}

impl Load<'_> {
    fn able(&self, task: &Waiting) -> bool {
        let Node { pools, destinations, capabilities, .. } = self.node;
        let mut used = task.demand.destination.iter().chain(&task.demand.from);
        task.pools.as_ref().is_none_or(|wanted| !wanted.is_disjoint(pools))
            && task.needs.is_subset(capabilities)
            && match destinations {
                Some(allowed) => used.all(|destination| allowed.contains(destination)),
                None => true,
            }
    }

    fn has_room(&self, kind: TaskKind) -> bool {
        let used = self.used_by_kind.get(&kind).copied().unwrap_or(0);
        self.used < self.node.slots
            && self.node.slots_by_kind.get(&kind).is_none_or(|most| used < *most)
    }

    /// How busy it is, in thousandths.
    fn busy(&self) -> u64 {
        u64::from(self.used) * 1000 / u64::from(self.node.slots.max(1))
    }
}

impl<'a> Nodes<'a> {
    pub fn new(nodes: &'a [Node], running: &[Running]) -> Self {
        let load = |node| Load { node, used: 0, used_by_kind: HashMap::new() };
        let mut all = Self { nodes: nodes.iter().map(load).collect() };
        let places: HashMap<&NodeId, usize> =
            nodes.iter().enumerate().map(|(at, node)| (&node.id, at)).collect();
        for task in running {
            if let Some(at) = places.get(&task.node) {
                all.take(*at, task.demand.kind);
            }
        }
        all
    }

    pub fn id(&self, at: usize) -> &NodeId {
        &self.nodes[at].node.id
    }

    /// The node for a task: the one it prefers, else the least busy one.
    pub fn choose(&self, task: &Waiting) -> Result<usize, Hold> {
        let mut hold = Hold::NoNode;
        let mut best = None;
        for (at, load) in self.nodes.iter().enumerate() {
            let active = load.node.state == NodeState::Active;
            let room = active && load.has_room(task.demand.kind);
            // The cheap question first: on a full system nothing else is asked.
            if !room && hold == Hold::NodesBusy || !load.able(task) {
                continue;
            }
            if room {
                let other = task.prefer.as_ref() != Some(&load.node.id);
                let key = (other, load.busy(), spread(task, load.node), at);
                best = best.min(Some(key)).or(Some(key));
            } else if active {
                hold = Hold::NodesBusy;
            } else if hold == Hold::NoNode {
                hold = Hold::NodesAway;
            }
        }
        best.map(|(.., at)| at).ok_or(hold)
    }

    pub fn take(&mut self, at: usize, kind: TaskKind) {
        let load = &mut self.nodes[at];
        load.used += 1;
        *load.used_by_kind.entry(kind).or_insert(0) += 1;
    }
}

/// A number that differs between tasks and nodes, so that equal nodes get equally much (FNV-1a).
fn spread(task: &Waiting, node: &Node) -> u64 {
    let bytes = task.demand.id.as_str().bytes().chain([0]).chain(node.id.as_str().bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

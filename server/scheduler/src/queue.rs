//! Which waiting tasks may start now, and where.
//!
//! # Order
//!
//! The *rank* of a task is its priority plus one for each [`Fairness::ageing`] it has waited.
//! Higher ranks go first, so whatever waits long enough goes before anything that is new. Among
//! equal ranks, the project with the fewest running tasks goes first; within it, the source with
//! the fewest; within that, the task that has waited longest.
//!
//! # Limits
//!
//! A task starts when each of its limits has room: all tasks, its kind, project, source,
//! destination, resource, and a node. One that has waited longer than [`Fairness::patience`] and
//! lacks room in one limit keeps its place in the others, so that tasks which need only one of them
//! cannot pass it for ever. One task does so for each limit that is full: a full destination does
//! not stop the nodes.
//!
//! # Invariants
//!
//! * No limit is exceeded by what starts; a limit that was lowered below what runs starts nothing.
//! * A node that is not active gets nothing; nor does one without the capabilities, the pool or
//!   the destination.
//! * Every waiting task is started, expired, or held with a reason.

mod nodes;
mod room;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::time::Span;
use crate::work::{Priority, TaskKind};
use crate::{DestinationId, NodeId, PoolId, ProjectId, ResourceId, SourceId, TaskId};
use nodes::Nodes;
use room::{Limit, Room};

/// What a task uses while it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// The task.
    pub id: TaskId,
    /// What it does.
    pub kind: TaskKind,
    /// On whose behalf.
    pub project: ProjectId,
    /// Where its resource comes from.
    pub source: Option<SourceId>,
    /// What it works on. Two tasks that read the source of one resource exclude each other.
    pub resource: Option<ResourceId>,
    /// Where it reads or writes.
    pub destination: Option<DestinationId>,
    /// Where it reads beside that, when it copies.
    #[serde(default)]
    pub from: Option<DestinationId>,
}

/// A task that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// What it will use.
    pub demand: Demand,
    /// How urgent it is.
    pub priority: Priority,
    /// Since when it waits.
    pub since: Timestamp,
    /// Not to be started before, because it failed and is tried again.
    pub not_before: Option<Timestamp>,
    /// Not to be started any more from then on. `None` once it was tried.
    pub start_by: Option<Timestamp>,
    /// Only on nodes of one of these pools; on any without.
    pub pools: Option<BTreeSet<PoolId>>,
    /// What its node must be able to do.
    pub needs: BTreeSet<String>,
    /// The node to take when it has room: it has the data, or a part of the work done.
    pub prefer: Option<NodeId>,
}

/// A task that a node has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// What it uses.
    pub demand: Demand,
    /// Where.
    pub node: NodeId,
}

/// A data mover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// The node.
    pub id: NodeId,
    /// Whether it takes tasks.
    pub state: NodeState,
    /// How many tasks it runs at a time.
    pub slots: u32,
    /// How many of a kind, where that is less.
    pub slots_by_kind: BTreeMap<TaskKind, u32>,
    /// What it is able to do.
    pub capabilities: BTreeSet<String>,
    /// The pools it belongs to.
    pub pools: BTreeSet<PoolId>,
    /// The destinations it may use; all when `None`.
    pub destinations: Option<BTreeSet<DestinationId>>,
}

/// Whether a node takes tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum NodeState {
    /// It does.
    Active,
    /// It ends what it has and gets nothing new.
    Draining,
    /// It was turned off.
    Disabled,
    /// It has not been heard of.
    Lost,
}

/// How many tasks may run at a time; what is not said is not limited.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Limits {
    /// All together.
    pub total: Option<u32>,
    /// Of a kind.
    pub kinds: BTreeMap<TaskKind, u32>,
    /// For each project.
    pub per_project: Option<u32>,
    /// For these projects, in the place of `per_project`.
    pub projects: BTreeMap<ProjectId, u32>,
    /// For each source.
    pub per_source: Option<u32>,
    /// For these sources, in the place of `per_source`.
    pub sources: BTreeMap<SourceId, u32>,
    /// For each destination.
    pub per_destination: Option<u32>,
    /// For these destinations, in the place of `per_destination`.
    pub destinations: BTreeMap<DestinationId, u32>,
}

/// How waiting counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Fairness {
    /// For this long waited, a task ranks one higher. Nothing ages when it is zero.
    pub ageing: Span,
    /// After this long, a task keeps its place in limits that have room.
    pub patience: Span,
}

impl Default for Fairness {
    fn default() -> Self {
        Self { ageing: Span::minutes(5), patience: Span::minutes(30) }
    }
}

/// What is decided on.
#[derive(Debug, Clone, Copy)]
pub struct Queue<'a> {
    /// Tasks that wait.
    pub waiting: &'a [Waiting],
    /// Tasks that nodes have.
    pub running: &'a [Running],
    /// All nodes.
    pub nodes: &'a [Node],
    /// How many at a time.
    pub limits: &'a Limits,
    /// How waiting counts.
    pub fairness: Fairness,
}

/// What to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Starts {
    /// Tasks that start, and where, in order.
    pub starts: Vec<(TaskId, NodeId)>,
    /// Tasks whose start window has passed.
    pub expired: Vec<TaskId>,
    /// Tasks that go on waiting, and for what.
    pub held: Vec<(TaskId, Hold)>,
}

/// What a task waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Hold {
    /// The time of its next attempt.
    NotBefore,
    /// The limit of all tasks.
    Total,
    /// The limit of its kind.
    Kind,
    /// The limit of its project.
    Project,
    /// The limit of its source.
    Source,
    /// The limit of its destination.
    Destination,
    /// Another task that reads the same resource.
    Resource,
    /// Room on a node: all that could do it are busy.
    NodesBusy,
    /// A node that is active: those that could do it are drained, disabled or lost.
    NodesAway,
    /// A node that could do it at all: none has the pool, the destination and the capabilities.
    NoNode,
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotBefore => "waits for the time of its next attempt",
            Self::Total => "as many tasks are running as may run at a time",
            Self::Kind => "as many tasks of its kind are running as may run at a time",
            Self::Project => "its project has as many tasks running as it may have",
            Self::Source => "its source has as many tasks running as it may have",
            Self::Destination => "its destination has as many tasks running as it may have",
            Self::Resource => "another task is reading the same resource",
            Self::NodesBusy => "all nodes that could do it are busy",
            Self::NodesAway => "the nodes that could do it are drained, disabled or lost",
            Self::NoNode => {
                "no node could do it; see its pool, its destination and what it must be able to do"
            }
        })
    }
}

impl Waiting {
    /// What goes first, highest first.
    fn rank(&self, now: Timestamp, fairness: Fairness) -> u64 {
        let waited = Span::between(self.since, now).as_seconds();
        let aged = waited.checked_div(fairness.ageing.as_seconds()).unwrap_or(0);
        u64::from(self.priority.value()) + aged
    }
}

impl<'a> Queue<'a> {
    /// Decides at `now`.
    pub fn decide(&self, now: Timestamp) -> Starts {
        let mut pass = Pass {
            now,
            patience: self.fairness.patience,
            room: Room::new(self.limits, self.running),
            nodes: Nodes::new(self.nodes, self.running),
            reserved: BTreeSet::new(),
            out: Starts::default(),
        };
        let mut bands: BTreeMap<u64, Vec<&Waiting>> = BTreeMap::new();
        for task in self.waiting {
            if task.start_by.is_some_and(|by| by <= now) {
                pass.out.expired.push(task.demand.id.clone());
            } else if task.not_before.is_some_and(|at| at > now) {
                pass.out.held.push((task.demand.id.clone(), Hold::NotBefore));
            } else {
                bands.entry(task.rank(now, self.fairness)).or_default().push(task);
            }
        }
        for (_, band) in bands.into_iter().rev() {
            pass.band(band);
        }
        pass.out
    }
}

struct Pass<'a> {
    now: Timestamp,
    patience: Span,
    room: Room<'a>,
    nodes: Nodes<'a>,
    /// Full limits for which a task keeps its place in others.
    reserved: BTreeSet<(Hold, Option<&'a str>)>,
    out: Starts,
}

impl<'a> Pass<'a> {
    /// Starts what may start of one rank: fair between projects, then between sources.
    fn band(&mut self, tasks: Vec<&'a Waiting>) {
        let mut groups: BTreeMap<&ProjectId, BTreeMap<Option<&SourceId>, Vec<&Waiting>>> =
            BTreeMap::new();
        for task in tasks {
            let Demand { project, source, .. } = &task.demand;
            groups.entry(project).or_default().entry(source.as_ref()).or_default().push(task);
        }
        let mut projects: Vec<_> = groups
            .into_iter()
            .map(|(project, sources)| {
                let sources = sources.into_iter().map(|(source, mut tasks)| {
                    // Taken from the end.
                    tasks.sort_by(|a, b| (b.since, &b.demand.id).cmp(&(a.since, &a.demand.id)));
                    (source.map_or(0, |source| self.room.used(Limit::Source(source))), tasks)
                });
                (self.room.used(Limit::Project(project)), sources.collect::<Vec<_>>())
            })
            .collect();
        while let Some(project) = fewest(&mut projects, |sources| sources.is_empty()) {
            let Some(source) = fewest(&mut project.1, |tasks| tasks.is_empty()) else {
                project.1.clear();
                continue;
            };
            let Some(task) = source.1.pop() else { continue };
            if self.attempt(task) {
                source.0 += 1;
                project.0 += 1;
            }
            project.1.retain(|(_, tasks)| !tasks.is_empty());
        }
    }

    /// Starts a task if it may start.
    fn attempt(&mut self, task: &'a Waiting) -> bool {
        let id = &task.demand.id;
        let found = match self.room.full(&task.demand) {
            Some(limit) => Err((limit.hold(), limit.name())),
            None => self.nodes.choose(task).map_err(|hold| (hold, None)),
        };
        match found {
            Ok(node) => {
                self.room.take(&task.demand);
                self.nodes.take(node, task.demand.kind);
                self.out.starts.push((id.clone(), self.nodes.id(node).clone()));
                true
            }
            Err((hold, name)) => {
                self.out.held.push((id.clone(), hold));
                let patient = Span::between(task.since, self.now) < self.patience;
                if !patient && reserves(hold) && self.reserved.insert((hold, name)) {
                    self.reserve(task);
                }
                false
            }
        }
    }

    /// Keeps a task's place in every limit that has room.
    fn reserve(&mut self, task: &'a Waiting) {
        self.room.take(&task.demand);
        if let Ok(node) = self.nodes.choose(task) {
            self.nodes.take(node, task.demand.kind);
        }
    }
}

/// Whether room elsewhere is of use to a task that is held so.
fn reserves(hold: Hold) -> bool {
    matches!(hold, Hold::Kind | Hold::Project | Hold::Source | Hold::Destination | Hold::NodesBusy)
}

/// The group with the fewest running tasks that is not empty.
fn fewest<T>(groups: &mut [(u32, T)], empty: impl Fn(&T) -> bool) -> Option<&mut (u32, T)> {
    groups.iter_mut().filter(|(_, group)| !empty(group)).min_by_key(|(running, _)| *running)
}

#[cfg(test)]
mod tests;

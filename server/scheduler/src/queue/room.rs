//! How much of each limit is used.

use std::collections::HashMap;

use super::{Demand, Hold, Limits, Running};
use crate::work::TaskKind;
use crate::{DestinationId, ProjectId, ResourceId, SourceId};

/// What is limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Limit<'a> {
    Total,
    Kind(TaskKind),
    Project(&'a ProjectId),
    Source(&'a SourceId),
    Destination(&'a DestinationId),
    Resource(&'a ResourceId),
}

impl<'a> Limit<'a> {
    /// What a task waits for when this is full.
    pub fn hold(self) -> Hold {
        match self {
            Self::Total => Hold::Total,
            Self::Kind(_) => Hold::Kind,
            Self::Project(_) => Hold::Project,
            Self::Source(_) => Hold::Source,
            Self::Destination(_) => Hold::Destination,
            Self::Resource(_) => Hold::Resource,
        }
    }

    /// Which of its sort.
    pub fn name(self) -> Option<&'a str> {
        match self {
            Self::Total => None,
            Self::Kind(kind) => Some(kind.name()),
            Self::Project(id) => Some(id.as_str()),
            Self::Source(id) => Some(id.as_str()),
            Self::Destination(id) => Some(id.as_str()),
            Self::Resource(id) => Some(id.as_str()),
        }
    }

    fn most(self, limits: &Limits) -> Option<u32> {
        match self {
            Self::Total => limits.total,
            Self::Kind(kind) => limits.kinds.get(&kind).copied(),
            Self::Project(id) => limits.projects.get(id).copied().or(limits.per_project),
            Self::Source(id) => limits.sources.get(id).copied().or(limits.per_source),
            Self::Destination(id) => {
                limits.destinations.get(id).copied().or(limits.per_destination)
            }
            Self::Resource(_) => Some(1),
        }
    }
}

/// The limits that a task counts in.
fn limits_of(demand: &Demand) -> impl Iterator<Item = Limit<'_>> {
    let kinds = [TaskKind::Backup, TaskKind::Export, TaskKind::Snapshot, TaskKind::Copy];
    let reads = kinds.contains(&demand.kind);
    [
        Some(Limit::Total),
        Some(Limit::Kind(demand.kind)),
        Some(Limit::Project(&demand.project)),
        demand.source.as_ref().map(Limit::Source),
        demand.destination.as_ref().map(Limit::Destination),
        demand.from.as_ref().map(Limit::Destination),
        demand.resource.as_ref().filter(|_| reads).map(Limit::Resource),
    ]
    .into_iter()
    .flatten()
}

/// How much of each limit is used.
#[derive(Debug)]
pub struct Room<'a> {
    limits: &'a Limits,
    used: HashMap<Limit<'a>, u32>,
}

impl<'a> Room<'a> {
    pub fn new(limits: &'a Limits, running: &'a [Running]) -> Self {
        let mut room = Self { limits, used: HashMap::new() };
        for task in running {
            room.take(&task.demand);
        }
        room
    }

    pub fn used(&self, limit: Limit<'_>) -> u32 {
        self.used.get(&limit).copied().unwrap_or(0)
    }

    /// The first of a task's limits that has no room.
    pub fn full<'t>(&self, demand: &'t Demand) -> Option<Limit<'t>> {
        limits_of(demand)
            .find(|limit| limit.most(self.limits).is_some_and(|most| self.used(*limit) >= most))
    }

    /// Counts a task in all its limits.
    pub fn take(&mut self, demand: &'a Demand) {
        for limit in limits_of(demand) {
            *self.used.entry(limit).or_insert(0) += 1;
        }
    }
}

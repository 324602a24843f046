//! What stands behind the question mark.

use serde::Deserialize;
use sluice_catalog::{
    ApprovalState, DestinationId, InstanceId, MountState, NodeId, PlanId, PlanMode, PlanRunState,
    PolicyId, ProjectId, SnapshotState, Span as TimeSpan, TaskState, TestState,
};
use sluice_scheduler::metering::By;
use sluice_scheduler::time::Span;
use utoipa::{IntoParams, ToSchema};

use crate::problem::{Problem, Result};
use crate::reporting::Format;

/// In which order a list is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Order {
    /// The oldest first.
    Oldest,
    /// The newest first.
    Newest,
}

/// The time that is asked for.
pub(crate) fn span(since_ms: Option<u64>, until_ms: Option<u64>) -> Result<TimeSpan> {
    match (since_ms, until_ms) {
        (Some(since), Some(until)) if since >= until => {
            Err(Problem::invalid("a time ends after it begins: see since_ms and until_ms"))
        }
        _ => Ok(TimeSpan { since_ms, until_ms }),
    }
}

/// Which entries.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct AuditQuery {
    /// What this login did.
    pub(crate) actor: Option<String>,
    /// Those that tell of this: `policy.create`, or `policy.*` for all that is done to policies.
    pub(crate) action: Option<String>,
    /// What was done to this: an id or a name.
    pub(crate) object: Option<String>,
    /// What was done in this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
    /// Those that were written at this moment or later, in milliseconds since 1970.
    pub(crate) since_ms: Option<u64>,
    /// Those that were written before this moment, in milliseconds since 1970.
    pub(crate) until_ms: Option<u64>,
    /// In which order; the oldest first when it is not said.
    pub(crate) order: Option<Order>,
    /// Begin after this number.
    pub(crate) after: Option<u64>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which restore points.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PointQuery {
    /// Those of this instance.
    #[param(value_type = Option<String>)]
    pub(crate) instance: Option<InstanceId>,
    /// Those of this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
    /// Those at this destination.
    #[param(value_type = Option<String>)]
    pub(crate) destination: Option<DestinationId>,
    /// Those that hold this moment or a later one, in milliseconds since 1970.
    pub(crate) since_ms: Option<u64>,
    /// Those that hold a moment before this one, in milliseconds since 1970.
    pub(crate) until_ms: Option<u64>,
    /// In the order of the moments that they hold. When it is not said, the oldest first where a
    /// destination or a time is, and else in the order in which they became known.
    pub(crate) order: Option<Order>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which events that have happened.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventQuery {
    /// Those of this instance, and of its restore points.
    #[param(value_type = Option<String>)]
    pub(crate) instance: Option<InstanceId>,
    /// Those of this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
    /// Those that policies call so.
    pub(crate) event: Option<String>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which tasks.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TaskQuery {
    /// Those in this state.
    pub(crate) state: Option<TaskState>,
    /// Those of this instance.
    #[param(value_type = Option<String>)]
    pub(crate) instance: Option<InstanceId>,
    /// Those of this kind: `backup`, `restore`, `verify`, ...
    pub(crate) kind: Option<String>,
    /// Those of this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
    /// Those that this policy wanted.
    #[param(value_type = Option<String>)]
    pub(crate) policy: Option<PolicyId>,
    /// Those that use this destination.
    #[param(value_type = Option<String>)]
    pub(crate) destination: Option<DestinationId>,
    /// Those that this node runs, or ran last.
    #[param(value_type = Option<String>)]
    pub(crate) node: Option<NodeId>,
    /// Those that were added at this moment or later, in milliseconds since 1970.
    pub(crate) since_ms: Option<u64>,
    /// Those that were added before this moment, in milliseconds since 1970.
    pub(crate) until_ms: Option<u64>,
    /// In which order; the newest first when it is not said.
    pub(crate) order: Option<Order>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which mounts.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MountQuery {
    /// Those in this state; all but those that are gone when it is not said.
    pub(crate) state: Option<MountState>,
    /// Those of this instance.
    #[param(value_type = Option<String>)]
    pub(crate) instance: Option<InstanceId>,
    /// Those of this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
    /// Those of restore points at this destination.
    #[param(value_type = Option<String>)]
    pub(crate) destination: Option<DestinationId>,
    /// Those that this node shows.
    #[param(value_type = Option<String>)]
    pub(crate) node: Option<NodeId>,
    /// Those that were asked for at this moment or later, in milliseconds since 1970.
    pub(crate) since_ms: Option<u64>,
    /// Those that were asked for before this moment, in milliseconds since 1970.
    pub(crate) until_ms: Option<u64>,
    /// In which order; the newest first when it is not said.
    pub(crate) order: Option<Order>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which restore tests.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct TestQuery {
    /// Those in this state.
    pub(crate) state: Option<TestState>,
    /// Those of this instance.
    #[param(value_type = Option<String>)]
    pub(crate) instance: Option<InstanceId>,
    /// Those of this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
    /// Those that this policy wanted.
    #[param(value_type = Option<String>)]
    pub(crate) policy: Option<PolicyId>,
    /// Those of restore points at this destination.
    #[param(value_type = Option<String>)]
    pub(crate) destination: Option<DestinationId>,
    /// Those that were asked for at this moment or later, in milliseconds since 1970.
    pub(crate) since_ms: Option<u64>,
    /// Those that were asked for before this moment, in milliseconds since 1970.
    pub(crate) until_ms: Option<u64>,
    /// In which order; the newest first when it is not said.
    pub(crate) order: Option<Order>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which snapshots.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SnapshotQuery {
    /// Those in this state; all but those that are gone when it is not said.
    pub(crate) state: Option<SnapshotState>,
    /// Those of this instance.
    #[param(value_type = Option<String>)]
    pub(crate) instance: Option<InstanceId>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which runs of plans.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct PlanRunQuery {
    /// Those in this state.
    pub(crate) state: Option<PlanRunState>,
    /// Those of this plan.
    #[param(value_type = Option<String>)]
    pub(crate) plan: Option<PlanId>,
    /// Those of this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
    /// Those that are for this.
    pub(crate) mode: Option<PlanMode>,
    /// Those that began at this moment or later, in milliseconds since 1970.
    pub(crate) since_ms: Option<u64>,
    /// Those that began before this moment, in milliseconds since 1970.
    pub(crate) until_ms: Option<u64>,
    /// In which order; the newest first when it is not said.
    pub(crate) order: Option<Order>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which requests that wait for a second person.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ApprovalQuery {
    /// Those in this state.
    pub(crate) state: Option<ApprovalState>,
    /// Those that do this, such as `destination.remove`.
    pub(crate) action: Option<String>,
    /// Those of this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
    /// Those that this login asked for.
    pub(crate) requester: Option<String>,
    /// Those that were asked for at this moment or later, in milliseconds since 1970.
    pub(crate) since_ms: Option<u64>,
    /// Those that were asked for before this moment, in milliseconds since 1970.
    pub(crate) until_ms: Option<u64>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000, 100 when it is not said.
    pub(crate) limit: Option<u32>,
}

/// Which users.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UserQuery {
    /// Those with this login, in small letters or large; `*` stands for anything, `?` for one
    /// character.
    pub(crate) login: Option<String>,
    /// Begin after this: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000, 100 when it is not said.
    pub(crate) limit: Option<u32>,
}

/// Which lines.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct LogQuery {
    /// Begin after this number.
    pub(crate) after: Option<u64>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Since when.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct MissedQuery {
    /// Only what was missed since, in milliseconds since 1970.
    pub(crate) since_ms: Option<u64>,
    /// Only what was missed before, in milliseconds since 1970.
    pub(crate) until_ms: Option<u64>,
    /// Only of this policy.
    #[param(value_type = Option<String>)]
    pub(crate) policy: Option<PolicyId>,
    /// Only of this instance.
    #[param(value_type = Option<String>)]
    pub(crate) instance: Option<InstanceId>,
    /// Only in this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
    /// Only for this reason: `too-late`, `superseded`, ...
    pub(crate) reason: Option<String>,
}

/// Whose usage, when, and how it is grouped.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct UsageQuery {
    /// From this moment on, in milliseconds since 1970; 30 days before the end when it is not
    /// said.
    pub(crate) from_ms: Option<u64>,
    /// Until before this moment, in milliseconds since 1970; now when it is not said.
    pub(crate) until_ms: Option<u64>,
    /// What it is grouped by; projects when it is not said.
    pub(crate) by: Option<By>,
    /// Only of this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
    /// Only of this instance.
    #[param(value_type = Option<String>)]
    pub(crate) instance: Option<InstanceId>,
    /// Only under this policy.
    #[param(value_type = Option<String>)]
    pub(crate) policy: Option<PolicyId>,
    /// Only at this destination.
    #[param(value_type = Option<String>)]
    pub(crate) destination: Option<DestinationId>,
    /// Without what is at this destination: one that costs nothing, say.
    #[param(value_type = Option<String>)]
    pub(crate) without_destination: Option<DestinationId>,
}

/// Which instances.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ProtectionQuery {
    /// A good backup is recent when it is not older: `24h` when it is not said.
    #[param(value_type = Option<String>)]
    pub(crate) max_age: Option<Span>,
    /// Only instances of this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
    /// Only those without a recent good backup, or with a copy that is overdue.
    #[serde(default)]
    pub(crate) late: bool,
}

/// Which node a token is for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct JoinQuery {
    /// One that has joined before: it comes back as what it was, and whatever it has shown before
    /// counts no more.
    #[param(value_type = Option<String>)]
    pub(crate) node: Option<NodeId>,
}

/// Which time, and what is promised where nothing is said.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct SlaQuery {
    /// From this moment on, in milliseconds since 1970; 30 days before the end when it is not
    /// said.
    pub(crate) from_ms: Option<u64>,
    /// Until before this moment, in milliseconds since 1970; now when it is not said, or later.
    pub(crate) until_ms: Option<u64>,
    /// The recovery point objective of instances whose policies have none: `24h` when it is not
    /// said.
    #[param(value_type = Option<String>)]
    pub(crate) rpo: Option<Span>,
    /// Only instances of this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
}

/// Which report, in which form.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct DocumentQuery {
    /// In which form: a page when it is not said.
    #[serde(default)]
    #[param(value_type = Option<Format>, inline)]
    pub(crate) format: Format,
    /// How long a time it covers: back from now, and for a forecast from now on.
    #[param(value_type = Option<String>)]
    pub(crate) period: Option<Span>,
    /// What usage is grouped by; projects when it is not said.
    pub(crate) by: Option<By>,
    /// How old a backup may be: for protection, and for promises where policies say nothing.
    #[param(value_type = Option<String>)]
    pub(crate) max_age: Option<Span>,
    /// Only of this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
}

/// Which time that is to come.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct ForecastQuery {
    /// From this moment on, in milliseconds since 1970; now when it is not said, or earlier.
    pub(crate) from_ms: Option<u64>,
    /// Until before this moment, in milliseconds since 1970; a day later when it is not said.
    pub(crate) until_ms: Option<u64>,
    /// How long a slot is: `1h` when it is not said.
    #[param(value_type = Option<String>)]
    pub(crate) slot: Option<Span>,
    /// Only instances of this project.
    #[param(value_type = Option<String>)]
    pub(crate) project: Option<ProjectId>,
}

/// Which folder.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct FolderQuery {
    /// Its path below the mount, as it is told; the mount itself without.
    #[serde(default)]
    pub(crate) path: String,
    /// Begin after this name: `next` of the part before.
    pub(crate) after: Option<String>,
    /// Return so many at most: 1 to 1000.
    pub(crate) limit: Option<u32>,
}

/// Which file.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(crate) struct FileQuery {
    /// Its path below the mount, as it is told.
    #[serde(default)]
    pub(crate) path: String,
}

//! Everything at a glance.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use sluice_catalog::{DestinationId, Policy, PolicyId, ProjectId, TaskCount, Tx, Visible};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::auth::Actor;
use crate::complaint::readable;
use crate::problem::{Problem, Result};
use crate::queue::LOST_MS;
use crate::state::Shared;
use crate::ticker::next_times;

const DAY_MS: u64 = 86_400_000;
/// How many times that are due next are told.
const SOON: usize = 10;

/// Tasks by state, in a word.
type ByState = BTreeMap<String, u64>;

/// How many instances are protected, by a good backup of the last 24 hours.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProtectionSummary {
    /// Instances whose sources are still there.
    total: u64,
    /// Those with a recent good backup.
    recent: u64,
    /// Those whose last good backup is older.
    late: u64,
    /// Those without any.
    never: u64,
}

/// What is stored at a destination.
#[derive(Serialize, ToSchema)]
pub(crate) struct StoredAt {
    destination: DestinationId,
    /// How many instances have backups there.
    instances: u64,
    stored_bytes: u64,
}

/// What is protected and stored.
#[derive(Serialize, ToSchema)]
pub(crate) struct Storage {
    /// Size of what is protected.
    front_end_bytes: u64,
    /// What is stored for it.
    stored_bytes: u64,
    destinations: Vec<StoredAt>,
}

/// Nodes, for those who may see them.
#[derive(Serialize, ToSchema)]
pub(crate) struct NodeSummary {
    total: usize,
    /// Those that were heard of lately.
    alive: usize,
}

/// A schedule that is due soon.
#[derive(Serialize, ToSchema)]
pub(crate) struct DueSoon {
    /// When, in milliseconds since 1970.
    at_ms: u64,
    policy: PolicyId,
    name: String,
    project: Option<ProjectId>,
    /// `RULE/SCHEDULE`.
    schedule: String,
}

/// Everything at a glance.
#[derive(Serialize, ToSchema)]
pub(crate) struct Dashboard {
    /// What time it is, in milliseconds since 1970.
    now_ms: u64,
    /// Tasks that wait and run, by state.
    open: ByState,
    /// Tasks that ended in the last 24 hours, by state.
    last_day: ByState,
    /// Backups among them, by state.
    last_day_backups: ByState,
    /// Of how many schedules and instances something was due in the last 24 hours and did not
    /// run: see `/api/v1/reports/missed`.
    missed_last_day: usize,
    protection: ProtectionSummary,
    storage: Storage,
    nodes: Option<NodeSummary>,
    /// What is due next, at most ten.
    due_soon: Vec<DueSoon>,
}

fn by_state(counts: &[TaskCount], kind: Option<&str>) -> ByState {
    let mut states = ByState::new();
    for count in counts.iter().filter(|count| kind.is_none_or(|kind| count.kind == kind)) {
        *states.entry(count.state.clone()).or_default() += count.tasks;
    }
    states
}

async fn due_soon(tx: &mut Tx, visible: &Visible, now: u64) -> Result<Vec<DueSoon>> {
    let mut soon = Vec::new();
    for record in &readable::<Policy>(tx, visible).await? {
        for (schedule, at_ms) in next_times(&record.body, now) {
            let (policy, name, project) = (record.id, record.name.clone(), record.project);
            soon.push(DueSoon { at_ms, policy, name, project, schedule });
        }
    }
    soon.sort_by_key(|due| due.at_ms);
    soon.truncate(SOON);
    Ok(soon)
}

/// Read everything at a glance: tasks, protection, storage, what is due next
#[utoipa::path(get, path = "/api/v1/dashboard", tag = "report", operation_id = "dashboard",
    responses((status = 200, body = Dashboard), (status = "4XX", body = Problem)))]
pub(crate) async fn dashboard(
    State(shared): State<Shared>,
    actor: Actor,
) -> Result<Json<Dashboard>> {
    actor.require_anywhere(Permission::Read)?;
    let (now, visible) = (shared.now(), actor.visible());
    let since = now.saturating_sub(DAY_MS);
    let mut tx = shared.catalog.read().await?;
    let open = tx.tasks_open(&visible).await?;
    let ended = tx.tasks_ended(&visible, since).await?;
    let missed = tx.missed(&visible, since).await?;
    let seen = tx.protected(&visible, since).await?;
    let places = tx.at_destinations(&visible).await?;
    let front_end_bytes = tx.front_end_bytes(&visible).await?;
    let nodes = match actor.require(Permission::Read, None) {
        Ok(()) => {
            let heard = tx.heard().await?;
            let alive = heard.iter().filter(|node| node.last_seen_ms + LOST_MS >= now).count();
            Some(NodeSummary { total: heard.len(), alive })
        }
        Err(_) => None,
    };
    let due_soon = due_soon(&mut tx, &visible, now).await?;
    let late = seen.never + seen.late;
    Ok(Json(Dashboard {
        now_ms: now,
        open: by_state(&open, None),
        last_day: by_state(&ended, None),
        last_day_backups: by_state(&ended, Some("backup")),
        missed_last_day: missed.len(),
        protection: ProtectionSummary {
            total: seen.total,
            recent: seen.total.saturating_sub(late),
            late: seen.late,
            never: seen.never,
        },
        storage: Storage {
            front_end_bytes,
            stored_bytes: places.iter().map(|place| place.stored_bytes).sum(),
            destinations: places
                .into_iter()
                .map(|place| StoredAt {
                    destination: place.destination,
                    instances: place.instances,
                    stored_bytes: place.stored_bytes,
                })
                .collect(),
        },
        nodes,
        due_soon,
    }))
}

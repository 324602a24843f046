//! How many tasks run at a time, and what was missed.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use serde_json::json;
use sluice_catalog::{InstanceId, Missed, MissedFilter, PolicyId, ProjectId};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::query::{MissedQuery, span};
use crate::api::{Body, List, Query};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::queue::{Rules, SETTING};
use crate::state::Shared;
use crate::validators::{self, base_of};

/// Read how many tasks run at a time, and how waiting counts
#[utoipa::path(get, path = "/api/v1/limits", tag = "task", operation_id = "get-limits",
    responses((status = 200, body = Rules), (status = "4XX", body = Problem)))]
pub(crate) async fn get(State(shared): State<Shared>, actor: Actor) -> Result<Response> {
    actor.require(Permission::Read, None)?;
    let rules = Rules::load(&mut shared.catalog.read().await?).await?;
    Ok(validators::tagged(&base_of(&rules), rules))
}

/// Set how many tasks run at a time, and how waiting counts
#[utoipa::path(put, path = "/api/v1/limits", tag = "task", operation_id = "set-limits",
    params(("If-Match" = Option<String>, Header,
    description = "The tag of what the change is based on")), request_body = Rules,
    responses((status = 200, body = Rules), (status = "4XX", body = Problem)))]
pub(crate) async fn put(
    State(shared): State<Shared>,
    actor: Actor,
    headers: HeaderMap,
    Body(rules): Body<Rules>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    let document = json!(rules);
    let mut tx = shared.catalog.begin().await?;
    tx.alone_with_settings().await?;
    validators::check(&headers, &base_of(&Rules::load(&mut tx).await?))?;
    tx.set_setting(SETTING, &document.to_string()).await?;
    tx.audit(actor.did("limits.change", "", None, document), shared.now()).await?;
    tx.commit().await?;
    shared.work.notify_one();
    Ok(validators::tagged(&base_of(&rules), rules))
}

/// Occurrences of a schedule that did not run.
#[derive(Serialize, ToSchema)]
pub(crate) struct MissedView {
    policy: PolicyId,
    /// `RULE/SCHEDULE`.
    schedule: String,
    /// The instance; none when it was all instances of the policy.
    instance: Option<InstanceId>,
    project: Option<ProjectId>,
    /// `too-late`, `superseded`, `merged`, `still-active`, `paused`, `absent` or `broken`.
    reason: String,
    /// The first of them, in milliseconds since 1970.
    first_ms: u64,
    /// The last of them, in milliseconds since 1970.
    last_ms: u64,
    /// How many they were.
    times: u64,
}

impl From<Missed> for MissedView {
    fn from(missed: Missed) -> Self {
        let Missed { policy, schedule, instance, project, reason, first_ms, last_ms, times } =
            missed;
        Self { policy, schedule, instance, project, reason, first_ms, last_ms, times }
    }
}

/// List what was due and did not run, latest first, at most 1000
#[utoipa::path(get, path = "/api/v1/reports/missed", tag = "report",
    operation_id = "missed-report", params(MissedQuery), responses(
    (status = 200, body = List<MissedView>), (status = "4XX", body = Problem)))]
pub(crate) async fn missed(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<MissedQuery>,
) -> Result<Json<List<MissedView>>> {
    actor.require_anywhere(Permission::Read)?;
    let filter = MissedFilter {
        policy: query.policy,
        instance: query.instance,
        project: query.project,
        reason: query.reason,
        at: span(query.since_ms, query.until_ms)?,
    };
    let missed = shared.catalog.read().await?.missed_of(&actor.visible(), &filter).await?;
    let items = missed.into_iter().map(MissedView::from).collect();
    Ok(Json(List::all(items)))
}

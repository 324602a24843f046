//! Runs of recovery plans.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{
    Plan, PlanId, PlanMode, PlanRun, PlanRunFilter, PlanRunId, PlanRunState, ProjectId,
};
use utoipa::ToSchema;

use crate::access::{At, Permission};
use crate::api::policies::EVERYTHING;
use crate::api::query::{Order, PlanRunQuery, span};
use crate::api::{Body, List, Path, Query, page};
use crate::auth::Actor;
use crate::plans::{self, StepView};
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// A run of a plan.
#[derive(Serialize, ToSchema)]
pub(crate) struct PlanRunView {
    id: PlanRunId,
    project: Option<ProjectId>,
    plan: PlanId,
    /// What the plan was called.
    plan_name: String,
    mode: PlanMode,
    state: PlanRunState,
    /// Why it is in this state.
    message: String,
    /// Who began it.
    by: String,
    /// Whether somebody wants it to end.
    cancel_requested: bool,
    parameters: BTreeMap<String, String>,
    /// The names of the plan's groups.
    groups: Vec<String>,
    steps: Vec<StepView>,
    revision: u64,
    created_ms: u64,
    finished_ms: Option<u64>,
}

impl PlanRunView {
    fn of(run: PlanRun) -> Result<Self> {
        let body = plans::body(&run)?;
        Ok(Self {
            id: run.id,
            project: run.project,
            plan: run.plan,
            plan_name: run.plan_name,
            mode: run.mode,
            state: run.state,
            message: run.message,
            by: body.by,
            cancel_requested: body.cancel,
            parameters: body.parameters,
            groups: body.plan.groups.into_iter().map(|group| group.name).collect(),
            steps: body.steps,
            revision: run.revision,
            created_ms: run.created_ms,
            finished_ms: run.finished_ms,
        })
    }
}

/// How to run a plan.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlanRunRequest {
    mode: PlanMode,
    /// What parameters of the plan stand for this time.
    #[serde(default)]
    parameters: BTreeMap<String, String>,
}

/// Run a plan, or test it
#[utoipa::path(post, path = "/api/v1/plans/{id}/runs", tag = "plan", operation_id = "run-plan",
    params(("id" = PlanId, Path)), request_body = PlanRunRequest, responses(
    (status = 201, body = PlanRunView), (status = "4XX", body = Problem)))]
pub(crate) async fn run(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<PlanId>,
    Body(request): Body<PlanRunRequest>,
) -> Result<(StatusCode, Json<PlanRunView>)> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let plan = tx.get::<Plan>(id, &actor.visible()).await?;
    actor.require(Permission::Operate, &plan)?;
    let parameters = plans::parameters(&actor, &plan.body, request.parameters)?;
    let who = (actor.user.login.as_str(), parameters);
    let begun = plans::begin(&mut tx, &plan, request.mode, who, None, now).await?;
    let run = begun.ok_or_else(|| Problem::invalid("this run is there already"))?;
    let detail = json!({"plan": plan.name, "mode": request.mode});
    tx.audit(actor.did("plan-run.start", run, plan.project, detail), now).await?;
    let view = PlanRunView::of(tx.plan_run(run, &EVERYTHING).await?)?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// List runs of plans, newest first
#[utoipa::path(get, path = "/api/v1/plan-runs", tag = "plan", operation_id = "list-plan-runs",
    params(PlanRunQuery), responses(
    (status = 200, body = List<PlanRunView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<PlanRunQuery>,
) -> Result<Json<List<PlanRunView>>> {
    actor.require_anywhere(Permission::Read)?;
    let page = page(query.after, query.limit)?;
    let filter = PlanRunFilter {
        state: query.state,
        plan: query.plan,
        project: query.project,
        mode: query.mode,
        begun: span(query.since_ms, query.until_ms)?,
        oldest_first: query.order == Some(Order::Oldest),
    };
    let mut tx = shared.catalog.read().await?;
    let found = tx.plan_runs_found(&actor.visible(), &filter, &page).await?;
    let shown = |run: PlanRun| {
        let id = run.id.to_string();
        PlanRunView::of(run).map_err(|problem| (id, problem))
    };
    Ok(Json(List::found("run", found, shown)))
}

/// Read a run of a plan
#[utoipa::path(get, path = "/api/v1/plan-runs/{id}", tag = "plan", operation_id = "get-plan-run",
    params(("id" = PlanRunId, Path)), responses(
    (status = 200, body = PlanRunView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<PlanRunId>,
) -> Result<Json<PlanRunView>> {
    actor.require_anywhere(Permission::Read)?;
    let run = shared.catalog.read().await?.plan_run(id, &actor.visible()).await?;
    Ok(Json(PlanRunView::of(run)?))
}

/// Cancel a run of a plan: what it has started is ended, and its mounts are
#[utoipa::path(post, path = "/api/v1/plan-runs/{id}/cancel", tag = "plan",
    operation_id = "cancel-plan-run", params(("id" = PlanRunId, Path)), responses(
    (status = 200, body = PlanRunView), (status = "4XX", body = Problem)))]
pub(crate) async fn cancel(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<PlanRunId>,
) -> Result<Json<PlanRunView>> {
    let mut tx = shared.catalog.begin().await?;
    let run = tx.plan_run(id, &actor.visible()).await?;
    actor.require(Permission::Operate, At::plan(run.project, run.plan))?;
    // Not while a server brings it on.
    tx.decide_alone().await?;
    plans::cancel(&mut tx, id).await?;
    let detail = json!({"plan": run.plan_name});
    tx.audit(actor.did("plan-run.cancel", id, run.project, detail), shared.now()).await?;
    let view = PlanRunView::of(tx.plan_run(id, &EVERYTHING).await?)?;
    tx.commit().await?;
    Ok(Json(view))
}

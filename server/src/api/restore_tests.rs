//! Restore tests.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_catalog::{
    BootCheck, BootSpec, DestinationId, InstanceId, NodeId, PointId, PolicyId, ProjectId,
    RestoreTest, RestoreTestId, TaskId, TestFilter, TestState,
};
use utoipa::ToSchema;

use crate::access::{At, Permission};
use crate::api::policies::EVERYTHING;
use crate::api::query::{Order, TestQuery, span};
use crate::api::{Body, List, Path, Query, page};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::restore_tests;
use crate::state::Shared;

/// Tests by hand go before those that are due.
const PRIORITY: u32 = 60;

/// A restore test.
#[derive(Serialize, ToSchema)]
pub(crate) struct TestView {
    id: RestoreTestId,
    project: Option<ProjectId>,
    instance: InstanceId,
    point: PointId,
    destination: DestinationId,
    /// The policy that wanted it.
    policy: Option<PolicyId>,
    /// The task that does it.
    task: Option<TaskId>,
    boot: BootSpec,
    state: TestState,
    /// Why it is in this state.
    message: String,
    /// What the node told: timings, checks, what ran the guest.
    #[schema(value_type = Object)]
    report: Value,
    /// Whether there is a screenshot.
    has_screenshot: bool,
    revision: u64,
    created_ms: u64,
    updated_ms: u64,
}

impl From<RestoreTest> for TestView {
    fn from(test: RestoreTest) -> Self {
        let RestoreTest { new, .. } = test;
        Self {
            id: test.id,
            project: new.project,
            instance: new.instance,
            point: new.point,
            destination: new.destination,
            policy: new.policy,
            task: test.task,
            boot: new.spec,
            state: test.state,
            message: test.message,
            report: test.report,
            has_screenshot: test.has_screenshot,
            revision: test.revision,
            created_ms: test.created_ms,
            updated_ms: test.updated_ms,
        }
    }
}

/// What to test, and how.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TestRequest {
    point: PointId,
    /// The node that boots it; without, one that can.
    #[serde(default)]
    node: Option<NodeId>,
    #[serde(default)]
    boot: BootSpec,
}

/// List restore tests, newest first
#[utoipa::path(get, path = "/api/v1/restore-tests", tag = "restore-test",
    operation_id = "list-restore-tests", params(TestQuery), responses(
    (status = 200, body = List<TestView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<TestQuery>,
) -> Result<Json<List<TestView>>> {
    actor.require_anywhere(Permission::Read)?;
    let page = page(query.after, query.limit)?;
    let filter = TestFilter {
        state: query.state,
        instance: query.instance,
        project: query.project,
        policy: query.policy,
        destination: query.destination,
        added: span(query.since_ms, query.until_ms)?,
        oldest_first: query.order == Some(Order::Oldest),
    };
    let mut tx = shared.catalog.read().await?;
    let found = tx.tests_found(&actor.visible(), &filter, &page).await?;
    Ok(Json(List::found("restore test", found, |test| Ok(test.into()))))
}

/// Test a restore point: a node boots it and sees whether it answers
#[utoipa::path(post, path = "/api/v1/restore-tests", tag = "restore-test",
    operation_id = "start-restore-test", request_body = TestRequest, responses(
    (status = 201, body = TestView), (status = "4XX", body = Problem)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    actor: Actor,
    Body(request): Body<TestRequest>,
) -> Result<(StatusCode, Json<TestView>)> {
    actor.require_anywhere(Permission::Operate)?;
    restore_tests::check(&request.boot)?;
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let point = tx.point(request.point, &actor.visible()).await?;
    actor.require(Permission::Operate, At::instance(point.project, point.instance))?;
    if request.boot.checks.iter().any(BootCheck::runs_commands) {
        // Commands are said by who may write policies.
        actor.require(Permission::Manage, At::instance(point.project, point.instance))?;
    }
    if point.removed_ms.is_some() {
        return Err(Problem::not_found("restore point"));
    }
    restore_tests::able(&mut tx, request.node).await?;
    let (who, priority) = ((None, request.node), Some(PRIORITY));
    let id = restore_tests::start(&mut tx, &point, &request.boot, who, priority, now).await?;
    let detail = json!({"point": point.new.point, "node": request.node});
    tx.audit(actor.did("restore-test.start", id, point.project, detail), now).await?;
    let view = tx.test(id, &EVERYTHING).await?.into();
    tx.commit().await?;
    shared.work.notify_one();
    Ok((StatusCode::CREATED, Json(view)))
}

/// Read a restore test
#[utoipa::path(get, path = "/api/v1/restore-tests/{id}", tag = "restore-test",
    operation_id = "get-restore-test", params(("id" = RestoreTestId, Path)), responses(
    (status = 200, body = TestView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<RestoreTestId>,
) -> Result<Json<TestView>> {
    actor.require_anywhere(Permission::Read)?;
    Ok(Json(shared.catalog.read().await?.test(id, &actor.visible()).await?.into()))
}

async fn evidence(shared: &Shared, actor: &Actor, id: RestoreTestId) -> Result<(String, String)> {
    actor.require_anywhere(Permission::Read)?;
    let mut tx = shared.catalog.read().await?;
    tx.test(id, &actor.visible()).await?;
    Ok(tx.test_evidence(id).await?)
}

/// What the guest's screen showed at the end, as PNG
#[utoipa::path(get, path = "/api/v1/restore-tests/{id}/screenshot", tag = "restore-test",
    operation_id = "restore-test-screenshot", params(("id" = RestoreTestId, Path)), responses(
    (status = 200, content_type = "image/png", body = Vec<u8>), (status = "4XX", body = Problem)))]
pub(crate) async fn screenshot(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<RestoreTestId>,
) -> Result<Response> {
    let (screenshot, _) = evidence(&shared, &actor, id).await?;
    let bytes = BASE64.decode(screenshot.as_bytes()).unwrap_or_default();
    if bytes.is_empty() {
        return Err(Problem::not_found("screenshot"));
    }
    // It came from a guest: nobody is to take it for anything else.
    let headers =
        [(header::CONTENT_TYPE, "image/png"), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, bytes).into_response())
}

/// The end of what the guest's serial console showed
#[utoipa::path(get, path = "/api/v1/restore-tests/{id}/console", tag = "restore-test",
    operation_id = "restore-test-console", params(("id" = RestoreTestId, Path)), responses(
    (status = 200, content_type = "text/plain", body = String),
    (status = "4XX", body = Problem)))]
pub(crate) async fn console(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<RestoreTestId>,
) -> Result<Response> {
    let (_, console) = evidence(&shared, &actor, id).await?;
    let kind = "text/plain; charset=utf-8";
    let headers = [(header::CONTENT_TYPE, kind), (header::X_CONTENT_TYPE_OPTIONS, "nosniff")];
    Ok((headers, console).into_response())
}

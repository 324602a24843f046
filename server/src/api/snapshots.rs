//! Snapshots that stay at their source.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{
    Instance, InstanceId, InstanceSnapshot, NodeId, PolicyId, ProjectId, SnapshotFilter,
    SnapshotId, SnapshotImage, SnapshotState, TaskId,
};
use utoipa::ToSchema;

use crate::access::{At, Permission};
use crate::api::policies::EVERYTHING;
use crate::api::query::SnapshotQuery;
use crate::api::{Body, List, Path, Query, page};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::snapshots::{self, By};
use crate::state::Shared;

/// Snapshots by hand go before those that are due.
const PRIORITY: u32 = 70;
/// The longest that one is kept by itself, in seconds.
const LONGEST: u64 = 3660 * 86_400;

/// A snapshot of an instance at its source.
#[derive(Serialize, ToSchema)]
pub(crate) struct SnapshotView {
    id: SnapshotId,
    project: Option<ProjectId>,
    instance: InstanceId,
    /// Where it is, once it is there.
    node: Option<NodeId>,
    /// The policy that wanted it; none when somebody did by hand.
    policy: Option<PolicyId>,
    /// The policy's rule for snapshots.
    rule: Option<String>,
    /// The task that makes or removes it, or did so last.
    task: TaskId,
    state: SnapshotState,
    /// What moment it holds, in milliseconds since 1970, once it is ready.
    made_ms: Option<u64>,
    /// When it is removed by itself, in milliseconds since 1970; its rule says when there is one.
    expires_ms: Option<u64>,
    /// Its images on the node, once it is ready.
    images: Vec<SnapshotImage>,
    /// Why it is in this state.
    message: String,
    revision: u64,
    created_ms: u64,
    updated_ms: u64,
}

impl From<InstanceSnapshot> for SnapshotView {
    fn from(one: InstanceSnapshot) -> Self {
        let InstanceSnapshot { new, .. } = one;
        let some = |ms: u64| (ms > 0).then_some(ms);
        Self {
            id: one.id,
            project: new.project,
            instance: new.instance,
            node: one.node,
            policy: new.policy,
            rule: Some(new.rule).filter(|rule| !rule.is_empty()),
            task: new.task,
            state: one.state,
            made_ms: some(one.made_ms),
            expires_ms: some(new.expires_ms),
            images: one.images,
            message: one.message,
            revision: one.revision,
            created_ms: one.created_ms,
            updated_ms: one.updated_ms,
        }
    }
}

/// What to make a snapshot of, and for how long.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SnapshotRequest {
    instance: InstanceId,
    /// It is removed by itself after so long, in seconds; without, when somebody removes it.
    #[serde(default)]
    keep_seconds: Option<u64>,
    /// Whether the commands that its policies have around snapshots are left out.
    #[serde(default)]
    no_hooks: bool,
}

/// List snapshots at their sources, newest first
#[utoipa::path(get, path = "/api/v1/snapshots", tag = "snapshot",
    operation_id = "list-snapshots", params(SnapshotQuery), responses(
    (status = 200, body = List<SnapshotView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<SnapshotQuery>,
) -> Result<Json<List<SnapshotView>>> {
    actor.require_anywhere(Permission::Read)?;
    let page = page(query.after, query.limit)?;
    let filter = SnapshotFilter { state: query.state, instance: query.instance };
    let found = shared.catalog.read().await?.snapshots(&actor.visible(), &filter, &page).await?;
    Ok(Json(List::found("snapshot", found, |one| Ok(SnapshotView::from(one)))))
}

/// Make a snapshot of an instance that stays at its source
///
/// It has the commands of the first rule for snapshots, of those that its policies have, that has
/// any.
#[utoipa::path(post, path = "/api/v1/snapshots", tag = "snapshot",
    operation_id = "make-snapshot", request_body = SnapshotRequest, responses(
    (status = 201, body = SnapshotView), (status = "4XX", body = Problem)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    actor: Actor,
    Body(request): Body<SnapshotRequest>,
) -> Result<(StatusCode, Json<SnapshotView>)> {
    actor.require_anywhere(Permission::Operate)?;
    if request.keep_seconds.is_some_and(|seconds| !(1..=LONGEST).contains(&seconds)) {
        return Err(Problem::invalid("a snapshot is kept for 1 second to 10 years"));
    }
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let instance = tx.get::<Instance>(request.instance, &actor.visible()).await?;
    actor.require(Permission::Operate, &instance)?;
    let expires_ms = request.keep_seconds.map_or(0, |seconds| now + seconds * 1000);
    let no_hooks = request.no_hooks;
    let by = By { rule: None, priority: PRIORITY, expires_ms, due_key: None, no_hooks };
    let made = snapshots::request(&mut tx, &instance, by, now).await?;
    let (id, _) = made.ok_or_else(|| Problem::invalid("this snapshot is there already"))?;
    let (name, keep_seconds) = (&instance.name, request.keep_seconds);
    let detail = json!({"instance": name, "keep_seconds": keep_seconds, "no_hooks": no_hooks});
    tx.audit(actor.did("snapshot.make", id, instance.project, detail), now).await?;
    let view = tx.instance_snapshot(id, &EVERYTHING).await?.into();
    tx.commit().await?;
    shared.work.notify_one();
    Ok((StatusCode::CREATED, Json(view)))
}

/// Read a snapshot
#[utoipa::path(get, path = "/api/v1/snapshots/{id}", tag = "snapshot",
    operation_id = "get-snapshot", params(("id" = SnapshotId, Path)), responses(
    (status = 200, body = SnapshotView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<SnapshotId>,
) -> Result<Json<SnapshotView>> {
    actor.require_anywhere(Permission::Read)?;
    Ok(Json(shared.catalog.read().await?.instance_snapshot(id, &actor.visible()).await?.into()))
}

/// Remove a snapshot from its source: it is gone once its node has removed it
#[utoipa::path(delete, path = "/api/v1/snapshots/{id}", tag = "snapshot",
    operation_id = "remove-snapshot", params(("id" = SnapshotId, Path)), responses(
    (status = 200, body = SnapshotView), (status = "4XX", body = Problem)))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<SnapshotId>,
) -> Result<Json<SnapshotView>> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let one = tx.instance_snapshot(id, &actor.visible()).await?;
    actor.require(Permission::Manage, At::instance(one.new.project, one.new.instance))?;
    if tx.snapshot_used(&one).await? {
        let text = "a backup is made from this snapshot: wait for it, or cancel it";
        return Err(Problem::new(StatusCode::CONFLICT, "conflict", text));
    }
    if matches!(one.state, SnapshotState::Requested | SnapshotState::Ready) {
        snapshots::release(&mut tx, &one, ("somebody removes it", 0), now).await?;
        tx.audit(actor.did("snapshot.remove", id, one.new.project, json!({})), now).await?;
    }
    let view = tx.instance_snapshot(id, &EVERYTHING).await?.into();
    tx.commit().await?;
    shared.work.notify_one();
    Ok(Json(view))
}

//! Quotas of projects.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use serde_json::json;
use sluice_catalog::{Project, ProjectId, Tx};
use sluice_scheduler::quota::Quota;
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::{Body, Path};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::quota::{self, Counted};
use crate::state::Shared;
use crate::validators::{self, base_of};

/// A quota, and what of it is used.
#[derive(Serialize, ToSchema)]
pub(crate) struct QuotaView {
    project: ProjectId,
    /// The limits.
    quota: Quota,
    used: UsedView,
}

/// What a project uses.
#[derive(Serialize, ToSchema)]
pub(crate) struct UsedView {
    /// Backups that began within the window, when there is a limit.
    backups: Option<usize>,
    /// Restores that began within the window, when there is a limit.
    restores: Option<usize>,
    /// Size of what is protected, each instance once.
    front_end_bytes: u64,
    /// What is stored for it.
    stored_bytes: u64,
}

async fn view(tx: &mut Tx, project: ProjectId, now: u64) -> Result<QuotaView> {
    let quota = quota::of(tx, project).await?.unwrap_or_default();
    let counted = Counted::load(tx, &quota.project, project, None, now).await?;
    let bytes = tx.in_use(project, None).await?;
    let used = UsedView {
        backups: quota.project.backups.map(|_| counted.backups.len()),
        restores: quota.project.restores.map(|_| counted.restores.len()),
        front_end_bytes: bytes.front_end_bytes,
        stored_bytes: bytes.stored_bytes,
    };
    Ok(QuotaView { project, quota, used })
}

/// Read the quota of a project, and what of it is used
#[utoipa::path(get, path = "/api/v1/projects/{id}/quota", tag = "project",
    operation_id = "get-project-quota", params(("id" = ProjectId, Path)), responses(
    (status = 200, body = QuotaView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<ProjectId>,
) -> Result<Response> {
    actor.require_anywhere(Permission::Read)?;
    let mut tx = shared.catalog.read().await?;
    tx.get::<Project>(id, &actor.visible()).await?;
    let view = view(&mut tx, id, shared.now()).await?;
    Ok(validators::tagged(&base_of(&view.quota), view))
}

/// Set the quota of a project
///
/// Limits that are left out are none. Whoever administers a project cannot: a quota is what the
/// system gives it.
#[utoipa::path(put, path = "/api/v1/projects/{id}/quota", tag = "project",
    operation_id = "set-project-quota", params(("id" = ProjectId, Path),
    ("If-Match" = Option<String>, Header, description = "The tag of what the change is based on")),
    request_body = Quota, responses(
    (status = 200, body = QuotaView), (status = "4XX", body = Problem)))]
pub(crate) async fn put(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<ProjectId>,
    headers: HeaderMap,
    Body(quota): Body<Quota>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    quota.check().map_err(|error| Problem::invalid(error.to_string()))?;
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    tx.get::<Project>(id, &actor.visible()).await?;
    tx.alone_with_settings().await?;
    let known = quota::of(&mut tx, id).await?.unwrap_or_default();
    validators::check(&headers, &base_of(&known))?;
    let document = json!(quota);
    tx.set_quota(id, &document, now).await?;
    tx.audit(actor.did("project.quota", id, Some(id), document), now).await?;
    let view = view(&mut tx, id, now).await?;
    tx.commit().await?;
    Ok(validators::tagged(&base_of(&view.quota), view))
}

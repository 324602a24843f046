//! The audit log.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use serde_json::Value;
use sluice_catalog::{AuditFilter, AuditRow, ProjectId};
use utoipa::ToSchema;

use crate::access::{Permission, visible_with};
use crate::api::query::{AuditQuery, Order, span};
use crate::api::{List, Query, most};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// Something that was done.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditView {
    seq: u64,
    at_ms: u64,
    actor: String,
    action: String,
    object: String,
    project: Option<ProjectId>,
    detail: Value,
    /// The hash of this and all before it.
    hash: String,
}

impl From<AuditRow> for AuditView {
    fn from(row: AuditRow) -> Self {
        Self {
            seq: row.seq,
            at_ms: row.at_ms,
            actor: row.actor,
            action: row.action,
            object: row.object,
            project: row.project,
            detail: serde_json::from_str(&row.detail).unwrap_or_default(),
            hash: row.hash,
        }
    }
}

/// Read the audit log: all of it, or what concerns the projects and resources you administer
#[utoipa::path(get, path = "/api/v1/audit", tag = "audit", operation_id = "list-audit",
    params(AuditQuery), responses(
    (status = 200, body = List<AuditView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<AuditQuery>,
) -> Result<Json<List<AuditView>>> {
    actor.require_anywhere(Permission::Administer)?;
    let administered = visible_with(&actor.grants, Permission::Administer);
    let limit = most(query.limit)?;
    let filter = AuditFilter {
        actor: query.actor,
        action: query.action,
        object: query.object,
        project: query.project,
        at: span(query.since_ms, query.until_ms)?,
        newest_first: query.order == Some(Order::Newest),
    };
    let mut tx = shared.catalog.read().await?;
    let found = tx.audit_found(&administered, &filter, query.after, limit).await?;
    Ok(Json(List::found("entry of the audit log", found, |row| Ok(row.into()))))
}

/// Whether the chain holds.
#[derive(Serialize, ToSchema)]
pub(crate) struct ChainView {
    /// Entries that hold.
    entries: u64,
    /// The first entry that does not.
    broken_at: Option<u64>,
}

/// Check that nothing of the audit log was changed or taken out
#[utoipa::path(get, path = "/api/v1/audit/verify", tag = "audit", operation_id = "verify-audit",
    responses((status = 200, body = ChainView), (status = "4XX", body = Problem)))]
pub(crate) async fn verify(State(shared): State<Shared>, actor: Actor) -> Result<Json<ChainView>> {
    actor.require(Permission::Administer, None)?;
    let (entries, flaw) = shared.catalog.read().await?.audit_verify().await?;
    Ok(Json(ChainView { entries, broken_at: flaw.map(|flaw| flaw.seq) }))
}

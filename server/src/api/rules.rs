//! What the system asks of everybody.

use axum::Json;
use axum::extract::State;
use serde_json::json;

use crate::access::Permission;
use crate::api::Body;
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::rules::AccessRules;
use crate::state::Shared;

/// Read what is asked of passwords, second factors, and a second person
#[utoipa::path(get, path = "/api/v1/access-rules", tag = "access",
    operation_id = "get-access-rules",
    responses((status = 200, body = AccessRules), (status = "4XX", body = Problem)))]
pub(crate) async fn get(State(shared): State<Shared>, actor: Actor) -> Result<Json<AccessRules>> {
    actor.require(Permission::Read, None)?;
    Ok(Json(AccessRules::load(&mut shared.catalog.read().await?).await?))
}

/// Set what is asked of passwords, second factors, and a second person
///
/// What is left out is what it was at first. Where anything waits for a second person, so does
/// this.
#[utoipa::path(put, path = "/api/v1/access-rules", tag = "access",
    operation_id = "set-access-rules", request_body = AccessRules,
    responses((status = 200, body = AccessRules), (status = "4XX", body = Problem)))]
pub(crate) async fn put(
    State(shared): State<Shared>,
    actor: Actor,
    Body(rules): Body<AccessRules>,
) -> Result<Json<AccessRules>> {
    actor.require(Permission::Administer, None)?;
    rules.check()?;
    let mut tx = shared.catalog.begin().await?;
    rules.store(&mut tx).await?;
    tx.audit(actor.did("access-rules.change", "", None, json!(rules)), shared.now()).await?;
    tx.commit().await?;
    Ok(Json(rules))
}

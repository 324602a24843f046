//! What the system asks of everybody.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use serde_json::json;

use crate::access::Permission;
use crate::api::Body;
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::rules::AccessRules;
use crate::state::Shared;
use crate::validators::{self, base_of};

/// Read what is asked of passwords, second factors, and a second person
#[utoipa::path(get, path = "/api/v1/access-rules", tag = "access",
    operation_id = "get-access-rules",
    responses((status = 200, body = AccessRules), (status = "4XX", body = Problem)))]
pub(crate) async fn get(State(shared): State<Shared>, actor: Actor) -> Result<Response> {
    actor.require(Permission::Read, None)?;
    let rules = AccessRules::load(&mut shared.catalog.read().await?).await?;
    Ok(validators::tagged(&base_of(&rules), rules))
}

/// Set what is asked of passwords, second factors, and a second person
///
/// What is left out is what it was at first. Where anything waits for a second person, so does
/// this.
#[utoipa::path(put, path = "/api/v1/access-rules", tag = "access",
    operation_id = "set-access-rules", params(("If-Match" = Option<String>, Header,
    description = "The tag of what the change is based on")),
    request_body = AccessRules,
    responses((status = 200, body = AccessRules), (status = "4XX", body = Problem)))]
pub(crate) async fn put(
    State(shared): State<Shared>,
    actor: Actor,
    headers: HeaderMap,
    Body(rules): Body<AccessRules>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    rules.check()?;
    let mut tx = shared.catalog.begin().await?;
    tx.alone_with_settings().await?;
    validators::check(&headers, &base_of(&AccessRules::load(&mut tx).await?))?;
    rules.store(&mut tx).await?;
    tx.audit(actor.did("access-rules.change", "", None, json!(rules)), shared.now()).await?;
    tx.commit().await?;
    Ok(validators::tagged(&base_of(&rules), rules))
}

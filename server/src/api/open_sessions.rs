//! Sessions that last, and the tokens of service accounts.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use serde_json::json;
use sluice_catalog::{OpenSession, SessionId, TokenId, Tx, UserId};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::sessions::{NewToken, TokenView, list_of, make_token};
use crate::api::{Body, List, PageQuery, Path, Query};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// A session that lasts.
#[derive(Serialize, ToSchema)]
pub(crate) struct OpenSessionView {
    id: SessionId,
    /// The address from which it was begun.
    address: String,
    created_ms: u64,
    expires_ms: u64,
    /// Whether it is the one that asks.
    current: bool,
}

/// List your sessions, oldest first
#[utoipa::path(get, path = "/api/v1/sessions", tag = "session", operation_id = "list-sessions",
    params(PageQuery), responses(
    (status = 200, body = List<OpenSessionView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<PageQuery>,
) -> Result<Json<List<OpenSessionView>>> {
    let (page, now) = (query.page()?, shared.now());
    let sessions = shared.catalog.read().await?.sessions(actor.user.id, &page, now).await?;
    let view = |session: OpenSession| OpenSessionView {
        id: session.id,
        address: session.address,
        created_ms: session.created_ms,
        expires_ms: session.expires_ms,
        current: session.token_hash == actor.shown,
    };
    let views = sessions.into_iter().map(view).collect();
    Ok(Json(List::new(views, page.limit, |view: &OpenSessionView| view.id.to_string())))
}

/// End a session of yours
#[utoipa::path(delete, path = "/api/v1/sessions/{id}", tag = "session",
    operation_id = "end-session", params(("id" = SessionId, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn end(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<SessionId>,
) -> Result<StatusCode> {
    let mut tx = shared.catalog.begin().await?;
    if tx.end_sessions(actor.user.id, Some(id)).await? == 0 {
        return Err(Problem::not_found("session"));
    }
    tx.audit(actor.did("session.end", id, None, json!({})), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// End all sessions of somebody; API tokens stay
#[utoipa::path(delete, path = "/api/v1/users/{id}/sessions", tag = "user",
    operation_id = "end-user-sessions", params(("id" = UserId, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn end_all(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<UserId>,
) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.begin().await?;
    tx.user(id).await?;
    let ended = tx.end_sessions(id, None).await?;
    tx.audit(actor.did("session.end-all", id, None, json!({"ended": ended})), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Only programs have tokens that others make: those of people let act in their names.
async fn service(tx: &mut Tx, id: UserId) -> Result<()> {
    match tx.user(id).await?.service {
        true => Ok(()),
        false => Err(Problem::invalid("this is a person, who makes tokens for itself")),
    }
}

/// List the API tokens of a service account
#[utoipa::path(get, path = "/api/v1/users/{id}/tokens", tag = "user",
    operation_id = "list-user-tokens", params(("id" = UserId, Path), PageQuery), responses(
    (status = 200, body = List<TokenView>), (status = "4XX", body = Problem)))]
pub(crate) async fn tokens(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<UserId>,
    Query(query): Query<PageQuery>,
) -> Result<Json<List<TokenView>>> {
    actor.require(Permission::Administer, None)?;
    let page = query.page()?;
    let mut tx = shared.catalog.read().await?;
    service(&mut tx, id).await?;
    Ok(Json(list_of(tx.tokens(id, &page).await?, &page)))
}

/// Make an API token for a service account
#[utoipa::path(post, path = "/api/v1/users/{id}/tokens", tag = "user",
    operation_id = "create-user-token", params(("id" = UserId, Path)), request_body = NewToken,
    responses((status = 201, body = TokenView), (status = "4XX", body = Problem)))]
pub(crate) async fn create_token(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<UserId>,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<TokenView>)> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.begin().await?;
    service(&mut tx, id).await?;
    let view = make_token(&mut tx, &actor, id, new, shared.now()).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Remove an API token of a service account
#[utoipa::path(delete, path = "/api/v1/users/{id}/tokens/{token}", tag = "user",
    operation_id = "remove-user-token", params(("id" = UserId, Path), ("token" = TokenId, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn delete_token(
    State(shared): State<Shared>,
    actor: Actor,
    Path((id, token)): Path<(UserId, TokenId)>,
) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.begin().await?;
    service(&mut tx, id).await?;
    tx.delete_token(id, token).await?;
    tx.audit(actor.did("token.remove", token, None, json!({"user": id})), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

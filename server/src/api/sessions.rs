//! Logging in, and the tokens of programs.

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{
    AuditEntry, ErrorKind, Grant, Role, TokenId, UserId, hash_password, token_hash, verify_password,
};
use std::net::SocketAddr;
use std::sync::PoisonError;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::api::{Body, Hidden, Path};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::server::SETUP;
use crate::state::{Shared, new_token};

/// How long a session lasts.
const SESSION_MS: u64 = 12 * 3_600_000;
/// A password has at least so many characters, and at most so many bytes.
const SHORTEST: usize = 12;
const LONGEST: usize = 1024;

/// The first administrator.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Setup {
    /// The one-time token of the first start.
    token: String,
    /// The name to log in with.
    login: String,
    /// At least 12 characters.
    password: Hidden,
}

/// Who wants to log in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Login {
    /// The name.
    login: String,
    /// The password.
    password: Hidden,
}

/// A session.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionView {
    /// To be shown as `Authorization: Bearer TOKEN`.
    token: String,
    /// When it ends, in milliseconds since 1970.
    expires_ms: u64,
}

/// Who is logged in.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    id: UserId,
    login: String,
    grants: Vec<Grant>,
}

/// Refuses passwords that are too easy to guess or too long to hash.
pub(crate) fn check_password(password: &str) -> Result<()> {
    if password.chars().count() < SHORTEST || password.len() > LONGEST {
        return Err(Problem::invalid("a password has at least 12 characters"));
    }
    Ok(())
}

/// Hashes where blocking is allowed.
pub(crate) async fn hashed(password: Zeroizing<String>) -> Result<String> {
    let hash = tokio::task::spawn_blocking(move || hash_password(&password)).await;
    Ok(hash.map_err(|error| Problem::invalid(error.to_string()))??)
}

/// Make the first administrator
///
/// With the token that the first start printed; it is used up by that.
#[utoipa::path(post, path = "/api/v1/setup", tag = "session", operation_id = "setup",
    security(()), request_body = Setup,
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn setup(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(setup): Body<Setup>,
) -> Result<StatusCode> {
    let now = shared.now();
    let who = format!("setup {}", peer.ip());
    wait(&shared, &who, now)?;
    check_password(&setup.password.0)?;
    let expected = shared.catalog.read().await?.setting(SETUP).await?;
    if expected.as_deref() != Some(&token_hash(&setup.token)) {
        shared.limiter.lock().unwrap_or_else(PoisonError::into_inner).failed(&who, now);
        let text = "this is not the setup token, or it was used";
        return Err(Problem::new(StatusCode::FORBIDDEN, "no-setup", text));
    }
    let hash = hashed(setup.password.0).await?;
    let mut tx = shared.catalog.begin().await?;
    if !tx.remove_setting(SETUP).await? {
        let text = "this is not the setup token, or it was used";
        return Err(Problem::new(StatusCode::FORBIDDEN, "no-setup", text));
    }
    let user = tx.add_user(&setup.login, &hash, now).await?;
    tx.set_grants(user.id, &[Grant { role: Role::Admin, project: None }]).await?;
    let entry = AuditEntry {
        actor: user.login.clone(),
        action: "setup",
        object: user.id.to_string(),
        project: None,
        detail: json!({"from": peer.ip().to_string()}),
    };
    tx.audit(entry, now).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

fn wait(shared: &Shared, who: &str, now: u64) -> Result<()> {
    let limiter = shared.limiter.lock().unwrap_or_else(PoisonError::into_inner);
    match limiter.wait(who, now) {
        0 => Ok(()),
        wait => {
            let text = format!("too many failed attempts: wait {} s", wait.div_ceil(1000));
            Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "slow-down", text))
        }
    }
}

/// Log in
#[utoipa::path(post, path = "/api/v1/sessions", tag = "session", operation_id = "login",
    security(()), request_body = Login, responses(
    (status = 201, body = SessionView), (status = "4XX", body = Problem)))]
pub(crate) async fn login(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(login): Body<Login>,
) -> Result<(StatusCode, Json<SessionView>)> {
    let now = shared.now();
    // By name and address: nobody locks out another by guessing.
    let who = format!("{} {}", peer.ip(), login.login);
    wait(&shared, &who, now)?;
    let user = shared.catalog.read().await?.user_by_login(&login.login).await?;
    let hash = user.as_ref().filter(|user| !user.disabled).map(|u| u.password_hash.clone());
    let Login { password, .. } = login;
    let fits = tokio::task::spawn_blocking(move || match hash {
        Some(hash) => verify_password(&password.0, &hash),
        // A name that is not there must take as long as one that is.
        None => hash_password(&password.0).is_ok_and(|_| false),
    });
    let fits = fits.await.unwrap_or(false);
    let mut tx = shared.catalog.begin().await?;
    let actor = user.as_ref().map_or("?", |user| &user.login).to_owned();
    let from = json!({"from": peer.ip().to_string()});
    let entry = |action| AuditEntry {
        actor: actor.clone(),
        action,
        object: actor,
        project: None,
        detail: from,
    };
    let Some(user) = user.filter(|_| fits) else {
        shared.limiter.lock().unwrap_or_else(PoisonError::into_inner).failed(&who, now);
        tx.audit(entry("session.refused"), now).await?;
        tx.commit().await?;
        let text = "name or password is wrong";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, "wrong-password", text));
    };
    shared.limiter.lock().unwrap_or_else(PoisonError::into_inner).succeeded(&who);
    let token = new_token("session");
    let expires_ms = now + SESSION_MS;
    tx.add_session(&token_hash(&token), user.id, now, expires_ms).await?;
    tx.audit(entry("session.begin"), now).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(SessionView { token, expires_ms })))
}

/// Log out
#[utoipa::path(delete, path = "/api/v1/sessions/current", tag = "session",
    operation_id = "logout", responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn logout(State(shared): State<Shared>, actor: Actor) -> Result<StatusCode> {
    let mut tx = shared.catalog.begin().await?;
    tx.end_session(&actor.shown).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Tell who is logged in
#[utoipa::path(get, path = "/api/v1/me", tag = "session", operation_id = "me",
    responses((status = 200, body = Me), (status = "4XX", body = Problem)))]
pub(crate) async fn me(actor: Actor) -> Json<Me> {
    Json(Me { id: actor.user.id, login: actor.user.login, grants: actor.grants })
}

/// An API token.
#[derive(Serialize, ToSchema)]
pub(crate) struct TokenView {
    id: TokenId,
    name: String,
    created_ms: u64,
    expires_ms: Option<u64>,
    /// What to show; told once.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<String>,
}

/// A token to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewToken {
    /// For people.
    name: String,
    /// When it ends, in milliseconds since 1970; never when it is not said.
    #[serde(default)]
    expires_ms: Option<u64>,
}

/// List your API tokens
#[utoipa::path(get, path = "/api/v1/tokens", tag = "session", operation_id = "list-tokens",
    responses((status = 200, body = Vec<TokenView>), (status = "4XX", body = Problem)))]
pub(crate) async fn tokens(
    State(shared): State<Shared>,
    actor: Actor,
) -> Result<Json<Vec<TokenView>>> {
    let tokens = shared.catalog.read().await?.tokens(actor.user.id).await?;
    let view = |token: sluice_catalog::Token| TokenView {
        id: token.id,
        name: token.name,
        created_ms: token.created_ms,
        expires_ms: token.expires_ms,
        token: None,
    };
    Ok(Json(tokens.into_iter().map(view).collect()))
}

/// Make an API token, which may do what you may do
#[utoipa::path(post, path = "/api/v1/tokens", tag = "session", operation_id = "create-token",
    request_body = NewToken, responses(
    (status = 201, body = TokenView), (status = "4XX", body = Problem)))]
pub(crate) async fn create_token(
    State(shared): State<Shared>,
    actor: Actor,
    Body(new): Body<NewToken>,
) -> Result<(StatusCode, Json<TokenView>)> {
    let now = shared.now();
    let secret = new_token("token");
    let hash = token_hash(&secret);
    let mut tx = shared.catalog.begin().await?;
    let token = tx.add_token(actor.user.id, &new.name, &hash, now, new.expires_ms).await?;
    tx.audit(actor.did("token.create", token.id, None, json!({"name": token.name})), now).await?;
    tx.commit().await?;
    let view = TokenView {
        id: token.id,
        name: token.name,
        created_ms: token.created_ms,
        expires_ms: token.expires_ms,
        token: Some(secret),
    };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Remove an API token of yours
#[utoipa::path(delete, path = "/api/v1/tokens/{id}", tag = "session",
    operation_id = "remove-token", params(("id" = TokenId, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn delete_token(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<TokenId>,
) -> Result<StatusCode> {
    let mut tx = shared.catalog.begin().await?;
    tx.delete_token(actor.user.id, id).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => Problem::not_found("token"),
        _ => error.into(),
    })?;
    tx.audit(actor.did("token.remove", id, None, json!({})), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

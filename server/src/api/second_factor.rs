//! Second factors: time-based codes, and recovery codes for when the phone is lost.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{Tx, UserId, token_hash};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::sessions::{confirm_password, failed, wait};
use crate::api::{Body, Hidden, Path};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::state::Shared;
use crate::totp;

/// Who wants a second factor.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enrol {
    /// The password, so that a session that was left open is not enough.
    password: Hidden,
}

/// A secret for an authenticator app; told once.
#[derive(Serialize, ToSchema)]
pub(crate) struct Enrolment {
    /// As Base32, to be typed.
    secret: String,
    /// The same as a URI, for a picture.
    uri: String,
}

/// A code that the app shows.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Confirm {
    /// Six digits.
    code: Hidden,
}

/// What helps when the app is lost; told once.
#[derive(Serialize, ToSchema)]
pub(crate) struct RecoveryCodes {
    /// Each is good for one login.
    recovery_codes: Vec<String>,
}

/// Who does not want a second factor any more.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemoveTotp {
    /// The password.
    password: Hidden,
    /// Six digits, or a recovery code.
    code: Hidden,
}

/// By what somebody has shown the second factor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Code,
    RecoveryCode,
}

impl Shown {
    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Code => "code",
            Self::RecoveryCode => "recovery-code",
        }
    }
}

/// Whether this is the user's code now, or one of its recovery codes. Whichever it is, it is used
/// up.
pub(crate) async fn accepts(
    shared: &Shared,
    tx: &mut Tx,
    user: UserId,
    code: &str,
    now: u64,
) -> Result<Option<Shown>> {
    let Some(known) = tx.totp(user).await? else { return Ok(None) };
    let secret = known.secret(&shared.sealer)?;
    if let Some(step) = totp::step_of(&secret, code, now) {
        return Ok(tx.use_totp_step(user, step).await?.then_some(Shown::Code));
    }
    if !known.confirmed {
        return Ok(None);
    }
    let used = tx.use_recovery_code(user, &token_hash(&totp::plain(code))).await?;
    Ok(used.then_some(Shown::RecoveryCode))
}

/// By whom codes are guessed, wherever they log in from.
pub(crate) fn guesser(user: UserId) -> String {
    format!("code {user}")
}

fn wrong_code() -> Problem {
    let text = "this code is wrong, or was used: wait for the next one";
    Problem::new(StatusCode::FORBIDDEN, "wrong-code", text)
}

/// Begin to use a second factor: get a secret for an authenticator app
///
/// It counts once a code of it was confirmed.
#[utoipa::path(post, path = "/api/v1/me/totp", tag = "session", operation_id = "enrol-totp",
    request_body = Enrol, responses(
    (status = 201, body = Enrolment), (status = "4XX", body = Problem)))]
pub(crate) async fn enrol(
    State(shared): State<Shared>,
    actor: Actor,
    Body(enrol): Body<Enrol>,
) -> Result<(StatusCode, Json<Enrolment>)> {
    actor.require_login()?;
    confirm_password(&shared, &actor, enrol.password.0).await?;
    let secret = totp::new_secret();
    let mut tx = shared.catalog.begin().await?;
    tx.begin_totp(&shared.sealer, actor.user.id, &secret).await?;
    tx.audit(actor.did("totp.enrol", actor.user.id, None, json!({})), shared.now()).await?;
    tx.commit().await?;
    let uri = totp::uri(&secret, &actor.user.login).to_string();
    Ok((StatusCode::CREATED, Json(Enrolment { secret: secret.to_string(), uri })))
}

/// Confirm the second factor with a code: from now on, logging in takes one
#[utoipa::path(post, path = "/api/v1/me/totp/confirm", tag = "session",
    operation_id = "confirm-totp", request_body = Confirm, responses(
    (status = 200, body = RecoveryCodes), (status = "4XX", body = Problem)))]
pub(crate) async fn confirm(
    State(shared): State<Shared>,
    actor: Actor,
    Body(confirm): Body<Confirm>,
) -> Result<Json<RecoveryCodes>> {
    actor.require_login()?;
    let (now, who) = (shared.now(), guesser(actor.user.id));
    wait(&shared, &who, now)?;
    let mut tx = shared.catalog.begin().await?;
    match tx.totp(actor.user.id).await? {
        None => return Err(Problem::not_found("secret: ask for one first")),
        Some(known) if known.confirmed => {
            let text = "the second factor is confirmed already";
            return Err(Problem::new(StatusCode::CONFLICT, "confirmed", text));
        }
        Some(_) => {}
    }
    if accepts(&shared, &mut tx, actor.user.id, &confirm.code.0, now).await?.is_none() {
        failed(&shared, &who, now);
        return Err(wrong_code());
    }
    let recovery_codes = totp::recovery_codes();
    let hashes: Vec<String> =
        recovery_codes.iter().map(|code| token_hash(&totp::plain(code))).collect();
    tx.confirm_totp(actor.user.id, &hashes).await?;
    tx.audit(actor.did("totp.confirm", actor.user.id, None, json!({})), now).await?;
    tx.commit().await?;
    Ok(Json(RecoveryCodes { recovery_codes }))
}

/// Stop using a second factor
#[utoipa::path(post, path = "/api/v1/me/totp/remove", tag = "session",
    operation_id = "remove-totp", request_body = RemoveTotp,
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    actor: Actor,
    Body(remove): Body<RemoveTotp>,
) -> Result<StatusCode> {
    actor.require_login()?;
    let (now, who) = (shared.now(), guesser(actor.user.id));
    wait(&shared, &who, now)?;
    confirm_password(&shared, &actor, remove.password.0).await?;
    let mut tx = shared.catalog.begin().await?;
    if tx.totp(actor.user.id).await?.is_none() {
        return Err(Problem::not_found("second factor"));
    }
    if accepts(&shared, &mut tx, actor.user.id, &remove.code.0, now).await?.is_none() {
        failed(&shared, &who, now);
        return Err(wrong_code());
    }
    tx.remove_totp(actor.user.id).await?;
    tx.audit(actor.did("totp.remove", actor.user.id, None, json!({})), now).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove somebody's second factor, who has lost it; all their sessions end
#[utoipa::path(delete, path = "/api/v1/users/{id}/totp", tag = "user",
    operation_id = "reset-user-totp", params(("id" = UserId, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn reset(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<UserId>,
) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    if id == actor.user.id {
        return Err(Problem::invalid("remove your own with your password and a code"));
    }
    let mut tx = shared.catalog.begin().await?;
    tx.user(id).await?;
    if !tx.remove_totp(id).await? {
        return Err(Problem::not_found("second factor"));
    }
    tx.end_sessions(id, None).await?;
    tx.audit(actor.did("totp.reset", id, None, json!({})), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

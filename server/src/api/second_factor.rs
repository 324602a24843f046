//! Second factors that are typed: time-based codes, and recovery codes for when the phone is lost.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{AuditEntry, Totp, Tx, UserId, token_hash};
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
    /// Each is good for one login; those of before are not any more.
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
/// up. The code of an app that was not confirmed is none.
pub(crate) async fn accepts(
    shared: &Shared,
    tx: &mut Tx,
    user: UserId,
    code: &str,
    now: u64,
) -> Result<Option<Shown>> {
    if let Some(known) = tx.totp(user).await?.filter(|known| known.confirmed)
        && let Some(good) = is_of_app(shared, tx, (user, &known), code, now).await?
    {
        return Ok(good.then_some(Shown::Code));
    }
    let used = tx.use_recovery_code(user, &token_hash(&totp::plain(code))).await?;
    Ok(used.then_some(Shown::RecoveryCode))
}

/// Whether a code of the app was not used before; nothing when it is none.
async fn is_of_app(
    shared: &Shared,
    tx: &mut Tx,
    (user, known): (UserId, &Totp),
    code: &str,
    now: u64,
) -> Result<Option<bool>> {
    match totp::step_of(&known.secret(&shared.sealer)?, code, now) {
        Some(step) => Ok(Some(tx.use_totp_step(user, step).await?)),
        None => Ok(None),
    }
}

/// Makes recovery codes, which replace those of before; told once.
pub(crate) async fn new_recovery_codes(tx: &mut Tx, user: UserId) -> Result<Vec<String>> {
    let codes = totp::recovery_codes();
    let hashes: Vec<String> = codes.iter().map(|code| token_hash(&totp::plain(code))).collect();
    tx.set_recovery_codes(user, &hashes).await?;
    Ok(codes)
}

/// By whom codes are guessed, wherever they log in from.
pub(crate) fn guesser(user: UserId) -> String {
    format!("code {user}")
}

pub(crate) fn wrong_code() -> Problem {
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
    let known = match tx.totp(actor.user.id).await? {
        None => return Err(Problem::not_found("secret: ask for one first")),
        Some(known) if known.confirmed => {
            let text = "the second factor is confirmed already";
            return Err(Problem::new(StatusCode::CONFLICT, "confirmed", text));
        }
        Some(known) => known,
    };
    let of = (actor.user.id, &known);
    if is_of_app(&shared, &mut tx, of, &confirm.code.0, now).await? != Some(true) {
        failed(&shared, &who, now);
        return Err(wrong_code());
    }
    tx.confirm_totp(actor.user.id).await?;
    let recovery_codes = new_recovery_codes(&mut tx, actor.user.id).await?;
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
    let Some(known) = tx.totp(actor.user.id).await? else {
        return Err(Problem::not_found("second factor"));
    };
    let (user, code) = (actor.user.id, &remove.code.0);
    let fits = match known.confirmed {
        true => accepts(&shared, &mut tx, user, code, now).await?.is_some(),
        false => is_of_app(&shared, &mut tx, (user, &known), code, now).await? == Some(true),
    };
    if !fits {
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
    let mut tx = begin_reset(&shared, &actor, id).await?;
    if !tx.remove_totp(id).await? {
        return Err(Problem::not_found("second factor"));
    }
    end_reset(&shared, tx, id, actor.did("totp.reset", id, None, json!({}))).await
}

/// Begins to remove something by which somebody else proves who they are.
pub(crate) async fn begin_reset(shared: &Shared, actor: &Actor, id: UserId) -> Result<Tx> {
    actor.require(Permission::Administer, None)?;
    if id == actor.user.id {
        return Err(Problem::invalid("remove your own with your password and a code or passkey"));
    }
    let mut tx = shared.catalog.begin().await?;
    tx.user(id).await?;
    Ok(tx)
}

/// Ends it, and the sessions of whoever may have found it.
pub(crate) async fn end_reset(
    shared: &Shared,
    mut tx: Tx,
    id: UserId,
    entry: AuditEntry,
) -> Result<StatusCode> {
    tx.end_sessions(id, None).await?;
    tx.audit(entry, shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

//! Passkeys of one's own.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{NewPasskey, Passkey, PasskeyId, PasskeyPurpose, Tx, UserId};
use sluice_webauthn::{Expected, register};
use utoipa::ToSchema;

use crate::api::second_factor::{
    accepts, begin_reset, end_reset, guesser, new_recovery_codes, wrong_code,
};
use crate::api::sessions::{confirm_password, failed, wait};
use crate::api::{Body, Hidden, Path};
use crate::auth::Actor;
use crate::passkeys::documents::{CreationOptions, NewlyMade, RequestOptions, UsedPasskey, words};
use crate::passkeys::{Asked, ask, judge, over, party, signed_of, take};
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// Who wants a passkey.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BeginPasskey {
    /// The password, so that a session that was left open is not enough.
    password: Hidden,
}

/// A passkey that is to be made.
#[derive(Serialize, ToSchema)]
pub(crate) struct BegunPasskey {
    /// To be shown with what the browser has made.
    registration: String,
    /// For the browser, as it is.
    options: CreationOptions,
    /// Until when, in milliseconds since 1970.
    expires_ms: u64,
}

/// What the browser has made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FinishPasskey {
    /// Of the passkey that is to be made.
    registration: Hidden,
    /// What it is to be called: 1 to 128 bytes.
    name: String,
    /// From the browser, as it is.
    credential: NewlyMade,
}

/// A passkey.
#[derive(Serialize, ToSchema)]
pub(crate) struct PasskeyView {
    id: PasskeyId,
    name: String,
    /// When it was made, in milliseconds since 1970.
    created_ms: u64,
    /// When it was used last, in milliseconds since 1970.
    used_ms: Option<u64>,
    /// Whether it may be copied to other devices.
    backup_eligible: bool,
    /// Whether it is.
    backed_up: bool,
    /// Whether it is good for a login without a password, where the browser finds it: its
    /// authenticator has asked for a PIN, a finger or a face.
    passwordless: bool,
    /// Make and model as the authenticator has told it (AAGUID), or zeroes; not proved.
    model: String,
    /// How browsers reach it.
    transports: Vec<String>,
}

impl From<Passkey> for PasskeyView {
    fn from(passkey: Passkey) -> Self {
        Self {
            id: passkey.id,
            transports: words(&passkey.transports),
            name: passkey.name,
            created_ms: passkey.created_ms,
            used_ms: passkey.used_ms,
            backup_eligible: passkey.backup_eligible,
            backed_up: passkey.backed_up,
            passwordless: passkey.verified,
            model: passkey.model,
        }
    }
}

/// A passkey that was made.
#[derive(Serialize, ToSchema)]
pub(crate) struct MadePasskey {
    passkey: PasskeyView,
    /// With the first second factor: each is good for one login. Told once.
    recovery_codes: Vec<String>,
}

/// Another name.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RenamePasskey {
    /// 1 to 128 bytes.
    name: String,
}

/// What the browser is asked.
#[derive(Serialize, ToSchema)]
pub(crate) struct AskedPasskey {
    /// To be shown with what the browser answers.
    challenge: String,
    /// For the browser, as it is.
    options: RequestOptions,
    /// Until when, in milliseconds since 1970.
    expires_ms: u64,
}

/// Who does not want a passkey any more.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RemovePasskey {
    /// The password.
    password: Hidden,
    /// Six digits of the app, or a recovery code.
    #[serde(default)]
    code: Option<Hidden>,
    /// Instead of a code: a passkey, which may be the same.
    #[serde(default)]
    passkey: Option<ShownPasskey>,
}

/// A passkey that was used beside a password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShownPasskey {
    /// Of what the browser was asked.
    challenge: Hidden,
    /// From the browser, as it is.
    credential: UsedPasskey,
}

/// List your passkeys
#[utoipa::path(get, path = "/api/v1/me/passkeys", tag = "session",
    operation_id = "list-passkeys", responses(
    (status = 200, body = Vec<PasskeyView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
) -> Result<Json<Vec<PasskeyView>>> {
    let passkeys = shared.catalog.read().await?.passkeys(actor.user.id).await?;
    Ok(Json(passkeys.into_iter().map(PasskeyView::from).collect()))
}

/// Begin to make a passkey, by which you log in beside the password or without
///
/// Hand `options` to the browser, and what it makes to `/api/v1/me/passkeys/finish`.
#[utoipa::path(post, path = "/api/v1/me/passkeys", tag = "session",
    operation_id = "begin-passkey", request_body = BeginPasskey, responses(
    (status = 201, body = BegunPasskey), (status = "4XX", body = Problem)))]
pub(crate) async fn begin(
    State(shared): State<Shared>,
    actor: Actor,
    Body(begin): Body<BeginPasskey>,
) -> Result<(StatusCode, Json<BegunPasskey>)> {
    actor.require_login()?;
    let party = party(&shared)?;
    confirm_password(&shared, &actor, begin.password.0).await?;
    let mut tx = shared.catalog.begin().await?;
    let asked = of_session(&actor, PasskeyPurpose::Register);
    let question = ask(&shared, &mut tx, &asked).await?;
    let known = tx.passkeys(actor.user.id).await?;
    let options = CreationOptions::new(party, &actor.user, &known, &question);
    tx.audit(actor.did("passkey.begin", actor.user.id, None, json!({})), shared.now()).await?;
    tx.commit().await?;
    let view =
        BegunPasskey { registration: question.token, options, expires_ms: question.expires_ms };
    Ok((StatusCode::CREATED, Json(view)))
}

/// What somebody who is logged in is asked, by this session only.
fn of_session(actor: &Actor, purpose: PasskeyPurpose) -> Asked<'_> {
    Asked { purpose, user: Some(actor.user.id), session: &actor.shown, address: "" }
}

/// End making a passkey with what the browser has made
///
/// It ends with this, well or not: after a refusal, begin anew. From now on, logging in takes it
/// or another second factor.
#[utoipa::path(post, path = "/api/v1/me/passkeys/finish", tag = "session",
    operation_id = "finish-passkey", request_body = FinishPasskey, responses(
    (status = 201, body = MadePasskey), (status = "4XX", body = Problem)))]
pub(crate) async fn finish(
    State(shared): State<Shared>,
    actor: Actor,
    Body(end): Body<FinishPasskey>,
) -> Result<(StatusCode, Json<MadePasskey>)> {
    actor.require_login()?;
    let (now, who) = (shared.now(), guesser(actor.user.id));
    wait(&shared, &who, now)?;
    let new = match made(&shared, &actor, &end).await {
        Ok(new) => new,
        Err(problem) => {
            failed(&shared, &who, now);
            let detail = json!({"why": problem.detail});
            let mut tx = shared.catalog.begin().await?;
            tx.audit(actor.did("passkey.refused", actor.user.id, None, detail), now).await?;
            tx.commit().await?;
            return Err(problem);
        }
    };
    let mut tx = shared.catalog.begin().await?;
    let is_first = !tx.has_second_factor(actor.user.id).await?;
    let passkey = tx.add_passkey(actor.user.id, &new, now).await?;
    let recovery_codes = match is_first {
        true => new_recovery_codes(&mut tx, actor.user.id).await?,
        false => Vec::new(),
    };
    let detail = json!({"name": passkey.name, "model": passkey.model});
    tx.audit(actor.did("passkey.add", passkey.id, None, detail), now).await?;
    tx.commit().await?;
    let view = MadePasskey { passkey: passkey.into(), recovery_codes };
    Ok((StatusCode::CREATED, Json(view)))
}

/// What a browser has made, if that was asked of it by this session.
async fn made(shared: &Shared, actor: &Actor, end: &FinishPasskey) -> Result<NewPasskey> {
    let party = party(shared)?;
    let taken = take(shared, &end.registration, &[PasskeyPurpose::Register]).await?;
    let mine =
        |user: Option<UserId>, session: &str| user == Some(actor.user.id) && session == actor.shown;
    let taken = taken.map(|(_, taken)| taken).filter(|taken| mine(taken.user, &taken.session));
    let taken = taken.ok_or_else(over)?;
    let refused = |why: String| {
        let text = format!("this passkey is refused: {why}");
        Problem::new(StatusCode::FORBIDDEN, "wrong-passkey", text)
    };
    let brought = end.credential.decode().ok_or_else(|| refused("it is no Base64url".into()))?;
    let challenge = signed_of(&taken);
    let expected = Expected { party, challenge: &challenge, verified: false };
    let new = register(&expected, &brought.id, &brought.client_data, &brought.attestation)
        .map_err(|flaw| refused(flaw.to_string()))?;
    Ok(NewPasskey {
        name: end.name.clone(),
        credential: BASE64URL_NOPAD.encode(&new.id),
        key: BASE64URL_NOPAD.encode(&new.key),
        counter: new.counter,
        model: HEXLOWER.encode(&new.model),
        transports: brought.transports,
        verified: new.verified,
        backup_eligible: new.backup_eligible,
        backed_up: new.backed_up,
    })
}

/// Ask for one of your passkeys, to show it before something that takes one
#[utoipa::path(post, path = "/api/v1/me/passkeys/challenge", tag = "session",
    operation_id = "ask-for-passkey", responses(
    (status = 201, body = AskedPasskey), (status = "4XX", body = Problem)))]
pub(crate) async fn challenge(
    State(shared): State<Shared>,
    actor: Actor,
) -> Result<(StatusCode, Json<AskedPasskey>)> {
    actor.require_login()?;
    let party = party(&shared)?;
    let mut tx = shared.catalog.begin().await?;
    let known = tx.passkeys(actor.user.id).await?;
    if known.is_empty() {
        return Err(Problem::not_found("passkey: you have none"));
    }
    let asked = of_session(&actor, PasskeyPurpose::Confirm);
    let question = ask(&shared, &mut tx, &asked).await?;
    tx.commit().await?;
    let options = RequestOptions::beside(party, &known, &question);
    let view = AskedPasskey { challenge: question.token, options, expires_ms: question.expires_ms };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Give a passkey of yours another name
#[utoipa::path(put, path = "/api/v1/me/passkeys/{id}", tag = "session",
    operation_id = "rename-passkey", params(("id" = PasskeyId, Path)),
    request_body = RenamePasskey, responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn rename(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<PasskeyId>,
    Body(new): Body<RenamePasskey>,
) -> Result<StatusCode> {
    actor.require_login()?;
    let mut tx = shared.catalog.begin().await?;
    tx.rename_passkey(actor.user.id, id, &new.name).await?;
    let detail = json!({"name": new.name});
    tx.audit(actor.did("passkey.rename", id, None, detail), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Remove a passkey of yours
///
/// It takes the password, and a code or a passkey.
#[utoipa::path(post, path = "/api/v1/me/passkeys/{id}/remove", tag = "session",
    operation_id = "remove-passkey", params(("id" = PasskeyId, Path)),
    request_body = RemovePasskey, responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<PasskeyId>,
    Body(remove): Body<RemovePasskey>,
) -> Result<StatusCode> {
    actor.require_login()?;
    let (now, who) = (shared.now(), guesser(actor.user.id));
    wait(&shared, &who, now)?;
    confirm_password(&shared, &actor, remove.password.0).await?;
    let mut tx = match (remove.code, remove.passkey) {
        (Some(code), None) => {
            let mut tx = shared.catalog.begin().await?;
            if accepts(&shared, &mut tx, actor.user.id, &code.0, now).await?.is_none() {
                failed(&shared, &who, now);
                return Err(wrong_code());
            }
            tx
        }
        (None, Some(shown)) => confirmed(&shared, &actor, shown).await?,
        _ => {
            return Err(Problem::invalid("removing a passkey takes a code, or a passkey"));
        }
    };
    let known = tx.passkeys(actor.user.id).await?;
    let found = known.into_iter().find(|passkey| passkey.id == id);
    let removed = found.ok_or_else(|| Problem::not_found("passkey"))?;
    tx.remove_passkeys(actor.user.id, Some(id)).await?;
    let detail = json!({"name": removed.name});
    tx.audit(actor.did("passkey.remove", id, None, detail), now).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A transaction that has noted the use of a passkey, which this session was asked for.
async fn confirmed(shared: &Shared, actor: &Actor, shown: ShownPasskey) -> Result<Tx> {
    let (now, who) = (shared.now(), guesser(actor.user.id));
    let taken = take(shared, &shown.challenge, &[PasskeyPurpose::Confirm]).await?;
    let Some((purpose, taken)) = taken.filter(|(_, taken)| taken.session == actor.shown) else {
        failed(shared, &who, now);
        return Err(over());
    };
    let mut tx = shared.catalog.begin().await?;
    match judge(shared, &mut tx, (purpose, &taken), &shown.credential).await? {
        Ok(_) => Ok(tx),
        Err(refused) => {
            failed(shared, &who, now);
            let detail = refused.detail("");
            tx.audit(actor.did("passkey.refused", actor.user.id, None, detail), now).await?;
            if let Some(alarm) = refused.alarm(&actor.user.login, "") {
                tx.audit(alarm, now).await?;
            }
            tx.commit().await?;
            Err(refused.problem(StatusCode::FORBIDDEN))
        }
    }
}

/// Remove all passkeys of somebody who has lost them; all their sessions end
#[utoipa::path(delete, path = "/api/v1/users/{id}/passkeys", tag = "user",
    operation_id = "reset-user-passkeys", params(("id" = UserId, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn reset(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<UserId>,
) -> Result<StatusCode> {
    let mut tx = begin_reset(&shared, &actor, id).await?;
    let removed = tx.remove_passkeys(id, None).await?;
    if removed == 0 {
        return Err(Problem::not_found("passkey"));
    }
    let detail = json!({"removed": removed});
    end_reset(&shared, tx, id, actor.did("passkey.reset", id, None, detail)).await
}

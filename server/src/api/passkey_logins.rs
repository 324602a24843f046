//! Logging in by a passkey, beside the password or without.

use std::net::SocketAddr;
use std::sync::PoisonError;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{PasskeyPurpose, TakenChallenge, User};
use utoipa::ToSchema;

use crate::api::provider_logins::MOST_OF_ONE;
use crate::api::second_factor::guesser;
use crate::api::sessions::{SessionView, about, begin_session, check_password, failed, wait};
use crate::api::{Body, Hidden};
use crate::passkeys::documents::{RequestOptions, UsedPasskey};
use crate::passkeys::{Asked, Refused, ask, judge, over, party, take};
use crate::places::network;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// Who wants to log in by a passkey.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BeginPasskeyLogin {
    /// The name; none where the passkey tells it.
    #[serde(default)]
    login: Option<String>,
    /// The password, beside which the passkey is the second factor; none with no name.
    #[serde(default)]
    password: Option<Hidden>,
}

/// A login that has begun.
#[derive(Serialize, ToSchema)]
pub(crate) struct BegunPasskeyLogin {
    /// To be shown when it ends; for nobody else.
    login: String,
    /// For the browser, as it is.
    options: RequestOptions,
    /// Until when, in milliseconds since 1970.
    expires_ms: u64,
}

/// What the browser has answered.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FinishPasskeyLogin {
    /// Of the login that has begun.
    login: Hidden,
    /// From the browser, as it is.
    credential: UsedPasskey,
}

/// By address only: the passkey is to tell the name.
fn stranger(peer: SocketAddr) -> String {
    format!("passkey {}", network(peer))
}

/// Begin to log in by a passkey
///
/// With name and password, a passkey of that user is the second factor. Without both, any passkey
/// of this server that its authenticator guards by a PIN, a finger or a face is enough. Hand
/// `options` to the browser, and what it answers to `/api/v1/passkey-logins/finish`.
#[utoipa::path(post, path = "/api/v1/passkey-logins", tag = "session",
    operation_id = "begin-passkey-login", security(()), request_body = BeginPasskeyLogin,
    responses((status = 201, body = BegunPasskeyLogin), (status = "4XX", body = Problem)))]
pub(crate) async fn begin(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(begin): Body<BeginPasskeyLogin>,
) -> Result<(StatusCode, Json<BegunPasskeyLogin>)> {
    let party = party(&shared)?;
    let now = shared.now();
    wait(&shared, &stranger(peer), now)?;
    let address = network(peer);
    if shared.catalog.read().await?.count_challenges(&address, now).await? >= MOST_OF_ONE {
        let text = "too many logins have begun here and not ended: end one, or wait five minutes";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "slow-down", text));
    }
    let user = match (begin.login, begin.password) {
        (None, None) => None,
        (Some(login), Some(password)) => {
            Some(check_password(&shared, peer, &login, password).await?)
        }
        _ => return Err(Problem::invalid("give name and password, or neither")),
    };
    let (purpose, of) = match &user {
        Some(user) => (PasskeyPurpose::SecondFactor, Some(user.id)),
        None => (PasskeyPurpose::Login, None),
    };
    let mut tx = shared.catalog.begin().await?;
    let known = match &user {
        Some(user) => {
            wait(&shared, &guesser(user.id), now)?;
            tx.passkeys(user.id).await?
        }
        None => Vec::new(),
    };
    if user.is_some() && known.is_empty() {
        let text = "this user has no passkey: log in without";
        return Err(Problem::new(StatusCode::CONFLICT, "no-passkey", text));
    }
    let asked = Asked { purpose, user: of, session: "", address: &address };
    let question = ask(&shared, &mut tx, &asked).await?;
    tx.commit().await?;
    let options = match user {
        Some(_) => RequestOptions::beside(party, &known, &question),
        None => RequestOptions::instead(party, &question),
    };
    let view =
        BegunPasskeyLogin { login: question.token, options, expires_ms: question.expires_ms };
    Ok((StatusCode::CREATED, Json(view)))
}

/// End a login with what the browser has answered
///
/// It ends with this, well or not: after a refusal, begin anew.
#[utoipa::path(post, path = "/api/v1/passkey-logins/finish", tag = "session",
    operation_id = "finish-passkey-login", security(()), request_body = FinishPasskeyLogin,
    responses((status = 201, body = SessionView), (status = "4XX", body = Problem)))]
pub(crate) async fn finish(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(end): Body<FinishPasskeyLogin>,
) -> Result<(StatusCode, Json<SessionView>)> {
    let now = shared.now();
    wait(&shared, &stranger(peer), now)?;
    let purposes = [PasskeyPurpose::SecondFactor, PasskeyPurpose::Login];
    let Some((purpose, taken)) = take(&shared, &end.login, &purposes).await? else {
        failed(&shared, &stranger(peer), now);
        return Err(over());
    };
    let who = taken.user.map_or_else(|| stranger(peer), guesser);
    wait(&shared, &who, now)?;
    let mut tx = shared.catalog.begin().await?;
    let judged = judge(&shared, &mut tx, (purpose, &taken), &end.credential).await?;
    let (user, passkey) = match judged {
        Ok(passkey) => (tx.user(passkey.user).await?, passkey),
        Err(refused) => {
            drop(tx);
            failed(&shared, &who, now);
            note(&shared, peer, &taken, &refused).await?;
            return Err(refused.problem(StatusCode::UNAUTHORIZED));
        }
    };
    if !may_log_in(&user) {
        drop(tx);
        failed(&shared, &who, now);
        let why = "this user may not log in".to_owned();
        let refused = Refused::of(passkey, why);
        note(&shared, peer, &taken, &refused).await?;
        return Err(refused.problem(StatusCode::UNAUTHORIZED));
    }
    let detail = match purpose {
        PasskeyPurpose::Login => json!({"passkey": passkey.name}),
        _ => json!({"second_factor": "passkey", "passkey": passkey.name}),
    };
    let view = begin_session(&shared, &mut tx, (peer, &user), true, detail).await?;
    tx.commit().await?;
    shared.limiter.lock().unwrap_or_else(PoisonError::into_inner).succeeded(&who);
    Ok((StatusCode::CREATED, Json(view)))
}

/// Whoever comes from an identity provider is let in by that alone.
fn may_log_in(user: &User) -> bool {
    !user.disabled && !user.service && user.provider.is_none()
}

/// Writes down that a passkey was refused, and whose.
async fn note(
    shared: &Shared,
    peer: SocketAddr,
    taken: &TakenChallenge,
    refused: &Refused,
) -> Result<()> {
    let (now, from) = (shared.now(), peer.ip().to_string());
    let mut tx = shared.catalog.begin().await?;
    let whose = taken.user.or(refused.passkey.as_ref().map(|passkey| passkey.user));
    let login = match whose {
        Some(user) => tx.user(user).await.map_or("?".to_owned(), |user| user.login),
        None => "?".to_owned(),
    };
    tx.audit(about(&login, "session.refused", refused.detail(&from)), now).await?;
    if let Some(alarm) = refused.alarm(&login, &from) {
        tx.audit(alarm, now).await?;
    }
    Ok(tx.commit().await?)
}

//! Logging in by an identity provider with a browser, here or elsewhere.

use std::net::SocketAddr;
use std::sync::PoisonError;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use sluice_catalog::{BeginningLogin, IdentityProvider, LoginVia, Record, token_hash};
use utoipa::ToSchema;

use crate::api::sessions::{SessionView, failed, wait};
use crate::api::{Body, Hidden};
use crate::complaint::all_readable;
use crate::identity::oidc::{Brought, Login, Pending};
use crate::identity::{self, Person, Refusal, refused};
use crate::places::network;
use crate::problem::{Problem, Result};
use crate::state::{Shared, new_token};

/// How long a login with a browser may take, in milliseconds.
const PATIENCE_MS: u64 = 10 * 60_000;
/// Logins that may have begun from one address and not ended: enough for an office behind one, and
/// a small part of [`sluice_catalog::MOST_PENDING`].
pub(crate) const MOST_OF_ONE: u64 = 50;

/// A way to log in.
#[derive(Serialize, ToSchema)]
pub(crate) struct LoginProvider {
    /// To be named when logging in.
    name: String,
    /// `oidc`, which takes a browser, or `ldap`, which takes a name and a password.
    kind: &'static str,
}

/// Who wants to log in with a browser.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BeginLogin {
    /// The identity provider, by name.
    provider: String,
    /// Where the browser is to come back: `http://127.0.0.1:PORT/...`, or what the provider's
    /// record allows.
    redirect_uri: String,
}

/// A login that has begun.
#[derive(Serialize, ToSchema)]
pub(crate) struct BegunLogin {
    /// To be shown when it ends; for nobody else.
    login: String,
    /// Where the browser is to go.
    url: String,
    /// Until when, in milliseconds since 1970.
    expires_ms: u64,
}

/// What the browser has brought back, as the parameters of its URL.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FinishLogin {
    /// Of the login that has begun.
    login: Hidden,
    /// The parameter `state`.
    state: String,
    /// The parameter `code`.
    code: Hidden,
    /// The parameter `iss`, where there is one.
    #[serde(default)]
    iss: Option<String>,
}

/// Who wants to log in with a browser elsewhere.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BeginDevice {
    /// The identity provider, by name.
    provider: String,
}

/// A login that waits for somebody to type a code elsewhere.
#[derive(Serialize, ToSchema)]
pub(crate) struct BegunDevice {
    /// To be shown when asking whether it has ended; for nobody else.
    login: String,
    /// What to type.
    user_code: String,
    /// Where.
    verification_uri: String,
    /// The same with the code in it, where the provider has that.
    verification_uri_complete: Option<String>,
    /// Ask again after so many seconds.
    interval: u64,
    /// Until when, in milliseconds since 1970.
    expires_ms: u64,
}

/// Who asks whether the code was typed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct FinishDevice {
    /// Of the login that has begun.
    login: Hidden,
}

/// List the identity providers by which one can log in
#[utoipa::path(get, path = "/api/v1/login-providers", tag = "session",
    operation_id = "list-login-providers", security(()), responses(
    (status = 200, body = Vec<LoginProvider>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(State(shared): State<Shared>) -> Result<Json<Vec<LoginProvider>>> {
    let records = all_readable::<IdentityProvider>(&mut shared.catalog.read().await?).await?;
    let views = records.into_iter().filter(|record| record.body.enabled).map(|record| {
        let kind = match record.body.via {
            LoginVia::Oidc(_) => "oidc",
            LoginVia::Ldap(_) => "ldap",
        };
        LoginProvider { name: record.name, kind }
    });
    Ok(Json(views.collect()))
}

/// By address only: whoever logs in here has no name yet.
fn guesser(peer: SocketAddr) -> String {
    format!("provider {}", network(peer))
}

/// Refuses whoever has failed, or has begun and not ended, too often.
async fn may_begin(shared: &Shared, peer: SocketAddr) -> Result<()> {
    let now = shared.now();
    wait(shared, &guesser(peer), now)?;
    let mut tx = shared.catalog.read().await?;
    if tx.count_pending_logins(&network(peer), now).await? < MOST_OF_ONE {
        return Ok(());
    }
    let text = "too many logins have begun here and not ended: end one, or wait ten minutes";
    Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "slow-down", text))
}

/// A login at this provider, now.
async fn at<'a>(shared: &'a Shared, provider: &'a Record<IdentityProvider>) -> Result<Login<'a>> {
    let mut tx = shared.catalog.read().await?;
    let secret = identity::secret(shared, &mut tx, provider.id).await?;
    Ok(Login { memory: &shared.providers, provider, secret, now: shared.now() })
}

/// Keeps what a login needs to end; what to show then.
async fn keep(
    shared: &Shared,
    peer: SocketAddr,
    provider: &Record<IdentityProvider>,
    pending: &Pending,
    expires_ms: u64,
) -> Result<String> {
    let login = new_token("login");
    let state = serde_json::to_string(pending).map_err(|error| refused(error.to_string()))?;
    let mut tx = shared.catalog.begin().await?;
    let (hash, address) = (token_hash(&login), network(peer));
    let (provider, state) = (provider.id, state.as_str());
    let new = BeginningLogin { hash: &hash, provider, state, address: &address, expires_ms };
    tx.begin_login(&shared.sealer, &new, shared.now()).await?;
    tx.commit().await?;
    Ok(login)
}

/// Begin to log in with a browser on this machine
///
/// Send the browser to `url`. What it brings back to `redirect_uri` ends the login.
#[utoipa::path(post, path = "/api/v1/oidc-logins", tag = "session", operation_id = "begin-login",
    security(()), request_body = BeginLogin, responses(
    (status = 201, body = BegunLogin), (status = "4XX", body = Problem)))]
pub(crate) async fn begin(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(new): Body<BeginLogin>,
) -> Result<(StatusCode, Json<BegunLogin>)> {
    may_begin(&shared, peer).await?;
    let provider = identity::by_name(&mut shared.catalog.read().await?, &new.provider).await?;
    let (url, pending) = at(&shared, &provider).await?.begin(&new.redirect_uri).await?;
    let expires_ms = shared.now() + PATIENCE_MS;
    let login = keep(&shared, peer, &provider, &pending, expires_ms).await?;
    Ok((StatusCode::CREATED, Json(BegunLogin { login, url, expires_ms })))
}

/// End a login with what the browser has brought back
///
/// It ends with this, well or not: after a refusal, begin anew.
#[utoipa::path(post, path = "/api/v1/oidc-logins/finish", tag = "session",
    operation_id = "finish-login", security(()), request_body = FinishLogin, responses(
    (status = 201, body = SessionView), (status = "4XX", body = Problem)))]
pub(crate) async fn finish(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(end): Body<FinishLogin>,
) -> Result<(StatusCode, Json<SessionView>)> {
    wait(&shared, &guesser(peer), shared.now())?;
    let (provider, pending) = begun(&shared, peer, &end.login, true).await?;
    let brought = Brought { state: end.state, code: end.code.0.to_string(), iss: end.iss };
    let person = at(&shared, &provider).await?.finish(&pending, &brought).await;
    let view = let_in(&shared, peer, &provider, person).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// Begin to log in with a browser elsewhere: get a code to type there
#[utoipa::path(post, path = "/api/v1/device-logins", tag = "session",
    operation_id = "begin-device-login", security(()), request_body = BeginDevice, responses(
    (status = 201, body = BegunDevice), (status = "4XX", body = Problem)))]
pub(crate) async fn begin_device(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(new): Body<BeginDevice>,
) -> Result<(StatusCode, Json<BegunDevice>)> {
    may_begin(&shared, peer).await?;
    let provider = identity::by_name(&mut shared.catalog.read().await?, &new.provider).await?;
    let (code, pending) = at(&shared, &provider).await?.begin_device().await?;
    let expires_ms = shared.now() + code.expires_seconds * 1000;
    let login = keep(&shared, peer, &provider, &pending, expires_ms).await?;
    let view = BegunDevice {
        login,
        user_code: code.user_code,
        verification_uri: code.verification_uri,
        verification_uri_complete: code.verification_uri_complete,
        interval: code.interval,
        expires_ms,
    };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Ask whether the code was typed, and end the login if it was
///
/// Answered 409 with the code `authorization-pending` until then.
#[utoipa::path(post, path = "/api/v1/device-logins/finish", tag = "session",
    operation_id = "finish-device-login", security(()), request_body = FinishDevice, responses(
    (status = 201, body = SessionView), (status = "4XX", body = Problem)))]
pub(crate) async fn finish_device(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(end): Body<FinishDevice>,
) -> Result<(StatusCode, Json<SessionView>)> {
    wait(&shared, &guesser(peer), shared.now())?;
    let (provider, pending) = begun(&shared, peer, &end.login, false).await?;
    let person = match at(&shared, &provider).await?.poll_device(&pending).await {
        Ok(None) => {
            let text = "nobody has typed the code yet: ask again";
            return Err(Problem::new(StatusCode::CONFLICT, "authorization-pending", text));
        }
        // What a provider that cannot be asked would say is still open.
        Err(problem) if problem.code == identity::UNREACHABLE => return Err(problem),
        Ok(Some(person)) => Ok(person),
        Err(problem) => Err(problem),
    };
    let mut tx = shared.catalog.begin().await?;
    // Of several that ask at the same time, one is let in.
    let mine = tx.end_login(&token_hash(&end.login.0)).await?;
    tx.commit().await?;
    let person = if mine { person } else { Err(over()) };
    let view = let_in(&shared, peer, &provider, person).await?;
    Ok((StatusCode::CREATED, Json(view)))
}

fn over() -> Problem {
    refused("it has ended, or has taken too long: begin anew")
}

/// The login that has begun; with `take`, nobody else can end it any more.
async fn begun(
    shared: &Shared,
    peer: SocketAddr,
    login: &Hidden,
    take: bool,
) -> Result<(Record<IdentityProvider>, Pending)> {
    let (now, hash) = (shared.now(), token_hash(&login.0));
    let mut tx = shared.catalog.begin().await?;
    let found = tx.pending_login(&shared.sealer, &hash, now).await?;
    let mine = !take || tx.end_login(&hash).await?;
    let Some((provider, state)) = found.filter(|_| mine) else {
        failed(shared, &guesser(peer), now);
        return Err(over());
    };
    let provider = identity::by_id(&mut tx, provider).await?;
    tx.commit().await?;
    let pending = serde_json::from_str(&state).map_err(|_| over())?;
    Ok((provider, pending))
}

/// A session for whom the provider has let in; or a note that it has not.
async fn let_in(
    shared: &Shared,
    peer: SocketAddr,
    provider: &Record<IdentityProvider>,
    person: Result<Person>,
) -> Result<SessionView> {
    let address = peer.ip().to_string();
    let admitted = match person {
        Ok(person) => identity::let_in(shared, provider, &person, &address).await,
        Err(problem) => Err(problem),
    };
    match admitted {
        Ok(view) => {
            let mut limiter = shared.limiter.lock().unwrap_or_else(PoisonError::into_inner);
            limiter.succeeded(&guesser(peer));
            Ok(view)
        }
        Err(problem) => {
            failed(shared, &guesser(peer), shared.now());
            let refusal = Refusal::from(problem);
            identity::note_refusal(shared, provider, "", &address, &refusal).await?;
            Err(refusal.problem)
        }
    }
}

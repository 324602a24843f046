//! Logging in, and the tokens of programs.

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_catalog::{
    AuditEntry, ErrorKind, Grant, Page, Role, Token, TokenId, Tx, User, UserId, hash_password,
    token_hash, verify_password,
};
use std::net::SocketAddr;
use std::sync::PoisonError;
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::api::second_factor::{Shown, accepts, guesser};
use crate::api::{Body, Hidden, List, PageQuery, Path, Query};
use crate::auth::{self, Actor, First};
use crate::hashing;
use crate::places::network;
use crate::problem::{Problem, Result};
use crate::rules::{AccessRules, LONGEST};
use crate::server::SETUP;
use crate::state::{Shared, new_token};

/// How long a session lasts.
const SESSION_MS: u64 = 12 * 3_600_000;

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
    /// Of who has a second factor: the code that the app shows, or a recovery code.
    #[serde(default)]
    code: Option<Hidden>,
}

/// A session.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionView {
    /// To be shown as `Authorization: Bearer TOKEN`.
    pub(crate) token: String,
    /// When it ends, in milliseconds since 1970.
    pub(crate) expires_ms: u64,
    /// What must be done before anything else: `change-password`, or `enrol-totp`, for which a
    /// passkey will do as well.
    pub(crate) first: Option<First>,
}

/// Who is logged in.
#[derive(Serialize, ToSchema)]
pub(crate) struct Me {
    id: UserId,
    login: String,
    /// What you may do, by yourself and by your groups.
    grants: Vec<Grant>,
    /// Whether you are a program.
    service: bool,
    /// Whether logging in takes a second factor.
    second_factor: bool,
    /// How many passkeys you have.
    passkeys: usize,
    /// How many recovery codes are left.
    recovery_codes: u64,
    /// What must be done before anything else.
    first: Option<First>,
}

/// Asks for the password again, for what a session that was left open must not do.
pub(crate) async fn confirm_password(
    shared: &Shared,
    actor: &Actor,
    password: Zeroizing<String>,
) -> Result<()> {
    if actor.user.provider.is_some() {
        let text = "who comes from an identity provider has no password here";
        return Err(Problem::invalid(text));
    }
    let (now, who) = (shared.now(), format!("again {}", actor.user.id));
    wait(shared, &who, now)?;
    let hash = actor.user.password_hash.clone();
    let fits = password.len() <= LONGEST && {
        let place = hashing::place(&who).await?;
        wait(shared, &who, shared.now())?;
        place.run(move || verify_password(&password, &hash)).await.unwrap_or(false)
    };
    if !fits {
        failed(shared, &who, shared.now());
        let text = "the password is wrong";
        return Err(Problem::new(StatusCode::FORBIDDEN, "wrong-password", text));
    }
    shared.limiter.lock().unwrap_or_else(PoisonError::into_inner).succeeded(&who);
    Ok(())
}

/// Hashes where blocking is allowed; `by` is who asks for it.
pub(crate) async fn hashed(by: &str, password: Zeroizing<String>) -> Result<String> {
    let hash = hashing::place(by).await?.run(move || hash_password(&password)).await;
    Ok(hash.ok_or_else(|| Problem::invalid("this password cannot be hashed"))??)
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
    let who = format!("setup {}", network(peer));
    wait(&shared, &who, now)?;
    AccessRules::default().check_password(&setup.password.0)?;
    let expected = shared.catalog.read().await?.setting(SETUP).await?;
    if expected.as_deref() != Some(&token_hash(&setup.token)) {
        failed(&shared, &who, shared.now());
        let text = "this is not the setup token, or it was used";
        return Err(Problem::new(StatusCode::FORBIDDEN, "no-setup", text));
    }
    let hash = hashed(&who, setup.password.0).await?;
    let mut tx = shared.catalog.begin().await?;
    if !tx.remove_setting(SETUP).await? {
        let text = "this is not the setup token, or it was used";
        return Err(Problem::new(StatusCode::FORBIDDEN, "no-setup", text));
    }
    let user = tx.add_user(&setup.login, &hash, now).await?;
    tx.set_grants(user.id, &[Grant::system(Role::Admin)]).await?;
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

/// Notes that somebody has guessed wrong.
pub(crate) fn failed(shared: &Shared, who: &str, now: u64) {
    shared.limiter.lock().unwrap_or_else(PoisonError::into_inner).failed(who, now);
}

/// Refuses whoever has guessed wrong too often.
pub(crate) fn wait(shared: &Shared, who: &str, now: u64) -> Result<()> {
    let limiter = shared.limiter.lock().unwrap_or_else(PoisonError::into_inner);
    match limiter.wait(who, now) {
        0 => Ok(()),
        wait => {
            let text = format!("too many failed attempts: wait {} s", wait.div_ceil(1000));
            Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "slow-down", text))
        }
    }
}

/// Refuses a name that nobody has, before anything of it is kept.
///
/// # Errors
/// When it is too long.
pub(crate) fn check_login(login: &str) -> Result<()> {
    match login.len() {
        0..=256 => Ok(()),
        _ => Err(Problem::invalid("a name has at most 256 bytes")),
    }
}

/// Who logs in by that name from that network: nobody locks out another by guessing.
pub(crate) fn comer(peer: SocketAddr, login: &str) -> String {
    format!("{} {login}", network(peer))
}

/// An entry of the audit log about somebody's login.
pub(crate) fn about(login: &str, action: &'static str, detail: Value) -> AuditEntry {
    let actor = login.to_owned();
    AuditEntry { object: actor.clone(), actor, action, project: None, detail }
}

/// The user of that name, whose password this is. A failure is counted and written down; that it
/// went well is not, for more may be asked for.
pub(crate) async fn check_password(
    shared: &Shared,
    peer: SocketAddr,
    login: &str,
    password: Hidden,
) -> Result<User> {
    let now = shared.now();
    check_login(login)?;
    let who = comer(peer, login);
    wait(shared, &who, now)?;
    let user = shared.catalog.read().await?.user_by_login(login).await?;
    // Who comes from an identity provider has no password here.
    let may =
        user.as_ref().filter(|user| !user.disabled && !user.service && user.provider.is_none());
    let hash = may.map(|user| user.password_hash.clone());
    if password.0.len() > LONGEST {
        return Err(Problem::invalid("a password has at most 1024 bytes"));
    }
    let place = hashing::place(&network(peer)).await?;
    // Others may have guessed for the same name while this one stood in the line.
    wait(shared, &who, shared.now())?;
    let fits = place.run(move || match hash {
        Some(hash) => verify_password(&password.0, &hash),
        // A name that is not there must take as long as one that is.
        None => hash_password(&password.0).is_ok_and(|_| false),
    });
    let fits = fits.await.unwrap_or(false);
    let actor = user.as_ref().map_or("?", |user| &user.login).to_owned();
    if let Some(user) = user.filter(|_| fits) {
        return Ok(user);
    }
    failed(shared, &who, shared.now());
    let mut tx = shared.catalog.begin().await?;
    let detail = json!({"from": peer.ip().to_string()});
    tx.audit(about(&actor, "session.refused", detail), now).await?;
    tx.commit().await?;
    let text = "name or password is wrong";
    Err(Problem::new(StatusCode::UNAUTHORIZED, "wrong-password", text))
}

/// Begins a session of somebody who has shown who they are; `detail` tells how. What has failed
/// before is forgotten.
pub(crate) async fn begin_session(
    shared: &Shared,
    tx: &mut Tx,
    (peer, user): (SocketAddr, &User),
    second_factor: bool,
    mut detail: Value,
) -> Result<SessionView> {
    let now = shared.now();
    let grants = tx.all_grants(user.id).await?;
    let first = auth::first(tx, user, &grants, second_factor).await?;
    let token = new_token("session");
    let expires_ms = now + SESSION_MS;
    let address = peer.ip().to_string();
    tx.add_session(&token_hash(&token), user.id, &address, now, expires_ms).await?;
    detail["from"] = address.into();
    tx.audit(about(&user.login, "session.begin", detail), now).await?;
    let mut limiter = shared.limiter.lock().unwrap_or_else(PoisonError::into_inner);
    limiter.succeeded(&comer(peer, &user.login));
    Ok(SessionView { token, expires_ms, first })
}

/// Log in
///
/// Who has a second factor is answered 401: with the code `code-needed` until a code of the app or
/// a recovery code comes along, or with `passkey-needed` when there are passkeys only. With a
/// passkey, one logs in by `/api/v1/passkey-logins`.
#[utoipa::path(post, path = "/api/v1/sessions", tag = "session", operation_id = "login",
    security(()), request_body = Login, responses(
    (status = 201, body = SessionView), (status = "4XX", body = Problem)))]
pub(crate) async fn login(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(login): Body<Login>,
) -> Result<(StatusCode, Json<SessionView>)> {
    let now = shared.now();
    let Login { login, password, code } = login;
    let user = check_password(&shared, peer, &login, password).await?;
    let mut tx = shared.catalog.begin().await?;
    let second = second_factor(&shared, &mut tx, user.id, code, now).await?;
    let detail = match second {
        Second::NotWanted => json!({}),
        Second::Right(shown) => json!({"second_factor": shown.word()}),
        Second::Wrong => {
            failed(&shared, &comer(peer, &login), shared.now());
            let detail = json!({"from": peer.ip().to_string()});
            tx.audit(about(&user.login, "session.refused", detail), now).await?;
            tx.commit().await?;
            let text = "this code is wrong, or was used: wait for the next one";
            return Err(Problem::new(StatusCode::UNAUTHORIZED, "wrong-code", text));
        }
    };
    let complete = second != Second::NotWanted;
    let view = begin_session(&shared, &mut tx, (peer, &user), complete, detail).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// What became of the second factor of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Second {
    /// The user has none.
    NotWanted,
    Right(Shown),
    Wrong,
}

async fn second_factor(
    shared: &Shared,
    tx: &mut Tx,
    user: UserId,
    code: Option<Hidden>,
    now: u64,
) -> Result<Second> {
    if !tx.has_second_factor(user).await? {
        return Ok(Second::NotWanted);
    }
    let guesser = guesser(user);
    wait(shared, &guesser, now)?;
    let Some(code) = code else {
        let app = tx.totp(user).await?.is_some_and(|totp| totp.confirmed);
        let (code, text) = match app {
            true => (
                "code-needed",
                "this login takes a code of the authenticator app, or a recovery code",
            ),
            false => {
                ("passkey-needed", "this login takes a passkey, with a browser, or a recovery code")
            }
        };
        return Err(Problem::new(StatusCode::UNAUTHORIZED, code, text));
    };
    let Some(shown) = accepts(shared, tx, user, &code.0, now).await? else {
        failed(shared, &guesser, shared.now());
        return Ok(Second::Wrong);
    };
    shared.limiter.lock().unwrap_or_else(PoisonError::into_inner).succeeded(&guesser);
    Ok(Second::Right(shown))
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
pub(crate) async fn me(State(shared): State<Shared>, actor: Actor) -> Result<Json<Me>> {
    let mut tx = shared.catalog.read().await?;
    let recovery_codes = tx.recovery_codes_left(actor.user.id).await?;
    let passkeys = tx.passkeys(actor.user.id).await?.len();
    let first = match actor.logged_in {
        true => auth::first(&mut tx, &actor.user, &actor.grants, actor.second_factor).await?,
        false => None,
    };
    Ok(Json(Me {
        id: actor.user.id,
        login: actor.user.login,
        grants: actor.grants,
        service: actor.user.service,
        second_factor: actor.second_factor,
        passkeys,
        recovery_codes,
        first,
    }))
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

impl From<Token> for TokenView {
    fn from(token: Token) -> Self {
        let Token { id, name, created_ms, expires_ms } = token;
        Self { id, name, created_ms, expires_ms, token: None }
    }
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
    params(PageQuery), responses(
    (status = 200, body = List<TokenView>), (status = "4XX", body = Problem)))]
pub(crate) async fn tokens(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<PageQuery>,
) -> Result<Json<List<TokenView>>> {
    let page = query.page()?;
    let mut tx = shared.catalog.read().await?;
    Ok(Json(list_of(tx.tokens(actor.user.id, &page).await?, &page)))
}

/// A part of a list of tokens.
pub(crate) fn list_of(tokens: Vec<Token>, page: &Page) -> List<TokenView> {
    let views = tokens.into_iter().map(TokenView::from).collect();
    List::new(views, page.limit, |view: &TokenView| view.id.to_string())
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
    if actor.user.provider.is_some() {
        // It would outlast what the provider says of its owner.
        let text = "who comes from an identity provider has no API tokens: use a service account";
        return Err(Problem::invalid(text));
    }
    let mut tx = shared.catalog.begin().await?;
    let view = make_token(&mut tx, &actor, actor.user.id, new, shared.now()).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(view)))
}

/// A new API token of `owner`.
pub(crate) async fn make_token(
    tx: &mut Tx,
    actor: &Actor,
    owner: UserId,
    new: NewToken,
    now: u64,
) -> Result<TokenView> {
    let secret = new_token("token");
    let token = tx.add_token(owner, &new.name, &token_hash(&secret), now, new.expires_ms).await?;
    let detail = json!({"name": token.name, "user": owner});
    tx.audit(actor.did("token.create", token.id, None, detail), now).await?;
    Ok(TokenView { token: Some(secret), ..TokenView::from(token) })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_has_a_network_guesses_as_one() {
        let from = |text: &str| comer(text.parse().unwrap(), "anna");
        assert_eq!(from("[2001:db8::1]:5"), from("[2001:db8::2]:7"));
        assert_ne!(from("[2001:db8::1]:5"), from("[2001:db8:0:1::1]:5"));
        assert_ne!(from("192.0.2.1:5"), from("192.0.2.2:5"));
    }
}

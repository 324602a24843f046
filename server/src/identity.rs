//! People whom somebody else knows: identity providers.
//!
//! ```text
//!   browser ── code ──► oidc: token of the provider ─┐
//!   device  ── code ──► the same ────────────────────┼─► Person ──► admit ──► user, session
//!   name, password ───► ldap: a bind of the user ────┘
//! ```
//!
//! # Invariants
//!
//! * Somebody is known by provider and subject. A name that a provider tells never makes anybody a
//!   user who was here before and does not come from that provider.
//! * What groups of the provider let somebody do is replaced with each login, as a whole.
//! * Secrets of providers leave this server to that provider only, and over TLS.

pub(crate) mod fetch;
mod jwt;
pub(crate) mod ldap;
pub(crate) mod oidc;

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::{Value, json};
use sluice_catalog::{AuditEntry, IdentityProvider, ProviderId, Record, Tx, User, token_hash};
use zeroize::Zeroizing;

use crate::api::policies::EVERYTHING;
use crate::api::sessions::SessionView;
use crate::problem::{Problem, Result};
use crate::state::{Shared, new_token};

/// The name of a provider's secret.
const SECRET: &str = "SLUICE_PROVIDER_SECRET";

/// The word for a provider that cannot be asked.
pub(crate) const UNREACHABLE: &str = "provider-unreachable";

/// Somebody, as a provider tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Person {
    /// What names them there for ever.
    pub(crate) subject: String,
    /// The name to log in with.
    pub(crate) login: String,
    pub(crate) groups: BTreeSet<String>,
}

/// A login that is refused; what is wrong is for people.
pub(crate) fn refused(text: impl std::fmt::Display) -> Problem {
    let text = format!("the login is refused: {text}");
    Problem::new(StatusCode::UNAUTHORIZED, "login-refused", text)
}

/// A provider that cannot be asked.
pub(crate) fn unreachable(text: impl std::fmt::Display) -> Problem {
    let text = format!("the identity provider cannot be asked: {text}");
    // No failure of this server: those who watch it are not to be called.
    Problem::new(StatusCode::FAILED_DEPENDENCY, UNREACHABLE, text)
}

/// The provider of that name, if one can log in by it.
pub(crate) async fn by_name(tx: &mut Tx, name: &str) -> Result<Record<IdentityProvider>> {
    let found = tx.find::<IdentityProvider>(None, name).await?;
    let usable = found.filter(|provider| provider.body.enabled);
    usable.ok_or_else(|| Problem::not_found("identity provider"))
}

/// The provider of that id, if one can log in by it.
pub(crate) async fn by_id(tx: &mut Tx, id: ProviderId) -> Result<Record<IdentityProvider>> {
    let provider = tx.get::<IdentityProvider>(id, &EVERYTHING).await?;
    match provider.body.enabled {
        true => Ok(provider),
        false => Err(Problem::not_found("identity provider")),
    }
}

/// The secret by which this server shows a provider who it is.
pub(crate) async fn secret(
    shared: &Shared,
    tx: &mut Tx,
    provider: ProviderId,
) -> Result<Option<Zeroizing<String>>> {
    Ok(tx.secrets(&shared.sealer, &provider.to_string()).await?.remove(SECRET))
}

/// Sets that secret.
pub(crate) async fn set_secret(
    shared: &Shared,
    tx: &mut Tx,
    provider: ProviderId,
    secret: Zeroizing<String>,
) -> Result<()> {
    let secrets = [(SECRET.to_owned(), secret)].into();
    Ok(tx.set_secrets(&shared.sealer, &provider.to_string(), &secrets).await?)
}

/// The user that somebody is here, with what their groups let them do now.
pub(crate) async fn admit(
    tx: &mut Tx,
    provider: &Record<IdentityProvider>,
    person: &Person,
    now: u64,
) -> Result<User> {
    let mapped = provider.body.mapped(&person.groups);
    if mapped.is_none() && provider.body.only_mapped {
        return Err(refused("you are in no group that may log in here"));
    }
    let found = tx.provided_user(provider.id, &person.subject, &person.login).await?;
    let user = match found {
        Some(user) => user,
        None if tx.user_by_login(&person.login).await?.is_some() => {
            return Err(refused(format_args!(
                "there is another user {} here, who does not come from {}",
                person.login, provider.name
            )));
        }
        None if provider.body.create_users => {
            let user =
                tx.add_provided_user(&person.login, provider.id, &person.subject, now).await?;
            let entry = entry(&user.login, "user.create", json!({"provider": provider.name}));
            tx.audit(AuditEntry { object: user.id.to_string(), ..entry }, now).await?;
            user
        }
        None => return Err(refused("nobody has made you a user of this server")),
    };
    if user.disabled {
        return Err(refused("this user may not log in"));
    }
    let (grants, groups) = mapped.unwrap_or_default();
    tx.set_mapped(user.id, &grants, &groups).await?;
    Ok(user)
}

fn entry(actor: &str, action: &'static str, detail: Value) -> AuditEntry {
    let actor = actor.to_owned();
    AuditEntry { object: actor.clone(), actor, action, project: None, detail }
}

/// Begins the session of somebody whom a provider has let in.
async fn begin_session(
    tx: &mut Tx,
    provider: &Record<IdentityProvider>,
    user: &User,
    address: &str,
    now: u64,
) -> Result<SessionView> {
    let token = new_token("session");
    let expires_ms = now + u64::from(provider.body.session_minutes) * 60_000;
    tx.add_session(&token_hash(&token), user.id, address, now, expires_ms).await?;
    let detail = json!({"from": address, "provider": provider.name});
    tx.audit(entry(&user.login, "session.begin", detail), now).await?;
    Ok(SessionView { token, expires_ms, first: None })
}

/// A session for somebody whom a provider knows, if they may log in here.
pub(crate) async fn let_in(
    shared: &Shared,
    provider: &Record<IdentityProvider>,
    person: &Person,
    address: &str,
) -> Result<SessionView> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    // The record as it is now: somebody may have changed it meanwhile.
    let provider = by_id(&mut tx, provider.id).await?;
    let user = admit(&mut tx, &provider, person, now).await?;
    let view = begin_session(&mut tx, &provider, &user, address, now).await?;
    tx.commit().await?;
    Ok(view)
}

/// Why a login was refused.
pub(crate) struct Refusal {
    /// As the log is told.
    pub(crate) why: String,
    /// As whoever wants to log in is told.
    pub(crate) problem: Problem,
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self { why: problem.detail.clone(), problem }
    }
}

/// Writes down that a login by a provider was refused, and whose, where the name that was typed is
/// one of its users: what is no name may be a password.
pub(crate) async fn note_refusal(
    shared: &Shared,
    provider: &Record<IdentityProvider>,
    typed: &str,
    address: &str,
    refusal: &Refusal,
) -> Result<()> {
    let detail = json!({"from": address, "provider": provider.name, "why": refusal.why});
    let mut tx = shared.catalog.begin().await?;
    let user = match typed.chars().any(char::is_control) {
        true => None,
        false => tx.user_by_login(typed).await?,
    };
    let user = user.filter(|user| user.provider == Some(provider.id));
    let actor = user.map_or("?".to_owned(), |user| user.login);
    tx.audit(entry(&actor, "session.refused", detail), shared.now()).await?;
    Ok(tx.commit().await?)
}

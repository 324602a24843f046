//! Logging in with the name and password of a directory, and trying what was set up.

use std::net::SocketAddr;
use std::sync::PoisonError;
use std::time::Duration;

use axum::Json;
use axum::extract::{ConnectInfo, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{IdentityProvider, LoginVia, ProviderId, Record};
use tokio::sync::{Semaphore, SemaphorePermit};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::policies::EVERYTHING;
use crate::api::sessions::{SessionView, check_login, failed, wait};
use crate::api::{Body, Hidden, Path};
use crate::auth::Actor;
use crate::identity::ldap::steps::{Step, Steps};
use crate::identity::ldap::{Directory, Flaw, Typed};
use crate::identity::{self, Person, Refusal};
use crate::places::network;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// Directories that are asked at the same time: as many as log in at the beginning of a working
/// day, and not as many as fill the memory when a directory is slow.
const MOST_AT_ONCE: usize = 32;
/// How long to wait for one of them to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Who logs in at a directory.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DirectoryLogin {
    /// The identity provider, by name.
    provider: String,
    /// The name there.
    login: String,
    /// The password there.
    password: Hidden,
}

/// Whose login is tried.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TryProvider {
    /// Somebody who is looked up; nobody when it is left out.
    #[serde(default)]
    login: Option<String>,
    /// Their password; it is not tried when it is left out.
    #[serde(default)]
    password: Option<Hidden>,
}

/// What became of it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tried {
    /// Whether all went well in the end, perhaps with another server.
    ok: bool,
    steps: Vec<Step>,
}

/// Who is slowed down by failures.
struct Guesser {
    /// By name and network, as with passwords of this server. A directory takes more names for
    /// the same than this can know; therefore the second.
    name: String,
    /// By whom it is there, and network.
    subject: String,
}

impl Guesser {
    fn new(from: &str, provider: &Record<IdentityProvider>, login: &str) -> Self {
        let words: Vec<String> = login.split_whitespace().map(str::to_lowercase).collect();
        let name = format!("{from} {} {}", provider.id, words.join(" "));
        Self { name, subject: format!("{from} {}/", provider.id) }
    }

    fn whom(&self, subject: &str) -> String {
        format!("{}{subject}", self.subject)
    }

    /// Notes that a password was wrong, and whose.
    fn failed(&self, shared: &Shared, flaw: &Flaw) {
        let Flaw::Person { subject, .. } = flaw else { return };
        failed(shared, &self.name, shared.now());
        if let Some(subject) = subject {
            failed(shared, &self.whom(subject), shared.now());
        }
    }

    fn succeeded(&self, shared: &Shared, subject: &str) {
        let mut limiter = shared.limiter.lock().unwrap_or_else(PoisonError::into_inner);
        limiter.succeeded(&self.name);
        limiter.succeeded(&self.whom(subject));
    }
}

/// A place among those who ask directories.
async fn place() -> Result<SemaphorePermit<'static>> {
    static PLACES: Semaphore = Semaphore::const_new(MOST_AT_ONCE);
    let busy = || {
        let text = "too many log in at this moment: try again";
        Problem::new(StatusCode::TOO_MANY_REQUESTS, "slow-down", text)
    };
    let waited = tokio::time::timeout(PATIENCE, PLACES.acquire()).await;
    waited.ok().and_then(std::result::Result::ok).ok_or_else(busy)
}

/// Asks a directory who somebody is.
async fn ask(
    shared: &Shared,
    provider: &Record<IdentityProvider>,
    typed: &Typed<'_>,
    guesser: &Guesser,
    steps: &mut Steps,
) -> Result<std::result::Result<Person, Flaw>> {
    let LoginVia::Ldap(via) = &provider.body.via else {
        let text = "this identity provider is asked with a browser: sluice login --oidc";
        return Err(Problem::invalid(text));
    };
    wait(shared, &guesser.name, shared.now())?;
    let _place = place().await?;
    let secret = identity::secret(shared, &mut shared.catalog.read().await?, provider.id).await?;
    let may = |subject: &str| wait(shared, &guesser.whom(subject), shared.now());
    let told = Directory { via, secret }.login(typed, &may, steps).await;
    if let Err(flaw) = &told {
        guesser.failed(shared, flaw);
        if matches!(flaw, Flaw::Server(_) | Flaw::Setup(_)) {
            tracing::warn!("identity provider {}: {}", provider.name, flaw.why());
        }
    }
    Ok(told)
}

/// Log in with the name and password of a directory
///
/// A wrong name is answered as a wrong password.
#[utoipa::path(post, path = "/api/v1/directory-logins", tag = "session",
    operation_id = "directory-login", security(()), request_body = DirectoryLogin, responses(
    (status = 201, body = SessionView), (status = "4XX", body = Problem)))]
pub(crate) async fn login(
    State(shared): State<Shared>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    Body(new): Body<DirectoryLogin>,
) -> Result<(StatusCode, Json<SessionView>)> {
    check_login(&new.login)?;
    let provider = identity::by_name(&mut shared.catalog.read().await?, &new.provider).await?;
    let address = peer.ip().to_string();
    let guesser = Guesser::new(&network(peer), &provider, &new.login);
    let typed = Typed { name: &new.login, password: Some(new.password.0.as_str()) };
    let told = ask(&shared, &provider, &typed, &guesser, &mut Steps::default()).await?;
    let subject = told.as_ref().map(|person| person.subject.clone()).unwrap_or_default();
    let admitted = match told {
        Ok(person) => {
            let admitted = identity::let_in(&shared, &provider, &person, &address).await;
            admitted.map_err(Refusal::from)
        }
        Err(flaw) => Err(Refusal { why: flaw.why().to_owned(), problem: flaw.problem() }),
    };
    match admitted {
        Ok(view) => {
            guesser.succeeded(&shared, &subject);
            Ok((StatusCode::CREATED, Json(view)))
        }
        Err(refusal) => {
            identity::note_refusal(&shared, &provider, &new.login, &address, &refusal).await?;
            Err(refusal.problem)
        }
    }
}

/// Try an identity provider, with or without somebody's login, which begins no session
///
/// It works with one that is disabled, too. What is tried is told step by step.
#[utoipa::path(post, path = "/api/v1/identity-providers/{id}/test", tag = "user",
    operation_id = "test-identity-provider", params(("id" = ProviderId, Path)),
    request_body = TryProvider, responses(
    (status = 200, body = Tried), (status = "4XX", body = Problem)))]
pub(crate) async fn test(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<ProviderId>,
    Body(new): Body<TryProvider>,
) -> Result<Json<Tried>> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.read().await?;
    let provider = tx.get::<IdentityProvider>(id, &EVERYTHING).await?;
    drop(tx);
    let mut steps = Steps::default();
    let ok = match (&provider.body.via, &new.login) {
        (LoginVia::Ldap(via), None) => {
            let mut tx = shared.catalog.read().await?;
            let secret = identity::secret(&shared, &mut tx, id).await?;
            drop(tx);
            let _place = place().await?;
            Directory { via, secret }.reach(&mut steps).await
        }
        (LoginVia::Ldap(_), Some(login)) => {
            check_login(login)?;
            let password = new.password.as_ref().map(|password| password.0.as_str());
            let typed = Typed { name: login, password };
            // An administrator is not to guess the passwords of others, either.
            let guesser = Guesser::new(&format!("test {}", actor.user.id), &provider, login);
            match ask(&shared, &provider, &typed, &guesser, &mut steps).await? {
                Ok(person) => tell_mapping(&provider.body, &person, &mut steps),
                Err(Flaw::Wait(problem)) => return Err(problem),
                Err(flaw) => {
                    if steps.all.is_empty() {
                        steps.begin("user");
                        steps.failed(flaw.why());
                    }
                    false
                }
            }
        }
        (LoginVia::Oidc(_), Some(_)) => {
            return Err(Problem::invalid("who logs in with a browser cannot be looked up"));
        }
        (LoginVia::Oidc(via), None) => {
            steps.at(&via.issuer);
            steps.begin("metadata");
            match shared.providers.ask(&provider, shared.now()).await {
                Ok(_) => steps.done("it tells of itself, and its keys"),
                Err(problem) => steps.failed(problem.detail),
            }
            steps.all.iter().all(|step| step.ok)
        }
    };
    let detail = json!({"name": provider.name, "login": new.login, "ok": ok});
    let mut tx = shared.catalog.begin().await?;
    tx.audit(actor.did("identity-provider.test", id, None, detail), shared.now()).await?;
    tx.commit().await?;
    Ok(Json(Tried { ok, steps: steps.all }))
}

/// Tells whether somebody's groups let them in, and to how much.
fn tell_mapping(provider: &IdentityProvider, person: &Person, steps: &mut Steps) -> bool {
    steps.at("");
    steps.begin("mapping");
    match provider.mapped(&person.groups) {
        Some((grants, groups)) => {
            let (roles, groups) = (grants.len(), groups.len());
            steps.done(format!("{roles} roles, and {groups} groups of this server"));
            true
        }
        None if provider.only_mapped => {
            steps.failed("in no group of mappings, and only_mapped is set");
            false
        }
        None => {
            steps.done("in no group of mappings");
            true
        }
    }
}

//! Users and what they may do: for administrators of the system.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{
    Grant, IdentityProvider, Project, ProviderId, Scope, Tx, User, UserId, verify_password,
};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::policies::EVERYTHING;
use crate::api::query::UserQuery;
use crate::api::sessions::{confirm_password, hashed};
use crate::api::{Body, Hidden, List, PageQuery, Path, Query};
use crate::auth::Actor;
use crate::hashing;
use crate::problem::{Problem, Result};
use crate::rules::AccessRules;
use crate::state::Shared;

/// The most roles of one user or group: each one is named in every list that is read.
const MOST_GRANTS: usize = 1000;

/// A user.
#[derive(Serialize, ToSchema)]
pub(crate) struct UserView {
    id: UserId,
    login: String,
    disabled: bool,
    /// Whether it is a program, which has API tokens and cannot log in.
    service: bool,
    /// Whether logging in takes a second factor.
    second_factor: bool,
    /// How many passkeys it has.
    passkeys: usize,
    /// The identity provider that says who this is; nothing when it has a password here.
    provider: Option<ProviderId>,
    created_ms: u64,
    /// What it may do by itself; what its groups may is told there.
    grants: Vec<Grant>,
}

/// A user to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewUser {
    login: String,
    /// At least 12 characters; none for a service account, or who comes from an identity provider.
    #[serde(default)]
    password: Option<Hidden>,
    /// Whether it is a program, which has API tokens and cannot log in.
    #[serde(default)]
    service: bool,
    /// Whether the password may stay; without, it must be changed at the first login.
    #[serde(default)]
    keep_password: bool,
    /// The identity provider that says who this is: whoever logs in there first by this name.
    #[serde(default)]
    provider: Option<ProviderId>,
    #[serde(default)]
    grants: Vec<Grant>,
}

/// Another password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewPassword {
    /// At least 12 characters.
    password: Hidden,
    /// The password until now; for your own only.
    #[serde(default)]
    current: Option<Hidden>,
}

async fn view(tx: &mut Tx, user: User) -> Result<UserView> {
    let grants = tx.grants(user.id).await?;
    let second_factor = tx.has_second_factor(user.id).await?;
    let passkeys = tx.passkeys(user.id).await?.len();
    let User { id, login, disabled, service, provider, created_ms, .. } = user;
    Ok(UserView {
        id,
        login,
        disabled,
        service,
        second_factor,
        passkeys,
        provider,
        created_ms,
        grants,
    })
}

/// List users
#[utoipa::path(get, path = "/api/v1/users", tag = "user", operation_id = "list-users",
    params(UserQuery), responses(
    (status = 200, body = List<UserView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<UserQuery>,
) -> Result<Json<List<UserView>>> {
    actor.require(Permission::Administer, None)?;
    let page = PageQuery { after: query.after, limit: query.limit }.page()?;
    let mut tx = shared.catalog.read().await?;
    let mut views = Vec::new();
    let login = query.login.unwrap_or_else(|| "*".to_owned());
    for user in tx.users_called(&login, &page).await? {
        views.push(view(&mut tx, user).await?);
    }
    Ok(Json(List::new(views, page.limit, |view| view.id.to_string())))
}

/// Make a user
#[utoipa::path(post, path = "/api/v1/users", tag = "user", operation_id = "create-user",
    request_body = NewUser, responses(
    (status = 201, body = UserView), (status = "4XX", body = Problem)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    actor: Actor,
    Body(new): Body<NewUser>,
) -> Result<(StatusCode, Json<UserView>)> {
    actor.require(Permission::Administer, None)?;
    let rules = AccessRules::load(&mut shared.catalog.read().await?).await?;
    if new.provider.is_some() && (new.service || new.password.is_some()) {
        let text = "who comes from an identity provider has no password here, and is a person";
        return Err(Problem::invalid(text));
    }
    let hash = match new.password {
        Some(_) if new.service => {
            return Err(Problem::invalid("a service account has no password"));
        }
        None if !new.service && new.provider.is_none() => {
            return Err(Problem::invalid("a person needs a password"));
        }
        Some(password) => {
            rules.check_password(&password.0)?;
            Some(hashed(&actor.id(), password.0).await?)
        }
        None => None,
    };
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let user = match (hash, new.provider) {
        (_, Some(provider)) => {
            tx.get::<IdentityProvider>(provider, &EVERYTHING).await?;
            tx.add_provided_user(&new.login, provider, "", now).await?
        }
        (Some(hash), None) => tx.add_user(&new.login, &hash, now).await?,
        (None, None) => tx.add_service(&new.login, now).await?,
    };
    if !new.service && !new.keep_password && new.provider.is_none() {
        tx.must_change_password(user.id).await?;
    }
    grant(&mut tx, user.id, &new.grants).await?;
    let detail = json!({"login": user.login, "grants": new.grants, "service": new.service,
        "provider": new.provider});
    tx.audit(actor.did("user.create", user.id, None, detail), now).await?;
    let view = view(&mut tx, user).await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(view)))
}

async fn grant(tx: &mut Tx, user: UserId, grants: &[Grant]) -> Result<()> {
    check_grants(tx, grants).await?;
    Ok(tx.set_grants(user, grants).await?)
}

/// Everything that roles are given on is there.
pub(crate) async fn check_grants(tx: &mut Tx, grants: &[Grant]) -> Result<()> {
    if grants.len() > MOST_GRANTS {
        return Err(Problem::invalid("a user or group has at most 1000 roles; use projects"));
    }
    for grant in grants {
        match grant.scope {
            Scope::System => {}
            Scope::Project(project) => {
                tx.get::<Project>(project, &EVERYTHING).await?;
            }
            Scope::Resource(resource) => {
                if !tx.is_there(resource).await? {
                    return Err(Problem::not_found(resource.word()));
                }
            }
        }
    }
    Ok(())
}

/// Somebody must be left who can let others in.
pub(crate) async fn keep_one(tx: &mut Tx) -> Result<()> {
    // Two who remove each other at once would both find the other still there.
    tx.change_access_alone().await?;
    if tx.count_administrators().await? == 0 {
        let text = "nobody would be left who administers the system";
        return Err(Problem::new(StatusCode::CONFLICT, "last-administrator", text));
    }
    Ok(())
}

/// Remove a user
#[utoipa::path(delete, path = "/api/v1/users/{id}", tag = "user", operation_id = "remove-user",
    params(("id" = UserId, Path)),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<UserId>,
) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.begin().await?;
    tx.delete_user(id).await?;
    keep_one(&mut tx).await?;
    tx.audit(actor.did("user.remove", id, None, json!({})), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replace what a user may do
#[utoipa::path(put, path = "/api/v1/users/{id}/grants", tag = "user",
    operation_id = "set-user-grants", params(("id" = UserId, Path)),
    request_body = Vec<Grant>, responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn set_grants(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<UserId>,
    Body(grants): Body<Vec<Grant>>,
) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.begin().await?;
    tx.user(id).await?;
    grant(&mut tx, id, &grants).await?;
    keep_one(&mut tx).await?;
    let detail = json!({"grants": grants});
    tx.audit(actor.did("user.grants", id, None, detail), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Set another password: your own, or as an administrator anybody's
///
/// Your own takes the one until now. Somebody else's must be changed again at the next login.
#[utoipa::path(put, path = "/api/v1/users/{id}/password", tag = "user",
    operation_id = "set-user-password", params(("id" = UserId, Path)),
    request_body = NewPassword, responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn set_password(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<UserId>,
    Body(new): Body<NewPassword>,
) -> Result<StatusCode> {
    let own = id == actor.user.id;
    if !own {
        actor.require(Permission::Administer, None)?;
    }
    let mut read = shared.catalog.read().await?;
    let user = read.user(id).await?;
    if user.service || user.provider.is_some() {
        let text = "a service account has no password, nor has who comes from an identity provider";
        return Err(Problem::invalid(text));
    }
    let rules = AccessRules::load(&mut read).await?;
    let last = read.last_passwords(id, rules.passwords.remembered).await?;
    drop(read);
    rules.check_password(&new.password.0)?;
    if own {
        actor.require_login()?;
        let current = new
            .current
            .ok_or_else(|| Problem::invalid("another password takes the one until now: current"))?;
        if *current.0 == *new.password.0 {
            return Err(Problem::invalid("this is the password that you have"));
        }
        confirm_password(&shared, &actor, current.0).await?;
    }
    let password = new.password.0.clone();
    let place = hashing::place(&actor.id()).await?;
    let used = place.run(move || last.iter().any(|hash| verify_password(&password, hash)));
    if used.await.unwrap_or(true) {
        return Err(Problem::invalid("this password was used before"));
    }
    let hash = hashed(&actor.id(), new.password.0).await?;
    let mut tx = shared.catalog.begin().await?;
    tx.set_password(id, &hash).await?;
    if !own {
        tx.must_change_password(id).await?;
    }
    tx.audit(actor.did("user.password", id, None, json!({})), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

//! Identity providers: who they are is a matter of the administrators of the system.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::Deserialize;
use serde_json::json;
use sluice_catalog::{IdentityProvider, LoginVia, OidcVia, ProviderId, Record, Tx};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::filters::{self, NameQuery};
use crate::api::policies::EVERYTHING;
use crate::api::records::{Change, Create, View, tagged};
use crate::api::users::check_grants;
use crate::api::{Body, Hidden, List, Path, Query};
use crate::auth::Actor;
use crate::identity;
use crate::problem::{Problem, Result};
use crate::state::Shared;
use crate::validators;

/// Whether it fits to the other records.
async fn check(provider: &IdentityProvider, tx: &mut Tx) -> Result<()> {
    for mapping in &provider.mappings {
        check_grants(tx, &mapping.grants).await?;
        for group in &mapping.groups {
            tx.group(*group).await?;
        }
    }
    let usable = match &provider.via {
        LoginVia::Oidc(OidcVia { ca, .. }) => identity::fetch::trust(ca).map(drop),
        LoginVia::Ldap(via) => identity::ldap::check(via),
    };
    usable.map_err(Problem::invalid)
}

/// What names somebody at one provider names somebody else at another.
fn same_people(old: &IdentityProvider, new: &IdentityProvider) -> bool {
    match (&old.via, &new.via) {
        (LoginVia::Oidc(old), LoginVia::Oidc(new)) => old.issuer == new.issuer,
        (LoginVia::Ldap(old), LoginVia::Ldap(new)) => old.same_people(new),
        _ => false,
    }
}

/// List identity providers
#[utoipa::path(get, path = "/api/v1/identity-providers", tag = "user",
    operation_id = "list-identity-providers", params(NameQuery), responses(
    (status = 200, body = List<View<IdentityProvider>>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<NameQuery>,
) -> Result<Json<List<View<IdentityProvider>>>> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.read().await?;
    filters::list(&mut tx, &EVERYTHING, &query, View::from).await.map(Json)
}

/// Make an identity provider
#[utoipa::path(post, path = "/api/v1/identity-providers", tag = "user",
    operation_id = "create-identity-provider", request_body = Create<IdentityProvider>, responses(
    (status = 201, body = View<IdentityProvider>), (status = "4XX", body = Problem)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    actor: Actor,
    Body(new): Body<Create<IdentityProvider>>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    let (project, name, provider) = new.parts();
    if project.is_some() {
        return Err(Problem::invalid("an identity provider belongs to no project"));
    }
    let mut tx = shared.catalog.begin().await?;
    check(&provider, &mut tx).await?;
    let record = tx.insert(None, &name, provider, shared.now()).await?;
    done(&shared, tx, &actor, "identity-provider.create", &record).await?;
    Ok(tagged(StatusCode::CREATED, record))
}

/// Read an identity provider
#[utoipa::path(get, path = "/api/v1/identity-providers/{id}", tag = "user",
    operation_id = "get-identity-provider", params(("id" = ProviderId, Path)), responses(
    (status = 200, body = View<IdentityProvider>), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<ProviderId>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.read().await?;
    Ok(tagged(StatusCode::OK, tx.get::<IdentityProvider>(id, &EVERYTHING).await?))
}

/// Change an identity provider; the sessions of all who come from it end
///
/// While users come from it, it stays the same kind with the same issuer, or the same
/// `id_attribute`: elsewhere their names are those of other people.
#[utoipa::path(put, path = "/api/v1/identity-providers/{id}", tag = "user",
    operation_id = "change-identity-provider",
    params(("id" = ProviderId, Path), ("If-Match" = String, Header,
    description = "The revision that the change is based on")),
    request_body = Change<IdentityProvider>, responses(
    (status = 200, body = View<IdentityProvider>), (status = "4XX", body = Problem)))]
pub(crate) async fn put(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<ProviderId>,
    headers: HeaderMap,
    Body(change): Body<Change<IdentityProvider>>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    let (name, provider) = change.parts();
    let mut tx = shared.catalog.begin().await?;
    let mut record = tx.get::<IdentityProvider>(id, &EVERYTHING).await?;
    validators::require(&headers, &record.revision.to_string())?;
    check(&provider, &mut tx).await?;
    if !same_people(&record.body, &provider) {
        unused(&mut tx, id).await?;
    }
    (record.name, record.body) = (name, provider);
    tx.update(&mut record, shared.now()).await?;
    tx.end_provided_sessions(id).await?;
    done(&shared, tx, &actor, "identity-provider.change", &record).await?;
    Ok(tagged(StatusCode::OK, record))
}

/// Remove an identity provider from which no user comes
#[utoipa::path(delete, path = "/api/v1/identity-providers/{id}", tag = "user",
    operation_id = "remove-identity-provider", params(("id" = ProviderId, Path),
    ("If-Match" = Option<String>, Header, description = "The revision that is to be removed")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<ProviderId>,
    headers: HeaderMap,
) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.begin().await?;
    let record = tx.get::<IdentityProvider>(id, &EVERYTHING).await?;
    validators::check(&headers, &record.revision.to_string())?;
    unused(&mut tx, id).await?;
    tx.remove_secrets(&id.to_string()).await?;
    tx.delete::<IdentityProvider>(id).await?;
    done(&shared, tx, &actor, "identity-provider.remove", &record).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// By what this server shows the provider who it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProviderSecret {
    /// The secret of the client, or the password of who searches. It cannot be read back.
    secret: Hidden,
}

/// Set the secret of an identity provider
#[utoipa::path(put, path = "/api/v1/identity-providers/{id}/secret", tag = "user",
    operation_id = "set-identity-provider-secret", params(("id" = ProviderId, Path)),
    request_body = ProviderSecret,
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn secret(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<ProviderId>,
    Body(new): Body<ProviderSecret>,
) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    if new.secret.0.is_empty() {
        return Err(Problem::invalid("the secret is empty"));
    }
    let mut tx = shared.catalog.begin().await?;
    let record = tx.get::<IdentityProvider>(id, &EVERYTHING).await?;
    identity::set_secret(&shared, &mut tx, id, new.secret.0).await?;
    let detail = json!({"name": record.name});
    tx.audit(actor.did("identity-provider.secret", id, None, detail), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses while users come from it.
async fn unused(tx: &mut Tx, id: ProviderId) -> Result<()> {
    match tx.count_provided_users(id).await? {
        0 => Ok(()),
        many => {
            let text = format!("{many} users come from this provider: remove them first");
            Err(Problem::new(StatusCode::CONFLICT, "conflict", text))
        }
    }
}

/// Writes down who did it.
async fn done(
    shared: &Shared,
    mut tx: Tx,
    actor: &Actor,
    action: &'static str,
    record: &Record<IdentityProvider>,
) -> Result<()> {
    let detail = json!({"name": record.name, "spec": record.body});
    tx.audit(actor.did(action, record.id, None, detail), shared.now()).await?;
    Ok(tx.commit().await?)
}

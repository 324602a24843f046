//! Groups of users: what a group may do, each of its members may.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{AppendHeaders, IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{Grant, Group, GroupId, NewGroup, Tx, UserId};
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::filters::NameQuery;
use crate::api::users::{check_grants, keep_one};
use crate::api::{Body, List, PageQuery, Path, Query};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::state::Shared;
use crate::validators;

/// A group.
#[derive(Serialize, ToSchema)]
pub(crate) struct GroupView {
    id: GroupId,
    name: String,
    /// Grows with every change; the same as in the header `ETag`.
    revision: u64,
    created_ms: u64,
    updated_ms: u64,
    members: Vec<UserId>,
    grants: Vec<Grant>,
}

/// What a group is to be.
#[derive(Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct GroupSpec {
    /// For people; unique.
    name: String,
    /// Who is in it.
    #[serde(default)]
    members: Vec<UserId>,
    /// What each of them may do.
    #[serde(default)]
    grants: Vec<Grant>,
}

impl From<Group> for GroupView {
    fn from(group: Group) -> Self {
        let Group { id, name, revision, created_ms, updated_ms, members, grants } = group;
        Self { id, name, revision, created_ms, updated_ms, members, grants }
    }
}

fn tagged(status: StatusCode, group: Group) -> Response {
    let tag = AppendHeaders([(header::ETAG, format!("\"{}\"", group.revision))]);
    (status, tag, Json(GroupView::from(group))).into_response()
}

/// Everybody and everything that is named is there.
async fn checked(tx: &mut Tx, spec: GroupSpec) -> Result<NewGroup> {
    for member in &spec.members {
        tx.user(*member).await?;
    }
    check_grants(tx, &spec.grants).await?;
    Ok(NewGroup { name: spec.name, members: spec.members, grants: spec.grants })
}

/// List groups
#[utoipa::path(get, path = "/api/v1/groups", tag = "user", operation_id = "list-groups",
    params(NameQuery), responses(
    (status = 200, body = List<GroupView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<NameQuery>,
) -> Result<Json<List<GroupView>>> {
    actor.require(Permission::Administer, None)?;
    let page = PageQuery { after: query.after, limit: query.limit }.page()?;
    let name = query.name.unwrap_or_else(|| "*".to_owned());
    let groups = shared.catalog.read().await?.groups_called(&name, &page).await?;
    let views = groups.into_iter().map(GroupView::from).collect();
    Ok(Json(List::new(views, page.limit, |view: &GroupView| view.id.to_string())))
}

/// Make a group
#[utoipa::path(post, path = "/api/v1/groups", tag = "user", operation_id = "create-group",
    request_body = GroupSpec, responses(
    (status = 201, body = GroupView), (status = "4XX", body = Problem)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    actor: Actor,
    Body(spec): Body<GroupSpec>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    let (now, detail) = (shared.now(), json!(spec));
    let mut tx = shared.catalog.begin().await?;
    let new = checked(&mut tx, spec).await?;
    let group = tx.add_group(&new, now).await?;
    tx.audit(actor.did("group.create", group.id, None, detail), now).await?;
    tx.commit().await?;
    Ok(tagged(StatusCode::CREATED, group))
}

/// Read a group
#[utoipa::path(get, path = "/api/v1/groups/{id}", tag = "user", operation_id = "get-group",
    params(("id" = GroupId, Path)), responses(
    (status = 200, body = GroupView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<GroupId>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    Ok(tagged(StatusCode::OK, shared.catalog.read().await?.group(id).await?))
}

/// Change a group: its name, who is in it, and what they may do
#[utoipa::path(put, path = "/api/v1/groups/{id}", tag = "user", operation_id = "change-group",
    params(("id" = GroupId, Path), ("If-Match" = String, Header,
    description = "The revision that the change is based on")),
    request_body = GroupSpec, responses(
    (status = 200, body = GroupView), (status = "4XX", body = Problem)))]
pub(crate) async fn put(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<GroupId>,
    headers: HeaderMap,
    Body(spec): Body<GroupSpec>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    let (now, detail) = (shared.now(), json!(spec));
    let mut tx = shared.catalog.begin().await?;
    let known = tx.group(id).await?;
    let revision = known.revision;
    validators::require(&headers, &revision.to_string())?;
    let new = checked(&mut tx, spec).await?;
    let group = tx.change_group(id, revision, &new, now).await?;
    keep_one(&mut tx).await?;
    tx.audit(actor.did("group.change", id, None, detail), now).await?;
    tx.commit().await?;
    Ok(tagged(StatusCode::OK, group))
}

/// Remove a group; its members stay
#[utoipa::path(delete, path = "/api/v1/groups/{id}", tag = "user", operation_id = "remove-group",
    params(("id" = GroupId, Path),
    ("If-Match" = Option<String>, Header, description = "The revision that is to be removed")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<GroupId>,
    headers: HeaderMap,
) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.begin().await?;
    let group = tx.group(id).await?;
    validators::check(&headers, &group.revision.to_string())?;
    tx.refuse_if_group_is_used(id).await?;
    tx.delete_group(id).await?;
    keep_one(&mut tx).await?;
    let detail = json!({"name": group.name});
    tx.audit(actor.did("group.remove", id, None, detail), shared.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

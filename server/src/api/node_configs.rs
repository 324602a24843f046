//! Configurations of nodes.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::json;
use sluice_catalog::{Destination, Node, NodeConfig, NodeConfigId, Record, Tx};
use sluice_scheduler::work::TaskKind;

use crate::access::Permission;
use crate::api::filters::{self, NameQuery};
use crate::api::policies::EVERYTHING;
use crate::api::records::{Change, Create, View, tagged};
use crate::api::{Body, List, Path, Query};
use crate::auth::Actor;
use crate::problem::{Problem, Result};
use crate::state::Shared;
use crate::validators;

/// Whether it fits to the other records.
async fn check(config: &NodeConfig, tx: &mut Tx) -> Result<()> {
    let mut kinds = config.slots_by_kind.keys().chain(config.threads_by_kind.keys());
    if let Some(odd) = kinds.find(|kind| TaskKind::from_name(kind).is_none()) {
        return Err(Problem::invalid(format!("there are no tasks of kind {odd}")));
    }
    for id in config.destinations.iter().flatten() {
        tx.get::<Destination>(*id, &EVERYTHING).await?;
    }
    Ok(())
}

/// List configurations of nodes
#[utoipa::path(get, path = "/api/v1/node-configs", tag = "node",
    operation_id = "list-node-configs", params(NameQuery), responses(
    (status = 200, body = List<View<NodeConfig>>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<NameQuery>,
) -> Result<Json<List<View<NodeConfig>>>> {
    actor.require_anywhere(Permission::Read)?;
    let mut tx = shared.catalog.read().await?;
    filters::list(&mut tx, &actor.visible(), &query, View::from).await.map(Json)
}

/// Make a configuration of nodes
///
/// The one that is called `default` is that of all nodes that have none of their own.
#[utoipa::path(post, path = "/api/v1/node-configs", tag = "node",
    operation_id = "create-node-config", request_body = Create<NodeConfig>, responses(
    (status = 201, body = View<NodeConfig>), (status = "4XX", body = Problem)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    actor: Actor,
    Body(new): Body<Create<NodeConfig>>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    let (project, name, config) = new.parts();
    if project.is_some() {
        return Err(Problem::invalid("a configuration of nodes belongs to no project"));
    }
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    check(&config, &mut tx).await?;
    let record = tx.insert(None, &name, config, now).await?;
    done(&shared, tx, &actor, "node-config.create", &record).await?;
    Ok(tagged(StatusCode::CREATED, record))
}

/// Read a configuration of nodes
#[utoipa::path(get, path = "/api/v1/node-configs/{id}", tag = "node",
    operation_id = "get-node-config", params(("id" = NodeConfigId, Path)), responses(
    (status = 200, body = View<NodeConfig>), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<NodeConfigId>,
) -> Result<Response> {
    actor.require_anywhere(Permission::Read)?;
    let mut tx = shared.catalog.read().await?;
    Ok(tagged(StatusCode::OK, tx.get::<NodeConfig>(id, &actor.visible()).await?))
}

/// Change a configuration of nodes; tasks that run keep what they began with
#[utoipa::path(put, path = "/api/v1/node-configs/{id}", tag = "node",
    operation_id = "change-node-config",
    params(("id" = NodeConfigId, Path), ("If-Match" = String, Header,
    description = "The revision that the change is based on")),
    request_body = Change<NodeConfig>, responses(
    (status = 200, body = View<NodeConfig>), (status = "4XX", body = Problem)))]
pub(crate) async fn put(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<NodeConfigId>,
    headers: HeaderMap,
    Body(change): Body<Change<NodeConfig>>,
) -> Result<Response> {
    actor.require(Permission::Administer, None)?;
    let (name, config) = change.parts();
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let mut record = tx.get::<NodeConfig>(id, &EVERYTHING).await?;
    validators::require(&headers, &record.revision.to_string())?;
    check(&config, &mut tx).await?;
    (record.name, record.body) = (name, config);
    tx.update(&mut record, now).await?;
    done(&shared, tx, &actor, "node-config.change", &record).await?;
    Ok(tagged(StatusCode::OK, record))
}

/// Remove a configuration that no node has
#[utoipa::path(delete, path = "/api/v1/node-configs/{id}", tag = "node",
    operation_id = "remove-node-config", params(("id" = NodeConfigId, Path),
    ("If-Match" = Option<String>, Header, description = "The revision that is to be removed")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<NodeConfigId>,
    headers: HeaderMap,
) -> Result<StatusCode> {
    actor.require(Permission::Administer, None)?;
    let mut tx = shared.catalog.begin().await?;
    let record = tx.get::<NodeConfig>(id, &EVERYTHING).await?;
    validators::check(&headers, &record.revision.to_string())?;
    let nodes: Vec<Record<Node>> = crate::queue::all_nodes_as_they_are(&mut tx).await?;
    if let Some(node) = nodes.iter().find(|node| node.body.config == Some(id)) {
        let text =
            format!("node {} has this configuration: assign it another one first", node.name);
        return Err(Problem::new(StatusCode::CONFLICT, "conflict", text));
    }
    tx.delete::<NodeConfig>(id).await?;
    done(&shared, tx, &actor, "node-config.remove", &record).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Writes down who did it, and lets it count at once.
async fn done(
    shared: &Shared,
    mut tx: Tx,
    actor: &Actor,
    action: &'static str,
    record: &Record<NodeConfig>,
) -> Result<()> {
    let detail = json!({"name": record.name, "spec": record.body});
    tx.audit(actor.did(action, record.id, None, detail), shared.now()).await?;
    tx.commit().await?;
    shared.work.notify_one();
    Ok(())
}

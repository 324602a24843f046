//! Nodes, as people see them.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{
    Capabilities, DestinationId, Instance, InstanceId, Node, NodeConfig, NodeConfigId, NodeId,
    NodeLiveness, NodeState, Record, Tx, Upgrade, token_hash,
};
use sluice_node_api::JoinToken;
use sluice_scheduler::work::TaskKind;
use utoipa::ToSchema;

use crate::access::Permission;
use crate::api::filters::{self, NodeQuery};
use crate::api::policies::EVERYTHING;
use crate::api::query::JoinQuery;
use crate::api::{Body, List, Path, Query};
use crate::auth::Actor;
use crate::node_configs::Configs;
use crate::placement::{self, Judgement};
use crate::problem::{Problem, Result};
use crate::state::{Shared, new_token};
use crate::upgrades;
use crate::validators;

/// How long a join token may be used.
const JOIN_MS: u64 = 3_600_000;

/// A node.
#[derive(Serialize, ToSchema)]
pub(crate) struct NodeView {
    id: NodeId,
    name: String,
    revision: u64,
    description: String,
    state: NodeState,
    destinations: Option<Vec<DestinationId>>,
    /// How many tasks it runs at a time at most, however many it asks for.
    slots: Option<u32>,
    /// How many of a kind at a time.
    slots_by_kind: BTreeMap<String, u32>,
    /// Its configuration; the one named `default` when it has none of its own, if there is that.
    config: Option<NodeConfigId>,
    capabilities: Capabilities,
    /// How far its upgrade is, when there is one; see `POST /api/v1/nodes/{id}/upgrade`.
    upgrade: Option<Upgrade>,
    /// When its certificate ends, in milliseconds since 1970; nothing while it shows a token.
    certificate_expires_ms: Option<u64>,
    /// When it was heard of last, in milliseconds since 1970.
    last_seen_ms: u64,
    /// How many tasks it runs.
    running: u64,
}

/// What may be changed of a node.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NodeChange {
    #[serde(default)]
    description: String,
    state: NodeState,
    /// The destinations it may use; all when there is no list.
    #[serde(default)]
    destinations: Option<Vec<DestinationId>>,
    /// How many tasks it runs at a time at most, however many it asks for.
    #[serde(default)]
    slots: Option<u32>,
    /// How many of a kind at a time.
    #[serde(default)]
    slots_by_kind: BTreeMap<String, u32>,
    /// Its configuration.
    #[serde(default)]
    config: Option<NodeConfigId>,
}

/// What is known of nodes beside their records.
struct Known {
    seen: BTreeMap<NodeId, NodeLiveness>,
    certificates: BTreeMap<NodeId, u64>,
    configs: Configs,
}

impl Known {
    async fn load(tx: &mut Tx) -> Result<Self> {
        let (seen, certificates) = (tx.liveness().await?, tx.certificate_ends().await?);
        Ok(Self { seen, certificates, configs: Configs::load(tx).await? })
    }

    fn view(&self, record: Record<Node>) -> NodeView {
        let kept = placement::snapshots(&self.configs, &record.body);
        let Node {
            description,
            state,
            destinations,
            slots,
            slots_by_kind,
            config,
            mut capabilities,
            upgrade,
        } = record.body;
        // A node of an earlier release tells nothing of abilities, which is not to tell of one.
        if !capabilities.abilities.is_empty() {
            capabilities.abilities.push(kept);
        }
        let seen = self.seen.get(&record.id);
        NodeView {
            id: record.id,
            name: record.name,
            revision: record.revision,
            description,
            state,
            destinations,
            slots,
            slots_by_kind,
            config,
            capabilities,
            upgrade,
            certificate_expires_ms: self.certificates.get(&record.id).copied(),
            last_seen_ms: seen.map_or(0, |seen| seen.last_seen_ms),
            running: seen.map_or(0, |seen| seen.running),
        }
    }
}

/// A node that somebody administers.
async fn administered(tx: &mut Tx, actor: &Actor, id: NodeId) -> Result<Record<Node>> {
    let node = tx.get::<Node>(id, &actor.visible()).await?;
    actor.require(Permission::Administer, &node)?;
    Ok(node)
}

/// What a change of a node is based on: what people say of it. Its revision grows also with what
/// the node tells of itself, and with each step of its upgrade.
fn said(record: &Record<Node>) -> String {
    let Node { description, state, destinations, slots, slots_by_kind, config, .. } = &record.body;
    let body = (description, state, destinations, slots, slots_by_kind, config);
    validators::base_of(&(&record.name, body))
}

/// Refuses a change that is based on something else; who names the newest revision has read all.
fn check_base(headers: &HeaderMap, record: &Record<Node>) -> Result<()> {
    validators::check(headers, &said(record))
        .or_else(|_| validators::check(headers, &record.revision.to_string()))
}

/// List nodes
#[utoipa::path(get, path = "/api/v1/nodes", tag = "node", operation_id = "list-nodes",
    params(NodeQuery), responses(
    (status = 200, body = List<NodeView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<NodeQuery>,
) -> Result<Json<List<NodeView>>> {
    actor.require_some_node(Permission::Read)?;
    let mut tx = shared.catalog.read().await?;
    let known = Known::load(&mut tx).await?;
    filters::list(&mut tx, &actor.visible(), &query, |node| known.view(node)).await.map(Json)
}

/// Read a node
#[utoipa::path(get, path = "/api/v1/nodes/{id}", tag = "node", operation_id = "get-node",
    params(("id" = NodeId, Path)), responses(
    (status = 200, body = NodeView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<NodeId>,
) -> Result<Response> {
    actor.require_some_node(Permission::Read)?;
    let mut tx = shared.catalog.read().await?;
    let node = tx.get::<Node>(id, &actor.visible()).await?;
    let base = said(&node);
    Ok(validators::tagged(&base, Known::load(&mut tx).await?.view(node)))
}

/// Change a node: enable, drain or disable it, and name the destinations it may use
#[utoipa::path(put, path = "/api/v1/nodes/{id}", tag = "node", operation_id = "change-node",
    params(("id" = NodeId, Path), ("If-Match" = Option<String>, Header,
    description = "The tag or the revision of what the change is based on")),
    request_body = NodeChange, responses(
    (status = 200, body = NodeView), (status = "4XX", body = Problem)))]
pub(crate) async fn put(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<NodeId>,
    headers: HeaderMap,
    Body(change): Body<NodeChange>,
) -> Result<Response> {
    actor.require_some_node(Permission::Administer)?;
    if let Some(odd) = change.slots_by_kind.keys().find(|kind| TaskKind::from_name(kind).is_none())
    {
        return Err(Problem::invalid(format!("there are no tasks of kind {odd}")));
    }
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let mut node = administered(&mut tx, &actor, id).await?;
    check_base(&headers, &node)?;
    // What it may reach and do for all projects is not a matter of one node.
    if change.destinations != node.body.destinations || change.config != node.body.config {
        actor.require(Permission::Administer, None)?;
    }
    node.body.description = change.description;
    node.body.state = change.state;
    node.body.destinations = change.destinations;
    (node.body.slots, node.body.slots_by_kind) = (change.slots, change.slots_by_kind);
    if let Some(config) = change.config {
        tx.get::<NodeConfig>(config, &EVERYTHING).await?;
    }
    node.body.config = change.config;
    tx.update(&mut node, now).await?;
    let detail = json!({"state": node.body.state, "destinations": node.body.destinations,
        "slots": node.body.slots, "slots_by_kind": node.body.slots_by_kind,
        "config": node.body.config});
    tx.audit(actor.did("node.change", id, None, detail), now).await?;
    let known = Known::load(&mut tx).await?;
    tx.commit().await?;
    shared.work.notify_one();
    let base = said(&node);
    Ok(validators::tagged(&base, known.view(node)))
}

/// Upgrade a node: it takes no new tasks, finishes what it has, and starts again with what was
/// installed there
///
/// Nodes are upgraded one at a time, in the order in which it was asked for; when one fails, those
/// that wait are not begun. What a node has mounted comes back with it.
#[utoipa::path(post, path = "/api/v1/nodes/{id}/upgrade", tag = "node",
    operation_id = "upgrade-node", params(("id" = NodeId, Path)), responses(
    (status = 200, body = NodeView), (status = "4XX", body = Problem)))]
pub(crate) async fn upgrade(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<NodeId>,
) -> Result<Json<NodeView>> {
    actor.require_some_node(Permission::Administer)?;
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let mut node = administered(&mut tx, &actor, id).await?;
    let known = Known::load(&mut tx).await?;
    let wanted = upgrades::asked_for(&node, known.seen.get(&id), now)?;
    let detail = json!({"from": wanted.from, "to": wanted.to});
    node.body.upgrade = Some(wanted);
    tx.update(&mut node, now).await?;
    tx.audit(actor.did("node.upgrade", id, None, detail), now).await?;
    tx.commit().await?;
    Ok(Json(known.view(node)))
}

/// Take back the upgrade of a node, or that one has failed; it gets tasks again
#[utoipa::path(delete, path = "/api/v1/nodes/{id}/upgrade", tag = "node",
    operation_id = "cancel-node-upgrade", params(("id" = NodeId, Path)), responses(
    (status = 200, body = NodeView), (status = "4XX", body = Problem)))]
pub(crate) async fn cancel_upgrade(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<NodeId>,
) -> Result<Json<NodeView>> {
    actor.require_some_node(Permission::Administer)?;
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let mut node = administered(&mut tx, &actor, id).await?;
    if node.body.upgrade.take().is_some() {
        tx.update(&mut node, now).await?;
        tx.audit(actor.did("node.upgrade-cancelled", id, None, json!({})), now).await?;
    }
    let known = Known::load(&mut tx).await?;
    tx.commit().await?;
    shared.work.notify_one();
    Ok(Json(known.view(node)))
}

/// Nodes, and whether they may do something.
#[derive(Serialize, ToSchema)]
pub(crate) struct Judgements {
    /// Each node.
    items: Vec<Judgement>,
}

/// Say which nodes may back up an instance, and why, or why not
#[utoipa::path(get, path = "/api/v1/instances/{id}/nodes", tag = "node",
    operation_id = "list-instance-nodes", params(("id" = InstanceId, Path)), responses(
    (status = 200, body = Judgements), (status = "4XX", body = Problem)))]
pub(crate) async fn for_instance(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<InstanceId>,
) -> Result<Json<Judgements>> {
    actor.require(Permission::Read, None)?;
    let mut tx = shared.catalog.read().await?;
    let instance = tx.get::<Instance>(id, &actor.visible()).await?;
    let items = placement::for_instance(&mut tx, &instance, shared.now()).await?;
    Ok(Json(Judgements { items }))
}

/// Remove a node: its access ends at once, and its tasks are taken over once their leases end
#[utoipa::path(delete, path = "/api/v1/nodes/{id}", tag = "node", operation_id = "remove-node",
    params(("id" = NodeId, Path),
    ("If-Match" = Option<String>, Header,
    description = "The tag or the revision of what is to be removed")),
    responses((status = 204), (status = "4XX", body = Problem)))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<NodeId>,
    headers: HeaderMap,
) -> Result<StatusCode> {
    actor.require_some_node(Permission::Administer)?;
    let mut tx = shared.catalog.begin().await?;
    let node = administered(&mut tx, &actor, id).await?;
    check_base(&headers, &node)?;
    tx.refuse_if_used(&node, &actor.visible()).await?;
    tx.delete::<Node>(id).await?;
    let now = shared.now();
    tx.end_of_no_node(now).await?;
    tx.audit(actor.did("node.remove", id, None, json!({})), now).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What lets one node join.
#[derive(Serialize, ToSchema)]
pub(crate) struct JoinTokenView {
    /// For `sluice node join`; can be used once.
    token: String,
    /// When it ends, in milliseconds since 1970.
    expires_ms: u64,
}

/// Make a token that lets one node join, or come back
#[utoipa::path(post, path = "/api/v1/node-tokens", tag = "node",
    operation_id = "create-node-token", params(JoinQuery), responses(
    (status = 201, body = JoinTokenView), (status = "4XX", body = Problem)))]
pub(crate) async fn create_token(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<JoinQuery>,
) -> Result<(StatusCode, Json<JoinTokenView>)> {
    actor.require(Permission::Administer, None)?;
    let now = shared.now();
    let expires_ms = now + JOIN_MS;
    let token = new_token("join");
    let mut tx = shared.catalog.begin().await?;
    tx.add_join_token(&token_hash(&token), now, expires_ms).await?;
    let mut object = String::new();
    if let Some(node) = query.node {
        tx.get::<Node>(node, &EVERYTHING).await?;
        tx.bind_join_token(&token_hash(&token), node).await?;
        object = node.to_string();
    }
    tx.audit(actor.did("node.token", object, None, json!({})), now).await?;
    tx.commit().await?;
    let (server, fingerprint) = (shared.url.clone(), shared.fingerprint);
    let token = JoinToken { server, fingerprint, token }.to_string();
    Ok((StatusCode::CREATED, Json(JoinTokenView { token, expires_ms })))
}

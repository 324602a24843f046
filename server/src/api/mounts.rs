//! Mounted restore points.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sluice_catalog::{
    DestinationId, Instance, InstanceId, Mount, MountFilter, MountId, MountProtocol, MountSpec,
    MountState, NewMount, Node, NodeId, Point, PointId, ProjectId, Record, TaskId, Tx,
};
use sluice_node_api::{Network, is_folder};
use utoipa::ToSchema;
use zeroize::Zeroizing;

use crate::access::{At, Permission};
use crate::api::policies::EVERYTHING;
use crate::api::query::{MountQuery, Order, span};
use crate::api::tasks::TaskView;
use crate::api::{Body, Hidden, List, Path, Query, page};
use crate::auth::Actor;
use crate::complaint::all_readable;
use crate::mounts::{self, HTTP_TOKEN};
use crate::node_configs::Configs;
use crate::problem::{Problem, Result};
use crate::state::{Shared, new_token};

/// How long a lease is, in seconds: when nothing is said, and at least and at most.
const LEASE: u64 = 8 * 3600;
const SHORTEST_LEASE: u64 = 5;
const LONGEST_LEASE: u64 = 90 * 24 * 3600;
/// Networks, or initiators, of one mount.
const MOST_CLIENTS: usize = 64;
/// Bytes of a name of an initiator, and of its user.
const LONGEST_NAME: usize = 223;
/// Bytes of a secret of CHAP: shorter ones can be guessed from what is seen on the wire.
const SHORTEST_SECRET: usize = 12;
const LONGEST_SECRET: usize = 128;
/// The variable in which a node finds that secret.
const CHAP: &str = "SLUICE_CHAP_SECRET";
/// A node that was heard of so lately is there, in milliseconds.
const LATELY_MS: u64 = 90_000;

/// A disk of a mount.
#[derive(Serialize, ToSchema)]
pub(crate) struct MountedDisk {
    name: String,
    uri: String,
}

/// A mounted restore point.
#[derive(Serialize, ToSchema)]
pub(crate) struct MountView {
    id: MountId,
    project: Option<ProjectId>,
    instance: InstanceId,
    /// The restore point's id.
    point: PointId,
    /// As `sluice` takes it.
    point_name: String,
    destination: DestinationId,
    node: NodeId,
    /// The task that makes or ends it, or did so last.
    task: Option<TaskId>,
    protocol: MountProtocol,
    /// The only image that is shown; all without.
    image: Option<String>,
    /// The name of its folder on the node, when it was chosen.
    folder: Option<String>,
    writable: bool,
    /// Networks of the clients that may connect.
    clients: Vec<String>,
    /// iSCSI initiators that may connect; all without.
    initiators: Vec<String>,
    chap_user: Option<String>,
    state: MountState,
    /// Why it is in this state.
    message: String,
    /// Where clients find it, once it is ready. Of `http` it has the token that opens it where who
    /// asks may operate the project and has asked for one mount; the word TOKEN elsewhere.
    uri: Option<String>,
    /// The same for each image.
    disks: Vec<MountedDisk>,
    /// SHA-256 of the certificate with which it is served, of `http`.
    fingerprint: Option<String>,
    /// When it ends by itself, in milliseconds since 1970.
    lease_end_ms: u64,
    revision: u64,
    created_ms: u64,
    updated_ms: u64,
}

impl From<Mount> for MountView {
    fn from(mount: Mount) -> Self {
        let (uri, disks) = mounts::addresses(&mount.place);
        let fingerprint = mount.place["fingerprint"].as_str().map(str::to_owned);
        let disk = |(name, uri)| MountedDisk { name, uri };
        let Mount { new, .. } = mount;
        Self {
            id: mount.id,
            project: new.project,
            instance: new.instance,
            point: new.point,
            point_name: new.spec.point,
            destination: new.destination,
            node: new.node,
            task: mount.task,
            protocol: new.spec.protocol,
            image: new.spec.image,
            folder: new.spec.folder,
            writable: new.spec.writable,
            clients: new.spec.clients,
            initiators: new.spec.initiators,
            chap_user: new.spec.chap_user,
            state: mount.state,
            message: mount.message,
            uri,
            disks: disks.into_iter().map(disk).collect(),
            fingerprint,
            lease_end_ms: new.lease_end_ms,
            revision: mount.revision,
            created_ms: mount.created_ms,
            updated_ms: mount.updated_ms,
        }
    }
}

/// What to mount, where, and for whom.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MountRequest {
    point: PointId,
    /// The only image to show; all without.
    #[serde(default)]
    image: Option<String>,
    /// The node that shows it; without, one that can.
    #[serde(default)]
    node: Option<NodeId>,
    protocol: MountProtocol,
    /// Networks of the clients that may connect, such as `192.0.2.0/24`; none for `fuse`, which
    /// is for users of the node.
    #[serde(default)]
    clients: Vec<String>,
    /// For `fuse`: the name of its folder, below the one that the node's administrator has named;
    /// without, it is the mount's id.
    #[serde(default)]
    folder: Option<String>,
    /// Whether clients of `nbd` and `iscsi` may write. What they write is kept on the node until
    /// the mount ends, and is gone then; before, it can be made a restore point.
    #[serde(default)]
    writable: bool,
    /// iSCSI initiators that may connect; all without.
    #[serde(default)]
    initiators: Vec<String>,
    /// User that iSCSI initiators must prove to be, with the secret.
    #[serde(default)]
    chap_user: Option<String>,
    /// 12 to 128 bytes.
    #[serde(default)]
    chap_secret: Option<Hidden>,
    /// It ends by itself after so long: 5 seconds to 90 days, 8 hours when it is not said.
    #[serde(default)]
    lease_seconds: Option<u64>,
}

/// How long a mount stays from now on.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MountRenewal {
    /// 5 seconds to 90 days.
    lease_seconds: u64,
}

/// What decides who may do something with a mount.
fn place(mount: &Mount) -> At {
    At::instance(mount.new.project, mount.new.instance)
}

fn lease_ms(seconds: u64) -> Result<u64> {
    if !(SHORTEST_LEASE..=LONGEST_LEASE).contains(&seconds) {
        return Err(Problem::invalid("a lease is 5 seconds to 90 days"));
    }
    Ok(seconds * 1000)
}

fn is_word(text: &str, longest: usize) -> bool {
    let odd = |c: char| c.is_control() || c.is_whitespace();
    (1..=longest).contains(&text.len()) && !text.chars().any(odd)
}

/// Refuses what does not go with the protocol.
fn check_protocol(request: &MountRequest) -> Result<()> {
    let (no, word) = (|text: &str| Err(Problem::invalid(text)), request.protocol.word());
    let is_local = request.protocol == MountProtocol::Fuse;
    if is_local && !request.clients.is_empty() {
        return no("fuse is for users of the node: it has no clients");
    }
    if is_local && request.image.is_some() {
        return no("fuse shows all images of a restore point");
    }
    if request.folder.is_some() && !is_local {
        return no("folders go with fuse");
    }
    if request.folder.as_ref().is_some_and(|name| !is_folder(name)) {
        return no("a folder is one name of letters, digits, dots, dashes and underscores");
    }
    if request.writable && (is_local || request.protocol == MountProtocol::Http) {
        return no(&format!("{word} is for reading; nbd and iscsi can be written to"));
    }
    Ok(())
}

/// Refuses what no node could do, or what would let in more than was meant.
fn check(request: &MountRequest) -> Result<()> {
    check_protocol(request)?;
    let local = request.protocol == MountProtocol::Fuse;
    if request.clients.is_empty() != local || request.clients.len() > MOST_CLIENTS {
        let text = "name 1 to 64 networks of clients, such as 192.0.2.0/24";
        return Err(Problem::invalid(text));
    }
    for network in &request.clients {
        network.parse::<Network>().map_err(Problem::invalid)?;
    }
    let image = request.image.as_deref();
    if image.is_some_and(|image| !is_word(image, LONGEST_NAME) || image.contains(':')) {
        return Err(Problem::invalid("this is no name of an image"));
    }
    let named = !request.initiators.is_empty() || request.chap_user.is_some();
    if named && request.protocol != MountProtocol::Iscsi {
        return Err(Problem::invalid("initiators and their users go with iscsi"));
    }
    let shaped = |name: &String| {
        let kinds = ["iqn.", "eui.", "naa."];
        is_word(name, LONGEST_NAME) && kinds.iter().any(|kind| name.starts_with(kind))
    };
    if request.initiators.len() > MOST_CLIENTS || !request.initiators.iter().all(shaped) {
        return Err(Problem::invalid("an initiator is iqn.YEAR-MONTH.DOMAIN:NAME, eui. or naa."));
    }
    match (&request.chap_user, &request.chap_secret) {
        (None, None) => Ok(()),
        (Some(user), Some(Hidden(secret))) => {
            let fits = (SHORTEST_SECRET..=LONGEST_SECRET).contains(&secret.len())
                && !secret.chars().any(char::is_control);
            let text = "a user of CHAP is a word, and its secret has 12 to 128 bytes";
            if is_word(user, LONGEST_NAME) && fits { Ok(()) } else { Err(Problem::invalid(text)) }
        }
        _ => Err(Problem::invalid("chap_user and chap_secret go together")),
    }
}

/// The node that was named, or the one that fits best.
async fn node(
    tx: &mut Tx,
    named: Option<NodeId>,
    point: &Point,
    protocol: MountProtocol,
    now: u64,
) -> Result<NodeId> {
    let none = |text: &str| Problem::new(StatusCode::CONFLICT, "no-node", text);
    let destination = point.new.destination;
    let configs = Configs::load(tx).await?;
    if let Some(id) = named {
        let node = tx.get::<Node>(id, &EVERYTHING).await?;
        let narrowed = configs.narrow(node.body.clone());
        mounts::check_able(&narrowed, destination, protocol)?;
        if !node.body.takes_tasks() {
            return Err(none("this node gets no new tasks"));
        }
        return Ok(id);
    }
    let own = tx.get::<Instance>(point.instance, &EVERYTHING).await.ok();
    let own = own.and_then(|instance| instance.body.node);
    let seen = tx.liveness().await?;
    let mut best: Option<Record<Node>> = None;
    for node in all_readable::<Node>(tx).await? {
        let heard = seen.get(&node.id).map_or(0, |seen| seen.last_seen_ms);
        let able = node.body.takes_tasks()
            && heard + LATELY_MS > now
            && mounts::check_able(&configs.narrow(node.body.clone()), destination, protocol)
                .is_ok();
        if able && (best.is_none() || own == Some(node.id)) {
            best = Some(node);
        }
    }
    let text = format!("no node that makes mounts by {} was heard of lately", protocol.word());
    let best = best.ok_or_else(|| none(&text))?;
    Ok(best.id)
}

/// List mounts, newest first; those that are gone only when they are asked for
#[utoipa::path(get, path = "/api/v1/mounts", tag = "mount", operation_id = "list-mounts",
    params(MountQuery), responses(
    (status = 200, body = List<MountView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<MountQuery>,
) -> Result<Json<List<MountView>>> {
    actor.require_anywhere(Permission::Read)?;
    let page = page(query.after, query.limit)?;
    let filter = MountFilter {
        state: query.state,
        instance: query.instance,
        project: query.project,
        destination: query.destination,
        node: query.node,
        added: span(query.since_ms, query.until_ms)?,
        oldest_first: query.order == Some(Order::Oldest),
    };
    let mut tx = shared.catalog.read().await?;
    let found = tx.mounts_found(&actor.visible(), &filter, &page).await?;
    Ok(Json(List::found("mount", found, |mount| Ok(mount.into()))))
}

/// Mount a restore point: a node shows it as disks
#[utoipa::path(post, path = "/api/v1/mounts", tag = "mount", operation_id = "create-mount",
    request_body = MountRequest, responses(
    (status = 201, body = MountView), (status = "4XX", body = Problem)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    actor: Actor,
    Body(request): Body<MountRequest>,
) -> Result<(StatusCode, Json<MountView>)> {
    actor.require_anywhere(Permission::Operate)?;
    check(&request)?;
    let lease = lease_ms(request.lease_seconds.unwrap_or(LEASE))?;
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let point = tx.point(request.point, &actor.visible()).await?;
    actor.require(Permission::Operate, At::instance(point.project, point.instance))?;
    if point.removed_ms.is_some() {
        return Err(Problem::not_found("restore point"));
    }
    let node = node(&mut tx, request.node, &point, request.protocol, now).await?;
    if request.writable {
        mounts::check_writable(&mut tx, node).await?;
    }
    let id = MountId::new(now);
    let new = NewMount {
        project: point.project,
        instance: point.instance,
        point: point.id,
        destination: point.new.destination,
        node,
        lease_end_ms: now + lease,
        spec: MountSpec {
            point: point.new.point,
            image: request.image,
            protocol: request.protocol,
            folder: request.folder,
            writable: request.writable,
            clients: request.clients,
            initiators: request.initiators,
            chap_user: request.chap_user,
        },
    };
    tx.add_mount(id, &new, now).await?;
    if request.protocol == MountProtocol::Http {
        let secrets = [(HTTP_TOKEN.to_owned(), Zeroizing::new(new_token("disk")))].into();
        tx.set_secrets(&shared.sealer, &id.to_string(), &secrets).await?;
    }
    if let Some(Hidden(secret)) = request.chap_secret {
        let secrets = [(CHAP.to_owned(), secret)].into();
        tx.set_secrets(&shared.sealer, &id.to_string(), &secrets).await?;
    }
    let mount = tx.mount(id, &EVERYTHING).await?;
    mounts::start(&mut tx, &mount, now).await?;
    let detail = json!({"point": new.spec.point, "node": node, "protocol": new.spec.protocol,
        "writable": new.spec.writable, "clients": new.spec.clients,
        "lease_end_ms": new.lease_end_ms});
    tx.audit(actor.did("mount.create", id, new.project, detail), now).await?;
    let view = tx.mount(id, &EVERYTHING).await?.into();
    tx.commit().await?;
    shared.work.notify_one();
    Ok((StatusCode::CREATED, Json(view)))
}

/// Make a restore point of what clients have written to a mount, which stays
///
/// The answer is the task that does it.
#[utoipa::path(post, path = "/api/v1/mounts/{id}/commit", tag = "mount",
    operation_id = "commit-mount", params(("id" = MountId, Path)), responses(
    (status = 201, body = TaskView), (status = "4XX", body = Problem)))]
pub(crate) async fn commit(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<MountId>,
) -> Result<(StatusCode, Json<TaskView>)> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let mount = tx.mount(id, &actor.visible()).await?;
    actor.require(Permission::Operate, place(&mount))?;
    let task = mounts::commit(&mut tx, &mount, now).await?;
    let detail = json!({"mount": id, "point": mount.new.spec.point});
    tx.audit(actor.did("mount.commit", task, mount.new.project, detail), now).await?;
    let task = tx.task(task, &EVERYTHING).await?;
    tx.commit().await?;
    shared.work.notify_one();
    Ok((StatusCode::CREATED, Json(task.into())))
}

/// Read a mount
#[utoipa::path(get, path = "/api/v1/mounts/{id}", tag = "mount", operation_id = "get-mount",
    params(("id" = MountId, Path)), responses(
    (status = 200, body = MountView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<MountId>,
) -> Result<Json<MountView>> {
    actor.require_anywhere(Permission::Read)?;
    let mut tx = shared.catalog.read().await?;
    let mut mount = tx.mount(id, &actor.visible()).await?;
    if actor.require(Permission::Operate, place(&mount)).is_ok() {
        mount = mounts::opened(&shared, &mut tx, mount).await?;
    }
    Ok(Json(mount.into()))
}

/// Let the lease of a mount begin anew
#[utoipa::path(post, path = "/api/v1/mounts/{id}/renew", tag = "mount",
    operation_id = "renew-mount", params(("id" = MountId, Path)),
    request_body = MountRenewal, responses(
    (status = 200, body = MountView), (status = "4XX", body = Problem)))]
pub(crate) async fn renew(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<MountId>,
    Body(renewal): Body<MountRenewal>,
) -> Result<Json<MountView>> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let mount = tx.mount(id, &actor.visible()).await?;
    actor.require(Permission::Operate, place(&mount))?;
    let end = now + lease_ms(renewal.lease_seconds)?;
    tx.renew_mount(id, end, now).await?;
    let detail = json!({"lease_end_ms": end});
    tx.audit(actor.did("mount.renew", id, mount.new.project, detail), now).await?;
    let view = tx.mount(id, &EVERYTHING).await?.into();
    tx.commit().await?;
    Ok(Json(view))
}

/// End a mount. Asked again it is no error
#[utoipa::path(delete, path = "/api/v1/mounts/{id}", tag = "mount", operation_id = "end-mount",
    params(("id" = MountId, Path)), responses(
    (status = 202, body = MountView), (status = "4XX", body = Problem)))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<MountId>,
) -> Result<(StatusCode, Json<MountView>)> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let mount = tx.mount(id, &actor.visible()).await?;
    actor.require(Permission::Operate, place(&mount))?;
    if mount.state.is_wanted() {
        mounts::release(&mut tx, &mount, "", now).await?;
        tx.audit(actor.did("mount.end", id, mount.new.project, json!({})), now).await?;
    }
    let view = tx.mount(id, &EVERYTHING).await?.into();
    tx.commit().await?;
    shared.work.notify_one();
    Ok((StatusCode::ACCEPTED, Json(view)))
}

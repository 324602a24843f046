//! What becomes of mounted restore points: by tasks, by what nodes tell, and by time.
//!
//! A mount is made by a task and ended by one. Everything else is a comparison: of what is
//! recorded with what a node has ([`decide`]), and of what is recorded with the clock
//! ([`settle`]). So whatever dies in between, the next comparison finds it.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde_json::{Value, json};
use sluice_catalog::{
    AuditEntry, DestinationId, ErrorKind, Mount, MountId, MountProtocol, MountState, NewTask, Node,
    NodeId, Task, TaskId, TaskState, Tx,
};
use sluice_node_api::{
    FIRST_PROTOCOLS, Held, HeldState, MountOrder, MountOrders, MountReport, TaskSpec,
};

use crate::api::Body;
use crate::api::policies::EVERYTHING;
use crate::auth::NodeActor;
use crate::complaint::{apart, go_on};
use crate::destinations;
use crate::problem::{Problem, Result};
use crate::state::Shared;

use MountState::{Failed, Gone, Ready, Releasing, Requested};

/// Mounts go before everything that can wait.
const PRIORITY: u32 = 95;
/// Attempts of a task that makes or ends a mount; most of them are deaths of the node.
const ATTEMPTS: u32 = 5;
/// Leases that differ by less are the same, in milliseconds: telling takes time.
const SLACK_MS: u64 = 2_000;
/// A mount that a node does not have so shortly before its end has ended, in milliseconds.
const LAST_MS: u64 = 5_000;
/// A node that was not heard of for so long after the end of a lease has ended the mount by
/// itself, or is no more, in milliseconds.
const SILENCE_MS: u64 = 600_000;
/// The variable in which a node finds the token of a mount by http.
pub(crate) const HTTP_TOKEN: &str = "SLUICE_HTTP_TOKEN";
/// Why a mount ends that nobody has ended.
const OVER: &str = "its lease is over";

/// What a node is told to mount.
fn order(mount: &Mount, now: u64) -> MountOrder {
    let spec = &mount.new.spec;
    MountOrder {
        id: mount.id.to_string(),
        point: spec.point.clone(),
        image: spec.image.clone(),
        protocol: spec.protocol.word().to_owned(),
        folder: spec.folder.clone(),
        writable: spec.writable,
        clients: spec.clients.clone(),
        initiators: spec.initiators.clone(),
        chap_user: spec.chap_user.clone(),
        lease_ms: mount.new.lease_end_ms.saturating_sub(now),
        place: (!mount.place.is_null()).then(|| mount.place.clone()),
    }
}

fn task(mount: &Mount, spec: &TaskSpec) -> NewTask {
    let mounts = matches!(spec, TaskSpec::Mount { .. });
    NewTask {
        project: mount.new.project,
        // An instance has one task at a time, and is backed up while it is mounted.
        instance: None,
        policy: None,
        destination: mounts.then_some(mount.new.destination),
        wanted_node: Some(mount.new.node),
        kind: spec.kind().to_owned(),
        priority: PRIORITY,
        due_key: None,
        max_attempts: ATTEMPTS,
        not_before_ms: 0,
        spec: serde_json::to_value(spec).unwrap_or_default(),
    }
}

/// Adds the task that makes a mount.
pub(crate) async fn start(tx: &mut Tx, mount: &Mount, now: u64) -> Result<()> {
    let spec = TaskSpec::Mount { mount: order(mount, now) };
    if let Some(id) = tx.add_task(&task(mount, &spec), now).await? {
        tx.set_mount_task(mount.id, id).await?;
    }
    Ok(())
}

/// Begins to end a mount: what would still make it is cancelled, and the node is told.
pub(crate) async fn release(tx: &mut Tx, mount: &Mount, why: &str, now: u64) -> Result<()> {
    let wanted = [Requested, Ready, Failed];
    if !tx.change_mount(mount.id, &wanted, Releasing, None, why, now).await? {
        return Ok(());
    }
    stop_task(tx, mount.id, now).await?;
    let spec = TaskSpec::Unmount { mount: mount.id.to_string() };
    if let Some(id) = tx.add_task(&task(mount, &spec), now).await? {
        tx.set_mount_task(mount.id, id).await?;
    }
    Ok(())
}

/// Cancels the task of a mount that has not ended: nobody needs it any more.
async fn stop_task(tx: &mut Tx, id: MountId, now: u64) -> Result<()> {
    let Some(task) = tx.mount(id, &EVERYTHING).await?.task else { return Ok(()) };
    match tx.task(task, &EVERYTHING).await {
        Ok(found) if !found.state.is_final() => tx.cancel(task, now).await.map(drop)?,
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

/// Writes down that a lease was over.
async fn note_end(tx: &mut Tx, mount: &Mount, now: u64) -> Result<()> {
    let (actor, project) = ("server".to_owned(), mount.new.project);
    let (object, detail) = (mount.id.to_string(), json!({}));
    let action = "mount.lease-over";
    tx.audit(AuditEntry { actor, action, object, project, detail }, now).await?;
    Ok(())
}

/// Notes that nothing of a mount is left.
async fn gone(tx: &mut Tx, id: MountId, from: &[MountState], why: &str, now: u64) -> Result<()> {
    if tx.change_mount(id, from, Gone, None, why, now).await? {
        stop_task(tx, id, now).await?;
        tx.remove_secrets(&id.to_string()).await?;
        let mount = tx.mount(id, &EVERYTHING).await?;
        discard(tx, &mount, now).await?;
    }
    Ok(())
}

/// Refuses a mount that can be written on a node that could not throw away what was written.
pub(crate) async fn check_writable(tx: &mut Tx, node: NodeId) -> Result<()> {
    let kinds = tx.get::<Node>(node, &EVERYTHING).await?.body.capabilities.kinds;
    if ["commit", "discard"].iter().all(|kind| kinds.iter().any(|known| known == kind)) {
        return Ok(());
    }
    let text = "this node makes no mounts that can be written: upgrade it";
    Err(Problem::new(StatusCode::CONFLICT, "no-node", text))
}

/// Adds the task that makes a restore point of what was written to a mount; its id.
pub(crate) async fn commit(tx: &mut Tx, mount: &Mount, now: u64) -> Result<TaskId> {
    let no = |text: &str| Problem::new(StatusCode::CONFLICT, "conflict", text);
    if !mount.new.spec.writable {
        return Err(no("nobody can write to this mount"));
    }
    if mount.state != Ready {
        return Err(no("this mount is not ready"));
    }
    let spec = TaskSpec::Commit { mount: mount.id.to_string() };
    let task = NewTask {
        // It is a backup of what was written.
        instance: Some(mount.new.instance),
        destination: Some(mount.new.destination),
        ..task(mount, &spec)
    };
    let id = tx.add_task(&task, now).await?;
    id.ok_or_else(|| no("this is done already"))
}

/// Adds the task that throws away what was written to a mount that has ended.
async fn discard(tx: &mut Tx, mount: &Mount, now: u64) -> Result<()> {
    let there = tx.liveness().await?.contains_key(&mount.new.node);
    if !mount.new.spec.writable || !there {
        return Ok(());
    }
    let spec = TaskSpec::Discard { mount: mount.id.to_string() };
    let task = NewTask {
        destination: Some(mount.new.destination),
        due_key: Some(format!("discard/{}", mount.id)),
        ..task(mount, &spec)
    };
    tx.add_task(&task, now).await?;
    Ok(())
}

/// A task's order as it is now: the lease has become shorter since it was added.
pub(crate) async fn refreshed(tx: &mut Tx, spec: TaskSpec, now: u64) -> Result<TaskSpec> {
    let TaskSpec::Mount { mount } = &spec else { return Ok(spec) };
    let Ok(id) = mount.id.parse() else { return Ok(spec) };
    let mount = tx.mount(id, &EVERYTHING).await?;
    Ok(TaskSpec::Mount { mount: order(&mount, now) })
}

/// A task of a mount has ended for good.
pub(crate) async fn task_ended(tx: &mut Tx, task: &Task, now: u64) -> Result<()> {
    let Ok(spec) = serde_json::from_value::<TaskSpec>(task.new.spec.clone()) else {
        return Ok(());
    };
    let done = matches!(task.state, TaskState::Succeeded | TaskState::Warnings);
    match spec {
        TaskSpec::Mount { mount } => {
            let Ok(id) = mount.id.parse::<MountId>() else { return Ok(()) };
            if done {
                let (from, place) = ([Requested, Failed], Some(&task.result));
                tx.change_mount(id, &from, Ready, place, "", now).await?;
            } else if task.state == TaskState::Failed {
                tx.change_mount(id, &[Requested], Failed, None, &task.message, now).await?;
            }
        }
        TaskSpec::Unmount { mount } if done => {
            let Ok(id) = mount.parse::<MountId>() else { return Ok(()) };
            gone(tx, id, &[Releasing], "", now).await?;
        }
        _ => {}
    }
    Ok(())
}

/// What a comparison calls for.
#[derive(Debug, Default, PartialEq)]
struct Decision {
    release: Vec<String>,
    renew: BTreeMap<String, u64>,
    /// Those whose secrets the node lacks.
    supply: Vec<MountId>,
    /// New states, from the one that was recorded, with what the node told.
    changes: Vec<(MountId, MountState, MountState, String)>,
    /// Those that the node has lost, and that are to come back.
    again: Vec<MountId>,
    /// Those whose address was taken, with what the node told of the new one.
    moved: Vec<(MountId, Value)>,
}

/// Compares what is recorded of a node with what it has.
fn decide(known: &[Mount], held: &[Held], now: u64) -> Decision {
    let mut decision = Decision::default();
    let mut has: BTreeMap<&str, &Held> = held.iter().map(|one| (one.mount.as_str(), one)).collect();
    for mount in known {
        let name = mount.id.to_string();
        let left = mount.new.lease_end_ms.saturating_sub(now);
        let mut change = |to, why: &str| {
            decision.changes.push((mount.id, mount.state, to, why.to_owned()));
        };
        match (mount.state, has.remove(name.as_str())) {
            (Requested, None) | (Gone, _) => {}
            (Releasing, None) => change(Gone, ""),
            (Releasing, Some(_)) => decision.release.push(name),
            (Ready | Failed, None) if left <= LAST_MS => change(Gone, OVER),
            (Ready, None) => decision.again.push(mount.id),
            (Failed, None) => {}
            (Requested | Ready | Failed, Some(_)) if left == 0 => {
                change(Releasing, OVER);
                decision.release.push(name);
            }
            (state, Some(held)) => {
                let to = match held.state {
                    HeldState::Running => Ready,
                    HeldState::Failed => Failed,
                    HeldState::Moving => state,
                };
                // What is requested is told of by its task.
                if state != Requested && (to != state || held.message != mount.message) {
                    change(to, &held.message);
                }
                let (before, after) = (addresses(&mount.place).0, addresses(&held.place).0);
                let runs = state == Ready && held.state == HeldState::Running;
                if runs && after.is_some() && before != after {
                    decision.moved.push((mount.id, held.place.clone()));
                }
                if held.needs_secrets {
                    decision.supply.push(mount.id);
                }
                if held.lease_ms.abs_diff(left) > SLACK_MS {
                    decision.renew.insert(name, left);
                }
            }
        }
    }
    // Nobody knows of those, or they are over here.
    decision.release.extend(has.into_keys().map(str::to_owned));
    decision
}

/// A node tells what it has, and is told what is to be otherwise.
pub(crate) async fn compare(
    State(shared): State<Shared>,
    NodeActor(node): NodeActor,
    Body(report): Body<MountReport>,
) -> Result<Json<MountOrders>> {
    let now = shared.now();
    let mut tx = shared.catalog.read().await?;
    let known = tx.mounts_of_node(node).await?;
    // What cannot be read stays as it is: it is known, and nobody knows until when.
    let unread: BTreeSet<&String> = known.unreadable.iter().map(|one| &one.id).collect();
    let held: Vec<Held> =
        report.held.into_iter().filter(|held| !unread.contains(&held.mount)).collect();
    let known = apart("mount", known);
    let decision = decide(&known, &held, now);
    let mut orders =
        MountOrders { release: decision.release, renew: decision.renew, ..MountOrders::default() };
    for mount in known.iter().filter(|mount| decision.supply.contains(&mount.id)) {
        orders.supply.insert(mount.id.to_string(), secrets(&shared, &mut tx, mount).await?);
    }
    drop(tx);
    if decision.changes.is_empty() && decision.again.is_empty() && decision.moved.is_empty() {
        return Ok(Json(orders));
    }
    let mut tx = shared.catalog.begin().await?;
    for (id, from, to, why) in &decision.changes {
        if let Some(mount) = known.iter().find(|mount| mount.id == *id && why == OVER) {
            note_end(&mut tx, mount, now).await?;
        }
        if *to == Gone {
            gone(&mut tx, *id, &[*from], why, now).await?;
        } else {
            tx.change_mount(*id, &[*from], *to, None, why, now).await?;
        }
    }
    for (id, place) in &decision.moved {
        let why = "its former address was taken, and it has another";
        if tx.change_mount(*id, &[Ready], Ready, Some(place), why, now).await?
            && let Some(mount) = known.iter().find(|mount| mount.id == *id)
        {
            let (from, to) = (addresses(&mount.place).0, addresses(place).0);
            let (actor, project) = ("server".to_owned(), mount.new.project);
            let (object, detail) = (id.to_string(), json!({"from": from, "to": to}));
            let action = "mount.moved";
            tx.audit(AuditEntry { actor, action, object, project, detail }, now).await?;
        }
    }
    for mount in known.iter().filter(|mount| decision.again.contains(&mount.id)) {
        let why = "the node has lost it, and makes it again";
        if tx.change_mount(mount.id, &[Ready], Requested, None, why, now).await? {
            start(&mut tx, mount, now).await?;
        }
    }
    tx.commit().await?;
    shared.work.notify_one();
    Ok(Json(orders))
}

/// The secrets that a mount is started with: those of its destination, and its own.
async fn secrets(shared: &Shared, tx: &mut Tx, mount: &Mount) -> Result<BTreeMap<String, String>> {
    let destination = mount.new.destination;
    let mut all = tx.secrets(&shared.sealer, &destination.to_string()).await?;
    if !tx.destination_is_trusted(destination).await? {
        all.retain(|name, _| destinations::is_for_projects(name));
    }
    all.extend(tx.secrets(&shared.sealer, &mount.id.to_string()).await?);
    Ok(all.into_iter().map(|(name, secret)| (name, secret.to_string())).collect())
}

/// Looks after mounts whose task has ended unheard, whose lease is over, or whose node is no more.
pub(crate) async fn settle(shared: &Shared, now: u64) -> Result<()> {
    let mut tx = shared.catalog.read().await?;
    let found = apart("mount", tx.mounts_to_settle(now).await?);
    if found.is_empty() {
        return Ok(());
    }
    let seen = tx.liveness().await?;
    drop(tx);
    let silent =
        |mount: &Mount| seen.get(&mount.new.node).map(|node| now.saturating_sub(node.last_seen_ms));
    // What a node is about to end is its own to tell of, for a while.
    let patient = |mount: &Mount| {
        let long = mount.new.lease_end_ms.saturating_add(SILENCE_MS) <= now;
        mount.state == Releasing && silent(mount).is_some_and(|silent| !long || silent < SILENCE_MS)
    };
    let found: Vec<_> = found.into_iter().filter(|mount| !patient(mount)).collect();
    if found.is_empty() {
        return Ok(());
    }
    let mut tx = shared.catalog.begin().await?;
    for mount in found {
        let part = tx.begin_part().await?;
        let settled = settle_one(&mut tx, &mount, silent(&mount).is_some(), now).await;
        match go_on(&format!("the mount {}", mount.id), settled)? {
            Some(()) => tx.end_part(part).await?,
            None => tx.undo_part(part).await?,
        }
    }
    tx.commit().await?;
    shared.work.notify_one();
    Ok(())
}

async fn settle_one(tx: &mut Tx, mount: &Mount, has_node: bool, now: u64) -> Result<()> {
    if !has_node {
        return gone(tx, mount.id, &[mount.state], "its node was removed", now).await;
    }
    if mount.state == Releasing {
        let why = "its node is silent; it ends mounts by itself when their leases are over";
        return gone(tx, mount.id, &[Releasing], why, now).await;
    }
    let over = mount.new.lease_end_ms <= now;
    if over {
        release(tx, mount, OVER, now).await?;
        return note_end(tx, mount, now).await;
    }
    let Some(id) = mount.task else { return Ok(()) };
    let task = match tx.task(id, &EVERYTHING).await {
        Ok(task) => task,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    match task.state {
        TaskState::Cancelled => release(tx, mount, "it was cancelled", now).await,
        state if state.is_final() => task_ended(tx, &task, now).await,
        _ => Ok(()),
    }
}

/// Refuses a node that makes no such mounts, or may not use their destination.
pub(crate) fn check_able(
    node: &Node,
    destination: DestinationId,
    protocol: MountProtocol,
) -> Result<()> {
    let no = |text: &str| Err(Problem::new(StatusCode::CONFLICT, "no-node", text));
    let may = node.destinations.as_ref().is_none_or(|list| list.contains(&destination));
    if !may || !node.capabilities.kinds.iter().any(|kind| kind == "mount") {
        return no("this node makes no mounts, or may not use the destination");
    }
    let (told, word) = (&node.capabilities.mounts, protocol.word());
    // Nodes of earlier releases tell no abilities.
    let says_nothing = told.is_empty() && node.capabilities.abilities.is_empty();
    let speaks = match says_nothing {
        true => FIRST_PROTOCOLS.contains(&word),
        false => told.iter().any(|one| one == word),
    };
    if speaks {
        return Ok(());
    }
    let about = format!("mounts by {word}: ");
    let why = node.capabilities.missing.iter().find_map(|text| text.strip_prefix(&about));
    let silent = "it has told of none yet; start it, or upgrade it";
    let why = why.unwrap_or(if says_nothing { silent } else { "upgrade it" });
    no(&format!("this node makes no mounts by {word}: {why}"))
}

/// What is told of a mount by http, with the token that opens it.
pub(crate) async fn opened(shared: &Shared, tx: &mut Tx, mut mount: Mount) -> Result<Mount> {
    let secrets = tx.secrets(&shared.sealer, &mount.id.to_string()).await?;
    if let Some(token) = secrets.get(HTTP_TOKEN) {
        put_token(&mut mount.place, token);
    }
    Ok(mount)
}

fn put_token(place: &mut Value, token: &str) {
    let put = |uri: &mut Value| {
        if let Some(text) = uri.as_str() {
            *uri = Value::from(text.replacen("/TOKEN/", &format!("/{token}/"), 1));
        }
    };
    if let Some(uri) = place.get_mut("uri") {
        put(uri);
    }
    let exports = place.get_mut("exports").and_then(Value::as_array_mut);
    exports.into_iter().flatten().filter_map(|one| one.get_mut("uri")).for_each(put);
}

/// The address of a mount and of each of its disks, as its node told them.
pub(crate) fn addresses(place: &Value) -> (Option<String>, Vec<(String, String)>) {
    let text = |value: &Value, name: &str| value[name].as_str().map(str::to_owned);
    let disks = place["exports"].as_array().or_else(|| place["luns"].as_array());
    let disk = |disk: &Value| Some((text(disk, "name")?, text(disk, "uri")?));
    (text(place, "uri"), disks.into_iter().flatten().filter_map(disk).collect())
}

#[cfg(test)]
mod tests;

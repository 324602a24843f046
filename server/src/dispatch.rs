//! What nodes are told, and what becomes of their reports.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::routing::post;
use axum::{Json, Router};
use jiff::Timestamp;
use serde_json::Value;
use sluice_catalog::{
    BackupType, BlockSize, Destination, DestinationId, Instance, InstanceId, Keep, NewPoint,
    NewTask, Node, NodeId, Point, Project, Record, Source, SourceImage, Task, TaskId, TaskState,
    Tx,
};
use sluice_node_api::{
    Ask, EVENTS, Finished, Hello, Lease, Outcome, OutputOrder, Report, Reported, TaskSpec, Work,
};
use sluice_scheduler::retry::{Attempts, ErrorClass, Retry, RetryPolicy};
use tokio::sync::oneshot;

use crate::allowance;
use crate::api::policies::EVERYTHING;
use crate::api::{Body, Path};
use crate::auth::NodeActor;
use crate::certificates::{self, capabilities};
use crate::complaint::go_on;
use crate::copies;
use crate::destinations;
use crate::documents;
use crate::events;
use crate::front_end;
use crate::inventories;
use crate::ledger;
use crate::looks;
use crate::mounts;
use crate::node_configs;
use crate::problem::{Problem, Result};
use crate::queue::Waiter;
use crate::reports::{self, Said};
use crate::restore_tests;
use crate::snapshots;
use crate::state::Shared;
use crate::upgrades;
use crate::verifications;

/// How long a node that asks for work is kept waiting.
const LEASE_WAIT: Duration = Duration::from_secs(20);
/// The most that a report may have, in bytes: a document that a node takes from a command, and as
/// much of a log as it keeps.
const LARGEST_REPORT: usize = 32 << 20;
/// Attempts of a prune that follows a backup.
const PRUNE_ATTEMPTS: u32 = 3;

/// The contract with nodes, version 1.
pub(crate) fn router() -> Router<Shared> {
    Router::new()
        .route("/api/node/v1/join", post(certificates::join))
        .route("/api/node/v1/certificate", post(certificates::certificate))
        .route("/api/node/v1/hello", post(hello))
        .route("/api/node/v1/standing", post(upgrades::standing))
        .route("/api/node/v1/lease", post(lease))
        .route(
            "/api/node/v1/tasks/{id}/report",
            post(report)
                .layer::<_, Infallible>(from_fn(reports::few_large))
                .layer(DefaultBodyLimit::max(LARGEST_REPORT)),
        )
        .route("/api/node/v1/mounts", post(mounts::compare))
        .route("/api/node/v1/looks", post(looks::wait))
        .route("/api/node/v1/looks/{id}", post(looks::answer))
}

/// A node begins: what it ran before is nobody's any more.
async fn hello(
    State(shared): State<Shared>,
    NodeActor(id): NodeActor,
    Body(hello): Body<Hello>,
) -> Result<Json<Value>> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let told = match capabilities(hello) {
        Ok(told) => told,
        Err(problem) => {
            upgrades::refused(&mut tx, id, &problem.detail, now).await?;
            tx.commit().await?;
            return Err(problem);
        }
    };
    let mut node = tx.get::<Node>(id, &EVERYTHING).await?;
    upgrades::begun(&mut tx, &mut node, told, now).await?;
    tx.update(&mut node, now).await?;
    tx.node_seen(id, now).await?;
    tx.reclaim_node(id, now).await?;
    tx.commit().await?;
    shared.work.notify_one();
    Ok(Json(Value::Null))
}

/// A node asks for a task, and is kept waiting for a while.
async fn lease(
    State(shared): State<Shared>,
    NodeActor(node): NodeActor,
    Body(ask): Body<Option<Ask>>,
) -> Result<Json<Option<Lease>>> {
    reports::note(&shared, node, Said::Here).await?;
    let kinds = ask.and_then(|ask| ask.kinds).map(|kinds| kinds.into_iter().collect());
    let (answer, mut told) = oneshot::channel();
    let waiter = Waiter { node, kinds, answer };
    let begun = Instant::now();
    shared.waiters.lock().unwrap_or_else(|e| e.into_inner()).push(waiter);
    shared.work.notify_one();
    let lease = match tokio::time::timeout(LEASE_WAIT, &mut told).await {
        Ok(lease) => lease.ok(),
        Err(_) => {
            told.close();
            told.try_recv().ok()
        }
    };
    let waited_ms = u64::try_from(begun.elapsed().as_millis()).ok();
    Ok(Json(lease.map(|lease| Lease { waited_ms, ..lease })))
}

/// What a node needs for a task: the repository and its secrets.
pub(crate) async fn work(shared: &Shared, tx: &mut Tx, task: &Task, node: NodeId) -> Result<Work> {
    let mut spec = serde_json::from_value(task.new.spec.clone())
        .map_err(|_| Problem::invalid("this task was made by another release"))?;
    if let TaskSpec::Unmount { .. } = &spec {
        return Ok(Work { spec, ..Work::without_repository() });
    }
    if let TaskSpec::Inventory { look } = &spec {
        return inventories::work(tx, look, node).await;
    }
    if let TaskSpec::Script { script } = &spec {
        let environment = script.variables.clone();
        return Ok(Work { spec, environment, ..Work::without_repository() });
    }
    if let TaskSpec::Snapshot { .. } | TaskSpec::Unsnapshot { .. } | TaskSpec::Unimport { .. } =
        &spec
    {
        let mut work = Work { spec, ..Work::without_repository() };
        node_configs::apply(tx, node, task, &mut work).await?;
        return Ok(work);
    }
    snapshots::of_kept(tx, &mut spec).await?;
    // Policies may have changed since the backup that it follows.
    if let TaskSpec::Prune { keep, until, .. } = &mut spec
        && let Some(destination) = task.new.destination
    {
        if let (Some(_), Some(instance)) = (task.new.policy, task.new.instance) {
            let wanted = kept(tx, instance, destination).await?.ok_or_else(|| {
                let text = "nothing is pruned: its policies keep everything now";
                Problem::new(StatusCode::CONFLICT, "moot", text)
            })?;
            (*keep, *until) = events::told(tx, instance, &wanted).await?;
        } else if let Some(held) = events::held(tx, destination, shared.now()).await? {
            keep.insert(EVENTS.to_owned(), 1);
            *until = Some(held);
        }
    }
    // What a prune has removed meanwhile needs no proof.
    if let TaskSpec::Verify { point: Some(name), .. } = &spec
        && let Some(destination) = task.new.destination
        && let Some(point) = tx.point_named(destination, name).await?
        && point.removed_ms.is_some()
    {
        let text = "nothing is verified: the restore point is gone";
        return Err(Problem::new(StatusCode::CONFLICT, "moot", text));
    }
    // Whoever tried it before may have died after it was made, and before it could tell.
    if let TaskSpec::Backup { task: by, again, allowance: most, .. } = &mut spec {
        *by = Some(task.id.to_string());
        *again = task.attempt > 1;
        *most = allowance::at_first(tx, task).await?;
    }
    let mut spec = mounts::refreshed(tx, spec, shared.now()).await?;
    let mut id = task.new.destination.ok_or_else(|| Problem::not_found("destination"))?;
    if let Some(point) = copies::where_to_read(tx, task, node).await? {
        id = point.new.destination;
        read_at(tx, &mut spec, &point).await?;
        let name = tx.get::<Destination>(id, &EVERYTHING).await?.name;
        let line = format!("{} is read at {name}", point.new.point);
        tx.log(task.id, task.attempt, &[("info".to_owned(), line)], shared.now()).await?;
    }
    if let TaskSpec::Replicate { .. } = &spec {
        destinations::check_replica(task)?;
    }
    let (others, mut identity) = copies::complete(shared, tx, task, &mut spec).await?;
    let destination = tx.get::<Destination>(id, &EVERYTHING).await?.body;
    let mut environment: BTreeMap<String, String> = destination.environment;
    let mut secret_names = Vec::new();
    for (name, secret) in tx.secrets(&shared.sealer, &id.to_string()).await? {
        secret_names.push(name.clone());
        environment.insert(name, secret.to_string());
    }
    identity &= destinations::check_task(tx, id, &destination.url, &environment).await?;
    if let TaskSpec::Mount { mount } = &spec {
        for (name, secret) in tx.secrets(&shared.sealer, &mount.id).await? {
            secret_names.push(name.clone());
            environment.insert(name, secret.to_string());
        }
    }
    secret_names.extend(others.keys().cloned());
    environment.extend(others);
    let url = destination.url;
    let from = task.from.map(|from| format!("-{from}")).unwrap_or_default();
    let mut work = Work {
        destination: format!("{id}{from}"),
        spec,
        url,
        environment,
        secret_names,
        no_identity: !identity,
        ..Work::without_repository()
    };
    node_configs::apply(tx, node, task, &mut work).await?;
    Ok(work)
}

/// Lets a task read what another destination holds of the same.
async fn read_at(tx: &mut Tx, spec: &mut TaskSpec, at: &Point) -> Result<()> {
    match spec {
        TaskSpec::Restore { point, .. } | TaskSpec::Import { point, .. } => {
            point.clone_from(&at.new.point);
        }
        TaskSpec::Mount { mount } => {
            mount.point.clone_from(&at.new.point);
            if let Ok(id) = mount.id.parse() {
                tx.move_mount(id, at).await?;
            }
        }
        _ => {}
    }
    Ok(())
}

async fn report(
    State(shared): State<Shared>,
    NodeActor(node): NodeActor,
    Path(id): Path<TaskId>,
    Body(report): Body<Report>,
) -> Result<Json<Reported>> {
    Ok(Json(reports::note(&shared, node, Said::Report(id, Box::new(report))).await?))
}

/// Ends an attempt, with all that follows from it.
pub(crate) async fn finish(
    tx: &mut Tx,
    lease: (TaskId, NodeId, u32),
    finished: &Finished,
    now: u64,
) -> Result<()> {
    let mut state = match finished.outcome {
        Outcome::Succeeded => TaskState::Succeeded,
        Outcome::Warnings => TaskState::Warnings,
        Outcome::Failed => TaskState::Failed,
        Outcome::Cancelled => TaskState::Cancelled,
    };
    let class = match finished.retryable {
        true => ErrorClass::Transient,
        false => ErrorClass::Configuration,
    };
    let mut retry = retry_at(lease, class, now);
    let mut message = finished.message.clone();
    let task = tx.task(lease.0, &EVERYTHING).await?;
    if state == TaskState::Failed {
        // What fails here may be found elsewhere, and at once.
        if copies::has_another(tx, &task).await? {
            retry = Some(now);
        }
        if let Some(why) = allowance::refused(tx, &task, finished, now).await? {
            message = why;
        }
    }
    if matches!(state, TaskState::Failed | TaskState::Cancelled)
        && let Some(why) = front_end::refused(tx, lease.0).await?
    {
        (state, message) = (TaskState::Failed, why);
    }
    let stripped = restore_tests::without_evidence(&finished.document);
    let mut kept = documents::kept(&task.new.kind, stripped);
    let done = matches!(state, TaskState::Succeeded | TaskState::Warnings);
    if task.new.kind == "inventory" && done {
        let end = inventories::looked(tx, &task, &finished.document, now).await?;
        (state, kept, message) = (end.state, end.document, end.message);
        retry = end.again.then_some(now);
    }
    let state = tx.finish(lease, state, &kept, &message, retry, now).await?;
    let task = tx.task(lease.0, &EVERYTHING).await?;
    if state.is_final() {
        mounts::task_ended(tx, &task, now).await?;
        restore_tests::task_ended(tx, &task, &finished.document, now).await?;
        if task.new.kind == "verify" {
            verifications::ended(tx, &task, &finished.document, now).await?;
        }
        snapshots::task_ended(tx, &task, &finished.document, now).await?;
    }
    if !matches!(state, TaskState::Succeeded | TaskState::Warnings) {
        return Ok(());
    }
    // What follows from it follows from all that was told.
    let task = Task { result: finished.document.clone(), ..task };
    ledger::moved(tx, &task, now).await?;
    match task.new.kind.as_str() {
        "backup" | "commit" => backed_up(tx, &task, now).await,
        "prune" => pruned(tx, &task, now).await,
        "copy" => copies::copied(tx, &task, now).await,
        "collect" => allowance::collected(tx, &task).await,
        "stat" => ledger::counted(tx, &task, now).await,
        _ => Ok(()),
    }
}

/// When a task whose attempt failed is tried again. How often it may be is the task's own.
fn retry_at((task, _, attempt): (TaskId, NodeId, u32), class: ErrorClass, now: u64) -> Option<u64> {
    let policy = RetryPolicy { max_attempts: u32::MAX, ..RetryPolicy::default() };
    let attempts = Attempts { failed: attempt, lost: 0 };
    let at = Timestamp::from_millisecond(i64::try_from(now).ok()?).ok()?;
    let id = task.to_string();
    let seed = id.bytes().fold(0u64, |seed, byte| seed.wrapping_mul(31) ^ u64::from(byte));
    match policy.after(class, attempts, at, seed) {
        Retry::At(at) => u64::try_from(at.as_millisecond()).ok(),
        Retry::GiveUp(_) => None,
    }
}

/// A restore point was made: it is noted, and what the rule does not keep is to go.
async fn backed_up(tx: &mut Tx, task: &Task, now: u64) -> Result<()> {
    let (Some(instance), Some(destination)) = (task.new.instance, task.new.destination) else {
        return Ok(());
    };
    let point = &task.result["point"];
    let Some(name) = point["point"].as_str() else { return Ok(()) };
    let bytes = |name: &str| point["stats"][name].as_u64().unwrap_or(0);
    let made_ms = point["created_ms"].as_u64().unwrap_or(now);
    // What it holds is not newer than the snapshot that it was made from.
    let held_ms = snapshots::moment(tx, task).await?.unwrap_or(made_ms);
    let new = NewPoint {
        destination,
        task: Some(task.id),
        point: name.to_owned(),
        taken_ms: made_ms.min(held_ms),
        image_bytes: bytes("image_bytes"),
        new_bytes: bytes("new_bytes"),
        stored_bytes: bytes("stored_bytes"),
    };
    tx.add_point(instance, task.new.project, &new, now).await?;
    if let Some(backup_type) = verifications::type_told(point) {
        tx.set_backup_type(destination, name, backup_type).await?;
    }
    ledger::grown(tx, instance, &new, task, now).await?;
    allowance::became_point(tx, task).await?;
    // The point is there, whatever hinders what follows from it.
    let copied = copies::after_backup(tx, task, now).await;
    go_on(&format!("copies of instance {instance}"), copied)?;
    let verified = verifications::after(tx, task, &[name], now).await;
    go_on(&format!("verifications of instance {instance}"), verified)?;
    if task.new.policy.is_none() {
        return Ok(());
    }
    let keep = kept(tx, instance, destination).await;
    let keep = go_on(&format!("the retention of instance {instance}"), keep)?.flatten();
    let Some(keep) = keep else { return Ok(()) };
    let Some(chain) = name.split('@').next() else { return Ok(()) };
    let spec =
        TaskSpec::Prune { instance: Some(chain.to_owned()), keep: periods(&keep), until: None };
    let prune = NewTask {
        kind: spec.kind().to_owned(),
        due_key: None,
        wanted_node: None,
        max_attempts: PRUNE_ATTEMPTS,
        not_before_ms: 0,
        spec: serde_json::to_value(&spec).unwrap_or_default(),
        ..task.new.clone()
    };
    tx.add_task(&prune, now).await?;
    Ok(())
}

/// What is kept of an instance at a destination: what any rule of any policy that applies to it
/// keeps there. Nothing when that is everything, or when no rule says anything.
pub(crate) async fn kept(
    tx: &mut Tx,
    instance: InstanceId,
    destination: DestinationId,
) -> Result<Option<Keep>> {
    let instance = tx.get::<Instance>(instance, &EVERYTHING).await?;
    let url = tx.get::<Destination>(destination, &EVERYTHING).await?.body.url;
    let mut keep: Option<Keep> = None;
    for policy in tx.policies_of(&instance).await? {
        for (at, wanted) in policy.body.keeps() {
            // The same repository may be known as two destinations.
            let same =
                at == destination || tx.get::<Destination>(at, &EVERYTHING).await?.body.url == url;
            if same {
                keep = Some(match keep {
                    Some(keep) => keep.union(wanted),
                    None => wanted,
                });
            }
        }
    }
    Ok(keep.filter(|keep| !keep.is_everything()))
}

/// What is kept of each period, by the names of `sluice prune`.
pub(crate) fn periods(keep: &Keep) -> BTreeMap<String, u32> {
    let Keep { last, hourly, daily, weekly, monthly, yearly, within_hours, after_event: _ } = *keep;
    let all = [
        ("last", last),
        ("hourly", hourly),
        ("daily", daily),
        ("weekly", weekly),
        ("monthly", monthly),
        ("yearly", yearly),
        ("within_hours", within_hours),
    ];
    let set = all.into_iter().filter(|(_, many)| *many > 0);
    set.map(|(name, many)| (name.to_owned(), many)).collect()
}

/// What a prune removed is noted. Somebody who died may have removed more before, without being
/// able to tell: of all points that it looked at, only those are there that it kept.
async fn pruned(tx: &mut Tx, task: &Task, now: u64) -> Result<()> {
    let Some(destination) = task.new.destination else { return Ok(()) };
    let points = task.result["points"].as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |point: &Value| {
        let name = point["point"].as_str().map(str::to_owned);
        let parts = || Some(format!("{}@{}", point["instance"].as_str()?, point["id"].as_str()?));
        name.or_else(parts)
    };
    let chosen = |keep: bool| points.iter().filter(move |point| point["keep"] == keep);
    // Nodes of earlier releases tell each point by itself.
    let gone = chosen(false).filter_map(name).chain(by_instance(&task.result["gone"]));
    let gone: Vec<String> = gone.collect();
    let left = chosen(true).filter_map(name).chain(by_instance(&task.result["left"]));
    let left: BTreeSet<String> = left.collect();
    let mut many = tx.points_removed(destination, &gone, now).await?;
    // With warnings, some could not be read: they were neither kept nor removed.
    if task.state == TaskState::Succeeded {
        let before = task.started_ms.unwrap_or(0);
        many += tx.points_left((destination, task.new.instance), &left, before, now).await?;
    }
    if many > 0 {
        ledger::shrunk(tx, task, now).await?;
    }
    Ok(())
}

/// Restore points whose ids are told instance by instance.
pub(crate) fn by_instance(told: &Value) -> impl Iterator<Item = String> {
    let instances = told.as_object().into_iter().flatten();
    instances.flat_map(|(instance, ids)| {
        let ids = ids.as_array().into_iter().flatten().filter_map(Value::as_str);
        ids.map(move |id| format!("{instance}@{id}"))
    })
}

/// What a node does to back up an instance.
pub(crate) async fn backup_spec(
    tx: &mut Tx,
    instance: &Record<Instance>,
    backup_type: BackupType,
) -> Result<TaskSpec> {
    let id = instance.project.ok_or_else(|| Problem::not_found("project"))?;
    let project = tx.get::<Project>(id, &EVERYTHING).await?.name;
    let image = |image: &SourceImage| match &image.name {
        Some(name) => format!("{name}={}", image.path),
        None => image.path.clone(),
    };
    let (mut images, mut folder, mut outputs) = (Vec::new(), None, Vec::new());
    match &instance.body.source {
        Source::DiskFiles { images: files } => images.extend(files.iter().map(image)),
        Source::Device { path } => images.push(path.clone()),
        Source::Folder { path } => folder = Some(path.clone()),
        Source::Command { command, name } => {
            outputs.push(OutputOrder { name: name.clone(), command: command.clone() });
        }
    }
    let name = ledger::name(tx, instance).await?;
    Ok(TaskSpec::Backup {
        instance: name,
        images,
        folder,
        outputs,
        project: Some(project),
        task: None,
        again: false,
        allowance: None,
        full: backup_type == BackupType::Full,
        no_hooks: false,
        snapshot: None,
        block_size: instance.body.block_size.map(BlockSize::bytes),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_grows_with_each_attempt_and_what_cannot_pass_has_none() {
        let lease = |attempt| (TaskId::new(1), NodeId::new(1), attempt);
        let at = |attempt| retry_at(lease(attempt), ErrorClass::Transient, 1_000_000).unwrap();
        // A minute, give or take a fifth, and twice as long each time, an hour at most.
        assert!((1_048_000..=1_072_000).contains(&at(1)), "{}", at(1));
        assert!((1_096_000..=1_144_000).contains(&at(2)), "{}", at(2));
        assert!((3_880_000..=5_320_000).contains(&at(30)), "{}", at(30));
        assert_eq!(retry_at(lease(1), ErrorClass::Configuration, 1_000_000), None);
    }
}

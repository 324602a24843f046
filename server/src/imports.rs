//! Imports: restore points become new instances, as image files in a folder of a node.
//!
//! ```text
//!   asked ─► instance, absent and paused ─► task import ─► the instance is there
//!                                              │ failed, cancelled
//!                                              └─► no instance, task unimport
//! ```
//!
//! A record that somebody has made something else of meanwhile, or that something needs, stays.
//!
//! The record comes first: it holds the name. What became of the task is looked at each second, so
//! it does not matter who died before it could tell.

use std::collections::BTreeSet;

use axum::http::StatusCode;
use serde_json::json;
use sluice_catalog::{
    AuditEntry, ErrorKind, Import, Instance, InstanceId, NewTask, Node, NodeConfig, NodeId,
    Project, Source, Task, TaskId, TaskState, Tx,
};
use sluice_node_api::{ImportOrder, TaskSpec, Work};

use crate::access::{At, Permission};
use crate::api::policies::EVERYTHING;
use crate::api::tasks::Start;
use crate::auth::Actor;
use crate::complaint::{apart, go_on};
use crate::node_configs::Configs;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// Imports go before what is due, as restores do.
const PRIORITY: u32 = 60;
/// Attempts of an import, and of removing what one has left.
const ATTEMPTS: u32 = 5;
/// The kind of task that a node knows which can import.
const KIND: &str = "import";

/// An instance that is to be.
pub(crate) struct Planned {
    instance: InstanceId,
    tags: BTreeSet<String>,
}

fn no(text: String) -> Problem {
    Problem::new(StatusCode::CONFLICT, "no-imports", text)
}

/// The folder in which images of a project may be made on a node.
fn folder(config: &NodeConfig, project: &str, node: &str) -> Result<String> {
    let first = config.import_folders.first();
    first.map(|one| one.replace("{project}", project)).ok_or_else(|| {
        no(format!(
            "no instances are made on {node}: an administrator names a folder in the node's \
             configuration (import_folders)"
        ))
    })
}

/// Makes the instance that somebody wants of a restore point, which nobody backs up yet, and its
/// task. Nothing when something else is to be started.
pub(crate) async fn wanted(
    tx: &mut Tx,
    actor: &Actor,
    start: &Start,
    now: u64,
) -> Result<Option<(NewTask, Planned)>> {
    let Start::Import { point, node, name, project, format, tags } = start else {
        return Ok(None);
    };
    let point = tx.point(*point, &actor.visible()).await?;
    actor.require(Permission::Operate, At::instance(point.project, point.instance))?;
    let project = project.or(point.project).ok_or_else(|| Problem::not_found("project"))?;
    let project = tx.get::<Project>(project, &actor.visible()).await?;
    actor.require(Permission::Manage, Some(project.id))?;
    if tx.find::<Instance>(Some(project.id), name).await?.is_some() {
        let text = format!("there is an instance {name} already: name another");
        return Err(Problem::new(StatusCode::CONFLICT, "conflict", text));
    }
    if tags.len() > 100 || tags.iter().any(|tag| tag.is_empty() || tag.len() > 128) {
        return Err(Problem::invalid("a tag has 1 to 128 bytes, and there are at most 100"));
    }
    // It names a folder.
    if name.starts_with('.') || name.contains('/') {
        return Err(Problem::invalid("what is imported has no name with / or a dot before it"));
    }
    let folder = folder_on(tx, *node, &project.name).await?;
    let body = Instance {
        description: format!("made of {}", point.new.point),
        source: Source::Folder { path: format!("{folder}/{name}") },
        tags: BTreeSet::new(),
        node: Some(*node),
        manager: None,
        cluster: None,
        host: None,
        paused: true,
        present: false,
        block_size: None,
    };
    let instance = tx.insert(Some(project.id), name, body, now).await?;
    let import = ImportOrder { folder, name: name.clone(), id: instance.id.to_string() };
    let format = format.map(|format| format.word().to_owned());
    let spec = TaskSpec::Import { point: point.new.point, import, format };
    let task = NewTask {
        project: Some(project.id),
        instance: Some(instance.id),
        policy: None,
        destination: Some(point.new.destination),
        wanted_node: Some(*node),
        kind: spec.kind().to_owned(),
        priority: PRIORITY,
        due_key: None,
        max_attempts: ATTEMPTS,
        not_before_ms: 0,
        spec: serde_json::to_value(&spec).unwrap_or_default(),
    };
    Ok(Some((task, Planned { instance: instance.id, tags: tags.clone() })))
}

/// Where a node makes images of a project, if it can.
async fn folder_on(tx: &mut Tx, node: NodeId, project: &str) -> Result<String> {
    let node = tx.get::<Node>(node, &EVERYTHING).await?;
    if !node.body.capabilities.kinds.iter().any(|kind| kind == KIND) {
        return Err(no(format!("{} makes no instances: upgrade it", node.name)));
    }
    let configs = Configs::load(tx).await?;
    let config = configs.of(&node.body).cloned().unwrap_or_default();
    folder(&config, project, &node.name)
}

/// Notes that a task makes an instance.
pub(crate) async fn begun(tx: &mut Tx, task: TaskId, planned: Planned) -> Result<()> {
    let Planned { instance, tags } = planned;
    Ok(tx.add_import(&Import { task, instance, tags }).await?)
}

/// Refuses an import where its folder is not allowed any more.
pub(crate) async fn check(
    tx: &mut Tx,
    config: &NodeConfig,
    task: &Task,
    work: &Work,
) -> Result<()> {
    let TaskSpec::Import { import, .. } = &work.spec else { return Ok(()) };
    let name = match task.new.project {
        Some(id) => tx.get::<Project>(id, &EVERYTHING).await?.name,
        None => String::new(),
    };
    let allowed = config.import_folders.iter().map(|one| one.replace("{project}", &name));
    match allowed.into_iter().any(|one| one == import.folder) {
        true => Ok(()),
        false => Err(no(format!("no instances are made in {} any more", import.folder))),
    }
}

/// Notes what became of imports whose task has ended.
pub(crate) async fn settle(shared: &Shared, now: u64) -> Result<()> {
    let found = apart("import", shared.catalog.read().await?.imports_to_settle().await?);
    if found.is_empty() {
        return Ok(());
    }
    let mut tx = shared.catalog.begin().await?;
    tx.decide_alone().await?;
    for import in found {
        let part = tx.begin_part().await?;
        let settled = settle_one(&mut tx, &import, now).await;
        match go_on(&format!("the import {}", import.task), settled)? {
            Some(()) => tx.end_part(part).await?,
            None => tx.undo_part(part).await?,
        }
    }
    tx.commit().await?;
    shared.work.notify_one();
    Ok(())
}

async fn settle_one(tx: &mut Tx, import: &Import, now: u64) -> Result<()> {
    if !tx.import_settled(import.task).await? {
        return Ok(());
    }
    let task = match tx.task(import.task, &EVERYTHING).await {
        Ok(task) => Some(task),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error.into()),
    };
    let done = |task: &Task| matches!(task.state, TaskState::Succeeded | TaskState::Warnings);
    if let Some(task) = task.as_ref().filter(|task| done(task)) {
        return arrived(tx, import, task, now).await;
    }
    let order = task.as_ref().and_then(order);
    came_to_nothing(tx, import.instance, order.as_ref(), now).await?;
    // Nothing is left of one that nobody has begun.
    let (Some(task), Some(import)) = (task, order) else { return Ok(()) };
    let begun = task.node.or(task.new.wanted_node.filter(|_| task.attempt > 0));
    let Some(node) = begun else { return Ok(()) };
    let spec = TaskSpec::Unimport { import };
    let remove = NewTask {
        destination: None,
        wanted_node: Some(node),
        kind: spec.kind().to_owned(),
        max_attempts: ATTEMPTS,
        not_before_ms: 0,
        spec: serde_json::to_value(&spec).unwrap_or_default(),
        ..task.new
    };
    tx.add_task(&remove, now).await?;
    Ok(())
}

/// What a task imports, and to where.
fn order(task: &Task) -> Option<ImportOrder> {
    match serde_json::from_value(task.new.spec.clone()) {
        Ok(TaskSpec::Import { import, .. }) => Some(import),
        _ => None,
    }
}

/// Where the images of an import lie.
fn made_of(order: &ImportOrder) -> Source {
    Source::Folder { path: format!("{}/{}", order.folder, order.name) }
}

/// There are no images: nor is there an instance. One that somebody gave other images is theirs,
/// and one that something needs stays without any.
async fn came_to_nothing(
    tx: &mut Tx,
    id: InstanceId,
    order: Option<&ImportOrder>,
    now: u64,
) -> Result<()> {
    let mut instance = match tx.get::<Instance>(id, &EVERYTHING).await {
        Ok(instance) => instance,
        // Of one that cannot be read nobody can say whose it is.
        Err(error) if [ErrorKind::NotFound, ErrorKind::Damaged].contains(&error.kind()) => {
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let as_made = order.is_some_and(|order| instance.body.source == made_of(order));
    let kept_because = match as_made {
        true => match tx.refuse_if_used(&instance, &EVERYTHING).await {
            Ok(()) => return Ok(tx.delete::<Instance>(id).await?),
            Err(error) if error.kind() == ErrorKind::Conflict => error.to_string(),
            Err(error) => return Err(error.into()),
        },
        false => "it has another source now".to_owned(),
    };
    if as_made && (instance.body.present || !instance.body.paused) {
        (instance.body.present, instance.body.paused) = (false, true);
        tx.update(&mut instance, now).await?;
    }
    let entry = AuditEntry {
        actor: "server".to_owned(),
        action: "instance.import-failed",
        object: id.to_string(),
        project: instance.project,
        detail: json!({"name": instance.name, "kept_because": kept_because}),
    };
    tx.audit(entry, now).await?;
    Ok(())
}

/// The images are there: the instance is what it was to be.
async fn arrived(tx: &mut Tx, import: &Import, task: &Task, now: u64) -> Result<()> {
    let mut instance = match tx.get::<Instance>(import.instance, &EVERYTHING).await {
        Ok(instance) => instance,
        // Somebody has removed the record meanwhile; the images are theirs to look after.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    (instance.body.present, instance.body.paused) = (true, false);
    instance.body.tags.extend(import.tags.iter().cloned());
    tx.update(&mut instance, now).await?;
    // Its images were put where an administrator lets them be. What somebody made of the record
    // meanwhile is theirs to be allowed.
    if let Some(order) = order(task)
        && instance.body.source == made_of(&order)
        && instance.body.node == task.new.wanted_node
    {
        tx.trust_source_within(instance.id, &order.folder).await?;
    }
    let entry = AuditEntry {
        actor: "server".to_owned(),
        action: "instance.imported",
        object: instance.id.to_string(),
        project: instance.project,
        detail: json!({"name": instance.name}),
    };
    tx.audit(entry, now).await?;
    Ok(())
}

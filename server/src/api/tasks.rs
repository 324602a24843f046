//! Tasks: started by hand, watched, cancelled.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive, Sse};
use futures::Stream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_catalog::{
    BackupType, Destination, DestinationId, Instance, InstanceId, LogLine, NewTask, Node, NodeId,
    PointId, PolicyId, Progress, ProjectId, Record, SnapshotId, Task, TaskFilter, TaskId,
    TaskState, Tx, Visible,
};
use sluice_node_api::TaskSpec;
use sluice_scheduler::queue::Hold;
use utoipa::ToSchema;

use crate::access::{At, Permission};
use crate::api::policies::EVERYTHING;
use crate::api::policies::check_usable;
use crate::api::query::{LogQuery, Order, TaskQuery, span};
use crate::api::{Body, List, Path, Query, most, page};
use crate::auth::{self, Actor};
use crate::destinations;
use crate::dispatch::backup_spec;
use crate::imports;
use crate::ledger;
use crate::placement;
use crate::problem::{Problem, Result};
use crate::queue;
use crate::quota::{self, Quotas};
use crate::snapshots;
use crate::state::Shared;
use crate::watchers::Watcher;

/// How often a watched task is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How often is looked whether somebody may still watch.
const JUDGE: Duration = Duration::from_secs(10);
/// Attempts of a task that was started by hand.
const ATTEMPTS: u32 = 2;

/// A task.
#[derive(Serialize, ToSchema)]
pub(crate) struct TaskView {
    id: TaskId,
    kind: String,
    /// What a backup takes for granted.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    backup_type: Option<BackupType>,
    state: TaskState,
    project: Option<ProjectId>,
    instance: Option<InstanceId>,
    policy: Option<PolicyId>,
    destination: Option<DestinationId>,
    /// Where it reads beside that, when it copies.
    from: Option<DestinationId>,
    node: Option<NodeId>,
    priority: u32,
    attempt: u32,
    max_attempts: u32,
    not_before_ms: u64,
    created_ms: u64,
    started_ms: Option<u64>,
    finished_ms: Option<u64>,
    cancel_requested: bool,
    revision: u64,
    progress: Progress,
    /// What is kept of the document that the command printed, when one task is read; null in lists.
    result: Value,
    /// Why it is in this state.
    message: String,
    /// What it waits for, when one task is read.
    waits_for: Option<Hold>,
    /// The same in words: where no node can do it, what each of them lacks, for those who may know
    /// of nodes.
    waits_because: Option<String>,
}

impl From<Task> for TaskView {
    fn from(task: Task) -> Self {
        let full = task.new.spec["full"] == true;
        let of_backup = if full { BackupType::Full } else { BackupType::Incremental };
        Self {
            id: task.id,
            backup_type: (task.new.kind == "backup").then_some(of_backup),
            kind: task.new.kind,
            state: task.state,
            project: task.new.project,
            instance: task.new.instance,
            policy: task.new.policy,
            destination: task.new.destination,
            from: task.from,
            node: task.node,
            priority: task.new.priority,
            attempt: task.attempt,
            max_attempts: task.new.max_attempts,
            not_before_ms: task.new.not_before_ms,
            created_ms: task.created_ms,
            started_ms: task.started_ms,
            finished_ms: task.finished_ms,
            cancel_requested: task.cancel_requested,
            revision: task.revision,
            progress: task.progress,
            result: task.result,
            message: task.message,
            waits_for: None,
            waits_because: None,
        }
    }
}

/// In which format images of a new instance are made.
#[derive(Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum ImportFormat {
    /// The disk's bytes as they are, sparse.
    Raw,
    /// QEMU.
    Qcow2,
}

impl ImportFormat {
    /// Its word.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Qcow2 => "qcow2",
        }
    }
}

/// A task to start.
#[derive(Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Start {
    /// Back up an instance, with the commands that its policies have around backups.
    Backup {
        instance: InstanceId,
        destination: DestinationId,
        /// Whether those are left out.
        #[serde(default)]
        no_hooks: bool,
        /// What it takes for granted.
        #[serde(rename = "type", default)]
        backup_type: BackupType,
        /// Whether it is made from a snapshot that is made first and removed afterwards; as the
        /// rules for that destination say when it is not said.
        #[serde(default)]
        from_snapshot: Option<bool>,
        /// A snapshot of the instance that is there: it is made from that, without commands.
        #[serde(default)]
        snapshot: Option<SnapshotId>,
    },
    /// Write the images of a restore point to a file, device or folder of a node.
    Restore { point: PointId, node: NodeId, target: String },
    /// Make a new instance of a restore point: its images are written to a folder that the node's
    /// configuration has for that, over nothing that is there.
    Import {
        point: PointId,
        node: NodeId,
        /// What the new instance is called.
        name: String,
        /// Its project; that of the restore point when it is not said.
        #[serde(default)]
        project: Option<ProjectId>,
        /// `raw` or `qcow2`; raw when it is not said.
        #[serde(default)]
        format: Option<ImportFormat>,
        /// Words by which policies find it.
        #[serde(default)]
        tags: BTreeSet<String>,
    },
    /// Check a repository, with all data if wanted.
    Verify {
        destination: DestinationId,
        #[serde(default)]
        data: bool,
    },
    /// Remove restore points that nothing keeps: neither this nor, by policies, an event.
    Prune { destination: DestinationId, keep: BTreeMap<String, u32> },
    /// Free what no restore point needs.
    Collect { destination: DestinationId },
    /// Copy what another destination lacks of an instance's restore points.
    Copy { instance: InstanceId, destination: DestinationId, to: DestinationId },
    /// Bring a replica up to date.
    Replicate { destination: DestinationId, to: String },
}

/// List tasks, newest first
#[utoipa::path(get, path = "/api/v1/tasks", tag = "task", operation_id = "list-tasks",
    params(TaskQuery), responses(
    (status = 200, body = List<TaskView>), (status = "4XX", body = Problem)))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    actor: Actor,
    Query(query): Query<TaskQuery>,
) -> Result<Json<List<TaskView>>> {
    actor.require_anywhere(Permission::Read)?;
    let page = page(query.after, query.limit)?;
    let filter = TaskFilter {
        state: query.state,
        instance: query.instance,
        kind: query.kind,
        project: query.project,
        policy: query.policy,
        destination: query.destination,
        node: query.node,
        added: span(query.since_ms, query.until_ms)?,
        oldest_first: query.order == Some(Order::Oldest),
    };
    let mut tx = shared.catalog.read().await?;
    let found = tx.tasks_found(&actor.visible(), &filter, &page).await?;
    Ok(Json(List::found("task", found, |task| Ok(task.into()))))
}

/// The task that was asked for, if the caller may start it; `from` is where it reads beside its
/// destination.
async fn prepared(
    tx: &mut Tx,
    actor: &Actor,
    start: Start,
    from: &mut Option<DestinationId>,
) -> Result<NewTask> {
    let mut task = NewTask {
        project: None,
        instance: None,
        policy: None,
        destination: None,
        wanted_node: None,
        kind: String::new(),
        priority: 60,
        due_key: None,
        max_attempts: ATTEMPTS,
        not_before_ms: 0,
        spec: Value::Null,
    };
    let visible = actor.visible();
    let spec = match start {
        Start::Backup {
            instance,
            destination,
            no_hooks: left_out,
            from_snapshot,
            snapshot: kept,
            backup_type,
        } => {
            let instance = tx.get::<Instance>(instance, &visible).await?;
            actor.require(Permission::Operate, &instance)?;
            let destination = tx.get::<Destination>(destination, &visible).await?;
            check_usable(actor, &destination, instance.project)?;
            (task.project, task.instance) = (instance.project, Some(instance.id));
            task.destination = Some(destination.id);
            let from = (kept, from_snapshot);
            let (from, node) = snapshots::chosen(tx, &instance, destination.id, from).await?;
            task.wanted_node = node;
            let mut spec = backup_spec(tx, &instance, backup_type).await?;
            if let TaskSpec::Backup { no_hooks, snapshot, .. } = &mut spec {
                *no_hooks = left_out || kept.is_some();
                *snapshot = from;
            }
            spec
        }
        Start::Copy { instance, destination, to } => {
            let instance = tx.get::<Instance>(instance, &visible).await?;
            actor.require(Permission::Operate, &instance)?;
            for id in [destination, to] {
                let found = tx.get::<Destination>(id, &visible).await?;
                check_usable(actor, &found, instance.project)?;
            }
            if destination == to {
                return Err(Problem::invalid("a copy goes to another destination"));
            }
            (task.project, task.instance) = (instance.project, Some(instance.id));
            task.destination = Some(to);
            let instance = ledger::name(tx, &instance).await?;
            *from = Some(destination);
            TaskSpec::Copy { instance, from: String::new(), keep: BTreeMap::new() }
        }
        Start::Restore { point, node, target } => {
            let point = tx.point(point, &visible).await?;
            actor.require(Permission::Operate, At::instance(point.project, point.instance))?;
            // It writes to a path of the node, which may be anybody's.
            actor.require(Permission::Operate, At::node(node))?;
            tx.get::<Node>(node, &EVERYTHING).await?;
            if !target.starts_with('/') {
                return Err(Problem::invalid("a target is an absolute path"));
            }
            (task.project, task.instance) = (point.project, Some(point.instance));
            (task.destination, task.wanted_node) = (Some(point.new.destination), Some(node));
            TaskSpec::Restore { point: point.new.point, target, format: None, overwrite: false }
        }
        // It was prepared by [`imports::wanted`], with the instance that it makes.
        Start::Import { .. } => return Err(Problem::not_found("kind of task")),
        Start::Verify { destination, data } => {
            own(tx, actor, &mut task, destination, Permission::Operate).await?;
            TaskSpec::Verify { point: None, instance: None, sample: None, data }
        }
        Start::Prune { destination, keep } => {
            let found = own(tx, actor, &mut task, destination, Permission::Manage).await?;
            destinations::check_shared(tx, actor, &found, Permission::Manage).await?;
            let known = ["last", "hourly", "daily", "weekly", "monthly", "yearly"];
            let fits = keep.keys().all(|period| known.contains(&period.as_str()))
                && keep.values().any(|many| *many > 0);
            if !fits {
                let text = format!("a prune keeps something of: {}", known.join(", "));
                return Err(Problem::invalid(text));
            }
            TaskSpec::Prune { instance: None, keep, until: None }
        }
        Start::Collect { destination } => {
            let found = own(tx, actor, &mut task, destination, Permission::Operate).await?;
            destinations::check_shared(tx, actor, &found, Permission::Operate).await?;
            TaskSpec::Collect {}
        }
        Start::Replicate { destination, to } => {
            own(tx, actor, &mut task, destination, Permission::Manage).await?;
            destinations::check_target(actor)?;
            TaskSpec::Replicate { to }
        }
    };
    task.kind = spec.kind().to_owned();
    task.spec = serde_json::to_value(&spec).unwrap_or_default();
    if let TaskSpec::Replicate { .. } = spec {
        task.spec[destinations::TARGET] = Value::Bool(true);
    }
    Ok(task)
}

/// A task on all of a destination, which takes the permission where the destination belongs.
async fn own(
    tx: &mut Tx,
    actor: &Actor,
    task: &mut NewTask,
    id: DestinationId,
    permission: Permission,
) -> Result<Record<Destination>> {
    let destination = tx.get::<Destination>(id, &actor.visible()).await?;
    actor.require(permission, &destination)?;
    (task.project, task.destination) = (destination.project, Some(id));
    Ok(destination)
}

/// Start a task
#[utoipa::path(post, path = "/api/v1/tasks", tag = "task", operation_id = "start-task",
    request_body = Start, responses(
    (status = 201, body = TaskView), (status = "4XX", body = Problem)))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    actor: Actor,
    Body(start): Body<Start>,
) -> Result<(StatusCode, Json<TaskView>)> {
    actor.require_anywhere(Permission::Operate)?;
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let mut from = None;
    let (task, import) = match imports::wanted(&mut tx, &actor, &start, now).await? {
        Some((task, import)) => (task, Some(import)),
        None => (prepared(&mut tx, &actor, start, &mut from).await?, None),
    };
    let verdict = Quotas::default().judge(&mut tx, &task, now).await?;
    quota::allowed(&verdict)?;
    let added = tx.add_task(&task, now).await?;
    let id = added.ok_or_else(|| Problem::invalid("this task is there already"))?;
    if let Some(from) = from {
        tx.set_from(id, from).await?;
    }
    if let Some(import) = import {
        imports::begun(&mut tx, id, import).await?;
    }
    quota::tell(&mut tx, id, &verdict, now).await?;
    let mut detail = json!({"kind": task.kind});
    for named in ["no_hooks", "full"].into_iter().filter(|name| task.spec[*name] == true) {
        detail[named] = json!(true);
    }
    tx.audit(actor.did("task.start", id, task.project, detail), now).await?;
    let view = tx.task(id, &EVERYTHING).await?.into();
    tx.commit().await?;
    shared.work.notify_one();
    Ok((StatusCode::CREATED, Json(view)))
}

/// Read a task
#[utoipa::path(get, path = "/api/v1/tasks/{id}", tag = "task", operation_id = "get-task",
    params(("id" = TaskId, Path)), responses(
    (status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(crate) async fn get(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<TaskId>,
) -> Result<Json<TaskView>> {
    actor.require_anywhere(Permission::Read)?;
    let mut tx = shared.catalog.read().await?;
    let task = tx.task(id, &actor.visible()).await?;
    let mut view = TaskView::from(task.clone());
    if view.state == TaskState::Queued {
        drop(tx);
        view.waits_for = queue::hold(&shared, id).await?;
    }
    if let Some(hold) = view.waits_for {
        let names = actor.require(Permission::Read, None).is_ok();
        let mut tx = shared.catalog.read().await?;
        view.waits_because = Some(placement::why(&mut tx, &task, hold, names, shared.now()).await?);
    }
    Ok(Json(view))
}

/// Cancel a task: one that waits ends now, one that runs soon
#[utoipa::path(post, path = "/api/v1/tasks/{id}/cancel", tag = "task",
    operation_id = "cancel-task", params(("id" = TaskId, Path)), responses(
    (status = 200, body = TaskView), (status = "4XX", body = Problem)))]
pub(crate) async fn cancel(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<TaskId>,
) -> Result<Json<TaskView>> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let task = tx.task(id, &actor.visible()).await?;
    let at = At { project: task.new.project, resource: task.resource() };
    actor.require(Permission::Operate, at)?;
    let task = tx.cancel(id, now).await?;
    tx.audit(actor.did("task.cancel", id, task.new.project, json!({})), now).await?;
    tx.commit().await?;
    Ok(Json(task.into()))
}

/// A line of a task's log.
#[derive(Serialize, ToSchema)]
pub(crate) struct LineView {
    seq: u64,
    at_ms: u64,
    attempt: u32,
    level: String,
    line: String,
}

impl From<LogLine> for LineView {
    fn from(line: LogLine) -> Self {
        let LogLine { seq, at_ms, attempt, level, line } = line;
        Self { seq, at_ms, attempt, level, line }
    }
}

/// Read the log of a task
#[utoipa::path(get, path = "/api/v1/tasks/{id}/log", tag = "task", operation_id = "task-log",
    params(("id" = TaskId, Path), LogQuery), responses(
    (status = 200, body = List<LineView>), (status = "4XX", body = Problem)))]
pub(crate) async fn log(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<TaskId>,
    Query(query): Query<LogQuery>,
) -> Result<Json<List<LineView>>> {
    actor.require_anywhere(Permission::Read)?;
    let limit = most(query.limit)?;
    let mut tx = shared.catalog.read().await?;
    tx.task(id, &actor.visible()).await?;
    let lines = tx.log_lines(id, query.after.unwrap_or(0), limit).await?;
    let views = lines.into_iter().map(LineView::from).collect();
    Ok(Json(List::new(views, limit, |view: &LineView| view.seq.to_string())))
}

/// Watch a task: an event `task` whenever something of it changes, until it has ended
///
/// The stream ends with the session or token that it was asked for with, and with the right to see
/// the task. A user has sixteen at a time.
#[utoipa::path(get, path = "/api/v1/tasks/{id}/events", tag = "task", operation_id = "watch-task",
    params(("id" = TaskId, Path)), responses(
    (status = 200, content_type = "text/event-stream"),
    (status = "4XX", body = Problem)))]
pub(crate) async fn events(
    State(shared): State<Shared>,
    actor: Actor,
    Path(id): Path<TaskId>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>> {
    actor.require_anywhere(Permission::Read)?;
    let place = shared.watchers.enter(actor.user.id)?;
    let visible = actor.visible();
    shared.catalog.read().await?.task(id, &visible).await?;
    let asked = (headers, uri.path().to_owned());
    let judged = Instant::now();
    let watch = Watch { shared, id, asked, visible, judged, seen: 0, ended: false, _place: place };
    Ok(Sse::new(futures::stream::unfold(watch, Watch::next)).keep_alive(KeepAlive::default()))
}

/// A stream of events about a task.
struct Watch {
    shared: Shared,
    id: TaskId,
    /// What was shown, and for which path.
    asked: (HeaderMap, String),
    /// What whoever watches may know of.
    visible: Visible,
    /// When that was found out.
    judged: Instant,
    /// The revision that was told last.
    seen: u64,
    ended: bool,
    _place: Watcher,
}

impl Watch {
    /// The next event; nothing when the task has ended, or whoever watches is not to know more.
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        if self.ended {
            return None;
        }
        loop {
            // It is gone, or the database is, or the rights are: whoever watches asks again.
            let task = self.task().await.ok()?;
            if task.revision > self.seen {
                (self.seen, self.ended) = (task.revision, task.state.is_final());
                let event = Event::default().event("task").id(self.seen.to_string());
                let event = event.json_data(TaskView::from(task)).unwrap_or_default();
                return Some((Ok(event), self));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn task(&mut self) -> Result<Task> {
        if self.judged.elapsed() >= JUDGE {
            let (headers, path) = &self.asked;
            let actor = auth::actor(&self.shared, headers, path).await?;
            actor.require_anywhere(Permission::Read)?;
            (self.visible, self.judged) = (actor.visible(), Instant::now());
        }
        Ok(self.shared.catalog.read().await?.task(self.id, &self.visible).await?)
    }
}

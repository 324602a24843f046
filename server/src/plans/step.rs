//! One step: what it starts, and what became of that.

use std::collections::BTreeMap;

use axum::http::StatusCode;
use sluice_catalog::{
    BootCheck, BootSpec, ErrorKind, MountId, MountProtocol, MountSpec, MountState, NewMount,
    NewTask, Node, NodeId, PlanItem, PlanMode, PlanRun, PlanTarget, Point, PointChoice, Script,
    TaskState, TestState, Tx,
};
use sluice_node_api::{ScriptOrder, TaskSpec};
use sluice_scheduler::recovery::{Phase, StepState};

use super::{RunBody, StepView, filled, together};
use crate::api::policies::EVERYTHING;
use crate::mounts;
use crate::problem::{Problem, Result};
use crate::quota::{self, Quotas};
use crate::restore_tests;

/// Recoveries go before backups.
pub(super) const PRIORITY: u32 = 80;
/// Attempts of a restore.
const ATTEMPTS: u32 = 3;
/// How long what is mounted by a test stays at most, in milliseconds.
const TEST_LEASE_MS: u64 = 3_600_000;
/// Who may look at what a test has mounted.
const THIS_MACHINE: &str = "127.0.0.0/8";

pub(super) fn ended(step: &mut StepView, state: StepState, why: &str, now: u64) {
    step.state = state;
    why.clone_into(&mut step.message);
    step.finished_ms = Some(now);
}

/// Looks what became of what a step has started.
pub(super) async fn look(tx: &mut Tx, step: &mut StepView, now: u64) -> Result<()> {
    if step.state != StepState::Running {
        return Ok(());
    }
    if let Some(id) = step.mount {
        let mount = tx.mount(id, &EVERYTHING).await?;
        match mount.state {
            MountState::Requested => {}
            MountState::Ready => ended(step, StepState::Done, "", now),
            MountState::Failed | MountState::Releasing | MountState::Gone => {
                mounts::release(tx, &mount, "its plan has given it up", now).await?;
                let why = if mount.message.is_empty() { "it was ended" } else { &mount.message };
                ended(step, StepState::Failed, why, now);
            }
        }
    } else if let Some(id) = step.test {
        let test = tx.test(id, &EVERYTHING).await?;
        match test.state {
            TestState::Pending => {}
            TestState::Ok => ended(step, StepState::Done, "", now),
            TestState::Failed | TestState::Undone => {
                ended(step, StepState::Failed, &test.message, now);
            }
            TestState::Cancelled => ended(step, StepState::Cancelled, "it was cancelled", now),
        }
    } else if let Some(id) = step.task {
        let task = match tx.task(id, &EVERYTHING).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                ended(step, StepState::Failed, "its task is gone", now);
                return Ok(());
            }
            task => task?,
        };
        match task.state {
            TaskState::Queued | TaskState::Running => {}
            TaskState::Succeeded | TaskState::Warnings => ended(step, StepState::Done, "", now),
            TaskState::Failed => ended(step, StepState::Failed, &task.message, now),
            TaskState::Cancelled => ended(step, StepState::Cancelled, "it was cancelled", now),
        }
    }
    Ok(())
}

/// Starts a step. One that cannot be started has failed.
pub(super) async fn start(
    tx: &mut Tx,
    run: &PlanRun,
    state: &mut RunBody,
    at: usize,
    now: u64,
) -> Result<()> {
    if state.steps[at].state != StepState::Waiting {
        // It was started together with others.
        return Ok(());
    }
    if together::is_for(state, run.mode, at) {
        let group = state.steps[at].group;
        return together::start(tx, run, state, group, now).await;
    }
    let mut step = state.steps[at].clone();
    step.started_ms = Some(now);
    step.state = StepState::Running;
    let group = &state.plan.groups[step.group];
    let started = match step.phase {
        Phase::Before => script(tx, run, state, &group.before[step.index], &mut step, now).await,
        Phase::After => script(tx, run, state, &group.after[step.index], &mut step, now).await,
        Phase::Item => item(tx, run, state, &group.items[step.index], &mut step, now).await,
    };
    match started {
        Ok(()) => {}
        Err(problem) if problem.status < 500 => {
            ended(&mut step, StepState::Failed, &problem.detail, now);
        }
        Err(problem) => return Err(problem),
    }
    state.steps[at] = step;
    Ok(())
}

fn task(run: &PlanRun, spec: &TaskSpec, node: NodeId) -> NewTask {
    NewTask {
        project: run.project,
        instance: None,
        policy: None,
        destination: None,
        wanted_node: Some(node),
        kind: spec.kind().to_owned(),
        priority: PRIORITY,
        due_key: None,
        max_attempts: ATTEMPTS,
        not_before_ms: 0,
        spec: serde_json::to_value(spec).unwrap_or_default(),
    }
}

async fn script(
    tx: &mut Tx,
    run: &PlanRun,
    state: &RunBody,
    script: &Script,
    step: &mut StepView,
    now: u64,
) -> Result<()> {
    let words = script.command.iter().map(|word| filled(word, &state.parameters));
    let variables = [
        ("SLUICE_PLAN", run.plan_name.clone()),
        ("SLUICE_PLAN_RUN", run.id.to_string()),
        ("SLUICE_PLAN_MODE", run.mode.word().to_owned()),
        ("SLUICE_PLAN_GROUP", state.plan.groups[step.group].name.clone()),
    ];
    let order = ScriptOrder {
        command: words.collect::<Result<_>>()?,
        accept: script.accept.iter().copied().collect(),
        timeout_seconds: script.limit_seconds,
        variables: variables.map(|(name, value)| (name.to_owned(), value)).into(),
    };
    let spec = TaskSpec::Script { script: order };
    let max_attempts = script.attempts;
    let task = NewTask { max_attempts, ..task(run, &spec, script.node) };
    step.task = tx.add_task(&task, now).await?;
    Ok(())
}

/// The restore point that an item means now.
pub(super) async fn chosen(tx: &mut Tx, run: &PlanRun, item: &PlanItem) -> Result<Point> {
    let point = newest(tx, item).await?;
    // Instances can move between projects in no way, and this stays true if they ever can.
    if point.project != run.project {
        return Err(Problem::not_found("restore point"));
    }
    Ok(point)
}

async fn newest(tx: &mut Tx, item: &PlanItem) -> Result<Point> {
    let until = match item.point {
        PointChoice::Latest => None,
        PointChoice::At { time_ms } => Some(time_ms),
        PointChoice::Id { id } => {
            let point = tx.point(id, &EVERYTHING).await?;
            let own = point.instance == item.instance && point.removed_ms.is_none();
            return if own { Ok(point) } else { Err(Problem::not_found("restore point")) };
        }
    };
    let newest = tx.newest_point(item.instance, item.destination, until).await?;
    newest.ok_or_else(|| Problem::invalid("it has no such restore point"))
}

async fn item(
    tx: &mut Tx,
    run: &PlanRun,
    state: &RunBody,
    item: &PlanItem,
    step: &mut StepView,
    now: u64,
) -> Result<()> {
    let point = chosen(tx, run, item).await?;
    step.point = Some(point.new.point.clone());
    if let Some(boot) = item.boot(run.mode) {
        let boot = spec(item, boot, &state.parameters)?;
        return test(tx, &point, &boot, item.target.node(), step, now).await;
    }
    match &item.target {
        PlanTarget::Mount { node, protocol, clients, lease_seconds } => {
            let lease_ms = match run.mode {
                PlanMode::Run => lease_seconds.saturating_mul(1000),
                PlanMode::Test => TEST_LEASE_MS,
            };
            let shown = (*protocol, clients.clone(), lease_ms);
            mount(tx, &point, item, *node, shown, step, now).await
        }
        target if run.mode == PlanMode::Test => {
            let node = target.node().ok_or_else(|| Problem::not_found("node"))?;
            let shown = (MountProtocol::Nbd, vec![THIS_MACHINE.to_owned()], TEST_LEASE_MS);
            mount(tx, &point, item, node, shown, step, now).await
        }
        target => restore(tx, run, &state.parameters, (&point, item, target), step, now).await,
    }
}

/// How an item is booted, with its parameters.
pub(super) fn spec(
    item: &PlanItem,
    boot: &BootSpec,
    parameters: &BTreeMap<String, String>,
) -> Result<BootSpec> {
    let mut boot = boot.clone();
    boot.image = boot.image.or_else(|| item.image.clone());
    for word in boot.checks.iter_mut().filter_map(BootCheck::command_mut).flatten() {
        *word = filled(word, parameters)?;
    }
    Ok(boot)
}

async fn restore(
    tx: &mut Tx,
    run: &PlanRun,
    parameters: &BTreeMap<String, String>,
    (point, item, target): (&Point, &PlanItem, &PlanTarget),
    step: &mut StepView,
    now: u64,
) -> Result<()> {
    let (format, overwrite) = match target {
        PlanTarget::Qcow2 { overwrite, .. } => ("qcow2", *overwrite),
        PlanTarget::File { overwrite, .. } => ("raw", *overwrite),
        _ => ("raw", true),
    };
    let node = target.node().ok_or_else(|| Problem::not_found("node"))?;
    able(tx, node, "restore", point).await?;
    let path = filled(target.path().unwrap_or_default(), parameters)?;
    let name = &point.new.point;
    let spec = TaskSpec::Restore {
        point: item.image.as_ref().map_or_else(|| name.clone(), |one| format!("{name}:{one}")),
        target: path,
        format: Some(format.to_owned()),
        overwrite,
    };
    let task = NewTask {
        instance: Some(point.instance),
        destination: Some(point.new.destination),
        ..task(run, &spec, node)
    };
    let verdict = Quotas::default().judge(tx, &task, now).await?;
    quota::allowed(&verdict)?;
    step.task = tx.add_task(&task, now).await?;
    Ok(())
}

/// Whether a node gets tasks, can do those of a kind, and may use the destination.
async fn able(tx: &mut Tx, node: NodeId, kind: &str, point: &Point) -> Result<()> {
    let node = tx.get::<Node>(node, &EVERYTHING).await?;
    let Node { destinations, capabilities, .. } = &node.body;
    let may = destinations.as_ref().is_none_or(|all| all.contains(&point.new.destination));
    let can = capabilities.kinds.iter().any(|one| one == kind);
    match may && can && node.body.takes_tasks() {
        true => Ok(()),
        false => {
            let text =
                format!("node {} gets no tasks of this kind, or of this destination", node.name);
            Err(Problem::new(StatusCode::CONFLICT, "no-node", text))
        }
    }
}

async fn test(
    tx: &mut Tx,
    point: &Point,
    boot: &BootSpec,
    node: Option<NodeId>,
    step: &mut StepView,
    now: u64,
) -> Result<()> {
    restore_tests::able(tx, node).await?;
    let id = restore_tests::start(tx, point, boot, (None, node), Some(PRIORITY), now).await?;
    step.task = tx.test(id, &EVERYTHING).await?.task;
    step.test = Some(id);
    Ok(())
}

async fn mount(
    tx: &mut Tx,
    point: &Point,
    item: &PlanItem,
    node: NodeId,
    (protocol, clients, lease_ms): (MountProtocol, Vec<String>, u64),
    step: &mut StepView,
    now: u64,
) -> Result<()> {
    able(tx, node, "mount", point).await?;
    let id = MountId::new(now);
    let new = NewMount {
        project: point.project,
        instance: point.instance,
        point: point.id,
        destination: point.new.destination,
        node,
        lease_end_ms: now + lease_ms,
        spec: MountSpec {
            point: point.new.point.clone(),
            folder: None,
            image: item.image.clone(),
            protocol,
            writable: false,
            clients,
            initiators: Vec::new(),
            chap_user: None,
        },
    };
    tx.add_mount(id, &new, now).await?;
    let mount = tx.mount(id, &EVERYTHING).await?;
    mounts::start(tx, &mount, now).await?;
    step.mount = Some(id);
    Ok(())
}

/// Ends what a step has started and that has not ended.
pub(super) async fn stop(tx: &mut Tx, step: &mut StepView, now: u64) -> Result<()> {
    if step.mount.is_some() {
        release(tx, step, now).await?;
        ended(step, StepState::Cancelled, "it was cancelled", now);
        return Ok(());
    }
    let Some(id) = step.task else {
        ended(step, StepState::Cancelled, "it was cancelled", now);
        return Ok(());
    };
    let task = tx.task(id, &EVERYTHING).await?;
    if !task.state.is_final() && !task.cancel_requested {
        tx.cancel(id, now).await?;
    }
    Ok(())
}

/// Ends the mount of a step.
pub(super) async fn release(tx: &mut Tx, step: &StepView, now: u64) -> Result<()> {
    let Some(id) = step.mount else { return Ok(()) };
    let mount = tx.mount(id, &EVERYTHING).await?;
    if mount.state.is_wanted() {
        mounts::release(tx, &mount, "its plan has ended", now).await?;
    }
    Ok(())
}

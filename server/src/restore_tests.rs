//! Restore tests: made by people, policies and plans, done by a task, and kept with their proof.

use axum::http::StatusCode;
use regex::Regex;
use serde::Serialize;
use serde_json::{Value, json};
use sluice_catalog::{
    BootCheck, BootSpec, Instance, NewTask, NewTest, Node, NodeId, Point, PolicyId, Record,
    RestoreTestId, Task, TaskState, TestOutcome, TestRule, TestState, Tx,
};
use sluice_node_api::{CheckScript, CheckSsh, TaskSpec, TestOrder};
use sluice_scheduler::plan::MissReason;

use crate::api::policies::EVERYTHING;
use crate::complaint::{all_readable, apart};
use crate::problem::{Problem, Result};
use crate::state::Shared;
use crate::ticker::{Batch, Due};

/// The kind of its task.
const KIND: &str = "restore-test";
/// Attempts of a test; those that have a verdict are not repeated.
const ATTEMPTS: u32 = 2;
/// Where the restore points of a test come from may be busy: others go first.
const PRIORITY: u32 = 40;
/// The most of a screenshot that is kept, in bytes of base64.
const LARGEST_SCREEN: usize = 1_400_000;
/// The most of a console that is kept, in bytes.
const LARGEST_CONSOLE: usize = 64 << 10;
/// What a node needs for it.
const MISSING: &str = "no node can boot restore points; install qemu-system-x86 on one";

/// Whether a guest can be booted so, and its expressions can be read.
pub(crate) fn check(spec: &BootSpec) -> Result<()> {
    spec.sense()?;
    for pattern in spec.checks.iter().filter_map(BootCheck::pattern) {
        Regex::new(pattern).map_err(|error| Problem::invalid(error.to_string()))?;
    }
    Ok(())
}

/// What a node is told to boot.
fn order(id: RestoreTestId, point: &Point, spec: &BootSpec) -> TestOrder {
    let point = &point.new.point;
    let mut order = TestOrder {
        id: id.to_string(),
        point: spec.image.as_ref().map_or_else(|| point.clone(), |one| format!("{point}:{one}")),
        memory_mib: spec.memory_mib,
        cpus: spec.cpus,
        firmware: word(spec.firmware),
        disk: word(spec.disk),
        nic: word(spec.nic),
        timeout_seconds: spec.timeout_seconds,
        ..TestOrder::default()
    };
    spec.checks.iter().for_each(|check| add_check(&mut order, check));
    order
}

/// Adds checks to what a node is told, as plans and restore tests say them: `[{"kind": "tcp",
/// "port": 22}]`.
///
/// # Errors
/// When they are not checks, or have fields that checks have not.
pub fn add_checks(order: &mut TestOrder, said: Value) -> serde_json::Result<()> {
    let checks: Vec<BootCheck> = serde_json::from_value(said)?;
    checks.iter().for_each(|check| add_check(order, check));
    Ok(())
}

fn add_check(order: &mut TestOrder, check: &BootCheck) {
    match check {
        BootCheck::Console { pattern } => order.console.push(pattern.clone()),
        BootCheck::Tcp { port, banner: None } => order.tcp.push(port.to_string()),
        BootCheck::Tcp { port, banner: Some(banner) } => {
            order.tcp.push(format!("{port}={banner}"));
        }
        BootCheck::GuestAgent {} => order.guest_agent = true,
        BootCheck::Script { command, ports, accept, reject, limit_seconds } => {
            order.scripts.push(CheckScript {
                command: command.clone(),
                ports: ports.iter().copied().collect(),
                accept: accept.iter().copied().collect(),
                reject: reject.iter().copied().collect(),
                limit_seconds: *limit_seconds,
            });
        }
        BootCheck::Ssh { user, port, command } => {
            let (user, command) = (user.clone(), command.clone());
            order.ssh.push(CheckSsh { user, port: *port, command });
        }
    }
}

/// A word as documents have it.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        _ => String::new(),
    }
}

/// The node that is named, if it can; without a name, whether any can.
pub(crate) async fn able(tx: &mut Tx, named: Option<NodeId>) -> Result<()> {
    let none = |text: &str| Problem::new(StatusCode::CONFLICT, "no-node", text);
    let can =
        |node: &Node| node.takes_tasks() && node.capabilities.kinds.iter().any(|kind| kind == KIND);
    if let Some(id) = named {
        let node = tx.get::<Node>(id, &EVERYTHING).await?;
        return match can(&node.body) {
            true => Ok(()),
            false => Err(none("this node cannot boot restore points; install qemu-system-x86")),
        };
    }
    let nodes = all_readable::<Node>(tx).await?;
    if nodes.iter().any(|node| can(&node.body)) { Ok(()) } else { Err(none(MISSING)) }
}

/// Adds a test and its task.
pub(crate) async fn start(
    tx: &mut Tx,
    point: &Point,
    spec: &BootSpec,
    (policy, node): (Option<PolicyId>, Option<NodeId>),
    priority: Option<u32>,
    now: u64,
) -> Result<RestoreTestId> {
    let id = RestoreTestId::new(now);
    let work = TaskSpec::RestoreTest { test: order(id, point, spec) };
    let task = NewTask {
        project: point.project,
        // An instance has one task at a time, and is backed up while it is tested.
        instance: None,
        policy,
        destination: Some(point.new.destination),
        wanted_node: node,
        kind: KIND.to_owned(),
        priority: priority.unwrap_or(PRIORITY),
        due_key: None,
        max_attempts: ATTEMPTS,
        not_before_ms: 0,
        spec: serde_json::to_value(&work).unwrap_or_default(),
    };
    let task = tx.add_task(&task, now).await?;
    let new = NewTest {
        project: point.project,
        instance: point.instance,
        point: point.id,
        destination: point.new.destination,
        policy,
        spec: spec.clone(),
    };
    tx.add_test(id, &new, task, now).await?;
    Ok(id)
}

/// A restore point that is booted with others.
pub(crate) struct Guest {
    pub(crate) point: Point,
    pub(crate) spec: BootSpec,
    pub(crate) stage: u32,
    pub(crate) address: String,
}

/// Adds tests of guests in one network, all of one project and at one destination, and the task
/// that does them.
pub(crate) async fn start_together(
    tx: &mut Tx,
    guests: &[Guest],
    (subnet, node): (&str, Option<NodeId>),
    priority: u32,
    now: u64,
) -> Result<Vec<RestoreTestId>> {
    let Some(first) = guests.first() else { return Ok(Vec::new()) };
    let ids: Vec<_> = guests.iter().map(|_| RestoreTestId::new(now)).collect();
    let orders = ids.iter().zip(guests).map(|(id, guest)| TestOrder {
        stage: guest.stage,
        address: guest.address.clone(),
        ..order(*id, &guest.point, &guest.spec)
    });
    let (guests_of, subnet) = (orders.collect(), subnet.to_owned());
    let test = TestOrder { guests: guests_of, subnet, ..TestOrder::default() };
    let work = TaskSpec::RestoreTest { test };
    let task = NewTask {
        project: first.point.project,
        instance: None,
        policy: None,
        destination: Some(first.point.new.destination),
        wanted_node: node,
        kind: KIND.to_owned(),
        priority,
        due_key: None,
        max_attempts: ATTEMPTS,
        not_before_ms: 0,
        spec: serde_json::to_value(&work).unwrap_or_default(),
    };
    let task = tx.add_task(&task, now).await?;
    for (id, Guest { point, spec, .. }) in ids.iter().zip(guests) {
        let new = NewTest {
            project: point.project,
            instance: point.instance,
            point: point.id,
            destination: point.new.destination,
            policy: None,
            spec: spec.clone(),
        };
        tx.add_test(*id, &new, task, now).await?;
    }
    Ok(ids)
}

/// A rule of a policy is due: the newest restore point of each of its instances is tested. What is
/// not tested now is missed.
pub(crate) async fn due(batch: &mut Batch<'_>, rule: &TestRule, due: &Due) -> Result<()> {
    let missing = able(batch.tx, rule.node).await.err();
    for instance in batch.tx.instances_of(batch.policy, &EVERYTHING).await? {
        let added = add_due(batch, &instance, rule, missing.as_ref()).await;
        batch.came(&instance, "restore test", added, due).await?;
    }
    Ok(())
}

/// Adds the test of one instance, if it has any restore points; or tells why there is none.
async fn add_due(
    batch: &mut Batch<'_>,
    instance: &Record<Instance>,
    rule: &TestRule,
    missing: Option<&Problem>,
) -> Result<Option<MissReason>> {
    let (tx, policy, now) = (&mut *batch.tx, batch.policy.id, batch.now);
    let newest = tx.newest_point(instance.id, Some(rule.destination), None).await?;
    let Some(point) = newest else { return Ok(None) };
    if instance.body.paused {
        return Ok(Some(MissReason::Paused));
    }
    if tx.test_pending(instance.id, policy).await? {
        return Ok(Some(MissReason::StillActive));
    }
    let id = start(tx, &point, &rule.boot, (Some(policy), rule.node), None, now).await?;
    if let Some(problem) = missing {
        give_up(tx, id, &problem.detail, now).await?;
    }
    tracing::debug!(test = %id, key = batch.key, "a restore test is due");
    Ok(None)
}

/// Ends a test that nobody can do, and its task.
async fn give_up(tx: &mut Tx, id: RestoreTestId, why: &str, now: u64) -> Result<()> {
    if let Some(task) = tx.test(id, &EVERYTHING).await?.task {
        tx.cancel(task, now).await?;
    }
    let state = TestState::Undone;
    tx.end_test(id, &outcome(state, &Value::Null, why), now).await?;
    Ok(())
}

/// What a task told, without what is kept elsewhere.
pub(crate) fn without_evidence(document: &Value) -> Value {
    let mut document = document.clone();
    let guests = document.get_mut("guests").and_then(Value::as_array_mut);
    for guest in guests.into_iter().flatten() {
        *guest = without_evidence(guest);
    }
    if document["verdict"].is_string()
        && let Some(fields) = document.as_object_mut()
    {
        fields.remove("screenshot");
        fields.remove("console");
    }
    document
}

/// What a task was to do.
fn ordered(task: &Task) -> Option<TestOrder> {
    match serde_json::from_value(task.new.spec.clone()) {
        Ok(TaskSpec::RestoreTest { test }) => Some(test),
        _ => None,
    }
}

/// The part of an order, and of what was told, that is about one test.
fn about(order: TestOrder, document: &Value, id: &str) -> (TestOrder, Value) {
    if order.guests.is_empty() {
        return (order, document.clone());
    }
    let mut told = document["guests"].as_array().into_iter().flatten();
    let told = told.find(|guest| guest["id"] == id).cloned();
    let own = order.guests.into_iter().find(|guest| guest.id == id);
    (own.unwrap_or_default(), told.unwrap_or_default())
}

fn outcome(state: TestState, document: &Value, message: &str) -> TestOutcome {
    let text = |name: &str| document[name].as_str().unwrap_or_default();
    let screenshot = Some(text("screenshot")).filter(|one| one.len() <= LARGEST_SCREEN);
    let console = text("console");
    let cut = console.ceil_char_boundary(console.len().saturating_sub(LARGEST_CONSOLE));
    TestOutcome {
        state,
        report: without_evidence(document),
        message: message.to_owned(),
        screenshot: screenshot.unwrap_or_default().to_owned(),
        console: console[cut..].to_owned(),
    }
}

/// The verdict of a task that has ended, which told this.
fn judged(task: &Task, order: &TestOrder, document: &Value) -> TestOutcome {
    let done = matches!(task.state, TaskState::Succeeded | TaskState::Warnings);
    // A guest that was not tried to its end says why, and nothing of its checks.
    let tried = document["verdict"] != "undone";
    // A node of an earlier release leaves out what it does not know.
    let checks = document["checks"].as_array().map(Vec::len);
    if done && tried && checks.is_some_and(|told| told < order.checks()) {
        let text = "the node has left checks out: upgrade it";
        return outcome(TestState::Undone, document, text);
    }
    let state = match (done, document["verdict"].as_str()) {
        (true, Some("ok")) => TestState::Ok,
        (true, Some("failed")) => TestState::Failed,
        _ if task.state == TaskState::Cancelled => TestState::Cancelled,
        _ => TestState::Undone,
    };
    let message = match state {
        TestState::Ok => "",
        TestState::Failed => document["reason"].as_str().unwrap_or_default(),
        TestState::Undone if done && !tried => document["reason"].as_str().unwrap_or_default(),
        TestState::Undone if done => "the node told no verdict; is it of another release?",
        _ => &task.message,
    };
    outcome(state, document, message)
}

/// A task has ended for good. `document` is what it told last, with the evidence.
pub(crate) async fn task_ended(tx: &mut Tx, task: &Task, document: &Value, now: u64) -> Result<()> {
    let Some(test) = ordered(task) else { return Ok(()) };
    let all: Vec<String> = match test.guests.is_empty() {
        true => vec![test.id.clone()],
        false => test.guests.iter().map(|guest| guest.id.clone()).collect(),
    };
    for name in all {
        let Ok(id) = name.parse::<RestoreTestId>() else { continue };
        let (own, told) = about(test.clone(), document, &name);
        tx.end_test(id, &judged(task, &own, &told), now).await?;
    }
    Ok(())
}

/// Ends tests whose task has ended unheard: cancelled, lost too often, or refused.
pub(crate) async fn settle(shared: &Shared, now: u64) -> Result<()> {
    let found = apart("restore test", shared.catalog.read().await?.tests_to_settle().await?);
    if found.is_empty() {
        return Ok(());
    }
    let mut tx = shared.catalog.begin().await?;
    for test in found {
        let task = match test.task {
            Some(task) => tx.task(task, &EVERYTHING).await.ok(),
            None => None,
        };
        let outcome = match &task {
            Some(task) => {
                let order = ordered(task).unwrap_or_default();
                let (own, told) = about(order, &task.result, &test.id.to_string());
                judged(task, &own, &told)
            }
            None => outcome(TestState::Undone, &json!(null), "its task is gone"),
        };
        tx.end_test(test.id, &outcome, now).await?;
    }
    tx.commit().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read_before_they_are_stored() {
        let spec = |pattern: &str| BootSpec {
            checks: vec![BootCheck::Console { pattern: pattern.into() }],
            ..BootSpec::default()
        };
        assert!(check(&spec("login: ?$")).is_ok());
        assert_eq!(check(&spec("(")).unwrap_err().status, 422);
    }

    #[test]
    fn what_proves_a_test_is_kept_apart_and_bounded() {
        let document = json!({"verdict": "failed", "reason": "why", "screenshot": "aGk=",
            "console": "é".repeat(LARGEST_CONSOLE), "timings": {"start_ms": 5}});
        let outcome = outcome(TestState::Failed, &document, "why");
        assert_eq!(
            outcome.report,
            json!({"verdict": "failed", "reason": "why",
            "timings": {"start_ms": 5}})
        );
        assert_eq!((outcome.screenshot.as_str(), outcome.console.len()), ("aGk=", LARGEST_CONSOLE));
        let other = json!({"console": "kept"});
        assert_eq!(without_evidence(&other), other);
    }
}

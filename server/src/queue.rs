//! Who goes first: waiting tasks are given to nodes that ask for work, in the order of the
//! scheduler's queue.
//!
//! ```text
//!   POST lease ──► waiter ──┐
//!   POST lease ──► waiter ──┼─► decide ──► one transaction: leases ──► answers
//!   bell, each second ──────┘   (all that waits and runs, limits, fairness)
//! ```
//!
//! Each server decides for the nodes that ask it, one server after the other, on what all of them
//! have in the database.

mod held;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sluice_catalog::{
    ErrorKind, InLine, Node, NodeId, NodeLiveness, NodeState, Record, TaskId, TaskState, Tx,
};
use sluice_node_api::Lease;
use sluice_scheduler::queue::{self, Demand, Fairness, Limits, Queue, Running, Waiting};
use sluice_scheduler::work::{Priority, TaskKind};
use sluice_scheduler::{PoolId, SourceId};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::api::policies::EVERYTHING;
use crate::complaint::all_readable;
use crate::dispatch::work;
use crate::mounts;
use crate::node_configs::Configs;
use crate::placement;
use crate::problem::Result;
use crate::state::Shared;

pub(crate) use held::{Held, hold};

/// How often is looked when no bell rings: another server may have added a task.
const LOOK: Duration = Duration::from_secs(1);
/// The longest time for which nodes that ask are gathered.
const GATHER: Duration = Duration::from_millis(500);
/// A node that was not heard of for so long is lost. Nodes that wait for work ask each 20 seconds.
pub(crate) const LOST_MS: u64 = 60_000;
/// The kind of task that a node gets in any state.
const UNMOUNT: &str = "unmount";
/// The setting that holds limits and fairness.
pub(crate) const SETTING: &str = "dispatch";

/// How many tasks run at a time, and how waiting counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Rules {
    /// How many at a time.
    pub(crate) limits: Limits,
    /// How waiting counts.
    pub(crate) fairness: Fairness,
    /// So many days after its end a task is removed, with its log; 0 keeps all.
    pub(crate) history_days: u32,
}

impl Default for Rules {
    fn default() -> Self {
        let (limits, fairness) = (Limits::default(), Fairness::default());
        Self { limits, fairness, history_days: 400 }
    }
}

impl Rules {
    pub(crate) async fn load(tx: &mut Tx) -> Result<Self> {
        let text = tx.setting(SETTING).await?;
        let read = |text: String| serde_json::from_str(&text);
        // What was stored was read from a document.
        Ok(text.map(read).transpose().ok().flatten().unwrap_or_default())
    }
}

/// A node that asks for a task.
pub(crate) struct Waiter {
    pub(crate) node: NodeId,
    /// Only one of these kinds.
    pub(crate) kinds: Option<BTreeSet<String>>,
    pub(crate) answer: oneshot::Sender<Lease>,
}

impl Waiter {
    /// Waiters of one name get the same tasks.
    fn name(&self) -> String {
        match &self.kinds {
            None => self.node.to_string(),
            Some(kinds) => {
                let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
                format!("{}#{}", self.node, kinds.join(","))
            }
        }
    }
}

/// Answers waiters until `shutdown` is cancelled.
pub(crate) async fn run(shared: Shared, shutdown: CancellationToken) {
    let mut took = Duration::ZERO;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = shared.work.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
        // A turn reads all that waits: nodes that ask at the same time are served together, and
        // the longer turns take, the more of them.
        tokio::time::sleep(took.min(GATHER)).await;
        let begun = Instant::now();
        let turned = turn(&shared).await;
        took = begun.elapsed();
        shared.metrics.turns.observe(took);
        if let Err(problem) = turned {
            tracing::error!("no task can be given to a node: {}", problem.detail);
        }
    }
}

/// One turn: everything that may start now is given away.
async fn turn(shared: &Shared) -> Result<()> {
    let mut waiters = {
        let mut waiting = shared.waiters.lock().unwrap_or_else(|e| e.into_inner());
        waiting.retain(|waiter| !waiter.answer.is_closed());
        std::mem::take(&mut *waiting)
    };
    let gone = given(shared, &mut waiters).await;
    // Whoever got nothing goes on waiting.
    shared.waiters.lock().unwrap_or_else(|e| e.into_inner()).append(&mut waiters);
    gone
}

async fn given(shared: &Shared, waiters: &mut Vec<Waiter>) -> Result<()> {
    let now = shared.now();
    if waiters.is_empty() || !shared.catalog.read().await?.any_waiting(now).await? {
        return Ok(());
    }
    let mut tx = shared.catalog.begin().await?;
    tx.decide_alone().await?;
    let starts = decide(&mut tx, Some(waiters.as_slice()), now).await?.starts;
    let mut answers = Vec::new();
    for (task, name) in starts {
        let id: TaskId = task.as_str().parse()?;
        let found = waiters.iter().position(|waiter| waiter.name() == name.as_str());
        let Some(at) = found else { continue };
        if let Some(lease) = leased(shared, &mut tx, id, waiters[at].node, now).await? {
            answers.push((waiters.swap_remove(at), lease));
        }
    }
    tx.commit().await?;
    let mut back = Vec::new();
    for (waiter, lease) in answers {
        let node = waiter.node;
        if let Err(lease) = waiter.answer.send(lease) {
            let task: TaskId = lease.task.parse()?;
            back.push((task, node, lease.attempt));
        }
    }
    if !back.is_empty() {
        let mut tx = shared.catalog.begin().await?;
        for lease in back {
            tx.hand_back(lease).await?;
        }
        tx.commit().await?;
    }
    Ok(())
}

/// Gives a task to a node. One that cannot be told any more has failed, lest it is in the way.
async fn leased(
    shared: &Shared,
    tx: &mut Tx,
    id: TaskId,
    node: NodeId,
    now: u64,
) -> Result<Option<Lease>> {
    let lease_ms = shared.lease_ms;
    let part = tx.begin_part().await?;
    let task = match tx.lease(id, node, now, now + lease_ms).await {
        Ok(Some(task)) => task,
        Ok(None) => return tx.end_part(part).await.map(|()| None).map_err(Into::into),
        Err(error) if error.kind() == ErrorKind::Damaged => {
            tx.undo_part(part).await?;
            tx.refuse(id, &error.to_string(), now).await?;
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    tx.end_part(part).await?;
    let part = tx.begin_part().await?;
    match work(shared, tx, &task, node).await {
        Ok(work) => {
            tx.end_part(part).await?;
            let attempt = task.attempt;
            Ok(Some(Lease { task: id.to_string(), attempt, lease_ms, waited_ms: None, work }))
        }
        // A secret that cannot be opened is as much a matter of this task as one that is not there.
        Err(problem) if !problem.is_outage() => {
            tx.undo_part(part).await?;
            let lease = (id, node, task.attempt);
            let state = match problem.code.as_str() {
                "moot" => TaskState::Cancelled,
                _ => TaskState::Failed,
            };
            let nothing = serde_json::Value::Null;
            let state = tx.finish(lease, state, &nothing, &problem.detail, None, now).await?;
            if state.is_final() {
                let task = tx.task(id, &EVERYTHING).await?;
                mounts::task_ended(tx, &task, now).await?;
            }
            Ok(None)
        }
        Err(problem) => Err(problem),
    }
}

/// Decides who starts. With waiters, nodes have room for as many tasks as they ask for; without,
/// as they would have if all were asking.
pub(crate) async fn decide(
    tx: &mut Tx,
    waiters: Option<&[Waiter]>,
    now: u64,
) -> Result<queue::Starts> {
    let rules = Rules::load(tx).await?;
    let (waiting, running) = tx.line().await?;
    let by_source = rules.limits.per_source.is_some() || !rules.limits.sources.is_empty();
    let configs = Configs::load(tx).await?;
    let served = placement::anybody_is_served(&configs);
    let instances = match by_source || served {
        true => tx.instances_in_line().await?,
        false => BTreeMap::new(),
    };
    let inventories = match served {
        true => tx.inventories_in_line().await?,
        false => BTreeMap::new(),
    };
    let (records, seen) = (all_nodes_by(tx, &configs).await?, tx.liveness().await?);
    let placed = |task: &InLine| task.instance.and_then(|id| instances.get(&id));
    let source = |task: &InLine| -> Option<SourceId> {
        placed(task)?.cluster.as_deref().filter(|_| by_source).map(Into::into)
    };
    let pools = |task: &InLine| {
        let about = placed(task).or_else(|| inventories.get(&task.id));
        placement::pools_of_task(&configs, &task.kind, task.wanted_node, about)
    };
    let waiting: Vec<Waiting> =
        waiting.iter().filter_map(|task| waits(task, source(task), pools(task))).collect();
    let running: Vec<Running> =
        running.iter().filter_map(|task| runs(task, source(task), waiters)).collect();
    let nodes = nodes((&records, &configs), &seen, &running, waiters, now);
    let Rules { limits, fairness, .. } = &rules;
    let queue =
        Queue { waiting: &waiting, running: &running, nodes: &nodes, limits, fairness: *fairness };
    Ok(queue.decide(moment(now)))
}

/// All nodes, with what their configurations say of them.
pub(crate) async fn all_nodes(tx: &mut Tx) -> Result<Vec<Record<Node>>> {
    let configs = Configs::load(tx).await?;
    all_nodes_by(tx, &configs).await
}

/// The same, by configurations that are known.
pub(crate) async fn all_nodes_by(tx: &mut Tx, configs: &Configs) -> Result<Vec<Record<Node>>> {
    let mut nodes = all_nodes_as_they_are(tx).await?;
    for node in &mut nodes {
        node.body = configs.narrow(std::mem::take(&mut node.body));
    }
    Ok(nodes)
}

pub(crate) async fn all_nodes_as_they_are(tx: &mut Tx) -> Result<Vec<Record<Node>>> {
    all_readable(tx).await
}

pub(crate) fn moment(ms: u64) -> Timestamp {
    let ms = i64::try_from(ms).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::MAX)
}

fn text<I: ToString>(id: Option<I>) -> String {
    id.map(|id| id.to_string()).unwrap_or_default()
}

fn demand(task: &InLine, source: Option<SourceId>) -> Option<Demand> {
    // Of a kind that another release knows: it waits for that release.
    let kind = TaskKind::from_name(&task.kind)?;
    let resource = task.instance.map(|id| match kind {
        // Copies and verifications do not read the instance. Two at one place would do the same.
        TaskKind::Copy => format!("{id}>{}", text(task.destination)).into(),
        TaskKind::Verify => format!("{id}?{}", text(task.destination)).into(),
        // A snapshot is made beside whatever reads the source, and removed when nobody reads it.
        TaskKind::Snapshot => format!("{id}#snapshot").into(),
        _ => id.to_string().into(),
    });
    Some(Demand {
        id: task.id.to_string().into(),
        kind,
        project: text(task.project).into(),
        source,
        resource,
        destination: task.destination.map(|id| id.to_string().into()),
        from: task.from.map(|id| id.to_string().into()),
    })
}

fn waits(
    task: &InLine,
    source: Option<SourceId>,
    pools: Option<BTreeSet<PoolId>>,
) -> Option<Waiting> {
    let priority = u8::try_from(task.priority.min(100)).unwrap_or(100);
    Some(Waiting {
        demand: demand(task, source)?,
        priority: Priority::try_from(priority).unwrap_or_default(),
        since: moment(task.created_ms),
        not_before: Some(moment(task.not_before_ms)),
        // The ticker ends those whose window is over.
        start_by: None,
        pools,
        needs: task.needs.iter().chain([&task.kind]).cloned().collect(),
        prefer: None,
    })
}

/// What runs takes room of those that ask for its kind, or else of the node as a whole.
fn runs(task: &InLine, source: Option<SourceId>, waiters: Option<&[Waiter]>) -> Option<Running> {
    let node = task.node?;
    let of_kind = |waiter: &&Waiter| {
        waiter.node == node && waiter.kinds.as_ref().is_some_and(|kinds| kinds.contains(&task.kind))
    };
    let asks = waiters.into_iter().flatten().find(of_kind);
    let name = asks.map_or_else(|| node.to_string(), Waiter::name);
    Some(Running { demand: demand(task, source)?, node: name.into() })
}

/// The nodes with the room they have: for those that ask, what they run and what they ask for.
/// Those that ask only for some kinds ask beside it.
fn nodes(
    (records, configs): (&[Record<Node>], &Configs),
    seen: &BTreeMap<NodeId, NodeLiveness>,
    running: &[Running],
    waiters: Option<&[Waiter]>,
    now: u64,
) -> Vec<queue::Node> {
    let mut nodes = Vec::new();
    for record in records {
        let Node { capabilities, slots, slots_by_kind, destinations, .. } = &record.body;
        let own = record.id.to_string();
        let limit = slots.unwrap_or(u32::MAX);
        let by_kind = slots_by_kind.iter();
        let by_kind = by_kind.filter_map(|(kind, most)| Some((TaskKind::from_name(kind)?, *most)));
        let heard = seen.get(&record.id).map_or(0, |seen| seen.last_seen_ms);
        let state = match record.body.state {
            NodeState::Enabled if heard + LOST_MS < now => queue::NodeState::Lost,
            NodeState::Enabled => queue::NodeState::Active,
            NodeState::Draining => queue::NodeState::Draining,
            NodeState::Disabled => queue::NodeState::Disabled,
        };
        let mut asked: BTreeMap<String, (u32, Option<&BTreeSet<String>>)> = BTreeMap::new();
        asked.insert(own.clone(), (0, None));
        for waiter in waiters.into_iter().flatten().filter(|waiter| waiter.node == record.id) {
            asked.entry(waiter.name()).or_insert((0, waiter.kinds.as_ref())).0 += 1;
        }
        for (name, (asks, kinds)) in asked {
            let used = running.iter().filter(|task| task.node.as_str() == name).count();
            let used = u32::try_from(used).unwrap_or(u32::MAX);
            let room = match waiters {
                None => capabilities.slots.max(1).max(used),
                Some(_) => used.saturating_add(asks),
            };
            // A node may always end what it has mounted.
            let ends = kinds.is_some_and(|kinds| kinds.contains(UNMOUNT));
            let only_ends = state != queue::NodeState::Active && ends;
            let state = if only_ends { queue::NodeState::Active } else { state };
            // What is no kind is something that it is able to do beside them.
            let able = placement::abilities(configs, &record.body).into_iter().filter(|word| {
                let is_kind = capabilities.kinds.contains(word);
                !is_kind
                    || kinds.is_none_or(|kinds| kinds.contains(word))
                        && (!only_ends || word == UNMOUNT)
            });
            nodes.push(queue::Node {
                id: name.into(),
                state,
                slots: room.min(limit),
                slots_by_kind: by_kind.clone().collect(),
                capabilities: able.collect(),
                pools: placement::pools_of_node(configs, record.id, &record.body),
                destinations: destinations
                    .as_ref()
                    .map(|list| list.iter().map(|id| id.to_string().into()).collect()),
            });
        }
    }
    nodes
}

#[cfg(test)]
mod tests;

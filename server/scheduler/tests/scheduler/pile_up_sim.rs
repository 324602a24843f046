//! The midnight pile-up in simulated time: many backups are due at once, and more urgent ones come
//! while they drain. Shared by a test and by the example that draws it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use sluice_scheduler::TaskId;
use sluice_scheduler::queue::{Demand, Fairness, Limits, Node, NodeState, Queue, Running, Waiting};
use sluice_scheduler::time::Span;
use sluice_scheduler::work::{Priority, TaskKind};

/// What is simulated.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub backups: u64,
    pub nodes: u64,
    pub slots: u32,
    /// Most urgent tasks that come each minute while the others drain.
    pub urgent: u64,
    /// From one decision to the next.
    pub step: Span,
}

/// One task, after it has started.
#[derive(Debug, Clone)]
pub struct Started {
    pub priority: u8,
    /// From when it was due until it started.
    pub waited: Span,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Outcome {
    pub started: Vec<Started>,
    /// At each step: minutes since midnight, and how many of the pile wait, by priority.
    pub waiting: Vec<(f64, BTreeMap<u8, usize>)>,
    /// Most tasks that ran at a time.
    pub most_running: usize,
}

/// A number that looks like chance and is the same each time.
fn chance(number: u64, salt: u64) -> u64 {
    let mut bits = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt.wrapping_mul(0xd6e8_feb8);
    bits = (bits ^ (bits >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits ^ (bits >> 29)
}

fn task(number: u64, urgent: bool, since: Timestamp) -> Waiting {
    let priority = match chance(number, 1) % 10 {
        _ if urgent => 90,
        0..=2 => 80,
        3..=6 => 50,
        _ => 20,
    };
    let part = |name: &str, salt, of| format!("{name}-{}", chance(number, salt) % of);
    let demand = Demand {
        id: format!("task-{number}").into(),
        kind: TaskKind::Backup,
        project: part("project", 2, 40).into(),
        source: Some(part("source", 3, 50).into()),
        resource: Some(format!("instance-{number}").into()),
        destination: Some(part("vault", 4, 8).into()),
        from: None,
    };
    Waiting {
        demand,
        priority: Priority::try_from(priority).expect("a priority"),
        since,
        not_before: None,
        start_by: None,
        pools: None,
        needs: BTreeSet::new(),
        prefer: None,
    }
}

fn node(number: u64, slots: u32) -> Node {
    Node {
        id: format!("node-{number}").into(),
        state: NodeState::Active,
        slots,
        slots_by_kind: BTreeMap::new(),
        capabilities: BTreeSet::new(),
        pools: BTreeSet::new(),
        destinations: None,
    }
}

/// The pile at midnight, and the nodes.
pub fn midnight(load: Load, now: Timestamp) -> (Vec<Waiting>, Vec<Node>, Limits) {
    let limits = Limits { per_destination: Some(220), per_source: Some(60), ..Limits::default() };
    let waiting = (0..load.backups).map(|number| task(number, false, now)).collect();
    (waiting, (0..load.nodes).map(|number| node(number, load.slots)).collect(), limits)
}

/// Lets the pile drain.
pub fn drain(load: Load) -> Outcome {
    let midnight_at: Timestamp = "2026-11-21T00:00:00Z".parse().expect("a moment");
    let mut now = midnight_at;
    let (mut waiting, nodes, limits) = midnight(load, now);
    let mut ends: BTreeMap<Timestamp, VecDeque<TaskId>> = BTreeMap::new();
    let mut running: Vec<Running> = Vec::new();
    let mut out = Outcome::default();
    let mut number = load.backups;
    let mut due = 0;
    while waiting.iter().any(|task| task.priority.value() < 90) {
        let later = ends.split_off(&Span::seconds(1).after(now));
        let ended: BTreeSet<TaskId> = ends.into_values().flatten().collect();
        ends = later;
        running.retain(|task| !ended.contains(&task.demand.id));

        let queue = Queue {
            waiting: &waiting,
            running: &running,
            nodes: &nodes,
            limits: &limits,
            fairness: Fairness::default(),
        };
        let places: BTreeMap<TaskId, _> = queue.decide(now).starts.into_iter().collect();
        waiting.retain(|task| {
            let Some(node) = places.get(&task.demand.id) else { return true };
            let (priority, urgent) = (task.priority.value(), task.priority.value() == 90);
            let waited = Span::between(task.since, now);
            out.started.push(Started { priority, waited });
            let name = task.demand.id.as_str().trim_start_matches("task-");
            let seed = name.parse().expect("a number");
            let minutes = if urgent { 15 } else { 3 + chance(seed, 5) % 38 };
            let end = Span::minutes(minutes).after(now);
            ends.entry(end).or_default().push_back(task.demand.id.clone());
            running.push(Running { demand: task.demand.clone(), node: node.clone() });
            false
        });
        out.most_running = out.most_running.max(running.len());

        let mut left = BTreeMap::from([(20, 0), (50, 0), (80, 0), (90, 0)]);
        for task in &waiting {
            *left.entry(task.priority.value()).or_default() += 1;
        }
        let minutes = Span::between(midnight_at, now).as_seconds() as f64 / 60.0;
        out.waiting.push((minutes, left));

        now = load.step.after(now);
        due += load.urgent * load.step.as_seconds();
        for _ in 0..due / 60 {
            waiting.push(task(number, true, now));
            number += 1;
        }
        due %= 60;
    }
    out
}

//! Queues under load.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use jiff::Timestamp;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{ProptestConfig, Strategy, any, prop_oneof, proptest};
use sluice_scheduler::queue::{Demand, Fairness, Limits, Node, NodeState, Queue, Running, Waiting};
use sluice_scheduler::time::Span;
use sluice_scheduler::work::{Priority, TaskKind};

use crate::pile_up_sim::{Load, drain};

const KINDS: [TaskKind; 3] = [TaskKind::Backup, TaskKind::Restore, TaskKind::Verify];

#[test]
fn ten_thousand_backups_drain_in_the_order_of_their_priority() {
    let step = Span::minutes(2);
    let load = Load { backups: 10_000, nodes: 100, slots: 20, urgent: 0, step };
    let outcome = drain(load);
    assert_eq!(outcome.started.len(), 10_000);
    assert!(outcome.most_running > 1500, "nodes stand idle: {}", outcome.most_running);
    let waits = |priority| {
        let of = outcome.started.iter().filter(|task| task.priority == priority);
        let mut waits: Vec<Span> = of.map(|task| task.waited).collect();
        waits.sort_unstable();
        waits
    };
    let (high, middle, low) = (waits(80), waits(50), waits(20));
    // All have aged equally, so the order is that of priorities, but for limits that differ.
    assert!(high.last() < middle.get(middle.len() / 2), "{:?}", high.last());
    assert!(middle.last() < low.get(low.len() / 2), "{:?}", middle.last());
    assert!(low.last() <= Some(&Span::hours(3)), "{:?}", low.last());
}

#[test]
fn urgent_tasks_without_end_do_not_starve_the_rest() {
    // The urgent ones alone keep every slot busy: 20 a minute of 15 minutes each on 250 slots.
    let step = Span::minutes(2);
    let load = Load { backups: 600, nodes: 10, slots: 25, urgent: 20, step };
    let outcome = drain(load);
    let pile = outcome.started.iter().filter(|task| task.priority < 90);
    assert_eq!(pile.clone().count(), 600);
    // From priority 20 to 90 it takes 70 times five minutes; the backlog of urgent ones is before.
    let longest = pile.map(|task| task.waited).max();
    assert!(longest <= Some(Span::hours(14)), "{longest:?}");
}

/// A task by numbers: kind, project, source, destination, resource, priority, minutes waited.
type Numbers = (usize, u8, u8, u8, u8, u8, u64);

fn numbers() -> impl Strategy<Value = Numbers> {
    (0..KINDS.len(), 0_u8..3, 0_u8..4, 0_u8..3, 0_u8..20, 0_u8..=100, 0_u64..120)
}

fn demand(id: usize, (kind, project, source, destination, resource, ..): Numbers) -> Demand {
    Demand {
        id: format!("t{id}").into(),
        kind: KINDS[kind],
        project: project.to_string().into(),
        source: Some(source.to_string().into()),
        resource: Some(resource.to_string().into()),
        destination: Some(destination.to_string().into()),
        from: None,
    }
}

fn limits() -> impl Strategy<Value = Limits> {
    let few = || option::of(0_u32..12);
    (few(), few(), few(), few(), few()).prop_map(|(total, kind, project, source, destination)| {
        Limits {
            total: total.map(|total| total * 3),
            kinds: kind.map(|kind| (KINDS[0], kind)).into_iter().collect(),
            per_project: project,
            per_source: source,
            per_destination: destination,
            ..Limits::default()
        }
    })
}

fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let state = prop_oneof![
        4 => proptest::strategy::Just(NodeState::Active),
        1 => proptest::strategy::Just(NodeState::Draining),
    ];
    let node = (state, 0_u32..6, option::of(0_u32..3), any::<bool>());
    vec(node, 0..5).prop_map(|nodes| {
        let node = |(at, (state, slots, restores, all)): (usize, (_, _, Option<u32>, bool))| Node {
            id: format!("n{at}").into(),
            state,
            slots,
            slots_by_kind: restores.map(|most| (TaskKind::Restore, most)).into_iter().collect(),
            capabilities: BTreeSet::new(),
            pools: BTreeSet::new(),
            destinations: (!all).then(|| ["0".into()].into()),
        };
        nodes.into_iter().enumerate().map(node).collect()
    })
}

/// How many of `demands` there are for each limit that they count in, by a name.
fn count<'a>(demands: impl Iterator<Item = &'a Demand>) -> HashMap<(u8, String), u32> {
    let mut counts = HashMap::new();
    for demand in demands {
        let name = |id: Option<&dyn ToString>| id.map(|id| id.to_string()).unwrap_or_default();
        let mut keys = vec![
            (0, String::new()),
            (1, demand.kind.to_string()),
            (2, demand.project.to_string()),
            (3, name(demand.source.as_ref().map(|id| id as &dyn ToString))),
            (4, name(demand.destination.as_ref().map(|id| id as &dyn ToString))),
        ];
        if demand.kind == TaskKind::Backup {
            keys.push((5, name(demand.resource.as_ref().map(|id| id as &dyn ToString))));
        }
        for key in keys {
            *counts.entry(key).or_default() += 1;
        }
    }
    counts
}

fn most(limits: &Limits, (sort, name): &(u8, String)) -> Option<u32> {
    match sort {
        0 => limits.total,
        1 => limits.kinds.iter().find(|(kind, _)| kind.name() == name).map(|(_, most)| *most),
        2 => limits.per_project,
        3 => limits.per_source,
        4 => limits.per_destination,
        _ => Some(1),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_limit_is_exceeded_and_no_task_is_forgotten(
        waiting in vec(numbers(), 0..60),
        before in vec((numbers(), 0_usize..5), 0..12),
        nodes in nodes(),
        limits in limits(),
    ) {
        let now = Timestamp::UNIX_EPOCH;
        let waiting: Vec<Waiting> = waiting.into_iter().enumerate().map(|(id, numbers)| Waiting {
            demand: demand(id, numbers),
            priority: Priority::try_from(numbers.5).unwrap(),
            since: Span::minutes(numbers.6).before(now),
            not_before: None,
            start_by: None,
            pools: None,
            needs: BTreeSet::new(),
            prefer: None,
        }).collect();
        let running: Vec<Running> = before.into_iter().enumerate().map(|(id, (numbers, node))| {
            Running { demand: demand(1000 + id, numbers), node: format!("n{node}").into() }
        }).collect();
        let queue = Queue {
            waiting: &waiting,
            running: &running,
            nodes: &nodes,
            limits: &limits,
            fairness: Fairness::default(),
        };
        let decided = queue.decide(now);

        // Everybody once.
        let starts: BTreeMap<_, _> = decided.starts.iter().cloned().collect();
        let held: BTreeSet<_> = decided.held.iter().map(|(task, _)| task.clone()).collect();
        assert_eq!(starts.len() + held.len(), waiting.len());
        assert!(starts.keys().all(|task| !held.contains(task)));

        // No limit is passed by what starts; those passed before stay as they were.
        let was = count(running.iter().map(|task| &task.demand));
        let started: Vec<_> =
            waiting.iter().filter(|task| starts.contains_key(&task.demand.id)).collect();
        let all = running.iter().map(|task| &task.demand)
            .chain(started.iter().map(|task| &task.demand));
        for (key, is) in count(all) {
            if let Some(most) = most(&limits, &key) {
                assert!(is <= most.max(was.get(&key).copied().unwrap_or(0)), "{key:?}: {is}");
            }
        }
        for node in &nodes {
            let mine: Vec<_> =
                started.iter().filter(|task| starts[&task.demand.id] == node.id).collect();
            let before = running.iter().filter(|task| task.node == node.id).count();
            assert!(mine.is_empty() || node.state == NodeState::Active);
            assert!(mine.is_empty() || before + mine.len() <= node.slots as usize);
            let allowed = |task: &&&Waiting| match (&node.destinations, &task.demand.destination) {
                (Some(allowed), Some(destination)) => allowed.contains(destination),
                _ => true,
            };
            assert!(mine.iter().all(allowed));
        }
    }

    #[test]
    fn whatever_can_run_runs_when_everything_else_ends(
        waiting in vec(numbers(), 1..40),
        slots in 1_u32..4,
    ) {
        // One node, tight limits, and whatever runs ends before the next decision.
        let limits = Limits { per_source: Some(1), per_destination: Some(2), ..Limits::default() };
        let node = Node {
            id: "n".into(),
            state: NodeState::Active,
            slots,
            slots_by_kind: BTreeMap::new(),
            capabilities: BTreeSet::new(),
            pools: BTreeSet::new(),
            destinations: None,
        };
        let mut left: Vec<Waiting> = waiting.into_iter().enumerate().map(|(id, numbers)| Waiting {
            demand: demand(id, numbers),
            priority: Priority::try_from(numbers.5).unwrap(),
            since: Timestamp::UNIX_EPOCH,
            not_before: None,
            start_by: None,
            pools: None,
            needs: BTreeSet::new(),
            prefer: None,
        }).collect();
        let mut now = Span::hours(2).after(Timestamp::UNIX_EPOCH);
        while !left.is_empty() {
            let queue = Queue {
                waiting: &left,
                running: &[],
                nodes: std::slice::from_ref(&node),
                limits: &limits,
                fairness: Fairness::default(),
            };
            let started: BTreeSet<_> =
                queue.decide(now).starts.into_iter().map(|(task, _)| task).collect();
            assert!(!started.is_empty(), "{} wait for nothing", left.len());
            left.retain(|task| !started.contains(&task.demand.id));
            now = Span::minutes(1).after(now);
        }
    }
}

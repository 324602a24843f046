use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::{Demand, Fairness, Hold, Limits, Node, NodeState, Queue, Running, Starts, Waiting};
use crate::time::Span;
use crate::work::{Priority, TaskKind};

const NOW: Timestamp = Timestamp::UNIX_EPOCH;

fn node(id: &str, slots: u32) -> Node {
    Node {
        id: id.into(),
        state: NodeState::Active,
        slots,
        slots_by_kind: BTreeMap::new(),
        capabilities: BTreeSet::from(["disk".to_owned()]),
        pools: BTreeSet::new(),
        destinations: None,
    }
}

/// A task named `PROJECT-SOURCE-NUMBER`, which has waited for so many minutes.
fn task(id: &str, priority: u8, minutes: u64) -> Waiting {
    let mut parts = id.split('-');
    let mut part = || parts.next().unwrap_or_default();
    let demand = Demand {
        id: id.into(),
        kind: TaskKind::Backup,
        project: part().into(),
        source: Some(part().into()),
        resource: None,
        destination: Some("vault".into()),
        from: None,
    };
    Waiting {
        demand,
        priority: Priority::try_from(priority).expect("a priority"),
        since: Span::minutes(minutes).before(NOW),
        not_before: None,
        start_by: None,
        pools: None,
        needs: BTreeSet::new(),
        prefer: None,
    }
}

#[derive(Default)]
struct Given {
    waiting: Vec<Waiting>,
    running: Vec<Running>,
    nodes: Vec<Node>,
    limits: Limits,
}

impl Given {
    fn new(waiting: impl IntoIterator<Item = Waiting>, nodes: &[Node]) -> Self {
        let waiting = waiting.into_iter().collect();
        Self { waiting, nodes: nodes.to_vec(), ..Self::default() }
    }

    fn decide(&self) -> Starts {
        let Self { waiting, running, nodes, limits } = self;
        Queue { waiting, running, nodes, limits, fairness: Fairness::default() }.decide(NOW)
    }

    fn started(&self) -> Vec<String> {
        self.decide().starts.iter().map(|(task, _)| task.to_string()).collect()
    }

    fn holds(&self) -> Vec<Hold> {
        self.decide().held.iter().map(|(_, hold)| *hold).collect()
    }

    fn run(mut self, tasks: &[&str], on: &str) -> Self {
        let running =
            tasks.iter().map(|id| Running { demand: task(id, 50, 0).demand, node: on.into() });
        self.running.extend(running);
        self
    }
}

#[test]
fn higher_priorities_go_first_and_waiting_raises_them() {
    let tasks = [task("a-s-1", 20, 0), task("a-s-2", 80, 0), task("a-s-3", 50, 0)];
    assert_eq!(Given::new(tasks, &[node("n", 2)]).started(), ["a-s-2", "a-s-3"]);
    let tasks = [task("a-s-1", 20, 299), task("a-s-2", 80, 0)];
    assert_eq!(Given::new(tasks, &[node("n", 1)]).started(), ["a-s-2"]);
    let tasks = [task("a-s-1", 20, 301), task("a-s-2", 80, 0)];
    assert_eq!(Given::new(tasks, &[node("n", 1)]).started(), ["a-s-1"]);
}

#[test]
fn equal_ranks_share_between_projects_and_then_between_sources() {
    let tasks = ["a-s-1", "a-s-2", "a-s-3", "a-t-4", "b-u-5", "b-u-6"].map(|id| task(id, 50, 0));
    let given = Given::new(tasks.clone(), &[node("n", 4)]);
    assert_eq!(given.started(), ["a-s-1", "b-u-5", "a-t-4", "b-u-6"]);
    // What runs already counts.
    let given = Given::new(tasks, &[node("n", 5)]).run(&["b-u-0", "b-u-00"], "n");
    assert_eq!(given.started(), ["a-s-1", "a-t-4", "a-s-2"]);
}

#[test]
fn each_limit_holds_and_says_so() {
    let limited = |limits| {
        let mut given = Given::new([task("a-s-2", 50, 0)], &[node("n", 9)]).run(&["a-s-1"], "n");
        given.limits = limits;
        given.holds()
    };
    assert_eq!(limited(Limits::default()), []);
    let one = Some(1);
    let cases = [
        (Limits { total: one, ..Limits::default() }, Hold::Total),
        (Limits { kinds: [(TaskKind::Backup, 1)].into(), ..Limits::default() }, Hold::Kind),
        (Limits { per_project: one, ..Limits::default() }, Hold::Project),
        (Limits { projects: [("a".into(), 0)].into(), ..Limits::default() }, Hold::Project),
        (Limits { per_source: one, ..Limits::default() }, Hold::Source),
        (Limits { sources: [("s".into(), 1)].into(), ..Limits::default() }, Hold::Source),
        (Limits { per_destination: one, ..Limits::default() }, Hold::Destination),
        (
            Limits { destinations: [("vault".into(), 1)].into(), ..Limits::default() },
            Hold::Destination,
        ),
    ];
    for (limits, hold) in cases {
        assert_eq!(limited(limits), [hold]);
    }
    let own = Limits { per_source: one, sources: [("s".into(), 2)].into(), ..Limits::default() };
    assert_eq!(limited(own), []);
}

#[test]
fn two_tasks_do_not_read_one_resource_at_a_time_but_one_may_be_restored() {
    let mut tasks = [task("a-s-1", 50, 0), task("a-s-2", 50, 0), task("a-s-3", 50, 0)];
    for task in &mut tasks {
        task.demand.resource = Some("web-1".into());
    }
    tasks[2].demand.kind = TaskKind::Restore;
    let given = Given::new(tasks, &[node("n", 9)]);
    assert_eq!(given.started(), ["a-s-1", "a-s-3"]);
    assert_eq!(given.holds(), [Hold::Resource]);
}

#[test]
fn only_nodes_that_are_active_and_able_get_tasks() {
    let holds = |change: fn(&mut Node), needs: fn(&mut Waiting)| {
        let (mut node, mut task) = (node("n", 1), task("a-s-1", 50, 0));
        change(&mut node);
        needs(&mut task);
        Given::new([task], &[node]).holds()
    };
    assert_eq!(holds(|_| (), |_| ()), []);
    for state in [NodeState::Draining, NodeState::Disabled, NodeState::Lost] {
        let given = Given::new([task("a-s-1", 50, 0)], &[Node { state, ..node("n", 1) }]);
        assert_eq!(given.holds(), [Hold::NodesAway]);
    }
    assert_eq!(holds(|node| node.slots = 0, |_| ()), [Hold::NodesBusy]);
    let of_kind = |node: &mut Node| node.slots_by_kind = [(TaskKind::Backup, 0)].into();
    assert_eq!(holds(of_kind, |_| ()), [Hold::NodesBusy]);
    let other = |node: &mut Node| node.destinations = Some(["tape".into()].into());
    assert_eq!(holds(other, |_| ()), [Hold::NoNode]);
    assert_eq!(holds(|_| (), |task| task.needs = ["disk".to_owned()].into()), []);
    assert_eq!(holds(|_| (), |task| task.needs = ["rbd".to_owned()].into()), [Hold::NoNode]);
    let pool = |task: &mut Waiting| task.pools = Some(["dmz".into(), "lan".into()].into());
    assert_eq!(holds(|_| (), pool), [Hold::NoNode]);
    assert_eq!(holds(|node| node.pools = ["dmz".into()].into(), pool), []);
}

#[test]
fn the_least_busy_node_is_taken_unless_another_is_preferred() {
    let nodes = [node("n1", 4), node("n2", 2)];
    let given = |prefer: Option<&str>| {
        let task = Waiting { prefer: prefer.map(Into::into), ..task("a-s-1", 50, 0) };
        Given::new([task], &nodes).run(&["b-t-1"], "n1").run(&["b-t-2"], "n2").decide().starts
    };
    assert_eq!(given(None), [("a-s-1".into(), "n1".into())]);
    assert_eq!(given(Some("n2")), [("a-s-1".into(), "n2".into())]);
}

#[test]
fn what_may_not_start_yet_or_any_more_is_told_apart() {
    let later = Waiting { not_before: Some(Span::seconds(1).after(NOW)), ..task("a-s-1", 50, 0) };
    let over = Waiting { start_by: Some(NOW), ..task("a-s-2", 50, 0) };
    let given = Given::new([later, over], &[node("n", 9)]);
    assert_eq!(given.holds(), [Hold::NotBefore]);
    assert_eq!(given.decide().expired, ["a-s-2".into()]);
    assert_eq!(given.started(), [""; 0]);
}

#[test]
fn who_has_waited_long_for_one_limit_keeps_a_place_in_the_others() {
    let other = |id, minutes| {
        let mut task = task(id, 50, minutes);
        task.demand.destination = Some("tape".into());
        task
    };
    let given = |waited| {
        let tasks = [task("a-s-1", 50, waited), other("b-t-2", 0), other("b-t-3", 0)];
        let mut given = Given::new(tasks, &[node("n", 3)]).run(&["c-u-0"], "n");
        given.limits.destinations = [("vault".into(), 1)].into();
        given
    };
    assert_eq!(given(29).started(), ["b-t-2", "b-t-3"]);
    assert_eq!(given(31).started(), ["b-t-2"]);
    assert_eq!(given(31).holds(), [Hold::Destination, Hold::NodesBusy]);
}

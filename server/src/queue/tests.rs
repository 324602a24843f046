use sluice_catalog::{Ability, Capabilities, DestinationId, InstanceId};

use super::*;

const NOW: u64 = 1_000_000;

fn node(number: u64) -> Record<Node> {
    let kinds = vec!["backup".into(), "mount".into()];
    let capabilities = Capabilities { kinds, slots: 2, ..Capabilities::default() };
    Record {
        id: NodeId::new(number),
        project: None,
        project_name: None,
        name: format!("node-{number}"),
        revision: 1,
        created_ms: 0,
        updated_ms: 0,
        body: Node { capabilities, ..Node::default() },
    }
}

fn task(number: u64) -> InLine {
    InLine {
        id: TaskId::new(number),
        node: None,
        project: None,
        instance: Some(InstanceId::new(number)),
        from: None,
        destination: None,
        wanted_node: None,
        kind: "backup".into(),
        needs: BTreeSet::new(),
        priority: 50,
        created_ms: number,
        not_before_ms: 0,
    }
}

fn asks(node: &Record<Node>, kinds: Option<&[&str]>) -> Waiter {
    let kinds = kinds.map(|kinds| kinds.iter().map(|&kind| kind.to_owned()).collect());
    Waiter { node: node.id, kinds, answer: oneshot::channel().0 }
}

/// Which tasks start where.
fn starts(
    records: &[Record<Node>],
    line: (&[InLine], &[InLine]),
    waiters: &[Waiter],
) -> Vec<(TaskId, String)> {
    let liveness = NodeLiveness { last_seen_ms: NOW, running: 0 };
    let seen = records.iter().map(|record| (record.id, liveness)).collect();
    let configs = Configs::default();
    let pools =
        |task: &InLine| placement::pools_of_task(&configs, &task.kind, task.wanted_node, None);
    let waiting: Vec<_> = line.0.iter().filter_map(|task| waits(task, None, pools(task))).collect();
    let running: Vec<_> =
        line.1.iter().filter_map(|task| runs(task, None, Some(waiters))).collect();
    let nodes = nodes((records, &configs), &seen, &running, Some(waiters), NOW);
    let (limits, fairness) = (Limits::default(), Fairness::default());
    let queue =
        Queue { waiting: &waiting, running: &running, nodes: &nodes, limits: &limits, fairness };
    let starts = queue.decide(moment(NOW)).starts;
    let id = |id: sluice_scheduler::TaskId| id.as_str().parse().unwrap();
    starts.into_iter().map(|(task, node)| (id(task), node.to_string())).collect()
}

#[test]
fn only_nodes_that_ask_get_tasks_and_only_as_many_as_they_ask_for() {
    let (one, two) = (node(1), node(2));
    let line = [task(1), task(2), task(3)];
    let told = starts(&[one.clone(), two], (&line, &[]), &[asks(&one, None), asks(&one, None)]);
    let name = one.id.to_string();
    assert_eq!(told, [(line[0].id, name.clone()), (line[1].id, name)]);
}

#[test]
fn what_a_node_may_not_do_goes_to_another_or_waits() {
    let (mut one, mut two) = (node(1), node(2));
    let near = DestinationId::new(1);
    one.body.destinations = Some(vec![near]);
    let pinned = InLine { wanted_node: Some(two.id), ..task(1) };
    let far = InLine { destination: Some(DestinationId::new(2)), ..task(2) };
    let other = InLine { kind: "restore".into(), ..task(3) };
    let unknown = InLine { kind: "dream".into(), ..task(4) };
    let fits = InLine { destination: Some(near), ..task(5) };
    let later = InLine { not_before_ms: NOW + 1, ..task(6) };
    let line = [pinned.clone(), far.clone(), other, unknown, fits.clone(), later];
    let both = [asks(&one, None), asks(&two, None), asks(&two, None)];
    let told = starts(&[one.clone(), two.clone()], (&line, &[]), &both);
    let (first, second) = (one.id.to_string(), two.id.to_string());
    let expected = [(pinned.id, second.clone()), (far.id, second), (fits.id, first)];
    assert_eq!(told, expected);
    two.body.state = NodeState::Draining;
    let told = starts(&[one.clone(), two], (&line, &[]), &both);
    assert_eq!(told, [(fits.id, one.id.to_string())]);
}

#[test]
fn a_node_has_no_more_tasks_than_it_is_allowed() {
    let mut one = node(1);
    one.body.slots = Some(2);
    let busy = InLine { node: Some(one.id), ..task(9) };
    let line = [task(1), task(2)];
    let all = [asks(&one, None), asks(&one, None)];
    let told = starts(&[one.clone()], (&line, std::slice::from_ref(&busy)), &all);
    assert_eq!(told.len(), 1, "one runs, and one has room");
    one.body.slots_by_kind = [("backup".to_owned(), 1)].into();
    assert!(starts(&[one], (&line, &[busy]), &all).is_empty());
}

#[test]
fn who_asks_for_some_kinds_gets_no_others() {
    let one = node(1);
    let mount = InLine { kind: "mount".into(), ..task(2) };
    let line = [task(1), mount.clone()];
    let waiter = asks(&one, Some(&["mount", "unmount"]));
    let name = waiter.name();
    assert_eq!(starts(&[one], (&line, &[]), &[waiter]), [(mount.id, name)]);
}

#[test]
fn what_a_node_is_allowed_holds_for_each_way_of_asking() {
    const WORK: Option<&[&str]> = Some(&["backup"]);
    const MOUNTS: Option<&[&str]> = Some(&["mount", "unmount"]);
    let mut one = node(1);
    one.body.slots = Some(1);
    let busy = InLine { node: Some(one.id), ..task(9) };
    let mount = InLine { kind: "mount".into(), ..task(2) };
    let line = [task(1), mount.clone()];
    let both = [asks(&one, WORK), asks(&one, MOUNTS)];
    let told = starts(&[one.clone()], (&line, std::slice::from_ref(&busy)), &both);
    assert_eq!(told, [(mount.id, both[1].name())], "a backup runs, and mounts do not wait for it");
    let busy = InLine { kind: "mount".into(), ..busy };
    let told = starts(&[one], (&line, &[busy]), &both);
    assert_eq!(told, [(line[0].id, both[0].name())]);
}

#[test]
fn a_drained_node_ends_what_it_has_mounted_and_begins_nothing() {
    let mut one = node(1);
    one.body.capabilities.kinds.push("unmount".into());
    let mount = InLine { kind: "mount".into(), ..task(1) };
    let unmount = InLine { kind: "unmount".into(), wanted_node: Some(one.id), ..task(2) };
    let line = [mount, unmount.clone(), task(3)];
    for state in [NodeState::Draining, NodeState::Disabled] {
        one.body.state = state;
        let both = [asks(&one, Some(&["backup"])), asks(&one, Some(&["mount", "unmount"]))];
        let told = starts(&[one.clone()], (&line, &[]), &both);
        assert_eq!(told, [(unmount.id, both[1].name())], "{state:?}");
    }
}

#[test]
fn a_task_goes_where_what_it_needs_works() {
    let (mut one, two) = (node(1), node(2));
    let ability = |works| Ability { name: "export:fuse".into(), works, ..Ability::default() };
    one.body.capabilities.abilities = vec![ability(false)];
    let needs = BTreeSet::from(["export:fuse".to_owned()]);
    let mount = InLine { kind: "mount".into(), needs, wanted_node: None, ..task(1) };
    let asks = |node: &Record<Node>| asks(node, Some(&["mount", "unmount"]));
    let line = std::slice::from_ref(&mount);
    assert!(starts(&[one.clone()], (line, &[]), &[asks(&one)]).is_empty());
    let told = starts(&[one.clone(), two.clone()], (line, &[]), &[asks(&one), asks(&two)]);
    assert_eq!(told, [(mount.id, asks(&two).name())], "nodes that do not say are believed");
    one.body.capabilities.abilities = vec![ability(true)];
    assert_eq!(starts(&[one.clone()], (line, &[]), &[asks(&one)]).len(), 1);
}

use serde_json::json;
use sluice_catalog::{
    Capabilities, Catalog, DestinationId, ErrorKind, InstanceId, LeaseMark, NewPoint, NewTask,
    Node, Page, Progress, Record, TaskFilter, TaskId, TaskState, Visible,
};

use crate::support::{Lab, on_both};

on_both! {
    what_waits_for_a_node_that_is_gone_ends
    the_line_tells_who_waits_and_who_runs
    a_task_that_found_no_place_in_its_window_ends
    a_due_task_is_added_once
    a_lost_lease_is_taken_over_and_the_first_holder_refused
    a_lease_is_renewed_also_by_a_clock_that_went_back
    a_list_leaves_out_what_came_of_tasks
    what_ended_long_ago_goes_with_its_log_and_leaves_points
    a_failed_task_is_tried_again_until_its_attempts_are_used_up
    cancelling_ends_what_waits_and_asks_what_runs
    many_nodes_never_get_the_same_task
    the_log_keeps_its_order
    a_part_of_a_transaction_is_undone_alone
}

pub fn backup() -> NewTask {
    NewTask {
        project: None,
        instance: None,
        policy: None,
        destination: None,
        wanted_node: None,
        kind: "backup".into(),
        priority: 50,
        due_key: None,
        max_attempts: 3,
        not_before_ms: 0,
        spec: json!({"kind": "backup"}),
    }
}

pub async fn node(catalog: &Catalog, name: &str) -> Record<Node> {
    let capabilities = Capabilities { kinds: vec!["backup".into()], ..Capabilities::default() };
    let mut tx = catalog.begin().await.unwrap();
    let node = Node { capabilities, ..Node::default() };
    let node = tx.insert(None, name, node, 7).await.unwrap();
    tx.commit().await.unwrap();
    node
}

async fn add(catalog: &Catalog, task: &NewTask) -> TaskId {
    let mut tx = catalog.begin().await.unwrap();
    let id = tx.add_task(task, 1).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    id
}

/// Leases what has waited longest, as a server does that knows no other order.
async fn lease(catalog: &Catalog, node: &Record<Node>, now_ms: u64) -> Option<TaskId> {
    let mut tx = catalog.begin().await.unwrap();
    tx.decide_alone().await.unwrap();
    let (waiting, _) = tx.line().await.unwrap();
    let first = waiting.iter().find(|task| task.not_before_ms <= now_ms)?;
    let task = tx.lease(first.id, node.id, now_ms, now_ms + 10).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    Some(task.id)
}

async fn the_line_tells_who_waits_and_who_runs(Lab { catalog, .. }: Lab) {
    let mover = node(&catalog, "mover").await;
    let instance = Some(InstanceId::new(1));
    let destination = Some(DestinationId::new(2));
    let whole = NewTask {
        instance,
        destination,
        wanted_node: Some(mover.id),
        priority: 10,
        not_before_ms: 50,
        ..backup()
    };
    let first = add(&catalog, &whole).await;
    let second = add(&catalog, &backup()).await;
    let mut tx = catalog.begin().await.unwrap();
    let (waiting, running) = tx.line().await.unwrap();
    assert_eq!((waiting.len(), running.len()), (2, 0));
    let told = &waiting[0];
    assert_eq!((told.id, told.instance, told.destination), (first, instance, destination));
    assert_eq!((told.node, told.wanted_node), (None, Some(mover.id)));
    assert_eq!((told.priority, told.not_before_ms, told.created_ms), (10, 50, 1));
    assert!(tx.lease(second, mover.id, 2, 12).await.unwrap().is_some());
    assert!(tx.lease(second, mover.id, 2, 12).await.unwrap().is_none(), "it is taken");
    let (waiting, running) = tx.line().await.unwrap();
    assert_eq!((waiting[0].id, running[0].id, running[0].node), (first, second, Some(mover.id)));
    tx.hand_back((second, mover.id, 1)).await.unwrap();
    let task = tx.task(second, &Visible::All).await.unwrap();
    assert_eq!((task.state, task.attempt, task.started_ms), (TaskState::Queued, 0, None));
    assert!(tx.lease(second, mover.id, 3, 12).await.unwrap().is_some());
    tx.hand_back((second, mover.id, 7)).await.unwrap();
    assert_eq!(tx.line().await.unwrap().1.len(), 1, "it is another lease");
    tx.commit().await.unwrap();
    let mut tx = catalog.read().await.unwrap();
    let filter = TaskFilter { state: Some(TaskState::Running), ..TaskFilter::default() };
    let listed = tx.tasks(&Visible::All, &filter, &Page::default()).await.unwrap();
    assert_eq!(listed.len(), 1);
    let newest = tx.tasks(&Visible::All, &TaskFilter::default(), &Page::default()).await.unwrap();
    assert!(newest.windows(2).all(|pair| pair[0].id > pair[1].id));
}

async fn a_task_that_found_no_place_in_its_window_ends(Lab { catalog, .. }: Lab) {
    let mover = node(&catalog, "mover").await;
    let ids = [add(&catalog, &backup()).await, add(&catalog, &backup()).await];
    let untimed = add(&catalog, &backup()).await;
    let mut tx = catalog.begin().await.unwrap();
    for id in ids {
        tx.set_start_by(id, 100).await.unwrap();
    }
    tx.lease(ids[1], mover.id, 50, 60).await.unwrap().unwrap();
    let failed = TaskState::Failed;
    tx.finish((ids[1], mover.id, 1), failed, &json!(null), "no", Some(70), 55).await.unwrap();
    assert!(!tx.any_window_over(99).await.unwrap());
    assert!(tx.any_window_over(100).await.unwrap());
    let ended = tx.end_late("window-missed", 100).await.unwrap();
    assert_eq!(ended.iter().map(|task| task.id).collect::<Vec<_>>(), ids[..1]);
    let task = tx.task(ids[0], &Visible::All).await.unwrap();
    assert_eq!(
        (task.state, &*task.message, task.finished_ms),
        (failed, "window-missed", Some(100))
    );
    // What was tried once is tried again, and what has no window waits.
    for id in [ids[1], untimed] {
        assert_eq!(tx.task(id, &Visible::All).await.unwrap().state, TaskState::Queued);
    }
    assert!(!tx.any_window_over(200).await.unwrap());
}

async fn a_due_task_is_added_once(Lab { catalog, .. }: Lab) {
    let due = NewTask { due_key: Some("policy/schedule/instance/1000".into()), ..backup() };
    let mut tx = catalog.begin().await.unwrap();
    assert!(tx.add_task(&due, 1).await.unwrap().is_some());
    assert!(tx.add_task(&due, 2).await.unwrap().is_none());
    assert!(tx.add_task(&backup(), 1).await.unwrap().is_some());
    assert!(tx.add_task(&backup(), 1).await.unwrap().is_some());
}

async fn a_lost_lease_is_taken_over_and_the_first_holder_refused(Lab { catalog, .. }: Lab) {
    let (one, two) = (node(&catalog, "one").await, node(&catalog, "two").await);
    let id = add(&catalog, &backup()).await;
    assert_eq!(lease(&catalog, &one, 100).await, Some(id));
    let mut tx = catalog.begin().await.unwrap();
    let given = tx.leases().await.unwrap();
    assert_eq!(given, [LeaseMark { task: id, attempt: 1, until_ms: 110 }]);
    let progress = Progress { done: 5, ..Progress::default() };
    assert!(!tx.renew(id, one.id, 1, Some(&progress), 120).await.unwrap().cancel_requested);
    assert!(tx.reclaim(&given, 115).await.unwrap().is_empty(), "it was renewed");
    let renewed = tx.leases().await.unwrap();
    let back = tx.reclaim(&renewed, 121).await.unwrap();
    assert_eq!((back[0].id, back[0].state), (id, TaskState::Queued));
    assert!(tx.leases().await.unwrap().is_empty());
    assert!(tx.reclaim(&renewed, 121).await.unwrap().is_empty(), "another server was faster");
    tx.commit().await.unwrap();
    assert_eq!(lease(&catalog, &two, 121).await, Some(id));
    let mut tx = catalog.begin().await.unwrap();
    let stale = tx.renew(id, one.id, 1, None, 200).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Stale);
    let late = tx.finish((id, one.id, 1), TaskState::Succeeded, &json!(1), "", None, 122).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Stale);
    tx.finish((id, two.id, 2), TaskState::Succeeded, &json!(2), "", None, 123).await.unwrap();
    let task = tx.task(id, &Visible::All).await.unwrap();
    assert_eq!((task.result, task.attempt), (json!(2), 2));
}

async fn a_failed_task_is_tried_again_until_its_attempts_are_used_up(Lab { catalog, .. }: Lab) {
    let mover = node(&catalog, "mover").await;
    let id = add(&catalog, &NewTask { max_attempts: 2, ..backup() }).await;
    assert_eq!(lease(&catalog, &mover, 10).await, Some(id));
    let mut tx = catalog.begin().await.unwrap();
    let failed = TaskState::Failed;
    let after = tx.finish((id, mover.id, 1), failed, &json!(null), "no", Some(30), 11).await;
    assert_eq!(after.unwrap(), TaskState::Queued);
    tx.commit().await.unwrap();
    assert_eq!(lease(&catalog, &mover, 29).await, None);
    assert_eq!(lease(&catalog, &mover, 30).await, Some(id));
    let mut tx = catalog.begin().await.unwrap();
    let after = tx.finish((id, mover.id, 2), failed, &json!(null), "no", Some(60), 31).await;
    assert_eq!(after.unwrap(), TaskState::Failed);
    let task = tx.task(id, &Visible::All).await.unwrap();
    assert_eq!((task.message.as_str(), task.finished_ms), ("no", Some(31)));
}

async fn cancelling_ends_what_waits_and_asks_what_runs(Lab { catalog, .. }: Lab) {
    let mover = node(&catalog, "mover").await;
    let running = add(&catalog, &backup()).await;
    assert_eq!(lease(&catalog, &mover, 10).await, Some(running));
    let waiting = add(&catalog, &backup()).await;
    let mut tx = catalog.begin().await.unwrap();
    assert_eq!(tx.cancel(waiting, 11).await.unwrap().state, TaskState::Cancelled);
    assert_eq!(tx.cancel(waiting, 11).await.unwrap_err().kind(), ErrorKind::Conflict);
    let asked = tx.cancel(running, 11).await.unwrap();
    assert_eq!((asked.state, asked.cancel_requested), (TaskState::Running, true));
    assert!(tx.renew(running, mover.id, 1, None, 20).await.unwrap().cancel_requested);
    let state = TaskState::Cancelled;
    tx.finish((running, mover.id, 1), state, &json!(null), "", None, 12).await.unwrap();
    let unheard = add_within(&mut tx).await;
    tx.lease(unheard, mover.id, 13, 20).await.unwrap().unwrap();
    tx.cancel(unheard, 14).await.unwrap();
    let leases = tx.leases().await.unwrap();
    let back = tx.reclaim(&leases, 21).await.unwrap();
    assert_eq!((back[0].id, back[0].state), (unheard, TaskState::Cancelled));
}

async fn a_lease_is_renewed_also_by_a_clock_that_went_back(Lab { catalog, .. }: Lab) {
    let mover = node(&catalog, "mover").await;
    let id = add(&catalog, &backup()).await;
    assert_eq!(lease(&catalog, &mover, 1000).await, Some(id));
    let mut tx = catalog.begin().await.unwrap();
    let mut known = tx.leases().await.unwrap();
    // Twice at the same moment is twice, too.
    for until in [500, 500] {
        tx.renew(id, mover.id, 1, None, until).await.unwrap();
        let now = tx.leases().await.unwrap();
        assert!(now != known && now[0].until_ms <= 501, "{now:?}");
        assert!(tx.reclaim(&known, 2000).await.unwrap().is_empty());
        known = now;
    }
}

async fn a_list_leaves_out_what_came_of_tasks(Lab { catalog, .. }: Lab) {
    let mover = node(&catalog, "mover").await;
    let id = add(&catalog, &backup()).await;
    assert_eq!(lease(&catalog, &mover, 10).await, Some(id));
    let mut tx = catalog.begin().await.unwrap();
    let document = json!({"kept": 5});
    let done = TaskState::Succeeded;
    tx.finish((id, mover.id, 1), done, &document, "fine", None, 11).await.unwrap();
    assert_eq!(tx.task(id, &Visible::All).await.unwrap().result, document);
    let listed = tx.tasks(&Visible::All, &TaskFilter::default(), &Page::default()).await.unwrap();
    assert_eq!((&listed[0].message[..], &listed[0].result), ("fine", &json!(null)));
}

async fn what_ended_long_ago_goes_with_its_log_and_leaves_points(Lab { catalog, .. }: Lab) {
    let mover = node(&catalog, "mover").await;
    let (instance, destination) = (InstanceId::new(1), DestinationId::new(2));
    let mut tx = catalog.begin().await.unwrap();
    let mut ids = Vec::new();
    // The last two are too young, or have not ended.
    for at in (0..1203u64).chain([5000, 5001]) {
        let id = tx.add_task(&backup(), at).await.unwrap().unwrap();
        tx.lease(id, mover.id, at, at + 10).await.unwrap().unwrap();
        tx.log(id, 1, &[("info".to_owned(), "read".to_owned())], at).await.unwrap();
        if at != 5001 {
            let done = TaskState::Succeeded;
            tx.finish((id, mover.id, 1), done, &json!(1), "", None, at).await.unwrap();
        }
        ids.push(id);
    }
    let point = NewPoint {
        destination,
        task: Some(ids[0]),
        point: "shop.web@k1".into(),
        taken_ms: 1,
        image_bytes: 1,
        new_bytes: 1,
        stored_bytes: 1,
    };
    tx.add_point(instance, None, &point, 1).await.unwrap();
    let mut parts = 1;
    while tx.forget_ended(5000).await.unwrap() {
        parts += 1;
    }
    assert_eq!(parts, 3, "a part at a time");
    let left = tx.tasks(&Visible::All, &TaskFilter::default(), &Page::default()).await.unwrap();
    assert_eq!(left.iter().map(|task| task.id).collect::<Vec<_>>(), [ids[1204], ids[1203]]);
    assert!(tx.log_lines(ids[7], 0, 10).await.unwrap().is_empty());
    assert_eq!(tx.log_lines(ids[1203], 0, 10).await.unwrap().len(), 1);
    let points = tx.points(&Visible::All, Some(instance), &Page::default()).await.unwrap();
    assert_eq!((points.len(), points[0].new.task), (1, Some(ids[0])));
}

async fn add_within(tx: &mut sluice_catalog::Tx) -> TaskId {
    tx.add_task(&backup(), 1).await.unwrap().unwrap()
}

async fn many_nodes_never_get_the_same_task(Lab { catalog, url, .. }: Lab) {
    for _ in 0..24 {
        add(&catalog, &backup()).await;
    }
    let mut pulling = Vec::new();
    for number in 0..6 {
        let mover = node(&catalog, &format!("node-{number}")).await;
        // Half of them ask another server.
        let catalog =
            if number % 2 == 0 { catalog.clone() } else { Catalog::open(&url).await.unwrap() };
        pulling.push(tokio::spawn(async move {
            let mut got = Vec::new();
            while let Some(id) = lease(&catalog, &mover, 5).await {
                got.push(id);
            }
            got
        }));
    }
    let mut all = Vec::new();
    for one in pulling {
        all.extend(one.await.unwrap());
    }
    all.sort();
    let before = all.len();
    all.dedup();
    assert_eq!((before, all.len()), (24, 24));
}

async fn the_log_keeps_its_order(Lab { catalog, .. }: Lab) {
    let id = add(&catalog, &backup()).await;
    let line = |text: &str| ("info".to_owned(), text.to_owned());
    let mut tx = catalog.begin().await.unwrap();
    tx.log(id, 1, &[line("a"), line("b\0")], 5).await.unwrap();
    tx.log(id, 2, &[line(&"ä".repeat(5000))], 6).await.unwrap();
    let lines = tx.log_lines(id, 0, 10).await.unwrap();
    assert_eq!(lines.iter().map(|l| l.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!((lines[1].line.as_str(), lines[2].attempt), ("b", 2));
    assert!(lines[2].line.len() <= 4096);
    assert_eq!(tx.log_lines(id, 2, 10).await.unwrap().len(), 1);
}

async fn a_part_of_a_transaction_is_undone_alone(lab: Lab) {
    let catalog = lab.catalog;
    let mover = node(&catalog, "mover").await;
    let task = add(&catalog, &backup()).await;
    assert_eq!(lease(&catalog, &mover, 5).await, Some(task));
    let line = |text: &str| vec![("info".to_owned(), text.to_owned())];
    let mut tx = catalog.begin().await.unwrap();
    let kept = tx.begin_part().await.unwrap();
    tx.renew(task, mover.id, 1, None, 50).await.unwrap();
    tx.log(task, 1, &line("kept"), 6).await.unwrap();
    tx.end_part(kept).await.unwrap();
    let undone = tx.begin_part().await.unwrap();
    tx.log(task, 1, &line("undone"), 6).await.unwrap();
    // Also what was done in a part of it goes, and an error of the database ends nothing else.
    let within = tx.begin_part().await.unwrap();
    tx.log(task, 1, &line("within"), 6).await.unwrap();
    tx.end_part(within).await.unwrap();
    assert!(tx.insert(None, "mover", Node::default(), 7).await.is_err(), "the name is taken");
    tx.undo_part(undone).await.unwrap();
    let last = tx.begin_part().await.unwrap();
    let stale = tx.renew(task, mover.id, 9, None, 70).await.unwrap_err();
    assert_eq!(stale.kind(), ErrorKind::Stale);
    tx.undo_part(last).await.unwrap();
    tx.log(task, 1, &line("last"), 7).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = catalog.read().await.unwrap();
    let lines = tx.log_lines(task, 0, 10).await.unwrap();
    let lines: Vec<_> = lines.iter().map(|line| line.line.as_str()).collect();
    assert_eq!(lines, ["kept", "last"]);
}

async fn what_waits_for_a_node_that_is_gone_ends(Lab { catalog, .. }: Lab) {
    let (gone, stays) = (node(&catalog, "gone").await.id, node(&catalog, "stays").await.id);
    let of = |wanted_node| NewTask { wanted_node, ..backup() };
    let mut tasks = Vec::new();
    for wanted in [Some(gone), Some(stays), None] {
        tasks.push(add(&catalog, &of(wanted)).await);
    }
    let mut tx = catalog.begin().await.unwrap();
    assert_eq!(tx.end_of_no_node(9).await.unwrap(), 0);
    tx.delete::<Node>(gone).await.unwrap();
    assert_eq!(tx.end_of_no_node(9).await.unwrap(), 1);
    let mut states = Vec::new();
    for task in tasks {
        states.push(tx.task(task, &Visible::All).await.unwrap().state);
    }
    assert_eq!(states, [TaskState::Failed, TaskState::Queued, TaskState::Queued]);
}

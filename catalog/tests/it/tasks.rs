use serde_json::json;
use sluice_catalog::{
    Capabilities, Catalog, DestinationId, ErrorKind, InstanceId, NewTask, Node, Page, Progress,
    Record, TaskFilter, TaskId, TaskState, Visible,
};

use crate::support::{Lab, on_both};

on_both! {
    tasks_go_by_priority_and_one_for_each_instance
    a_due_task_is_added_once
    a_lost_lease_is_taken_over_and_the_first_holder_refused
    a_failed_task_is_tried_again_until_its_attempts_are_used_up
    cancelling_ends_what_waits_and_asks_what_runs
    a_node_gets_only_what_it_may_run
    many_nodes_never_get_the_same_task
    the_log_keeps_its_order
}

fn backup() -> NewTask {
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

async fn node(catalog: &Catalog, name: &str) -> Record<Node> {
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

async fn lease(catalog: &Catalog, node: &Record<Node>, now_ms: u64) -> Option<TaskId> {
    let mut tx = catalog.begin().await.unwrap();
    let task = tx.lease(node, now_ms, now_ms + 10).await.unwrap();
    tx.commit().await.unwrap();
    task.map(|task| task.id)
}

async fn tasks_go_by_priority_and_one_for_each_instance(Lab { catalog, .. }: Lab) {
    let mover = node(&catalog, "mover").await;
    let instance = Some(InstanceId::new(1));
    let low = add(&catalog, &NewTask { priority: 10, ..backup() }).await;
    let first = add(&catalog, &NewTask { instance, ..backup() }).await;
    let second = add(&catalog, &NewTask { instance, ..backup() }).await;
    let later = add(&catalog, &NewTask { not_before_ms: 50, priority: 99, ..backup() }).await;
    assert_eq!(lease(&catalog, &mover, 2).await, Some(first));
    assert_eq!(lease(&catalog, &mover, 2).await, Some(low), "the instance is busy");
    assert_eq!(lease(&catalog, &mover, 2).await, None);
    assert_eq!(lease(&catalog, &mover, 50).await, Some(later));
    let mut tx = catalog.begin().await.unwrap();
    let lease_of_first = (first, mover.id, 1);
    let done = TaskState::Succeeded;
    tx.finish(lease_of_first, done, &json!({}), "", None, 3).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(lease(&catalog, &mover, 4).await, Some(second));
    let mut tx = catalog.read().await.unwrap();
    let running = TaskFilter { state: Some(TaskState::Running), instance: None };
    let page = Page::default();
    let listed = tx.tasks(&Visible::All, &running, &page).await.unwrap();
    assert_eq!(listed.len(), 3);
    let newest = tx.tasks(&Visible::All, &TaskFilter::default(), &page).await.unwrap();
    assert!(newest.windows(2).all(|pair| pair[0].id > pair[1].id));
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
    assert!(tx.reclaim(110).await.unwrap().is_empty(), "the lease still holds");
    let progress = Progress { done: 5, ..Progress::default() };
    assert!(!tx.renew(id, one.id, 1, Some(&progress), 120).await.unwrap());
    assert!(tx.reclaim(115).await.unwrap().is_empty(), "it was renewed");
    let back = tx.reclaim(121).await.unwrap();
    assert_eq!((back[0].id, back[0].state), (id, TaskState::Queued));
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
    assert!(tx.renew(running, mover.id, 1, None, 20).await.unwrap());
    let state = TaskState::Cancelled;
    tx.finish((running, mover.id, 1), state, &json!(null), "", None, 12).await.unwrap();
    let unheard = add_within(&mut tx).await;
    tx.lease(&mover, 13, 20).await.unwrap().unwrap();
    tx.cancel(unheard, 14).await.unwrap();
    let back = tx.reclaim(21).await.unwrap();
    assert_eq!((back[0].id, back[0].state), (unheard, TaskState::Cancelled));
}

async fn add_within(tx: &mut sluice_catalog::Tx) -> TaskId {
    tx.add_task(&backup(), 1).await.unwrap().unwrap()
}

async fn a_node_gets_only_what_it_may_run(Lab { catalog, .. }: Lab) {
    let (mut one, two) = (node(&catalog, "one").await, node(&catalog, "two").await);
    let (near, far) = (DestinationId::new(1), DestinationId::new(2));
    one.body.destinations = Some(vec![near]);
    let destined = NewTask { destination: Some(far), priority: 90, ..backup() };
    let elsewhere = add(&catalog, &destined).await;
    let restore = NewTask { kind: "restore".into(), priority: 80, ..backup() };
    add(&catalog, &restore).await;
    let pinned = NewTask { wanted_node: Some(two.id), priority: 70, ..backup() };
    let pinned = add(&catalog, &pinned).await;
    let fits = add(&catalog, &NewTask { destination: Some(near), ..backup() }).await;
    assert_eq!(lease(&catalog, &one, 5).await, Some(fits));
    assert_eq!(lease(&catalog, &one, 5).await, None);
    assert_eq!(lease(&catalog, &two, 5).await, Some(elsewhere));
    assert_eq!(lease(&catalog, &two, 5).await, Some(pinned));
    assert_eq!(lease(&catalog, &two, 5).await, None);
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

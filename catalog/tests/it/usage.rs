use serde_json::json;
use sluice_catalog::{
    Catalog, Destination, ErrorKind, Held, InUse, InstanceId, NewTask, NodeId, Project, ProjectId,
    TaskId, Transfer, Tx, Visible,
};

use crate::support::{Lab, on_both};
use crate::tasks::backup;

on_both! {
    what_is_held_is_added_up_for_projects_and_instances
    levels_hold_until_the_next_and_belong_to_one_policy
    a_task_is_in_the_ledger_once
    what_began_counts_and_what_never_ran_does_not
    a_project_has_one_quota
    what_is_no_restore_point_yet_is_in_use_until_it_is_one_or_gone
    what_is_no_restore_point_yet_is_gone_with_its_destination
}

async fn project(catalog: &Catalog, name: &str) -> ProjectId {
    let mut tx = catalog.begin().await.unwrap();
    let id = tx.insert(None, name, Project::default(), 1).await.unwrap().id;
    tx.commit().await.unwrap();
    id
}

fn held(project: ProjectId, instance: u64, destination: u64) -> Held {
    // Ids of the same moment differ by chance; these are the same each time.
    let id = |n: u64| format!("00000000-0000-7000-8000-{n:012x}");
    Held {
        instance: id(instance).parse().unwrap(),
        destination: id(destination).parse().unwrap(),
        project: Some(project),
        policy: None,
        stored_bytes: 100,
        front_end_bytes: 1000,
        last_good_ms: 5,
    }
}

async fn what_is_held_is_added_up_for_projects_and_instances(Lab { catalog, .. }: Lab) {
    let (one, two) = (project(&catalog, "one").await, project(&catalog, "two").await);
    let mut tx = catalog.begin().await.unwrap();
    assert_eq!(tx.in_use(one, None).await.unwrap(), InUse::default());
    let (near, far, other) = (held(one, 1, 1), held(one, 1, 2), held(one, 2, 1));
    let far = Held { front_end_bytes: 1500, ..far };
    for held in [&near, &far, &other, &held(two, 3, 1)] {
        tx.set_held(held, 10).await.unwrap();
    }
    let all = InUse { front_end_bytes: 2500, stored_bytes: 300 };
    assert_eq!(tx.in_use(one, None).await.unwrap(), all, "two places are one instance");
    let own = InUse { front_end_bytes: 1500, stored_bytes: 200 };
    assert_eq!(tx.in_use(one, Some(near.instance)).await.unwrap(), own);
    let mine = Visible::projects([one]);
    assert_eq!(tx.held(&mine).await.unwrap(), [near.clone(), far, other]);
    let more = Held { stored_bytes: 101, last_good_ms: 9, ..near };
    tx.set_held(&more, 20).await.unwrap();
    let found = tx.held_at(more.instance, more.destination).await.unwrap();
    assert_eq!(found, Some(more));
}

async fn levels_hold_until_the_next_and_belong_to_one_policy(Lab { catalog, .. }: Lab) {
    let one = project(&catalog, "one").await;
    let mut tx = catalog.begin().await.unwrap();
    let first = held(one, 1, 1);
    let policy = Some("00000000-0000-7000-8000-000000000009".parse().unwrap());
    let later = Held { policy, stored_bytes: 150, ..first.clone() };
    tx.set_held(&first, 10).await.unwrap();
    tx.set_held(&first, 20).await.unwrap();
    tx.set_held(&later, 30).await.unwrap();
    let levels = tx.levels(&Visible::All, 25, 31).await.unwrap();
    let mut stored: Vec<_> = levels
        .iter()
        .filter(|level| level.destination.is_some())
        .map(|level| (level.at_ms, level.policy, level.stored_bytes))
        .collect();
    stored.sort();
    assert_eq!(stored, [(20, None, 100), (30, None, 0), (30, policy, 150)]);
    let size: Vec<_> = levels.iter().filter(|level| level.destination.is_none()).collect();
    assert_eq!(size.iter().map(|level| level.at_ms).collect::<Vec<_>>(), [20, 30]);
    assert!(size.iter().all(|level| level.front_end_bytes == 1000 && level.policy.is_none()));
    assert_eq!(tx.levels(&Visible::All, 25, 30).await.unwrap().len(), 2, "30 is not within");
    let nobody = Visible::projects([]);
    assert!(tx.levels(&nobody, 0, 99).await.unwrap().is_empty());
}

async fn a_task_is_in_the_ledger_once(Lab { catalog, .. }: Lab) {
    let one = project(&catalog, "one").await;
    let mut tx = catalog.begin().await.unwrap();
    let transfer = Transfer {
        task: TaskId::new(1),
        at_ms: 50,
        project: Some(one),
        instance: None,
        policy: None,
        destination: None,
        kind: "backup".into(),
        logical_bytes: u64::from(u32::MAX) * 8,
        unique_bytes: 3,
        shared_bytes: 2,
        transferred_bytes: 1,
    };
    tx.add_transfer(&transfer).await.unwrap();
    tx.add_transfer(&Transfer { at_ms: 60, ..transfer.clone() }).await.unwrap();
    assert_eq!(tx.transfers(&Visible::All, 50, 61).await.unwrap(), [transfer]);
    assert!(tx.transfers(&Visible::All, 0, 50).await.unwrap().is_empty());
    assert!(tx.transfers(&Visible::projects([]), 0, 99).await.unwrap().is_empty());
}

async fn add(tx: &mut Tx, project: ProjectId, instance: InstanceId, now_ms: u64) -> TaskId {
    let new = NewTask { project: Some(project), instance: Some(instance), ..backup() };
    tx.add_task(&new, now_ms).await.unwrap().unwrap()
}

async fn what_began_counts_and_what_never_ran_does_not(Lab { catalog, .. }: Lab) {
    let one = project(&catalog, "one").await;
    let (web, db) = (InstanceId::new(1), InstanceId::new(2));
    let mut tx = catalog.begin().await.unwrap();
    add(&mut tx, one, web, 10).await;
    let refused = add(&mut tx, one, web, 20).await;
    let cancelled = add(&mut tx, one, web, 30).await;
    let stopped = add(&mut tx, one, web, 40).await;
    add(&mut tx, one, db, 50).await;
    tx.refuse(refused, "no", 20).await.unwrap();
    tx.cancel(cancelled, 30).await.unwrap();
    tx.lease(stopped, NodeId::new(1), 40, 50).await.unwrap().unwrap();
    tx.cancel(stopped, 41).await.unwrap();
    assert_eq!(tx.began(one, None, "backup", 0).await.unwrap(), [10, 40, 50]);
    assert_eq!(tx.began(one, Some(web), "backup", 10).await.unwrap(), [40]);
    assert!(tx.began(one, None, "restore", 0).await.unwrap().is_empty());
}

async fn a_project_has_one_quota(Lab { catalog, .. }: Lab) {
    let one = project(&catalog, "one").await;
    let mut tx = catalog.begin().await.unwrap();
    assert_eq!(tx.quota(one).await.unwrap(), None);
    tx.set_quota(one, &json!({"a": 1}), 5).await.unwrap();
    tx.set_quota(one, &json!({"a": 2}), 6).await.unwrap();
    assert_eq!(tx.quota(one).await.unwrap(), Some(json!({"a": 2})));
    tx.delete::<Project>(one).await.unwrap();
    assert_eq!(tx.quota(one).await.unwrap(), None);
    let gone = tx.set_quota(one, &json!({}), 7).await.unwrap_err();
    assert_eq!(gone.kind(), ErrorKind::Conflict);
}

async fn what_is_no_restore_point_yet_is_in_use_until_it_is_one_or_gone(Lab { catalog, .. }: Lab) {
    let (one, two) = (project(&catalog, "one").await, project(&catalog, "two").await);
    let mut tx = catalog.begin().await.unwrap();
    let (here, other) = (held(one, 1, 1), held(one, 2, 1));
    let place = |held: &Held| (held.instance, held.destination);
    tx.set_held(&here, 1).await.unwrap();
    tx.set_pending(place(&here), one, 5, 10).await.unwrap();
    tx.set_pending(place(&here), one, 7, 20).await.unwrap();
    tx.set_pending(place(&other), one, 30, 10).await.unwrap();
    assert_eq!(tx.pending(place(&here)).await.unwrap(), 7, "the last figure is all of it");
    assert_eq!(tx.in_use(one, None).await.unwrap().stored_bytes, 137);
    assert_eq!(tx.in_use(one, Some(here.instance)).await.unwrap().stored_bytes, 107);
    let of = tx.in_use(one, Some(other.instance)).await.unwrap();
    assert_eq!(of, InUse { front_end_bytes: 0, stored_bytes: 30 });
    assert_eq!(tx.in_use(two, None).await.unwrap(), InUse::default());
    assert_eq!(tx.forget_pending(here.destination, 20).await.unwrap(), 1, "the older one");
    assert_eq!(tx.in_use(one, None).await.unwrap().stored_bytes, 107);
    tx.end_pending(place(&here)).await.unwrap();
    assert_eq!(tx.in_use(one, None).await.unwrap().stored_bytes, 100);
    assert_eq!(tx.pending(place(&here)).await.unwrap(), 0);
}

async fn what_is_no_restore_point_yet_is_gone_with_its_destination(Lab { catalog, .. }: Lab) {
    let one = project(&catalog, "one").await;
    let mut tx = catalog.begin().await.unwrap();
    let web = held(one, 1, 1).instance;
    let mut made = Vec::new();
    for name in ["near", "far"] {
        let body: Destination = serde_json::from_value(json!({"url": "/store"})).unwrap();
        made.push(tx.insert(Some(one), name, body, 1).await.unwrap().id);
    }
    tx.set_pending((web, made[0]), one, 5, 10).await.unwrap();
    tx.set_pending((web, made[1]), one, 30, 10).await.unwrap();
    assert_eq!(tx.in_use(one, None).await.unwrap().stored_bytes, 35);
    // No restore point keeps a destination that has only what is not one yet.
    let near = tx.get::<Destination>(made[0], &Visible::All).await.unwrap();
    tx.refuse_if_used::<Destination>(&near, &Visible::All).await.unwrap();
    tx.delete::<Destination>(made[0]).await.unwrap();
    assert_eq!(tx.pending((web, made[0])).await.unwrap(), 0);
    assert_eq!(tx.pending((web, made[1])).await.unwrap(), 30, "the other's stays");
    assert_eq!(tx.in_use(one, None).await.unwrap().stored_bytes, 30);
    assert_eq!(tx.in_use(one, Some(web)).await.unwrap().stored_bytes, 30);
}

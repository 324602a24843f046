//! Snapshots at their sources.

use sluice_catalog::{
    ErrorKind, InstanceId, NewSnapshot, NodeId, Page, PolicyId, ProjectId, SnapshotFilter,
    SnapshotId, SnapshotImage, SnapshotState, TaskId, Visible,
};

use crate::support::{Lab, on_both};

on_both! {
    a_snapshot_goes_through_its_states_and_never_back
    what_no_task_told_and_what_is_over_is_to_be_settled
}

pub fn new(project: ProjectId, expires_ms: u64) -> NewSnapshot {
    NewSnapshot {
        project: Some(project),
        instance: InstanceId::new(1),
        policy: Some(PolicyId::new(1)),
        rule: "hourly".into(),
        task: TaskId::new(1),
        expires_ms,
    }
}

async fn a_snapshot_goes_through_its_states_and_never_back(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let (id, wanted, node) = (SnapshotId::new(1), new(ProjectId::new(1), 0), NodeId::new(1));
    tx.add_snapshot(id, &wanted, 1).await.unwrap();
    let (instance, policy) = (wanted.instance, wanted.policy.unwrap());
    assert!(tx.snapshot_pending(instance, policy, "hourly").await.unwrap());
    assert!(!tx.snapshot_pending(instance, policy, "daily").await.unwrap());
    let image = SnapshotImage { name: "vda".into(), path: "/kept/x".into(), bytes: 7 };
    let made = (50, std::slice::from_ref(&image));
    assert!(tx.snapshot_made(id, node, made, 2).await.unwrap());
    assert!(!tx.snapshot_made(id, node, made, 3).await.unwrap(), "it is told once");
    let ready = tx.instance_snapshot(id, &Visible::All).await.unwrap();
    assert_eq!((&ready.new, ready.state, ready.made_ms), (&wanted, SnapshotState::Ready, 50));
    assert_eq!((&ready.images, ready.node), (&vec![image], Some(node)));
    let of = (instance, policy, "hourly".to_owned());
    assert_eq!(tx.snapshots_of_rules().await.unwrap(), [(of, vec![(id, 50)])].into());
    let other = Visible::projects([ProjectId::new(2)]);
    let hidden = tx.instance_snapshot(id, &other).await.unwrap_err();
    assert_eq!(hidden.kind(), ErrorKind::NotFound);
    let task = TaskId::new(2);
    assert!(tx.snapshot_goes(&ready, (node, task), "over", 4).await.unwrap());
    let twice = tx.snapshot_goes(&ready, (node, TaskId::new(3)), "again", 5).await.unwrap();
    assert!(!twice, "who has read it before somebody else removed it removes nothing");
    let goes = tx.instance_snapshot(id, &Visible::All).await.unwrap();
    assert_eq!((goes.new.task, &*goes.message), (task, "over"));
    tx.snapshot_gone(id, None, 5).await.unwrap();
    let gone = tx.instance_snapshot(id, &Visible::All).await.unwrap();
    assert!(!tx.snapshot_goes(&gone, (node, TaskId::new(3)), "again", 6).await.unwrap());
    let gone = tx.instance_snapshot(id, &Visible::All).await.unwrap();
    assert_eq!((gone.state, &*gone.message, gone.updated_ms), (SnapshotState::Gone, "over", 5));
    let listed = |state| SnapshotFilter { state, instance: Some(instance) };
    let page = Page::default();
    assert!(tx.snapshots(&Visible::All, &listed(None), &page).await.unwrap().items.is_empty());
    let state = Some(SnapshotState::Gone);
    assert_eq!(tx.snapshots(&Visible::All, &listed(state), &page).await.unwrap().items.len(), 1);
    assert!(!tx.forget_ended(9).await.unwrap());
    assert!(tx.instance_snapshot(id, &Visible::All).await.is_err(), "history ends");
}

async fn what_no_task_told_and_what_is_over_is_to_be_settled(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let node = NodeId::new(1);
    let mut ids = Vec::new();
    for (expires, ready) in [(0, false), (0, true), (100, true), (900, true)] {
        let id = SnapshotId::new(5 + ids.len() as u64);
        tx.add_snapshot(id, &new(ProjectId::new(1), expires), 1).await.unwrap();
        if ready {
            tx.snapshot_made(id, node, (1, &[]), 1).await.unwrap();
        }
        ids.push(id);
    }
    let found = tx.snapshots_to_settle(100).await.unwrap();
    assert_eq!(found, [(ids[0], 1), (ids[2], 2)], "its task is gone, and its time is over");
}

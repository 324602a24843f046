//! One row that cannot be read, and the others that go on.

use serde_json::json;
use sluice_catalog::{
    Import, InstanceId, LeaseMark, MountId, NewTask, NodeId, Page, ProjectId, SnapshotFilter,
    SnapshotId, TaskId, TaskState, Visible,
};

use crate::support::{Lab, on_both};
use crate::tasks::{backup, node};

on_both! {
    what_is_settled_comes_without_what_cannot_be_read
    a_task_that_cannot_be_read_ends_and_the_leases_of_others_are_taken_back
}

/// Writes what no program writes.
async fn damage(lab: &Lab, table: &str, column: &str, id: &str) {
    sqlx::any::install_default_drivers();
    let pool = sqlx::AnyPool::connect(&lab.url).await.unwrap();
    let key = if table == "imports" { "task_id" } else { "id" };
    let sql = format!("UPDATE {table} SET {column} = 'odd' WHERE {key} = '{id}'");
    let done = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&pool).await.unwrap();
    assert_eq!(done.rows_affected(), 1);
    pool.close().await;
}

async fn what_is_settled_comes_without_what_cannot_be_read(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let project = ProjectId::new(1);
    let snapshots = [SnapshotId::new(1), SnapshotId::new(2)];
    let mounts = [MountId::new(1), MountId::new(2)];
    let imports = [TaskId::new(1), TaskId::new(2)];
    let mount_of = crate::mounts::new(project, 5);
    for (snapshot, (mount, task)) in snapshots.iter().zip(mounts.iter().zip(imports)) {
        tx.add_snapshot(*snapshot, &crate::snapshots::new(project, 5), 1).await.unwrap();
        tx.snapshot_made(*snapshot, NodeId::new(1), (1, &[]), 1).await.unwrap();
        tx.add_mount(*mount, &mount_of, 1).await.unwrap();
        let import = Import { task, instance: InstanceId::new(1), tags: ["a".into()].into() };
        tx.add_import(&import).await.unwrap();
    }
    tx.commit().await.unwrap();
    damage(&lab, "snapshots", "images", &snapshots[0].to_string()).await;
    damage(&lab, "mounts", "spec", &mounts[0].to_string()).await;
    damage(&lab, "imports", "tags", &imports[0].to_string()).await;

    let mut tx = lab.catalog.read().await.unwrap();
    let (filter, page) = (SnapshotFilter::default(), Page::default());
    let found = tx.snapshots(&Visible::All, &filter, &page).await.unwrap();
    assert_eq!(found.items.iter().map(|one| one.id).collect::<Vec<_>>(), [snapshots[1]]);
    let apart: Vec<_> = found.unreadable.iter().map(|one| one.id.clone()).collect();
    assert_eq!(apart, [snapshots[0].to_string()]);
    for found in
        [tx.mounts_to_settle(100).await.unwrap(), tx.mounts_of_node(mount_of.node).await.unwrap()]
    {
        assert_eq!(found.items.iter().map(|one| one.id).collect::<Vec<_>>(), [mounts[1]]);
        assert_eq!(found.unreadable[0].id, mounts[0].to_string());
    }
    let found = tx.imports_to_settle().await.unwrap();
    assert_eq!(found.items.iter().map(|one| one.task).collect::<Vec<_>>(), [imports[1]]);
    assert_eq!(found.unreadable[0].id, imports[0].to_string());
}

async fn a_task_that_cannot_be_read_ends_and_the_leases_of_others_are_taken_back(lab: Lab) {
    let node = node(&lab.catalog, "mover").await.id;
    let mut tx = lab.catalog.begin().await.unwrap();
    let mut tasks = Vec::new();
    for _ in 0..4 {
        let new = NewTask { spec: json!({"kind": "backup"}), ..backup() };
        tasks.push(tx.add_task(&new, 1).await.unwrap().unwrap());
    }
    for task in &tasks[..2] {
        assert!(tx.lease(*task, node, 5, 10).await.unwrap().is_some());
    }
    for task in &tasks[2..] {
        tx.set_start_by(*task, 6).await.unwrap();
    }
    tx.commit().await.unwrap();
    for broken in [&tasks[0], &tasks[2]] {
        damage(&lab, "tasks", "spec", &broken.to_string()).await;
    }

    let mut tx = lab.catalog.begin().await.unwrap();
    let mark = |task: &TaskId| LeaseMark { task: *task, attempt: 1, until_ms: 10 };
    let over: Vec<_> = tasks[..2].iter().map(mark).collect();
    let back = tx.reclaim(&over, 20).await.unwrap();
    assert_eq!(back.iter().map(|task| task.id).collect::<Vec<_>>(), [tasks[1]]);
    assert_eq!(back[0].state, TaskState::Queued);
    let late = tx.end_late("too late", 20).await.unwrap();
    assert_eq!(late.iter().map(|task| task.id).collect::<Vec<_>>(), [tasks[3]]);
    // What cannot be read neither runs nor waits any more.
    let (waiting, running) = tx.line().await.unwrap();
    assert_eq!(waiting.iter().map(|task| task.id).collect::<Vec<_>>(), [tasks[1]]);
    assert!(running.is_empty());
    tx.commit().await.unwrap();
}

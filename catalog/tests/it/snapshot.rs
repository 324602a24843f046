use serde_json::json;
use sluice_catalog::{
    AuditEntry, Catalog, ErrorKind, NewTask, Node, Page, Project, TaskFilter, Visible, WaitingLook,
};

use crate::support::{Lab, on_both, sqlite};
use crate::tasks::backup;

on_both! {
    a_snapshot_has_everything_and_becomes_a_catalog_again
    a_catalog_in_use_takes_no_snapshot_over
    what_passes_between_servers_is_in_no_snapshot
}

async fn filled(catalog: &Catalog) {
    let mut tx = catalog.begin().await.unwrap();
    let project = tx.insert(None, "shop", Project::default(), 1).await.unwrap();
    tx.add_user("admin", "hash", 2).await.unwrap();
    for number in 0..700u64 {
        // Some have no key, which is NULL.
        let due_key = (number % 2 == 0).then(|| format!("k{number}"));
        let new = NewTask { project: Some(project.id), due_key, ..backup() };
        tx.add_task(&new, 10 + number).await.unwrap();
    }
    let entry = AuditEntry {
        actor: "admin".into(),
        action: "project.create",
        object: project.id.to_string(),
        project: None,
        detail: json!({"text": "it's \"so\" — ✓"}),
    };
    tx.audit(entry, 3).await.unwrap();
    tx.set_setting("colour", "green").await.unwrap();
    tx.commit().await.unwrap();
}

async fn a_snapshot_has_everything_and_becomes_a_catalog_again(lab: Lab) {
    filled(&lab.catalog).await;
    let file = lab._folder.path().join("snapshot.sqlite");
    lab.catalog.snapshot(&file).await.unwrap();
    let again = lab.catalog.snapshot(&file).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
    // Into a new database of either kind: each test restores into the one kind it has, and into
    // a file.
    let target = sqlite().await.unwrap();
    target.catalog.restore(&file).await.unwrap();
    let mut tx = target.catalog.read().await.unwrap();
    assert_eq!(tx.setting("colour").await.unwrap().as_deref(), Some("green"));
    assert_eq!(tx.count_users().await.unwrap(), 1);
    let page = Page { after: None, limit: 1000 };
    let tasks = tx.tasks(&Visible::All, &TaskFilter::default(), &page).await.unwrap();
    assert_eq!(tasks.len(), 700);
    let mut before = lab.catalog.read().await.unwrap();
    let known = before.tasks(&Visible::All, &TaskFilter::default(), &page).await.unwrap();
    let told = |tasks: &[sluice_catalog::Task]| -> Vec<_> {
        tasks.iter().map(|task| (task.id, task.new.due_key.clone(), task.created_ms)).collect()
    };
    assert_eq!(told(&tasks), told(&known));
    assert!(tasks.iter().all(|task| task.attempt == 1), "they may have been tried since");
    assert_eq!(tx.audit_verify().await.unwrap(), (1, None), "the chain holds");
}

async fn a_catalog_in_use_takes_no_snapshot_over(lab: Lab) {
    let source = sqlite().await.unwrap();
    filled(&source.catalog).await;
    let file = source._folder.path().join("snapshot.sqlite");
    source.catalog.snapshot(&file).await.unwrap();
    lab.catalog.restore(&file).await.unwrap();
    let mut tx = lab.catalog.begin().await.unwrap();
    let page = Page { after: None, limit: 1000 };
    let tasks = tx.tasks(&Visible::All, &TaskFilter::default(), &page).await.unwrap();
    assert_eq!(tasks.len(), 700);
    assert!(tx.find::<Project>(None, "shop").await.unwrap().is_some());
    // And it goes on: locks and numbers are in order.
    tx.decide_alone().await.unwrap();
    tx.commit().await.unwrap();
    let again = lab.catalog.restore(&file).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Conflict);
}

async fn what_passes_between_servers_is_in_no_snapshot(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let node = tx.add_node("mover", Node::default(), "hash", 1).await.unwrap().id;
    let question = "{}".to_owned();
    let look = WaitingLook { id: "l".into(), node, question };
    tx.add_look(&look, 5).await.unwrap();
    assert_eq!(tx.looks_waiting(5).await.unwrap(), std::slice::from_ref(&look));
    assert!(tx.looks_waiting(6).await.unwrap().is_empty());
    assert!(tx.take_look("l", 6).await.unwrap());
    let content = "content of a guest ".repeat(1000);
    assert!(!tx.answer_look("l", node, &content, 6).await.unwrap(), "nobody waits for it");
    assert!(tx.answer_look("l", node, &content, 5).await.unwrap());
    tx.commit().await.unwrap();
    let file = lab._folder.path().join("snapshot.sqlite");
    lab.catalog.snapshot(&file).await.unwrap();
    let bytes = std::fs::read(&file).unwrap();
    let part = b"content of a guest";
    assert!(!bytes.windows(part.len()).any(|some| some == part), "it can be read in the file");
    let target = sqlite().await.unwrap();
    target.catalog.restore(&file).await.unwrap();
    let ids = ["l".to_owned()];
    let mut tx = target.catalog.read().await.unwrap();
    assert!(tx.look_answers(&ids).await.unwrap().is_empty());
    assert!(!tx.has_old_looks(u64::MAX).await.unwrap());
    let mut tx = lab.catalog.begin().await.unwrap();
    assert_eq!(tx.look_answers(&ids).await.unwrap(), [("l".to_owned(), content)]);
    assert!(tx.has_old_looks(6).await.unwrap() && !tx.has_old_looks(5).await.unwrap());
    tx.forget_old_looks(6).await.unwrap();
    assert!(tx.look_answers(&ids).await.unwrap().is_empty());
}

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{
    Client, Finished, Hello, Join, JoinToken, Joined, Lease, LogEntry, Outcome, Report, Reported,
};

use crate::support::{Lab, make, status};

/// A node that joined, with its token.
pub async fn node(lab: &Lab, admin: &Client, name: &str) -> Client {
    let made: Value = admin.post("/api/v1/node-tokens", &()).await.unwrap();
    let token: JoinToken = made["token"].as_str().unwrap().parse().unwrap();
    assert_eq!(token.server, lab.anybody.server());
    let kinds = vec!["backup".to_owned(), "prune".to_owned()];
    let hello = Hello { kinds, slots: 1, ..Hello::default() };
    let join = Join { token: token.token, name: name.into(), hello, request: None };
    let joined: Joined = lab.anybody.post("/api/node/v1/join", &join).await.unwrap();
    let again = lab.anybody.post::<Joined>("/api/node/v1/join", &join).await;
    assert_eq!(status(&again), 404, "a join token works once");
    lab.anybody.clone().with_token(&joined.token)
}

/// A backup that waits; its id.
async fn backup(admin: &Client) -> String {
    let project = make(admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let body = json!({"name": "store", "spec": {"url": "/backup"}});
    let destination = make(admin, "destinations", body).await;
    let spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
    let body = json!({"project": project, "name": "web", "spec": spec});
    let instance = make(admin, "instances", body).await;
    let start = json!({"kind": "backup", "instance": instance, "destination": destination});
    make(admin, "tasks", start).await
}

fn report(attempt: u32, finished: Option<Outcome>) -> Report {
    let document = json!({"point": {"point": "shop.web@k3", "created_ms": 5, "stats": {}}});
    let finished = finished.map(|outcome| Finished {
        outcome,
        document,
        message: "no".into(),
        retryable: false,
    });
    let log = vec![LogEntry { level: "info".into(), line: "read 5".into() }];
    let progress = Some(json!({"type": "progress", "done": 5, "total": 10, "rate": 1}));
    Report { attempt, progress, log, finished }
}

#[tokio::test]
async fn a_task_goes_to_a_node_and_its_result_is_noted() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let mover = node(&lab, &admin, "mover").await;
    let task = backup(&admin).await;
    let lease: Option<Lease> = mover.post("/api/node/v1/lease", &()).await.unwrap();
    let lease = lease.unwrap();
    assert_eq!(
        (lease.task.as_str(), lease.attempt, lease.work.url.as_str()),
        (&*task, 1, "/backup")
    );
    let path = format!("/api/node/v1/tasks/{task}/report");
    let told: Reported = mover.post(&path, &report(1, None)).await.unwrap();
    assert!(!told.cancel);
    let shown: Value = admin.get(&format!("/api/v1/tasks/{task}")).await.unwrap();
    assert_eq!((&shown["state"], &shown["progress"]["done"]), (&"running".into(), &5.into()));
    let _: Reported = mover.post(&path, &report(1, Some(Outcome::Succeeded))).await.unwrap();
    let points: Value = admin.get("/api/v1/points").await.unwrap();
    assert_eq!(points["items"][0]["point"], "shop.web@k3");
    let log: Value = admin.get(&format!("/api/v1/tasks/{task}/log")).await.unwrap();
    assert_eq!(log["items"].as_array().unwrap().len(), 2);
    let late = mover.post::<Reported>(&path, &report(1, None)).await;
    assert_eq!(status(&late), 409);
    // Neither may do what the other does.
    assert_eq!(status(&mover.get::<Value>("/api/v1/me").await), 401);
    assert_eq!(status(&admin.post::<Value>("/api/node/v1/lease", &()).await), 401);
}

#[tokio::test]
async fn a_backup_that_leaves_commands_out_is_in_the_audit_log() {
    let place = crate::retention::Place::new().await;
    for no_hooks in [false, true] {
        let start = json!({"kind": "backup", "instance": place.instance,
            "destination": place.destination, "no_hooks": no_hooks});
        let _: Value = place.admin.post("/api/v1/tasks", &start).await.unwrap();
    }
    let audit: Value = place.admin.get("/api/v1/audit?limit=1000").await.unwrap();
    let starts = audit["items"].as_array().unwrap().iter();
    let starts = starts.filter(|entry| entry["action"] == "task.start");
    let told: Vec<_> = starts.map(|entry| entry["detail"]["no_hooks"].clone()).collect();
    assert!(told.contains(&json!(true)) && told.contains(&Value::Null), "{told:?}");
}

#[tokio::test]
async fn of_reports_that_come_at_once_those_that_are_refused_undo_nothing() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let mover = node(&lab, &admin, "mover").await;
    let task = backup(&admin).await;
    let lease: Option<Lease> = mover.post("/api/node/v1/lease", &()).await.unwrap();
    assert_eq!(lease.unwrap().attempt, 1);
    let path = format!("/api/node/v1/tasks/{task}/report");
    let mut under_way = tokio::task::JoinSet::new();
    for number in 0..40u32 {
        let (mover, path) = (mover.clone(), path.clone());
        // Each fourth is of an attempt that never was; it has a line of its own as well.
        let late = number % 4 == 0;
        let mut said = report(if late { 9 } else { 1 }, None);
        said.log[0].line = format!("line {number} {}", if late { "late" } else { "good" });
        under_way.spawn(async move {
            let told = mover.post::<Reported>(&path, &said).await;
            (late, told.is_ok(), told.err().and_then(|error| error.status()))
        });
    }
    while let Some(done) = under_way.join_next().await {
        let (late, accepted, refused) = done.unwrap();
        assert_eq!((accepted, refused), (!late, late.then_some(409)));
    }
    let log: Value = admin.get(&format!("/api/v1/tasks/{task}/log?limit=100")).await.unwrap();
    let lines = log["items"].as_array().unwrap();
    assert_eq!(lines.len(), 30);
    assert!(!log.to_string().contains("late"), "{log}");
    // One that ends it is among the others as well.
    let _: Reported = mover.post(&path, &report(1, Some(Outcome::Succeeded))).await.unwrap();
    let shown: Value = admin.get(&format!("/api/v1/tasks/{task}")).await.unwrap();
    assert_eq!(shown["state"], "succeeded");
}

#[tokio::test]
async fn a_silent_node_loses_its_task_to_another() {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let lab = Lab::start(folder, Duration::from_millis(50)).await;
    let admin = lab.administrator().await;
    let first = node(&lab, &admin, "first").await;
    let second = node(&lab, &admin, "second").await;
    let task = backup(&admin).await;
    let lease: Option<Lease> = first.post("/api/node/v1/lease", &()).await.unwrap();
    assert_eq!(lease.unwrap().attempt, 1);
    // Waits until the lease is over and the task has come back.
    let taken: Option<Lease> = second.post("/api/node/v1/lease", &()).await.unwrap();
    let taken = taken.unwrap();
    assert_eq!((taken.task.as_str(), taken.attempt), (&*task, 2));
    let path = format!("/api/node/v1/tasks/{task}/report");
    let late = first.post::<Reported>(&path, &report(1, Some(Outcome::Succeeded))).await;
    assert_eq!(status(&late), 409, "no task is done twice");
}

#[tokio::test]
async fn a_node_is_told_to_cancel_and_a_drained_one_gets_nothing() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let mover = node(&lab, &admin, "mover").await;
    let task = backup(&admin).await;
    let _: Option<Lease> = mover.post("/api/node/v1/lease", &()).await.unwrap();
    let cancel = format!("/api/v1/tasks/{task}/cancel");
    admin.send(Method::POST, &cancel, None, &[]).await.unwrap();
    let path = format!("/api/node/v1/tasks/{task}/report");
    let told: Reported = mover.post(&path, &report(1, None)).await.unwrap();
    assert!(told.cancel);
    let _: Reported = mover.post(&path, &report(1, Some(Outcome::Cancelled))).await.unwrap();
    let shown: Value = admin.get(&format!("/api/v1/tasks/{task}")).await.unwrap();
    assert_eq!(shown["state"], "cancelled");
    let nodes: Value = admin.get("/api/v1/nodes").await.unwrap();
    let id = nodes["items"][0]["id"].as_str().unwrap();
    let drain = json!({"state": "draining"});
    let path = format!("/api/v1/nodes/{id}");
    let drained = admin.send(Method::PUT, &path, Some(&drain), &[]).await.unwrap();
    assert_eq!(drained.body["state"], "draining");
}

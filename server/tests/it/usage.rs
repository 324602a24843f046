//! Quotas, chargeback, and who is protected.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{ClientError, Finished, Lease, Outcome, Report, Reported, TaskSpec};

use crate::retention::Place;
use crate::support::{make, status};

/// Sets the quota of the project.
async fn quota(place: &Place, quota: Value) {
    let path = format!("/api/v1/projects/{}/quota", place.project);
    place.admin.send(Method::PUT, &path, Some(&quota), &[]).await.unwrap();
}

pub async fn start(place: &Place) -> Result<Value, ClientError> {
    let (instance, destination) = (&place.instance, &place.destination);
    let start = json!({"kind": "backup", "instance": instance, "destination": destination});
    place.admin.post("/api/v1/tasks", &start).await
}

/// Does the task that goes first, and says what came of it.
pub async fn done(place: &Place, document: Value) -> TaskSpec {
    let lease: Option<Lease> = place.mover.post("/api/node/v1/lease", &()).await.unwrap();
    let lease = lease.expect("there is a task");
    let outcome = Outcome::Succeeded;
    let finished = Finished { outcome, document, message: String::new(), retryable: false };
    let report = Report { attempt: lease.attempt, finished: Some(finished), ..Report::default() };
    let path = format!("/api/node/v1/tasks/{}/report", lease.task);
    let _: Reported = place.mover.post(&path, &report).await.unwrap();
    lease.work.spec
}

pub fn backed_up(point: &str) -> Value {
    let stats = json!({"image_bytes": 1000, "new_bytes": 300, "dedup_bytes": 100,
        "unchanged_bytes": 500, "stored_bytes": 200, "meta_bytes": 10});
    let created_ms = std::time::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    json!({"point": {"point": point, "created_ms": created_ms, "stats": stats}})
}

#[tokio::test]
async fn a_hard_limit_refuses_and_says_which_and_a_soft_one_warns() {
    let place = Place::new().await;
    let limit = json!({"soft": 1, "hard": 2, "window": "24h"});
    quota(&place, json!({"project": {"backups": limit}})).await;
    start(&place).await.unwrap();
    let second = start(&place).await.unwrap();
    let path = format!("/api/v1/tasks/{}/log", second["id"].as_str().unwrap());
    let log: Value = place.admin.get(&path).await.unwrap();
    let line = log["items"][0]["line"].as_str().unwrap();
    assert!(line.contains("the project would have 2 backups within 1d"), "{line}");
    let refused = start(&place).await.unwrap_err();
    assert_eq!(refused.status(), Some(409));
    let told = refused.to_string();
    assert!(told.contains("hard limit of 2") && told.contains("room again at"), "{told}");
    // What was cancelled before it began is not counted.
    let path = format!("/api/v1/tasks/{}/cancel", second["id"].as_str().unwrap());
    place.admin.send(Method::POST, &path, None, &[]).await.unwrap();
    start(&place).await.unwrap();
    let path = format!("/api/v1/projects/{}/quota", place.project);
    let shown: Value = place.admin.get(&path).await.unwrap();
    assert_eq!((&shown["used"]["backups"], &shown["used"]["restores"]), (&json!(2), &Value::Null));
    let odd = json!({"project": {"backups": {"soft": 3, "hard": 2, "window": "1h"}}});
    let told = place.admin.send(Method::PUT, &path, Some(&odd), &[]).await;
    assert_eq!(status(&told), 422);
}

#[tokio::test]
async fn a_backup_that_became_due_above_a_hard_limit_fails_and_says_why() {
    let place = Place::new().await;
    start(&place).await.unwrap();
    done(&place, backed_up("shop.web@k1")).await;
    quota(&place, json!({"instance": {"stored_bytes": {"hard": 100}}})).await;
    place.often(json!({})).await;
    let mut failed = json!({"items": []});
    while failed["items"].as_array().unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        failed = place.admin.get("/api/v1/tasks?state=failed").await.unwrap();
    }
    let message = failed["items"][0]["message"].as_str().unwrap();
    let expected = "quota: the instance would have 211 stored bytes, above its hard limit of 100";
    assert!(message.starts_with(expected), "{message}");
    // What is for one instance counts instead of what is for each.
    let own = json!({"web": {"stored_bytes": {"hard": 1000}}});
    quota(&place, json!({"instance": {"stored_bytes": {"hard": 100}}, "instances": own})).await;
    let read: Value =
        place.admin.get(&format!("/api/v1/projects/{}/quota", place.project)).await.unwrap();
    assert_eq!(read["quota"]["instances"]["web"]["stored_bytes"]["hard"], 1000);
    start(&place).await.unwrap();
}

#[tokio::test]
async fn the_ledger_tells_who_used_how_much() {
    let place = Place::new().await;
    start(&place).await.unwrap();
    done(&place, backed_up("shop.web@k1")).await;
    start(&place).await.unwrap();
    done(&place, backed_up("shop.web@k2")).await;
    let usage: Value = place.admin.get("/api/v1/usage").await.unwrap();
    let row = &usage["items"][0];
    assert_eq!((&row["id"], &row["name"]), (&json!(place.project), &json!("shop")));
    let told = &row["usage"];
    assert_eq!(told["tasks"], json!({"backup": 2}));
    let number = |name: &str| told[name].as_u64().unwrap();
    assert_eq!((number("logical_bytes"), number("unique_bytes")), (2000, 600));
    assert_eq!((number("shared_bytes"), number("transferred_bytes")), (1200, 420));
    assert_eq!((number("stored_bytes"), number("front_end_bytes")), (420, 1000));
    let at = async |query: &str| {
        let usage: Value = place.admin.get(&format!("/api/v1/usage?{query}")).await.unwrap();
        usage["items"].as_array().unwrap().clone()
    };
    let by = at("by=destination").await;
    let stored = |id: &str| {
        let row = by.iter().find(|row| row["id"] == id).unwrap();
        (row["usage"]["stored_bytes"].clone(), row["usage"]["front_end_bytes"].clone())
    };
    assert_eq!(stored(&place.destination), (json!(420), json!(0)));
    assert_eq!(stored(""), (json!(0), json!(1000)), "it is protected wherever it rests");
    assert_eq!(at(&format!("instance={}", place.instance)).await.len(), 1);
    assert!(at(&format!("instance={}", place.project)).await.is_empty());
    assert!(at("from_ms=1000&until_ms=2000").await.is_empty());
    let told = place.admin.get::<Value>("/api/v1/usage?from_ms=2&until_ms=1").await;
    assert_eq!(status(&told), 422);
    let other = make(&place.admin, "projects", json!({"name": "blog", "spec": {}})).await;
    let stranger = place.lab.user(&place.admin, "admin", Some(&other)).await;
    let theirs: Value = stranger.get("/api/v1/usage?by=instance").await.unwrap();
    assert!(theirs["items"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn what_is_freed_is_counted_by_the_repository() {
    let place = Place::new().await;
    place.often(json!({"last": 1})).await;
    let mut freed = None;
    while freed.is_none() {
        let point = backed_up("shop.web@k1");
        if let TaskSpec::Prune { .. } = done(&place, point).await {
            freed = Some(());
        }
    }
    let prune = json!({"kind": "prune", "destination": place.destination, "keep": {"last": 1}});
    make(&place.admin, "tasks", prune).await;
    let gone = json!({"points": [{"point": "shop.web@k1", "keep": false}]});
    while !matches!(done(&place, gone.clone()).await, TaskSpec::Prune { instance: None, .. }) {}
    let tasks: Value = place.admin.get("/api/v1/tasks").await.unwrap();
    let items = tasks["items"].as_array().unwrap();
    let stats = items.iter().filter(|task| task["kind"] == "stat").count();
    assert_eq!(stats, 1, "the repository is asked once a day");
    let report: Value = place.admin.get("/api/v1/reports/protection").await.unwrap();
    assert_eq!(report["items"][0]["protection"], "never", "its only restore point is gone");
}

#[tokio::test]
async fn the_report_tells_who_has_no_recent_good_backup() {
    let place = Place::new().await;
    let get = async |query: &str| -> Value {
        place.admin.get(&format!("/api/v1/reports/protection{query}")).await.unwrap()
    };
    let before = get("").await;
    assert_eq!((&before["total"], &before["late"]), (&json!(1), &json!(1)));
    assert_eq!(before["items"][0]["protection"], "never");
    start(&place).await.unwrap();
    done(&place, backed_up("shop.web@k1")).await;
    let after = get("").await;
    assert_eq!((&after["late"], &after["items"][0]["protection"]), (&json!(0), &json!("recent")));
    assert!(get("?late=true").await["items"].as_array().unwrap().is_empty());
    let strict = get("?max_age=0s").await;
    assert_eq!(strict["items"][0]["protection"], "late");
    assert_eq!(strict["items"][0]["destinations"], json!([place.destination]));
}

/// Tells that a task is under way and has stored so much; what it is told.
async fn stores(place: &Place, lease: &Lease, charged: u64) -> Reported {
    let progress = Some(json!({"type": "progress", "phase": "running", "charged": charged}));
    let report = Report { attempt: lease.attempt, progress, ..Report::default() };
    place.mover.post(&format!("/api/node/v1/tasks/{}/report", lease.task), &report).await.unwrap()
}

async fn leased(place: &Place) -> (Lease, Option<u64>) {
    let lease: Option<Lease> = place.mover.post("/api/node/v1/lease", &()).await.unwrap();
    let lease = lease.expect("there is a task");
    match lease.work.spec {
        TaskSpec::Backup { allowance, .. } => (lease, allowance),
        ref other => panic!("{other:?}"),
    }
}

async fn ends(place: &Place, lease: &Lease, outcome: Outcome, document: Value) {
    let message = "it was not enough".to_owned();
    let finished = Some(Finished { outcome, document, message, retryable: false });
    let report = Report { attempt: lease.attempt, finished, ..Report::default() };
    let path = format!("/api/node/v1/tasks/{}/report", lease.task);
    let _: Reported = place.mover.post(&path, &report).await.unwrap();
}

async fn used(place: &Place) -> Value {
    let path = format!("/api/v1/projects/{}/quota", place.project);
    place.admin.get::<Value>(&path).await.unwrap()["used"]["stored_bytes"].clone()
}

#[tokio::test]
async fn backups_at_once_draw_on_what_is_left_and_one_that_needs_more_ends_with_why() {
    let place = Place::new().await;
    start(&place).await.unwrap();
    let (lease, without) = leased(&place).await;
    assert_eq!(without, None, "there is no limit");
    assert_eq!(stores(&place, &lease, 50).await.allowance, None);
    ends(&place, &lease, Outcome::Succeeded, backed_up("shop.web@k1")).await;
    assert_eq!(used(&place).await, 210);

    quota(&place, json!({"project": {"stored_bytes": {"hard": 1000}}})).await;
    let spec = json!({"source": {"kind": "device", "path": "/dev/y"}});
    let other = json!({"project": place.project, "name": "db", "spec": spec});
    let other = make(&place.admin, "instances", other).await;
    start(&place).await.unwrap();
    let body = json!({"kind": "backup", "instance": other, "destination": place.destination});
    let _: Value = place.admin.post("/api/v1/tasks", &body).await.unwrap();
    let ((one, all), (two, same)) = (leased(&place).await, leased(&place).await);
    assert_eq!((all, same), (Some(790), Some(790)));
    assert_eq!(stores(&place, &one, 500).await.allowance, Some(790), "its own is part of it");
    assert_eq!(stores(&place, &two, 200).await.allowance, Some(290));
    assert_eq!(stores(&place, &one, 550).await.allowance, Some(590));
    assert_eq!(used(&place).await, 960);

    // One has stored all that was left, and no restore point: it counts until there is one.
    ends(&place, &one, Outcome::Failed, json!({"error": {"kind": "quota"}})).await;
    let failed: Value = place.admin.get("/api/v1/tasks?state=failed").await.unwrap();
    let message = failed["items"][0]["message"].as_str().unwrap();
    let expected = "quota: the project has 410 stored bytes without this backup, which needs more \
                    than the 590 that are left of its hard limit of 1000; raise the limit";
    assert!(message.starts_with(expected), "{message}");
    assert_eq!(used(&place).await, 1000);
    assert_eq!(stores(&place, &two, 200).await.allowance, Some(200));
    assert_eq!(start(&place).await.unwrap_err().status(), Some(409));

    // With more, the next one goes on; what was left is held with what it brings.
    quota(&place, json!({"project": {"stored_bytes": {"hard": 2000}}})).await;
    start(&place).await.unwrap();
    let (third, more) = leased(&place).await;
    assert_eq!(more, Some(1590));
    let mut document = backed_up("shop.web@k2");
    document["resumed_bytes"] = json!(580);
    ends(&place, &third, Outcome::Succeeded, document).await;
    assert_eq!(used(&place).await, 210 + 580 + 210 + 200);
}

#[tokio::test]
async fn a_backup_that_protects_more_than_the_limit_leaves_ends_and_the_others_go_on() {
    let place = Place::new().await;
    quota(&place, json!({"project": {"front_end_bytes": {"hard": 10}}})).await;
    let mut instances = vec![place.instance.clone()];
    for name in ["db", "mail"] {
        let spec = json!({"source": {"kind": "device", "path": "/dev/y"}});
        let body = json!({"project": place.project, "name": name, "spec": spec});
        instances.push(make(&place.admin, "instances", body).await);
    }
    let mut leases = Vec::new();
    for instance in &instances {
        let to = &place.destination;
        let body = json!({"kind": "backup", "instance": instance, "destination": to});
        let task = make(&place.admin, "tasks", body).await;
        let lease = leased(&place).await.0;
        assert_eq!(lease.task, task, "nobody knows yet how large they are");
        leases.push(lease);
    }
    let tells = async |lease: &Lease, total: u64| {
        let progress = Some(json!({"type": "progress", "phase": "running", "total": total}));
        let report = Report { attempt: lease.attempt, progress, ..Report::default() };
        let path = format!("/api/node/v1/tasks/{}/report", lease.task);
        place.mover.post::<Reported>(&path, &report).await.unwrap().cancel
    };
    let [first, second, third] = leases.as_slice() else { panic!("three") };
    assert!(!tells(first, 6).await);
    assert!(tells(second, 6).await, "both together are 12 of 10");
    assert!(tells(second, 6).await, "whoever missed it is told again");
    assert!(!tells(third, 4).await, "what was refused takes no room");
    ends(&place, second, Outcome::Cancelled, Value::Null).await;
    let failed: Value = place.admin.get(&format!("/api/v1/tasks/{}", second.task)).await.unwrap();
    let message = failed["message"].as_str().unwrap();
    let expected = "quota: the project would have 12 protected bytes, above its hard limit of 10";
    assert_eq!(failed["state"], "failed");
    assert!(message.starts_with(expected), "{message}");
    // What is within the limit goes on, the next day too.
    let point = json!({"point": {"point": "shop.web@k1", "created_ms": 5,
        "stats": {"image_bytes": 6, "stored_bytes": 1}}});
    ends(&place, first, Outcome::Succeeded, point).await;
    start(&place).await.unwrap();
    let again = leased(&place).await.0;
    assert!(!tells(&again, 6).await);
    assert!(tells(&again, 7).await, "it has grown to what does not fit");
}

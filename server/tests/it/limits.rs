//! Who goes first, who waits for what, and what was missed.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{Client, Finished, Lease, Outcome, Report, Reported};

use crate::lease::node;
use crate::retention::Place;
use crate::support::{make, status};

async fn instance(place: &Place, name: &str, more: Value) -> String {
    let mut spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let body = json!({"project": place.project, "name": name, "spec": spec});
    make(&place.admin, "instances", body).await
}

async fn backup(place: &Place, instance: &str, destination: &str) -> String {
    let start = json!({"kind": "backup", "instance": instance, "destination": destination});
    make(&place.admin, "tasks", start).await
}

async fn lease(node: &Client) -> Option<Lease> {
    node.post("/api/node/v1/lease", &()).await.unwrap()
}

async fn end(node: &Client, lease: &Lease) {
    let (outcome, document) = (Outcome::Failed, Value::Null);
    let finished = Finished { outcome, document, message: "no".into(), retryable: false };
    let report = Report { attempt: lease.attempt, finished: Some(finished), ..Report::default() };
    let path = format!("/api/node/v1/tasks/{}/report", lease.task);
    let _: Reported = node.post(&path, &report).await.unwrap();
}

async fn limit(place: &Place, limits: Value) {
    let rules = json!({ "limits": limits });
    place.admin.send(Method::PUT, "/api/v1/limits", Some(&rules), &[]).await.unwrap();
}

async fn waits_for(place: &Place, task: &str) -> Value {
    let shown: Value = place.admin.get(&format!("/api/v1/tasks/{task}")).await.unwrap();
    shown["waits_for"].clone()
}

#[tokio::test]
async fn a_full_destination_holds_up_its_own_tasks_only() {
    let place = Place::new().await;
    limit(&place, json!({"per_destination": 1})).await;
    let kept: Value = place.admin.get("/api/v1/limits").await.unwrap();
    assert_eq!(kept["limits"]["per_destination"], 1);
    let body = json!({"name": "elsewhere", "spec": {"url": "/other"}});
    let elsewhere = make(&place.admin, "destinations", body).await;
    let second = instance(&place, "db", json!({})).await;
    let third = instance(&place, "mail", json!({})).await;
    let first = backup(&place, &place.instance, &place.destination).await;
    let held = backup(&place, &second, &place.destination).await;
    let free = backup(&place, &third, &elsewhere).await;
    let one = lease(&place.mover).await.unwrap();
    assert_eq!(one.task, first);
    assert_eq!(waits_for(&place, &held).await, "destination");
    let two = lease(&place.mover).await.unwrap();
    assert_eq!(two.task, free);
    end(&place.mover, &one).await;
    assert_eq!(lease(&place.mover).await.unwrap().task, held);
    assert_eq!(waits_for(&place, &held).await, Value::Null);
}

#[tokio::test]
async fn sources_nodes_and_all_together_have_limits() {
    let place = Place::new().await;
    limit(&place, json!({"sources": {"rack-1": 1}})).await;
    let first = instance(&place, "a", json!({"cluster": "rack-1"})).await;
    let second = instance(&place, "b", json!({"cluster": "rack-1"})).await;
    let running = backup(&place, &first, &place.destination).await;
    let held = backup(&place, &second, &place.destination).await;
    let other = backup(&place, &place.instance, &place.destination).await;
    let one = lease(&place.mover).await.unwrap();
    let two = lease(&place.mover).await.unwrap();
    let both = std::collections::BTreeSet::from([&one.task, &two.task]);
    assert_eq!(both, [&running, &other].into());
    assert_eq!(waits_for(&place, &held).await, "source");
    limit(&place, json!({"total": 2})).await;
    assert_eq!(waits_for(&place, &held).await, "total");
    limit(&place, json!({})).await;
    let nodes: Value = place.admin.get("/api/v1/nodes").await.unwrap();
    let path = format!("/api/v1/nodes/{}", nodes["items"][0]["id"].as_str().unwrap());
    let change = json!({"state": "enabled", "slots_by_kind": {"backup": 2}});
    place.admin.send(Method::PUT, &path, Some(&change), &[]).await.unwrap();
    assert_eq!(waits_for(&place, &held).await, "nodes-busy");
    let odd = json!({"state": "enabled", "slots_by_kind": {"dream": 2}});
    let told = place.admin.send(Method::PUT, &path, Some(&odd), &[]).await;
    assert_eq!(status(&told), 422);
    end(&place.mover, &two).await;
    assert_eq!(lease(&place.mover).await.unwrap().task, held);
}

#[tokio::test]
async fn an_urgent_task_goes_first_and_projects_take_turns() {
    let place = Place::new().await;
    let project = make(&place.admin, "projects", json!({"name": "blog", "spec": {}})).await;
    let spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
    let body = json!({"project": project, "name": "web", "spec": spec});
    let theirs = make(&place.admin, "instances", body).await;
    let second = instance(&place, "db", json!({})).await;
    let ours = backup(&place, &place.instance, &place.destination).await;
    let ours_too = backup(&place, &second, &place.destination).await;
    let theirs = backup(&place, &theirs, &place.destination).await;
    let verify = json!({"kind": "verify", "destination": place.destination});
    let verify = make(&place.admin, "tasks", verify).await;
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(lease(&place.mover).await.unwrap().task);
    }
    // The one that came later belongs to a project that has nothing yet.
    assert_eq!(order, [ours, theirs, ours_too]);
    assert_eq!(waits_for(&place, &verify).await, "no-node", "the node cannot verify");
}

#[tokio::test]
async fn a_task_that_cannot_be_told_to_a_node_fails_and_is_not_in_the_way() {
    let place = Place::new().await;
    let body = json!({"name": "brief", "spec": {"url": "/brief"}});
    let brief = make(&place.admin, "destinations", body).await;
    let lost = backup(&place, &place.instance, &brief).await;
    let path = format!("/api/v1/destinations/{brief}");
    place.admin.send(Method::DELETE, &path, None, &[]).await.unwrap();
    let second = instance(&place, "db", json!({})).await;
    let next = backup(&place, &second, &place.destination).await;
    assert_eq!(lease(&place.mover).await.unwrap().task, next);
    let shown: Value = place.admin.get(&format!("/api/v1/tasks/{lost}")).await.unwrap();
    assert_eq!(shown["state"], "failed", "{shown}");
}

#[tokio::test]
async fn what_is_due_while_its_task_is_active_is_missed_and_told() {
    let place = Place::new().await;
    // Nobody takes the first backup, so that each later one finds it waiting.
    place.often(json!({})).await;
    let mut missed = json!({"items": []});
    while missed["items"].as_array().unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        missed = place.admin.get("/api/v1/reports/missed").await.unwrap();
    }
    let told = &missed["items"][0];
    assert_eq!(
        (&told["reason"], &told["schedule"]),
        (&"still-active".into(), &"main/often".into())
    );
    assert_eq!(told["instance"], place.instance.as_str());
    let tasks: Value = place.admin.get("/api/v1/tasks").await.unwrap();
    assert_eq!(tasks["items"].as_array().unwrap().len(), 1, "they do not pile up");
    let stranger = place.lab.user(&place.admin, "viewer", Some(&other(&place).await)).await;
    let theirs: Value = stranger.get("/api/v1/reports/missed").await.unwrap();
    assert!(theirs["items"].as_array().unwrap().is_empty());
}

async fn other(place: &Place) -> String {
    make(&place.admin, "projects", json!({"name": "blog", "spec": {}})).await
}

#[tokio::test]
async fn a_second_node_gets_what_the_first_does_not_ask_for() {
    let place = Place::new().await;
    let second = node(&place.lab, &place.admin, "second").await;
    let task = backup(&place, &place.instance, &place.destination).await;
    assert_eq!(lease(&second).await.unwrap().task, task);
}

//! Copies of restore points by policy, as nodes and clients see them.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{Finished, Lease, Outcome, Report, Reported, TaskSpec};

use crate::retention::Place;
use crate::support::make;

/// With a node that copies and restores too.
pub async fn place() -> Place {
    let mut place = Place::new().await;
    let kinds = ["init", "backup", "copy", "restore", "prune", "stat"];
    place.mover = place.lab.node(&place.admin, "copier", &kinds).await;
    place
}

/// The next task of a kind other than `init`, which is done at once.
pub async fn next(place: &Place) -> Lease {
    loop {
        let lease: Option<Lease> = place.mover.post("/api/node/v1/lease", &()).await.unwrap();
        match lease {
            Some(lease) if lease.work.spec.kind() == "init" => {
                end(place, &lease, Outcome::Succeeded, Value::Null).await;
            }
            Some(lease) => return lease,
            None => {}
        }
    }
}

pub async fn end(place: &Place, lease: &Lease, outcome: Outcome, document: Value) {
    let finished = Finished { outcome, document, message: "told".into(), retryable: true };
    let report = Report { attempt: lease.attempt, finished: Some(finished), ..Report::default() };
    let path = format!("/api/node/v1/tasks/{}/report", lease.task);
    let _: Reported = place.mover.post(&path, &report).await.unwrap();
}

/// A second destination, and a policy that copies there.
pub async fn vault(place: &Place, copy: Value) -> String {
    let spec = json!({"url": "/vault", "environment": {"AWS_REGION": "far"}});
    let vault = make(&place.admin, "destinations", json!({"name": "vault", "spec": spec})).await;
    let near = format!("/api/v1/destinations/{}/secrets", place.destination);
    let secrets = json!({"secrets": {"SLUICE_PASSPHRASE": "near and dear"}});
    place.admin.send(Method::PUT, &near, Some(&secrets), &[]).await.unwrap();
    let mut rule_copy = json!({"name": "away", "destination": vault});
    for (name, value) in copy.as_object().unwrap() {
        rule_copy[name] = value.clone();
    }
    let rule = json!({"name": "main", "destination": place.destination, "schedules": [],
        "copies": [rule_copy]});
    let spec = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    make(&place.admin, "policies", json!({"name": "twice", "spec": spec})).await;
    vault
}

pub async fn back_up(place: &Place, point: &str, taken_ms: u64) {
    let start = json!({"kind": "backup", "instance": place.instance,
        "destination": place.destination});
    let _: Value = place.admin.post("/api/v1/tasks", &start).await.unwrap();
    let lease = next(place).await;
    assert_eq!(lease.work.spec.kind(), "backup");
    let point = json!({"point": point, "created_ms": taken_ms,
        "stats": {"stored_bytes": 100, "image_bytes": 1000}});
    end(place, &lease, Outcome::Succeeded, json!({ "point": point })).await;
}

pub fn copy(point: &str, of: &str, taken_ms: u64) -> Value {
    json!({"point": point, "of": of, "created_ms": taken_ms, "image_bytes": 1000,
        "stored_bytes": 70})
}

pub async fn points(place: &Place) -> Vec<Value> {
    let all: Value = place.admin.get("/api/v1/points").await.unwrap();
    all["items"].as_array().unwrap().clone()
}

#[tokio::test]
async fn a_copy_is_told_both_places_and_noted_with_its_original() {
    let place = place().await;
    let vault = vault(&place, json!({"keep": {"last": 3}})).await;
    back_up(&place, "shop.web@k1", 5).await;
    let lease = next(&place).await;
    let TaskSpec::Copy { instance, from, keep } = &lease.work.spec else { panic!("a copy") };
    assert_eq!((instance.as_str(), from.as_str()), ("shop.web", "/backup"));
    assert_eq!((lease.work.url.as_str(), keep["last"]), ("/vault", 3));
    let set = |name: &str| lease.work.environment.get(name).map(String::as_str);
    assert_eq!(set("SLUICE_DEST_PASSPHRASE"), Some("near and dear"));
    assert_eq!((set("AWS_REGION"), set("SLUICE_PASSPHRASE")), (Some("far"), None));
    assert!(lease.work.secret_names.contains(&"SLUICE_DEST_PASSPHRASE".to_owned()));

    let report = "/api/v1/reports/protection";
    let told: Value = place.admin.get(report).await.unwrap();
    assert_eq!(told["items"][0]["copies_overdue"][0]["copy"], "away", "it is of 1970: {told}");
    let copies = json!([copy("shop.web@v1", "shop.web@k1", 5)]);
    let document = json!({"bytes": 80, "copies": copies, "pruned": []});
    end(&place, &lease, Outcome::Succeeded, document).await;
    let points = points(&place).await;
    assert_eq!(points.len(), 2);
    assert_eq!(points[1]["copy_of"], points[0]["id"]);
    assert_eq!(points[0]["copies"][0]["destination"], json!(vault));
    let told: Value = place.admin.get(report).await.unwrap();
    assert_eq!((&told["copies_overdue"], &told["late"]), (&json!(0), &json!(1)), "{told}");
    let path = format!("/api/v1/usage?by=destination&destination={vault}");
    let usage: Value = place.admin.get(&path).await.unwrap();
    assert_eq!(usage["items"][0]["usage"]["stored_bytes"], 80, "{usage}");
    assert_eq!(usage["items"][0]["usage"]["transferred_bytes"], 80, "{usage}");
}

#[tokio::test]
async fn one_copy_that_waits_is_enough_and_tells_what_others_could_not() {
    let place = place().await;
    vault(&place, json!({})).await;
    back_up(&place, "shop.web@k1", 5).await;
    let lease = next(&place).await;
    assert_eq!(lease.work.spec.kind(), "copy");
    end(&place, &lease, Outcome::Failed, Value::Null).await;
    let path = format!("/api/v1/tasks/{}", lease.task);
    let task: Value = place.admin.get(&path).await.unwrap();
    assert_eq!((&task["state"], &task["max_attempts"]), (&"queued".into(), &10.into()));
    back_up(&place, "shop.web@k2", 6).await;
    let all: Value = place.admin.get("/api/v1/tasks").await.unwrap();
    let of_copies = all["items"].as_array().unwrap().iter().filter(|task| task["kind"] == "copy");
    assert_eq!(of_copies.count(), 1, "{all}");
    // What is gone at the copy's place by its retention is gone here too.
    let start = json!({"kind": "copy", "instance": place.instance,
        "destination": place.destination, "to": task["destination"]});
    let _: Value = place.admin.post("/api/v1/tasks", &start).await.unwrap();
    let lease = next(&place).await;
    let both = [copy("shop.web@v1", "shop.web@k1", 5), copy("shop.web@v2", "shop.web@k2", 6)];
    end(&place, &lease, Outcome::Succeeded, json!({"bytes": 1, "copies": both})).await;
    assert_eq!(points(&place).await.len(), 4);
    let _: Value = place.admin.post("/api/v1/tasks", &start).await.unwrap();
    let lease = next(&place).await;
    end(&place, &lease, Outcome::Succeeded, json!({"copies": both[1..]})).await;
    let left: Vec<_> = points(&place).await.iter().map(|one| one["point"].clone()).collect();
    assert_eq!(left, ["shop.web@k1", "shop.web@k2", "shop.web@v2"]);
}

#[tokio::test]
async fn a_restore_that_fails_goes_on_at_once_where_a_copy_is() {
    let place = place().await;
    vault(&place, json!({})).await;
    back_up(&place, "shop.web@k1", 5).await;
    let lease = next(&place).await;
    let copies = json!([copy("shop.web@v1", "shop.web@k1", 5)]);
    end(&place, &lease, Outcome::Succeeded, json!({"copies": copies})).await;
    let nodes: Value = place.admin.get("/api/v1/nodes").await.unwrap();
    let nodes = nodes["items"].as_array().unwrap();
    let copier = nodes.iter().find(|node| node["name"] == "copier").unwrap();
    let start = json!({"kind": "restore", "point": points(&place).await[0]["id"],
        "node": copier["id"], "target": "/out"});
    let _: Value = place.admin.post("/api/v1/tasks", &start).await.unwrap();
    for (url, point) in [("/backup", "shop.web@k1"), ("/vault", "shop.web@v1")] {
        let lease = next(&place).await;
        let TaskSpec::Restore { point: told, .. } = &lease.work.spec else { panic!("a restore") };
        assert_eq!((lease.work.url.as_str(), told.as_str()), (url, point));
        end(&place, &lease, Outcome::Failed, Value::Null).await;
    }
}

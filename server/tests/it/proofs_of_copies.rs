//! Copies that are read back where they are, as nodes and clients see it.

use std::collections::BTreeMap;

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{Finished, Lease, Outcome, Report, Reported, TaskSpec};

use crate::copies::{back_up, copy, end, next, points};
use crate::retention::Place;
use crate::support::{make, status};

/// With a node that copies and verifies, and a second destination; its id.
async fn place() -> (Place, String) {
    let mut place = Place::new().await;
    let kinds = ["init", "backup", "copy", "verify", "prune", "stat"];
    place.mover = place.lab.node(&place.admin, "verifier", &kinds).await;
    let spec = json!({"url": "/vault"});
    let vault = make(&place.admin, "destinations", json!({"name": "vault", "spec": spec})).await;
    (place, vault)
}

/// What a policy says that copies to the vault and verifies like this.
fn policy(place: &Place, vault: &str, verify: &Value) -> Value {
    let copies = json!([{"name": "away", "destination": vault}]);
    let rule = json!({"name": "main", "destination": place.destination, "schedules": [],
        "copies": copies, "verify": [verify]});
    json!({"assign": {"tags": ["gold"]}, "rules": [rule]})
}

async fn rule(place: &Place, vault: &str, verify: Value) {
    let spec = policy(place, vault, &verify);
    make(&place.admin, "policies", json!({"name": "proven", "spec": spec})).await;
}

/// Copies what is new as these; the tasks before it are others.
async fn copied(place: &Place, all: &[Value]) {
    let lease = next(place).await;
    assert_eq!(lease.work.spec.kind(), "copy");
    end(place, &lease, Outcome::Succeeded, json!({"bytes": 1, "copies": all})).await;
}

/// The next task: where it verifies, which restore point, or all of which instance.
async fn verification(place: &Place) -> (Lease, Option<String>, Option<String>) {
    let lease = next(place).await;
    let TaskSpec::Verify { point, instance, .. } = lease.work.spec.clone() else {
        panic!("a verification, and not {:?}", lease.work.spec)
    };
    (lease, point, instance)
}

async fn report(place: &Place) -> Value {
    place.admin.get("/api/v1/reports/protection").await.unwrap()
}

#[tokio::test]
async fn a_copy_is_verified_where_it_is_and_judged_apart_from_its_original() {
    let (place, vault) = place().await;
    rule(&place, &vault, json!({"name": "each", "depth": "data", "at": "all"})).await;
    back_up(&place, "shop.web@k1", 5).await;
    copied(&place, &[copy("shop.web@v1", "shop.web@k1", 5)]).await;
    let doubts = report(&place).await["items"][0]["doubts"].clone();
    assert_eq!(doubts.as_array().unwrap().len(), 2, "both are unproven: {doubts}");

    let mut looked = BTreeMap::new();
    for _ in 0..2 {
        let (lease, point, _) = verification(&place).await;
        let point = point.unwrap();
        looked.insert(lease.work.url.clone(), point.clone());
        // What lies at the vault was hit; what it was made of was not.
        let damage = match point.as_str() {
            "shop.web@v1" => json!([{"object": "d/1", "problem": "odd", "points": [point]}]),
            _ => json!([]),
        };
        let outcome = if damage == json!([]) { Outcome::Succeeded } else { Outcome::Failed };
        let document = json!({"depth": "data", "damage": damage});
        let finished = Finished { outcome, document, message: "".into(), retryable: false };
        let (attempt, finished) = (lease.attempt, Some(finished));
        let report = Report { attempt, finished, ..Report::default() };
        let path = format!("/api/node/v1/tasks/{}/report", lease.task);
        let _: Reported = place.mover.post(&path, &report).await.unwrap();
    }
    let both = [("/backup", "shop.web@k1"), ("/vault", "shop.web@v1")];
    let both = both.map(|(at, point)| (at.to_owned(), point.to_owned()));
    assert_eq!(looked, BTreeMap::from(both));
    let shown = points(&place).await;
    assert_eq!(shown[0]["proof"]["state"], "sound");
    assert_eq!(shown[0]["copies"][0]["proof"]["state"], "damaged", "{}", shown[0]);
    assert_eq!(shown[1]["proof"]["state"], "damaged");
    let told = report(&place).await;
    assert_eq!((&told["damaged"], &told["unproven"]), (&json!(1), &json!(0)), "{told}");
    let doubts = told["items"][0]["doubts"].as_array().unwrap();
    assert_eq!((doubts.len(), &doubts[0]["destination"]), (1, &json!(vault)), "{told}");
    let path = "/api/v1/reports/protection/document?format=csv";
    let file = place.admin.fetch(path).await.unwrap();
    let file = String::from_utf8(file.to_vec()).unwrap();
    assert!(file.contains("damaged at vault"), "{file}");
}

#[tokio::test]
async fn only_the_places_that_are_named_are_looked_at_by_schedule() {
    let (place, vault) = place().await;
    let often = json!([{"name": "often", "when": {"kind": "every", "seconds": 1}}]);
    let verify = json!({"name": "all", "at": [vault], "schedules": often});
    rule(&place, &vault, verify).await;
    back_up(&place, "shop.web@k1", 5).await;
    copied(&place, &[copy("shop.web@v1", "shop.web@k1", 5)]).await;
    let (lease, point, instance) = verification(&place).await;
    assert_eq!((point, instance.as_deref()), (None, Some("shop.web")));
    assert_eq!(lease.work.url, "/vault");
    let told = report(&place).await;
    assert_eq!(told["items"][0]["doubts"][0]["destination"], json!(vault), "{told}");
    let document = json!({"depth": "structure", "damage": [], "looked": {"shop.web": ["v1"]}});
    end(&place, &lease, Outcome::Succeeded, document).await;
    let shown = points(&place).await;
    assert_eq!((&shown[0]["proof"], &shown[1]["proof"]["state"]), (&Value::Null, &json!("sound")));
    let told = report(&place).await;
    assert_eq!((&told["unproven"], &told["items"][0]["doubts"]), (&json!(0), &json!([])));
    for _ in 0..2 {
        let (lease, ..) = verification(&place).await;
        assert_eq!(lease.work.url, "/vault", "never where the backups are");
        end(&place, &lease, Outcome::Succeeded, json!({"depth": "structure", "damage": []})).await;
    }
}

#[tokio::test]
async fn several_copies_at_a_time_are_verified_together() {
    let (place, vault) = place().await;
    rule(&place, &vault, json!({"name": "each", "at": "copies"})).await;
    back_up(&place, "shop.web@k1", 5).await;
    let lease = next(&place).await;
    assert_eq!(lease.work.spec.kind(), "copy", "nothing looks at the original");
    end(&place, &lease, Outcome::Failed, Value::Null).await;
    back_up(&place, "shop.web@k2", 6).await;
    let start = json!({"kind": "copy", "instance": place.instance,
        "destination": place.destination, "to": vault});
    let _: Value = place.admin.post("/api/v1/tasks", &start).await.unwrap();
    let both = [copy("shop.web@v1", "shop.web@k1", 5), copy("shop.web@v2", "shop.web@k2", 6)];
    copied(&place, &both).await;
    let (lease, point, instance) = verification(&place).await;
    assert_eq!((point, instance.as_deref()), (None, Some("shop.web")));
    end(&place, &lease, Outcome::Succeeded, json!({"depth": "structure", "damage": []})).await;
    // What is known already is not looked at again.
    let _: Value = place.admin.post("/api/v1/tasks", &start).await.unwrap();
    copied(&place, &both).await;
    let path = "/api/v1/tasks?kind=verify";
    let all: Value = place.admin.get(path).await.unwrap();
    assert_eq!(all["items"].as_array().unwrap().len(), 1, "{all}");
}

#[tokio::test]
async fn a_verification_looks_only_where_its_rule_has_something() {
    let (place, vault) = place().await;
    let body = json!({"name": "far", "spec": {"url": "/far"}});
    let far = make(&place.admin, "destinations", body).await;
    // Of a destination that is another project's nothing is learned, either.
    let blog = make(&place.admin, "projects", json!({"name": "blog", "spec": {}})).await;
    let body = json!({"project": blog, "name": "theirs", "spec": {"url": "/theirs"}});
    let theirs = make(&place.admin, "destinations", body).await;
    let manager = place.lab.user(&place.admin, "manager", Some(&place.project)).await;
    let nowhere = "00000000-0000-7000-8000-000000000001";
    let mut answers = Vec::new();
    for at in [
        json!([far]),
        json!([theirs]),
        json!([nowhere]),
        json!([]),
        json!(["local"]),
        json!("everywhere"),
        json!({"primary": true}),
        json!(7),
        json!([vault, far]),
    ] {
        let spec = policy(&place, &vault, &json!({"name": "v", "at": at}));
        let body = json!({"project": place.project, "name": "odd", "spec": spec});
        let answer = manager.send(Method::POST, "/api/v1/policies", Some(&body), &[]).await;
        assert!([400, 422].contains(&status(&answer)), "{at}");
        answers.push(answer.unwrap_err().to_string());
    }
    assert_eq!(answers[1], answers[2], "what is another's is as what is not there");
    let spec = policy(&place, &vault, &json!({"name": "v", "at": "all", "where": "all"}));
    let body = json!({"name": "odd", "spec": spec});
    let answer = place.admin.send(Method::POST, "/api/v1/policies", Some(&body), &[]).await;
    assert!([400, 422].contains(&status(&answer)), "a field that nobody knows");

    // A copy is not taken away from a verification that names its place.
    rule(&place, &vault, json!({"name": "v", "at": [vault]})).await;
    let all: Value = place.admin.get("/api/v1/policies").await.unwrap();
    let mut record = all["items"][0].clone();
    assert_eq!(record["spec"]["rules"][0]["verify"][0]["at"], json!([vault]));
    record["spec"]["rules"][0]["copies"] = json!([]);
    let path = format!("/api/v1/policies/{}", record["id"].as_str().unwrap());
    let body = json!({"name": "proven", "spec": record["spec"]});
    let tag = [("if-match", "\"1\"")];
    let answer = place.admin.send(Method::PUT, &path, Some(&body), &tag).await;
    assert_eq!(status(&answer), 422);
}

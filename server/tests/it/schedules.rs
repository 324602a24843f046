//! What becomes due, and what does not.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_node_api::Client;

use crate::copies;
use crate::retention::Place;
use crate::support::{Lab, config, make};

/// The entries of the audit log that say this.
async fn told(admin: &Client, action: &str) -> Vec<Value> {
    let path = format!("/api/v1/audit?action={action}&limit=1000");
    let told: Value = admin.get(&path).await.unwrap();
    told["items"].as_array().unwrap().clone()
}

/// Waits for something that was missed of a schedule, for this reason.
async fn missed(admin: &Client, schedule: &str, reason: &str) -> Value {
    let wait = async {
        loop {
            let report: Value = admin.get("/api/v1/reports/missed").await.unwrap();
            let mut all = report["items"].as_array().unwrap().iter();
            let one = all.find(|one| one["schedule"] == schedule && one["reason"] == reason);
            if let Some(one) = one {
                return one.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(60), wait).await;
    told.unwrap_or_else(|_| panic!("{schedule} is not missed: {reason}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_servers_find_due_is_begun_or_missed_once() {
    let place = Place::new().await;
    let nodes: Value = place.admin.get("/api/v1/nodes").await.unwrap();
    let script = json!({"name": "s", "node": nodes["items"][0]["id"], "command": ["/bin/true"]});
    let when = json!({"kind": "every", "seconds": 1});
    // Nobody runs the script, and nobody looks: what was begun first is never over.
    let spec = json!({"groups": [{"name": "g", "before": [script]}],
        "schedules": [{"mode": "run", "schedule": {"name": "often", "when": when}}]});
    let body = json!({"project": place.project, "name": "p", "spec": spec});
    make(&place.admin, "plans", body).await;
    let look = json!({"kind": "files", "folder": "/srv/images"});
    let spec = json!({"look": look, "schedules": [{"name": "often", "when": when}]});
    let body = json!({"project": place.project, "name": "images", "spec": spec});
    make(&place.admin, "inventories", body).await;

    let folder = Arc::new(tempfile::tempdir().unwrap());
    let first = place.lab.folder.path();
    std::fs::copy(first.join("secrets.key"), folder.path().join("secrets.key")).unwrap();
    let mut config = config(folder.path(), Duration::from_secs(60));
    config.database = Some(format!("sqlite:{}", first.join("catalog.sqlite").display()));
    let second = Lab::run(folder, config).await;
    let wait = async {
        loop {
            let plans = told(&place.admin, "plan-run.missed").await;
            let inventories = told(&place.admin, "inventory.missed").await;
            if plans.len() >= 8 && inventories.len() >= 8 {
                return (plans, inventories);
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let (plans, inventories) =
        tokio::time::timeout(Duration::from_secs(120), wait).await.expect("they are missed");
    second.stop().await;
    let begun = told(&place.admin, "plan-run.start").await;
    assert_eq!(begun.len(), 1);
    for all in [[plans, begun].concat(), inventories] {
        let due: BTreeSet<_> = all.iter().map(|one| one["detail"]["due_ms"].as_u64()).collect();
        assert_eq!(due.len(), all.len(), "each occurrence is told of once: {all:?}");
    }
}

#[tokio::test]
async fn copies_and_restore_tests_that_are_not_made_are_missed() {
    let mut place = copies::place().await;
    let when = json!({"kind": "every", "seconds": 1});
    let schedules = json!([{"name": "often", "when": when}]);
    copies::vault(&place, json!({ "schedules": schedules })).await;
    copies::back_up(&place, "shop.web@k1", 5).await;
    // The node that could do both does neither.
    place.mover = place.lab.node(&place.admin, "tester", &["restore-test"]).await;
    let test = json!({"name": "boots", "destination": place.destination, "schedules": schedules});
    let spec = json!({"assign": {"tags": ["gold"]}, "rules": [], "tests": [test]});
    make(&place.admin, "policies", json!({"name": "tested", "spec": spec})).await;
    for schedule in ["away/often", "boots/often"] {
        let one = missed(&place.admin, schedule, "still-active").await;
        assert_eq!(one["instance"], place.instance.as_str(), "{one}");
    }
    place.pause().await;
    for schedule in ["away/often", "boots/often"] {
        missed(&place.admin, schedule, "paused").await;
    }
}

#[tokio::test]
async fn an_instance_that_is_paused_is_not_backed_up_and_this_is_told() {
    let place = Place::new().await;
    place.pause().await;
    place.often(json!({})).await;
    let missed = loop {
        let report: Value = place.admin.get("/api/v1/reports/missed").await.unwrap();
        if let Some(first) = report["items"].get(0) {
            break first.clone();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(
        (&missed["reason"], &missed["instance"]),
        (&json!("paused"), &json!(place.instance))
    );
    let tasks: Value = place.admin.get("/api/v1/tasks").await.unwrap();
    let backups = tasks["items"].as_array().unwrap().iter().filter(|task| task["kind"] == "backup");
    assert_eq!(backups.count(), 0, "{tasks}");
}

//! Work on destinations by schedules.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_node_api::{Client, Finished, Lease, Outcome, Report, Reported, TaskSpec};

use crate::support::{Lab, make};

/// Tasks of a kind.
async fn tasks(admin: &Client, kind: &str) -> Vec<Value> {
    let all: Value = admin.get("/api/v1/tasks").await.unwrap();
    let all = all["items"].as_array().unwrap().iter();
    all.filter(|task| task["kind"] == kind).cloned().collect()
}

/// Waits until there are so many tasks of a kind, and returns them.
async fn come(admin: &Client, kind: &str, many: usize) -> Vec<Value> {
    let wait = async {
        loop {
            let found = tasks(admin, kind).await;
            if found.len() >= many {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), wait).await.expect("tasks become due")
}

#[tokio::test(flavor = "multi_thread")]
async fn repositories_are_collected_and_checked_by_schedules() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let every =
        |seconds: u64| json!([{"name": "often", "when": {"kind": "every", "seconds": seconds}}]);
    let spec = json!({"url": "/backup", "maintenance": [
        {"name": "space", "work": "collect", "schedules": every(1)},
        {"name": "proof", "work": "verify-data", "schedules": every(1)},
        {"name": "seldom", "work": "verify", "schedules": every(86_400 * 300)},
        {"name": "paused", "work": "collect",
            "schedules": [{"name": "p", "paused": true, "when": {"kind": "every", "seconds": 1}}]},
    ]});
    let body = json!({"project": null, "name": "vault", "spec": spec});
    let id = make(&admin, "destinations", body).await;
    assert_eq!(come(&admin, "collect", 1).await[0]["destination"], id.as_str());
    come(&admin, "verify", 1).await;
    // Both wait, for there is no node: what is due meanwhile makes no other.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert_eq!((tasks(&admin, "collect").await.len(), tasks(&admin, "verify").await.len()), (1, 1));

    let node = lab.node(&admin, "mover", &["collect", "verify"]).await;
    for _ in 0..2 {
        let lease: Option<Lease> = node.post("/api/node/v1/lease", &()).await.unwrap();
        let lease = lease.unwrap();
        let whole = TaskSpec::Verify { point: None, instance: None, sample: None, data: true };
        assert!(
            lease.work.spec == TaskSpec::Collect {} || lease.work.spec == whole,
            "{:?}",
            lease.work
        );
        let finished = Finished {
            outcome: Outcome::Succeeded,
            document: Value::Null,
            message: String::new(),
            retryable: false,
        };
        let finished = Some(finished);
        let report = Report { attempt: lease.attempt, finished, ..Report::default() };
        let path = format!("/api/node/v1/tasks/{}/report", lease.task);
        let _: Reported = node.post(&path, &report).await.unwrap();
    }
    // Done once, it comes round again.
    come(&admin, "collect", 2).await;
    come(&admin, "verify", 2).await;
}

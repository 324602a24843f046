//! What is kept after backups by policy.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{Client, Finished, Lease, Outcome, Report, Reported, TaskSpec};

use crate::lease::node;
use crate::support::{Lab, make};

/// A server with a node, and an instance that has the tag `gold`.
pub struct Place {
    pub lab: Lab,
    pub admin: Client,
    pub mover: Client,
    pub project: String,
    pub destination: String,
    pub instance: String,
}

impl Place {
    pub async fn new() -> Self {
        let lab = Lab::new().await;
        let admin = lab.administrator().await;
        let mover = node(&lab, &admin, "mover").await;
        let project = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
        let body = json!({"name": "store", "spec": {"url": "/backup"}});
        let destination = make(&admin, "destinations", body).await;
        let spec = json!({"source": {"kind": "device", "path": "/dev/x"}, "tags": ["gold"]});
        let body = json!({"project": project, "name": "web", "spec": spec});
        let instance = make(&admin, "instances", body).await;
        Self { lab, admin, mover, project, destination, instance }
    }

    /// A policy of the system, by tag, whose rules at a destination keep these.
    async fn policy(&self, name: &str, tags: &[&str], destination: &str, keep: &[Value]) -> String {
        let rule = |(at, keep): (usize, &Value)| {
            let name = format!("rule-{at}");
            json!({"name": name, "destination": destination, "keep": keep, "schedules": []})
        };
        let rules: Vec<Value> = keep.iter().enumerate().map(rule).collect();
        let spec = json!({"assign": {"tags": tags}, "rules": rules});
        make(&self.admin, "policies", json!({"name": name, "spec": spec})).await
    }

    /// Pauses the instance.
    pub async fn pause(&self) {
        let source = json!({"kind": "device", "path": "/dev/x"});
        let spec = json!({"source": source, "tags": ["gold"], "paused": true});
        let path = format!("/api/v1/instances/{}", self.instance);
        let change = json!({"name": "web", "spec": spec});
        let tag = [("if-match", "\"1\"")];
        self.admin.send(Method::PUT, &path, Some(&change), &tag).await.unwrap();
    }

    /// A policy that makes a backup every second.
    pub async fn often(&self, keep: Value) {
        let when = json!({"kind": "every", "seconds": 1});
        let rule = json!({"name": "main", "destination": self.destination, "keep": keep,
            "schedules": [{"name": "often", "when": when}]});
        let spec = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
        let body = json!({"project": self.project, "name": "often", "spec": spec});
        make(&self.admin, "policies", body).await;
    }

    /// Does so many backups; returns what a prune that was asked for meanwhile is to keep.
    async fn backups(&self, many: usize) -> Option<Value> {
        let mut done = 0;
        while done < many {
            let lease: Option<Lease> = self.mover.post("/api/node/v1/lease", &()).await.unwrap();
            let Some(lease) = lease else { continue };
            let document = match lease.work.spec {
                TaskSpec::Prune { instance, keep, until: None } => {
                    assert_eq!(instance.as_deref(), Some("shop.web"));
                    return Some(json!(keep));
                }
                _ => json!({"point": {"point": format!("shop.web@k{done}"), "stats": {}}}),
            };
            let outcome = Outcome::Succeeded;
            let finished = Finished { outcome, document, message: String::new(), retryable: false };
            let report =
                Report { attempt: lease.attempt, finished: Some(finished), ..Report::default() };
            let path = format!("/api/node/v1/tasks/{}/report", lease.task);
            let _: Reported = self.mover.post(&path, &report).await.unwrap();
            done += 1;
        }
        None
    }
}

#[tokio::test]
async fn what_any_rule_of_any_policy_keeps_is_kept() {
    let place = Place::new().await;
    let two = [json!({"last": 1, "weekly": 5}), json!({"daily": 31})];
    place.policy("two-rules", &["gold"], &place.destination, &two).await;
    // The same repository under another name counts; other places and other instances do not.
    let body = json!({"name": "twin", "spec": {"url": "/backup"}});
    let twin = make(&place.admin, "destinations", body).await;
    place.policy("twin", &["gold"], &twin, &[json!({"yearly": 3})]).await;
    let body = json!({"name": "elsewhere", "spec": {"url": "/other"}});
    let elsewhere = make(&place.admin, "destinations", body).await;
    place.policy("elsewhere", &["gold"], &elsewhere, &[json!({"last": 90})]).await;
    place.policy("others", &["silver"], &place.destination, &[json!({"last": 80})]).await;
    let by_hand = place.policy("hand", &[], &place.destination, &[json!({"hourly": 12})]).await;
    let path = format!("/api/v1/policies/{by_hand}/instances/{}", place.instance);
    place.admin.send(Method::PUT, &path, None, &[]).await.unwrap();
    place.often(json!({"last": 2, "daily": 7})).await;
    let keep = place.backups(9).await.expect("there is something to prune");
    let all = json!({"last": 2, "hourly": 12, "daily": 31, "weekly": 5, "yearly": 3});
    assert_eq!(keep, all);
}

#[tokio::test]
async fn a_rule_that_keeps_everything_leaves_nothing_to_prune() {
    let place = Place::new().await;
    place.policy("archive", &["gold"], &place.destination, &[json!({})]).await;
    place.often(json!({"last": 1})).await;
    assert_eq!(place.backups(3).await, None);
    let tasks: Value = place.admin.get("/api/v1/tasks").await.unwrap();
    let items = tasks["items"].as_array().unwrap();
    assert!(items.len() >= 3 && items.iter().all(|task| task["kind"] == "backup"), "{tasks}");
    drop(place.lab);
}

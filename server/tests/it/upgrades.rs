//! Nodes that start again with what was installed there.

use std::sync::Arc;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use sluice_catalog::{Catalog, Node, NodeId, Visible};
use sluice_node_api::{
    Client, ClientError, Finished, Hello, Installed, Lease, Orders, Outcome, Report, Reported,
    VERSION,
};

use crate::support::{Lab, make, status};

fn hello(installed: Option<Installed>) -> Hello {
    let kinds = vec!["collect".to_owned()];
    Hello {
        version: "1.0".into(),
        kinds,
        slots: 1,
        contract: VERSION,
        installed,
        ..Hello::default()
    }
}

fn next(contract: u32) -> Option<Installed> {
    Some(Installed { version: "2.0".into(), contract, problem: String::new() })
}

/// A node that tells how it stands.
async fn stands(node: &Client, installed: Option<Installed>) -> bool {
    let orders: Orders = node.post("/api/node/v1/standing", &hello(installed)).await.unwrap();
    orders.restart
}

async fn node(admin: &Client, name: &str) -> Value {
    let nodes: Value = admin.get("/api/v1/nodes").await.unwrap();
    let items = nodes["items"].as_array().unwrap();
    items.iter().find(|node| node["name"] == name).cloned().unwrap()
}

/// Asks for an upgrade, or takes it back.
async fn ask(admin: &Client, name: &str, method: Method) -> Result<(), ClientError> {
    let id = node(admin, name).await["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/nodes/{id}/upgrade");
    admin.send(method, &path, None, &[]).await.map(drop)
}

/// How far an upgrade is, and why.
async fn upgrade(admin: &Client, name: &str) -> (String, String) {
    let told = node(admin, name).await["upgrade"].clone();
    let word = |name: &str| told[name].as_str().unwrap_or_default().to_owned();
    (word("state"), word("message"))
}

#[tokio::test]
async fn a_node_is_upgraded_when_what_is_installed_there_fits_and_is_another() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let mover = lab.node_that(&admin, "mover", hello(None)).await;
    let post = async |why: &str| {
        let refused = ask(&admin, "mover", Method::POST).await.unwrap_err();
        assert_eq!(refused.status(), Some(409));
        assert!(refused.to_string().contains(why), "{refused} says nothing of {why}");
    };
    post("install another package first").await;
    assert!(!stands(&mover, next(VERSION + 7)).await);
    post("upgrade the server").await;
    let broken = Installed { problem: "it is no release".into(), ..Installed::default() };
    assert!(!stands(&mover, Some(broken)).await);
    post("it is no release").await;
    // One of an earlier release cannot start itself again.
    let old = Hello { contract: 2, ..hello(next(VERSION)) };
    lab.node_that(&admin, "old", old).await;
    assert_eq!(status(&ask(&admin, "old", Method::POST).await), 409);
}

#[tokio::test]
async fn a_node_finishes_what_it_has_and_starts_again_also_when_the_server_does() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let body = json!({"name": "s", "spec": {"url": "/b"}});
    let destination = make(&admin, "destinations", body).await;
    let (token, mover) = lab.node_with_token(&admin, "mover", hello(None)).await;
    let collect = json!({"kind": "collect", "destination": destination});
    let task = make(&admin, "tasks", collect.clone()).await;
    let lease: Option<Lease> = mover.post("/api/node/v1/lease", &()).await.unwrap();
    let lease = lease.unwrap();
    stands(&mover, next(VERSION)).await;
    ask(&admin, "mover", Method::POST).await.unwrap();
    assert_eq!(upgrade(&admin, "mover").await.0, "waiting");
    assert!(!stands(&mover, next(VERSION)).await);
    assert!(!stands(&mover, next(VERSION)).await, "a task runs");
    assert_eq!(upgrade(&admin, "mover").await.0, "draining");
    let body = json!({"name": "t", "spec": {"url": "/c"}});
    let other = make(&admin, "destinations", body).await;
    let next_task = make(&admin, "tasks", json!({"kind": "collect", "destination": other})).await;
    let told: Value = admin.get(&format!("/api/v1/tasks/{next_task}")).await.unwrap();
    assert_eq!(told["waits_for"], "nodes-away");
    assert!(told["waits_because"].as_str().unwrap().contains("being upgraded"), "{told}");

    // It has ended: the node is to start again, and is told so until it has.
    let (outcome, document) = (Outcome::Succeeded, Value::Null);
    let finished = Finished { outcome, document, message: String::new(), retryable: false };
    let report = Report { attempt: lease.attempt, finished: Some(finished), ..Report::default() };
    let path = format!("/api/node/v1/tasks/{task}/report");
    let _: Reported = mover.post(&path, &report).await.unwrap();
    assert!(stands(&mover, next(VERSION)).await);
    assert_eq!(upgrade(&admin, "mover").await.0, "restarting");
    let folder = lab.stop().await;
    let lab = Lab::start(Arc::clone(&folder), Duration::from_secs(60)).await;
    let admin = lab.login("admin").await;
    let mover = lab.anybody.clone().with_token(&token);
    assert!(stands(&mover, next(VERSION)).await, "the answer may have been lost");
    let begun = Hello { version: "2.0".into(), ..hello(None) };
    let _: Value = mover.post("/api/node/v1/hello", &begun).await.unwrap();
    let now = node(&admin, "mover").await;
    assert_eq!((&now["upgrade"], &now["capabilities"]["version"]), (&Value::Null, &json!("2.0")));
    let lease: Option<Lease> = mover.post("/api/node/v1/lease", &()).await.unwrap();
    assert_eq!(lease.unwrap().task, next_task);
    let audit: Value = admin.get("/api/v1/audit").await.unwrap();
    let entries = audit["items"].as_array().unwrap();
    let done = entries.iter().find(|entry| entry["action"] == "node.upgraded").unwrap();
    assert_eq!(done["detail"], json!({"from": "1.0", "to": "2.0"}));
}

#[tokio::test]
async fn one_node_goes_after_the_other_and_none_after_one_that_failed() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let mut nodes = Vec::new();
    for name in ["one", "two", "three"] {
        nodes.push(lab.node_that(&admin, name, hello(next(VERSION))).await);
        ask(&admin, name, Method::POST).await.unwrap();
    }
    assert!(ask(&admin, "one", Method::POST).await.is_err(), "it is under way");
    assert!(!stands(&nodes[1], next(VERSION)).await);
    assert_eq!(upgrade(&admin, "two").await, ("waiting".into(), "one goes first".into()));
    assert!(!stands(&nodes[0], next(VERSION)).await);
    assert!(stands(&nodes[0], next(VERSION)).await);
    assert!(!stands(&nodes[1], next(VERSION)).await, "one is not back");
    let _: Value = nodes[0].post("/api/node/v1/hello", &hello(None)).await.unwrap();
    assert!(!stands(&nodes[1], next(VERSION)).await);
    assert!(stands(&nodes[1], next(VERSION)).await);
    // What comes back speaks another contract: it is refused, and so are those that wait.
    let odd = Hello { contract: VERSION + 1, ..hello(None) };
    let refused = nodes[1].post::<Value>("/api/node/v1/hello", &odd).await;
    assert_eq!(status(&refused), 426);
    let (state, why) = upgrade(&admin, "two").await;
    assert!(state == "failed" && why.ends_with("upgrade the server"), "{state}: {why}");
    let (state, why) = upgrade(&admin, "three").await;
    assert!(state == "failed" && why.contains("that of two failed"), "{state}: {why}");
    let audit: Value = admin.get("/api/v1/audit?action=node.upgrade-failed").await.unwrap();
    assert_eq!(audit["items"].as_array().unwrap().len(), 2, "both are written down");
    assert!(!stands(&nodes[2], next(VERSION)).await);
    // It is taken back, or asked for again.
    ask(&admin, "two", Method::DELETE).await.unwrap();
    assert_eq!(node(&admin, "two").await["upgrade"], Value::Null);
    ask(&admin, "three", Method::POST).await.unwrap();
    assert!(!stands(&nodes[2], next(VERSION)).await);
    assert_eq!(upgrade(&admin, "three").await.0, "draining");
    // One that comes back as it was has not been upgraded.
    assert!(stands(&nodes[2], next(VERSION)).await);
    let _: Value = nodes[2].post("/api/node/v1/hello", &hello(next(VERSION))).await.unwrap();
    assert_eq!(upgrade(&admin, "three").await.0, "failed");
}

#[tokio::test]
async fn a_node_that_does_not_come_back_has_failed_also_when_no_other_waits() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let node_one = lab.node_that(&admin, "one", hello(next(VERSION))).await;
    ask(&admin, "one", Method::POST).await.unwrap();
    assert!(!stands(&node_one, next(VERSION)).await);
    assert!(stands(&node_one, next(VERSION)).await);
    assert_eq!(upgrade(&admin, "one").await.0, "restarting");
    let id = node(&admin, "one").await["id"].as_str().unwrap().parse::<NodeId>().unwrap();
    // As if that were long ago.
    let folder = lab.stop().await;
    let file = folder.path().join("catalog.sqlite");
    let catalog = Catalog::open(&format!("sqlite:{}", file.display())).await.unwrap();
    let mut tx = catalog.begin().await.unwrap();
    let mut record = tx.get::<Node>(id, &Visible::All).await.unwrap();
    let begun = record.body.upgrade.as_mut().unwrap();
    begun.since_ms -= 20 * 60_000;
    let long_ago = begun.since_ms;
    tx.update(&mut record, long_ago).await.unwrap();
    tx.node_seen(id, long_ago).await.unwrap();
    tx.commit().await.unwrap();
    catalog.close().await;
    let lab = Lab::start(folder, Duration::from_secs(60)).await;
    let admin = lab.login("admin").await;
    for _ in 0..600 {
        let (state, why) = upgrade(&admin, "one").await;
        if state == "failed" {
            assert_eq!(why, "it did not come back");
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("whoever waits for it waits for ever");
}

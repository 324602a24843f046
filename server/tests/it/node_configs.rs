//! What configurations of nodes allow, and what comes of it for tasks.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{Client, Hello, Lease};

use crate::support::{Lab, make, status};

fn source(path: &str) -> Value {
    json!({"source": {"kind": "device", "path": path}})
}

async fn instance(client: &Client, project: &str, name: &str, path: &str) -> u16 {
    let body = json!({"project": project, "name": name, "spec": source(path)});
    status(&client.post::<Value>("/api/v1/instances", &body).await)
}

async fn set(admin: &Client, id: &str, spec: Value) {
    let path = format!("/api/v1/node-configs/{id}");
    let now: Value = admin.get(&path).await.unwrap();
    let tag = format!("\"{}\"", now["revision"]);
    let body = json!({"name": now["name"], "spec": spec});
    admin.send(Method::PUT, &path, Some(&body), &[("if-match", &tag)]).await.unwrap();
}

async fn lease(node: &Client) -> Option<Lease> {
    node.post("/api/node/v1/lease", &()).await.unwrap()
}

/// The id of the only node.
async fn only_node(admin: &Client) -> String {
    let nodes: Value = admin.get("/api/v1/nodes").await.unwrap();
    nodes["items"][0]["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_project_names_sources_only_where_an_administrator_lets_it() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let manager = lab.user(&admin, "manager", Some(&shop)).await;
    assert_eq!(instance(&manager, &shop, "early", "/srv/shop/a").await, 422, "there is no node");
    let node = lab.node(&admin, "mover", &["backup"]).await;
    assert_eq!(instance(&manager, &shop, "early", "/srv/shop/a").await, 422, "nothing is open");
    let spec = json!({"source_paths": ["/srv/{project}"]});
    let config = make(&admin, "node-configs", json!({"name": "default", "spec": spec})).await;
    for (path, told) in [
        ("/srv/shop/a", 200),
        ("/srv/shop2/a", 422),
        ("/srv/shop/../bank/a", 422),
        ("/etc/shadow", 422),
    ] {
        let name = path.replace('/', "-");
        assert_eq!(instance(&manager, &shop, &name, path).await, told, "{path}");
    }
    // Who has a role in the system names any; once changed by a manager, it is a manager's.
    let body = json!({"project": shop, "name": "db", "spec": source("/dev/db")});
    let db = make(&admin, "instances", body).await;
    let put = async |client: &Client, spec: Value| {
        let now: Value = admin.get(&format!("/api/v1/instances/{db}")).await.unwrap();
        let tag = format!("\"{}\"", now["revision"]);
        let body = json!({"name": "db", "spec": spec});
        let path = format!("/api/v1/instances/{db}");
        status(&client.send(Method::PUT, &path, Some(&body), &[("if-match", &tag)]).await)
    };
    let mut tagged = source("/dev/db");
    tagged["tags"] = json!(["gold"]);
    assert_eq!(put(&manager, tagged).await, 200, "the source stays what it was");
    assert_eq!(put(&manager, source("/dev/other")).await, 422);
    let destination =
        make(&admin, "destinations", json!({"name": "s", "spec": {"url": "/b"}})).await;
    let start = json!({"kind": "backup", "instance": db, "destination": destination});
    make(&admin, "tasks", start.clone()).await;
    let first = lease(&node).await.unwrap();
    assert!(first.work.folders.is_empty(), "an administrator has named it");
    let hello = Hello { kinds: vec!["backup".into()], slots: 1, ..Hello::default() };
    let _: Value = node.post("/api/node/v1/hello", &hello).await.unwrap();
    admin
        .send(Method::POST, &format!("/api/v1/tasks/{}/cancel", first.task), None, &[])
        .await
        .unwrap();
    assert_eq!(put(&manager, source("/srv/shop/db")).await, 200);
    let task = make(&admin, "tasks", start.clone()).await;
    let second = lease(&node).await.unwrap();
    assert_eq!(
        (&*second.task, &second.work.folders),
        (&*task, &vec![vec!["/srv/shop".to_owned()]])
    );
    let _: Value = node.post("/api/node/v1/hello", &hello).await.unwrap();
    admin.send(Method::POST, &format!("/api/v1/tasks/{task}/cancel"), None, &[]).await.unwrap();
    // What is closed again is not backed up, and the task says why.
    set(&admin, &config, json!({})).await;
    let task = make(&admin, "tasks", start).await;
    let waiting = node.clone();
    let asks = tokio::spawn(async move { waiting.post::<Value>("/api/node/v1/lease", &()).await });
    let ended = loop {
        let now: Value = admin.get(&format!("/api/v1/tasks/{task}")).await.unwrap();
        if now["state"] == "failed" {
            break now;
        }
        assert_eq!(now["state"], "queued");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert!(ended["message"].as_str().unwrap().contains("source_paths"), "{ended}");
    asks.abort();
}

#[tokio::test]
async fn a_configuration_comes_with_the_tasks_of_its_nodes() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let destination =
        make(&admin, "destinations", json!({"name": "s", "spec": {"url": "/b"}})).await;
    let node = lab.node(&admin, "mover", &["collect"]).await;
    let spec = json!({
        "threads_by_kind": {"collect": 3},
        "bandwidth": {"limit": 9, "windows": {"08:00-18:00": 5}},
        "staging": "/var/tmp/sluice",
        "destinations": [],
    });
    let config = make(&admin, "node-configs", json!({"name": "slow", "spec": spec})).await;
    let id = only_node(&admin).await;
    let path = format!("/api/v1/nodes/{id}");
    let body = json!({"state": "enabled", "config": config});
    admin.send(Method::PUT, &path, Some(&body), &[]).await.unwrap();
    let start = json!({"kind": "collect", "destination": destination});
    let task = make(&admin, "tasks", start).await;
    let shown: Value = admin.get(&format!("/api/v1/tasks/{task}")).await.unwrap();
    assert_eq!(shown["state"], "queued", "its node may use no destination");
    let mut open = spec.clone();
    open["destinations"] = json!([destination]);
    set(&admin, &config, open).await;
    let leased = lease(&node).await.unwrap();
    let variable = |name: &str| leased.work.environment.get(name).cloned().unwrap_or_default();
    assert_eq!(variable("SLUICE_THREADS"), "3");
    assert_eq!(variable("SLUICE_BANDWIDTH"), "9;08:00-18:00=5");
    assert_eq!(variable("SLUICE_CACHE_DIR"), "/var/tmp/sluice");
    // One that a node has is not removed.
    let path = format!("/api/v1/node-configs/{config}");
    assert_eq!(status(&admin.send(Method::DELETE, &path, None, &[]).await), 409);
    let odd = json!({"name": "odd", "spec": {"slots_by_kind": {"dance": 1}}});
    assert_eq!(status(&admin.post::<Value>("/api/v1/node-configs", &odd).await), 422);
}

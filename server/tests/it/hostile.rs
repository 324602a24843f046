//! Hostile and odd requests, made of the OpenAPI document: no failure of the server's, and no
//! answer that the document does not have.

use std::path::Path;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;
use tokio::process::Command;

use crate::support::{Lab, make, status};

/// How long each of them tries, in seconds.
const SECONDS: &str = "40";

/// A token, which lasts when its owner is logged out, and what must survive.
async fn token(client: &Client) -> (String, Vec<Value>) {
    let made: Value = client.post("/api/v1/tokens", &json!({"name": "hostile"})).await.unwrap();
    let me: Value = client.get("/api/v1/me").await.unwrap();
    (made["token"].as_str().unwrap().to_owned(), vec![made["id"].clone(), me["id"].clone()])
}

async fn tries(lab: &Lab, client: &Client, real: &Value, seed: &str) {
    let (token, mut keep) = token(client).await;
    keep.extend(real.as_object().unwrap().values().cloned());
    let world = json!({"keep": keep, "real": real}).to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/lab/api/try-api");
    let mut command = Command::new(script);
    command.args([lab.anybody.server(), SECONDS, seed]).kill_on_drop(true);
    command.env("SLUICE_API_TOKEN", &token).env("SLUICE_API_WORLD", world);
    let ended = command.output().await.expect("the script starts");
    let said = String::from_utf8_lossy(&ended.stdout);
    let more = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "{said}\n{more}");
    assert!(said.contains("passed") && !said.contains(&token), "{said}");
    // Whoever tried was somebody until the end, and the server is well.
    let after = lab.anybody.clone().with_token(&token);
    assert_eq!(status(&after.get::<Value>("/api/v1/me").await), 200);
}

async fn world(admin: &Client) -> Value {
    let project = make(admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let body = json!({"project": project, "name": "store", "spec": {"url": "/backup"}});
    let destination = make(admin, "destinations", body).await;
    let spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
    let body = json!({"project": project, "name": "web", "spec": spec});
    let instance = make(admin, "instances", body).await;
    let body = json!({"project": project, "name": "daily", "spec": {"rules": []}});
    let policy = make(admin, "policies", body).await;
    let start = json!({"kind": "backup", "instance": instance, "destination": destination});
    let task = make(admin, "tasks", start).await;
    let cancel = format!("/api/v1/tasks/{task}/cancel");
    admin.send(Method::POST, &cancel, None, &[]).await.unwrap();
    let robot = make(admin, "users", json!({"login": "robot", "service": true})).await;
    let group = make(admin, "groups", json!({"name": "team", "members": [robot]})).await;
    let rules = json!({"approvals": {"actions": ["collect"]}});
    admin.send(Method::PUT, "/api/v1/access-rules", Some(&rules), &[]).await.unwrap();
    let collect = json!({"kind": "collect", "destination": destination});
    let approval = make(admin, "tasks", collect).await;
    json!({"projects": project, "destinations": destination, "instances": instance,
        "policies": policy, "tasks": task, "users": robot, "groups": group, "approvals": approval})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_can_send_anything() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let real = world(&admin).await;
    tries(&lab, &admin, &real, "11").await;
    let alive = admin.get::<Value>("/api/v1/openapi.json");
    let alive = tokio::time::timeout(Duration::from_secs(60), alive).await;
    assert_eq!(status(&alive.unwrap()), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_of_a_project_can_send_anything() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let real = world(&admin).await;
    let member = lab.user(&admin, "admin", real["projects"].as_str()).await;
    tries(&lab, &member, &real, "12").await;
}

//! What Prometheus is told, and what the dashboard and the alerts ask for.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::retention::Place;
use crate::support::finish;

/// What a plain request gets.
async fn get(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The names that begin with `sluice_` in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let word = |c: char| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit();
    text.split(|c| !word(c)).filter(|name| name.starts_with("sluice_")).collect()
}

#[tokio::test]
async fn all_that_the_dashboard_and_the_alerts_ask_for_is_told_and_nothing_secret() {
    let place = Place::new().await;
    let start = json!({"kind": "backup", "instance": place.instance,
        "destination": place.destination});
    for point in ["shop.web@k1", "shop.web@k2"] {
        let task: Value = place.admin.post("/api/v1/tasks", &start).await.unwrap();
        finish(&place.mover, task["id"].as_str().unwrap(), point).await;
    }
    let _: Value = place.admin.post("/api/v1/tasks", &start).await.unwrap();
    let quota = json!({"project": {"backups": {"hard": 8, "window": "24h"}}});
    let path = format!("/api/v1/projects/{}/quota", place.project);
    place.admin.send(http::Method::PUT, &path, Some(&quota), &[]).await.unwrap();
    let secret = json!({"secrets": {"SLUICE_PASSPHRASE": "correct-horse-7"}});
    let path = format!("/api/v1/destinations/{}/secrets", place.destination);
    place.admin.send(http::Method::PUT, &path, Some(&secret), &[]).await.unwrap();

    let address = place.lab.metrics.clone();
    let told = get(&address, "/metrics").await;
    assert!(told.starts_with("HTTP/1.1 200"), "{told}");
    for line in [
        "sluice_tasks_open{kind=\"backup\",state=\"queued\"} 1",
        "sluice_tasks_last_day{kind=\"backup\",state=\"succeeded\"} 2",
        "sluice_nodes{state=\"alive\"} 1",
        "sluice_instances{protection=\"late\"} 1",
        "sluice_quota_used_ratio{project=\"shop\",limit=\"backups\"} 0.375",
        "sluice_database_up 1",
    ] {
        assert!(told.lines().any(|found| found == line), "{line} in {told}");
    }
    assert!(!told.contains("correct-horse-7") && !told.contains(&place.instance));
    assert!(get(&address, "/api/v1/tasks").await.starts_with("HTTP/1.1 404"));

    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/monitoring");
    for file in ["alerts.yaml", "grafana-dashboard.json"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        let asked = names(&text);
        assert!(asked.len() > 5, "{file}");
        // Only a server that is backed up tells when.
        let absent: Vec<_> = asked
            .iter()
            .filter(|name| !name.starts_with("sluice_self_backup"))
            .filter(|name| !told.contains(&format!("\n{name}")))
            .collect();
        assert!(absent.is_empty(), "{file} asks for {absent:?}");
    }
}

#[tokio::test]
async fn the_dashboard_tells_tasks_protection_and_what_is_due_next() {
    let place = Place::new().await;
    place.often(json!({})).await;
    let start = json!({"kind": "backup", "instance": place.instance,
        "destination": place.destination});
    let task: Value = place.admin.post("/api/v1/tasks", &start).await.unwrap();
    let id = task["id"].as_str().unwrap().to_owned();
    let path = format!("/api/v1/tasks/{id}/cancel");
    place.admin.send(http::Method::POST, &path, None, &[]).await.unwrap();
    let told: Value = place.admin.get("/api/v1/dashboard").await.unwrap();
    assert_eq!(told["last_day"]["cancelled"], 1, "{told}");
    assert_eq!(
        (&told["protection"]["total"], &told["protection"]["never"]),
        (&1.into(), &1.into())
    );
    assert_eq!(told["due_soon"][0]["schedule"], "main/often");
    assert!(told["due_soon"][0]["at_ms"].as_u64() > told["now_ms"].as_u64());
    assert_eq!(told["nodes"], json!({"total": 1, "alive": 1}));
    let other = json!({"name": "blog", "spec": {}});
    let other = crate::support::make(&place.admin, "projects", other).await;
    let stranger = place.lab.user(&place.admin, "viewer", Some(&other)).await;
    let theirs: Value = stranger.get("/api/v1/dashboard").await.unwrap();
    assert_eq!((&theirs["protection"]["total"], &theirs["nodes"]), (&0.into(), &Value::Null));
    assert!(theirs["last_day"].as_object().unwrap().is_empty(), "{theirs}");
    assert!(theirs["due_soon"].as_array().unwrap().is_empty(), "{theirs}");
}

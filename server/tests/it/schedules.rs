//! What becomes due, and what does not.

use http::Method;
use serde_json::{Value, json};

use crate::retention::Place;

#[tokio::test]
async fn an_instance_that_is_paused_is_not_backed_up_and_this_is_told() {
    let place = Place::new().await;
    let source = json!({"kind": "device", "path": "/dev/x"});
    let spec = json!({"source": source, "tags": ["gold"], "paused": true});
    let path = format!("/api/v1/instances/{}", place.instance);
    let change = json!({"name": "web", "spec": spec});
    let tag = [("if-match", "\"1\"")];
    place.admin.send(Method::PUT, &path, Some(&change), &tag).await.unwrap();
    place.often(json!({})).await;
    let missed = loop {
        let report: Value = place.admin.get("/api/v1/reports/missed").await.unwrap();
        if let Some(first) = report["items"].get(0) {
            break first.clone();
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    };
    assert_eq!(
        (&missed["reason"], &missed["instance"]),
        (&json!("paused"), &json!(place.instance))
    );
    let tasks: Value = place.admin.get("/api/v1/tasks").await.unwrap();
    let backups = tasks["items"].as_array().unwrap().iter().filter(|task| task["kind"] == "backup");
    assert_eq!(backups.count(), 0, "{tasks}");
}

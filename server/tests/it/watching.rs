//! Streams of events.

use http::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Lab, make};

/// As many as a user may have at a time.
const MOST: usize = 16;

#[tokio::test]
async fn streams_are_bounded_and_end_with_the_session() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let body = json!({"name": "store", "spec": {"url": "/backup"}});
    let destination = make(&admin, "destinations", body).await;
    let start = json!({"kind": "collect", "destination": destination});
    let task = make(&admin, "tasks", start).await;
    let viewer = lab.user(&admin, "viewer", None).await;
    let mut streams = JoinSet::new();
    for _ in 0..=MOST {
        let (viewer, path) = (viewer.clone(), format!("/api/v1/tasks/{task}/events"));
        streams.spawn(async move { viewer.fetch(&path).await });
    }
    // Once there is one too many, all others are open.
    let refused = streams.join_next().await.unwrap().unwrap().unwrap_err();
    assert_eq!((refused.status(), refused.code()), (Some(429), "too-many-streams"));
    viewer.send(Method::DELETE, "/api/v1/sessions/current", None, &[]).await.unwrap();
    for told in streams.join_all().await {
        let told = String::from_utf8(told.expect("the stream ends, and not by patience")).unwrap();
        assert!(told.contains("event: task") && told.contains(&task), "{told}");
    }
    let now: Value = admin.get(&format!("/api/v1/tasks/{task}")).await.unwrap();
    assert_eq!(now["state"], "queued", "it was not the task that ended");
}

//! What is known is not told again, and what was changed meanwhile is not overwritten.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{Client, Hello};

use crate::retention::Place;
use crate::support::{make, status};

/// The tag of what is answered, which must be good for an answer without a body.
async fn tag(client: &Client, path: &str) -> String {
    let read = client.send(Method::GET, path, None, &[]).await.unwrap();
    let tag = read.headers["etag"].to_str().unwrap().to_owned();
    let known = format!("\"other\", W/{tag}");
    let told = client.send(Method::GET, path, None, &[("if-none-match", &known)]).await;
    assert_eq!(status(&told), 304, "{path} {tag}");
    let other = [("if-none-match", "\"other\"")];
    let told = client.send(Method::GET, path, None, &other).await.unwrap();
    assert_eq!((told.status, &told.body), (200, &read.body), "{path}");
    tag
}

async fn change(client: &Client, method: Method, path: &str, body: &Value, tag: &str) -> u16 {
    let body = (method == Method::PUT).then_some(body);
    status(&client.send(method, path, body, &[("if-match", tag)]).await)
}

#[tokio::test]
async fn everything_that_is_read_has_a_tag() {
    let place = Place::new().await;
    let admin = &place.admin;
    let (instance, destination) = (place.instance.as_str(), place.destination.as_str());
    let start = json!({"kind": "backup", "instance": instance, "destination": destination});
    let task = make(admin, "tasks", start).await;
    let paths = [
        format!("instances/{instance}"),
        format!("tasks/{task}"),
        format!("projects/{}/quota", place.project),
        "instances".to_owned(),
        "limits".to_owned(),
        "access-rules".to_owned(),
        "notifications".to_owned(),
        "self-backup".to_owned(),
        "me".to_owned(),
    ];
    for path in paths {
        tag(admin, &format!("/api/v1/{path}")).await;
    }
    // What changes by itself has another one.
    let path = format!("/api/v1/tasks/{task}");
    let before = tag(admin, &path).await;
    admin.send(Method::POST, &format!("{path}/cancel"), None, &[]).await.unwrap();
    assert_ne!(tag(admin, &path).await, before);
}

#[tokio::test]
async fn settings_are_set_as_they_were_read_or_without_a_word_on_it() {
    let place = Place::new().await;
    let admin = &place.admin;
    let quota = json!({"project": {"stored_bytes": {"soft": 7}}});
    for (path, body) in [
        ("/api/v1/limits".to_owned(), json!({"history_days": 7})),
        (format!("/api/v1/projects/{}/quota", place.project), quota),
        ("/api/v1/access-rules".to_owned(), json!({"passwords": {"shortest": 13}})),
        (
            "/api/v1/notifications".to_owned(),
            json!({"channels": [{"name": "ops",
            "via": {"kind": "webhook", "url": "https://hooks.example.org/"}}]}),
        ),
    ] {
        let first = tag(admin, &path).await;
        assert_eq!(change(admin, Method::PUT, &path, &body, &first).await, 200, "{path}");
        assert_ne!(tag(admin, &path).await, first, "{path}");
        // Somebody else has read what was there before.
        assert_eq!(change(admin, Method::PUT, &path, &json!({}), &first).await, 412, "{path}");
        let now = tag(admin, &path).await;
        assert_eq!(change(admin, Method::PUT, &path, &body, &now).await, 200, "{path}");
        assert_eq!(change(admin, Method::PUT, &path, &body, "*").await, 200, "{path}");
        let plain = admin.send(Method::PUT, &path, Some(&body), &[]).await;
        assert_eq!(status(&plain), 200, "{path}");
    }
}

#[tokio::test]
async fn what_was_changed_meanwhile_is_neither_changed_nor_removed() {
    let place = Place::new().await;
    let admin = &place.admin;
    let id = make(admin, "projects", json!({"name": "blog", "spec": {}})).await;
    let path = format!("/api/v1/projects/{id}");
    let body = json!({"name": "blog", "spec": {"description": "of the shop"}});
    let first = tag(admin, &path).await;
    assert_eq!(first, "\"1\"");
    assert_eq!(status(&admin.send(Method::PUT, &path, Some(&body), &[]).await), 428);
    assert_eq!(change(admin, Method::PUT, &path, &body, &first).await, 200);
    for method in [Method::PUT, Method::DELETE] {
        assert_eq!(change(admin, method, &path, &body, &first).await, 412);
    }
    assert_eq!(change(admin, Method::DELETE, &path, &body, "\"2\"").await, 200);
    let nodes: Value = admin.get("/api/v1/nodes").await.unwrap();
    let path = format!("/api/v1/nodes/{}", nodes["items"][0]["id"].as_str().unwrap());
    let first = tag_of(admin, &path).await;
    // That it is heard of meanwhile is no change of what is said of it.
    let (instance, destination) = (&place.instance, &place.destination);
    let start = json!({"kind": "backup", "instance": instance, "destination": destination});
    make(admin, "tasks", start).await;
    let _: Value = place.mover.post("/api/node/v1/lease", &()).await.unwrap();
    // Nor is what it tells of itself, though its revision grows.
    let node: Value = admin.get(&path).await.unwrap();
    let told = Hello { host: "elsewhere".into(), slots: 1, ..Hello::default() };
    let _: Value = place.mover.post("/api/node/v1/standing", &told).await.unwrap();
    let now: Value = admin.get(&path).await.unwrap();
    assert!(now["revision"].as_u64() > node["revision"].as_u64());
    let body = json!({"state": "enabled"});
    let by_revision = |node: &Value| format!("\"{}\"", node["revision"]);
    assert_eq!(change(admin, Method::PUT, &path, &body, &by_revision(&node)).await, 412);
    assert_eq!(change(admin, Method::PUT, &path, &body, &by_revision(&now)).await, 200);
    let body = json!({"state": "draining"});
    assert_eq!(change(admin, Method::PUT, &path, &body, &first).await, 200);
    assert_eq!(change(admin, Method::DELETE, &path, &body, &first).await, 412);
}

/// The tag of what may change at any moment.
async fn tag_of(client: &Client, path: &str) -> String {
    let read = client.send(Method::GET, path, None, &[]).await.unwrap();
    read.headers["etag"].to_str().unwrap().to_owned()
}

//! In blocks of which size instances are stored, as nodes and clients see it.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::TaskSpec;

use crate::copies::{end, next};
use crate::retention::Place;
use crate::support::{make, status};

/// What a node is told of the block size of a backup that somebody asks for.
async fn told(place: &Place, instance: &str) -> Option<u32> {
    let start = json!({"kind": "backup", "instance": instance, "destination": place.destination});
    make(&place.admin, "tasks", start).await;
    let lease = next(place).await;
    let TaskSpec::Backup { block_size, .. } = lease.work.spec else { panic!("a backup") };
    let point = json!({"point": {"point": "shop.web@k1", "created_ms": 5, "stats": {}}});
    end(place, &lease, sluice_node_api::Outcome::Succeeded, point).await;
    block_size
}

#[tokio::test]
async fn an_instance_says_its_block_size_and_each_backup_is_told_the_one_of_now() {
    let place = Place::new().await;
    assert_eq!(told(&place, &place.instance).await, None, "nobody has said it");
    let path = format!("/api/v1/instances/{}", place.instance);
    for (said, bytes) in
        [(json!("16KiB"), Some(16_384)), (json!("1MiB"), Some(1 << 20)), (json!(null), None)]
    {
        let mut record: Value = place.admin.get(&path).await.unwrap();
        record["spec"]["block_size"] = said.clone();
        let body = json!({"name": "web", "spec": record["spec"]});
        let tag = format!("\"{}\"", record["revision"]);
        let tag = [("if-match", tag.as_str())];
        place.admin.send(Method::PUT, &path, Some(&body), &tag).await.unwrap();
        let record: Value = place.admin.get(&path).await.unwrap();
        assert_eq!(record["spec"]["block_size"], said);
        assert_eq!(told(&place, &place.instance).await, bytes, "{said}");
    }
}

#[tokio::test]
async fn what_is_no_block_size_is_refused_and_makes_no_instance() {
    let place = Place::new().await;
    let source = json!({"kind": "device", "path": "/dev/y"});
    for odd in [json!("8KiB"), json!("2MiB"), json!("100KiB"), json!(""), json!(16_384), json!(-1)]
    {
        let spec = json!({"source": source, "block_size": odd});
        let body = json!({"project": place.project, "name": "odd", "spec": spec});
        let answer = place.admin.send(Method::POST, "/api/v1/instances", Some(&body), &[]).await;
        assert!([400, 422].contains(&status(&answer)), "{odd}");
    }
    let all: Value = place.admin.get("/api/v1/instances?name=odd").await.unwrap();
    assert_eq!(all["items"], json!([]));
}

#[tokio::test]
async fn whoever_may_not_change_an_instance_does_not_change_its_block_size() {
    let place = Place::new().await;
    let blog = make(&place.admin, "projects", json!({"name": "blog", "spec": {}})).await;
    let path = format!("/api/v1/instances/{}", place.instance);
    let record: Value = place.admin.get(&path).await.unwrap();
    let mut spec = record["spec"].clone();
    spec["block_size"] = json!("16KiB");
    let body = json!({"name": "web", "spec": spec});
    for (role, project, refused) in
        [("operator", &place.project, 403), ("manager", &blog, 404), ("viewer", &blog, 404)]
    {
        let user = place.lab.user(&place.admin, role, Some(project)).await;
        let tag = [("if-match", "\"1\"")];
        let answer = user.send(Method::PUT, &path, Some(&body), &tag).await;
        assert_eq!(status(&answer), refused, "{role}");
    }
    let record: Value = place.admin.get(&path).await.unwrap();
    assert_eq!(record["spec"]["block_size"], Value::Null);
}

//! What others need is not removed, and who needs it is told.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use crate::retention::Place;
use crate::support::{make, on};

/// Why something is not removed.
async fn refusal(client: &Client, path: &str) -> String {
    let told = client.send(Method::DELETE, &format!("/api/v1/{path}"), None, &[]).await;
    let error = told.unwrap_err();
    assert_eq!(error.status(), Some(409), "{path}: {error}");
    error.to_string()
}

#[tokio::test]
async fn what_plans_policies_and_nodes_need_stays_and_they_are_named() {
    let place = Place::new().await;
    let (admin, project) = (&place.admin, place.project.as_str());
    let nodes: Value = admin.get("/api/v1/nodes").await.unwrap();
    let node = nodes["items"][0]["id"].as_str().unwrap();
    let item = json!({"instance": place.instance, "destination": place.destination,
        "target": {"kind": "file", "node": node, "path": "/srv/web.raw"}});
    let spec = json!({"groups": [{"name": "all", "items": [item]}]});
    let body = json!({"project": project, "name": "flood", "spec": spec});
    let plan = make(admin, "plans", body).await;
    for path in [
        format!("instances/{}", place.instance),
        format!("destinations/{}", place.destination),
        format!("nodes/{node}"),
        format!("projects/{project}"),
    ] {
        let told = refusal(admin, &path).await;
        assert!(told.contains("plan shop/flood"), "{path}: {told}");
    }
    // Whoever may remove it and knows nothing of the plan is told that there is one.
    let grants = json!([on("manager", "instance", &place.instance)]);
    let otto = place.lab.user_with(admin, "otto", grants).await;
    let told = refusal(&otto, &format!("instances/{}", place.instance)).await;
    assert!(told.contains("a plan that you may not know of"), "{told}");
    admin.send(Method::DELETE, &format!("/api/v1/plans/{plan}"), None, &[]).await.unwrap();

    let source = json!({"kind": "device", "path": "/dev/x"});
    for number in 0..7 {
        let spec = json!({"source": source, "node": node});
        let body = json!({"project": project, "name": format!("n{number}"), "spec": spec});
        make(admin, "instances", body).await;
    }
    let told = refusal(admin, &format!("nodes/{node}")).await;
    assert!(told.contains("instance shop/n4 and others") && !told.contains("n5"), "{told}");
    let rule = json!({"name": "r", "destination": place.destination, "schedules": []});
    let spec = json!({"rules": [rule]});
    make(admin, "policies", json!({"name": "daily", "spec": spec})).await;
    let told = refusal(admin, &format!("destinations/{}", place.destination)).await;
    assert!(told.contains("the destination is needed by policy daily"), "{told}");
    let gone = format!("/api/v1/instances/{}", place.instance);
    admin.send(Method::DELETE, &gone, None, &[]).await.unwrap();
}

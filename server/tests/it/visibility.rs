//! What belongs to the system is seen by the projects it says.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use crate::support::{Lab, make, status};

async fn names(client: &Client, kind: &str) -> Vec<String> {
    let list: Value = client.get(&format!("/api/v1/{kind}")).await.unwrap();
    let items = list["items"].as_array().unwrap();
    items.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
}

async fn change(admin: &Client, kind: &str, id: &str, name: &str, spec: &Value) {
    let path = format!("/api/v1/{kind}/{id}");
    let old: Value = admin.get(&path).await.unwrap();
    let tag = format!("\"{}\"", old["revision"]);
    let body = json!({"name": name, "spec": spec});
    admin.send(Method::PUT, &path, Some(&body), &[("if-match", &tag)]).await.unwrap();
}

#[tokio::test]
async fn projects_see_and_use_what_is_visible_to_them() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let bank = make(&admin, "projects", json!({"name": "bank", "spec": {}})).await;
    let at = |url: &str, to: Value| json!({"url": url, "visible_to": to});
    let all = json!({"name": "all", "spec": {"url": "/all"}});
    make(&admin, "destinations", all).await;
    let own = json!({"name": "shops", "spec": at("/shops", json!([shop]))});
    let shops = make(&admin, "destinations", own).await;
    make(&admin, "destinations", json!({"name": "none", "spec": at("/none", json!([]))})).await;
    let rule = json!({"name": "main", "destination": shops, "schedules": []});
    let spec = json!({"rules": [rule], "visible_to": [shop]});
    let gold = make(&admin, "policies", json!({"name": "gold", "spec": spec})).await;
    let (manager, other) = (
        lab.user(&admin, "manager", Some(&shop)).await,
        lab.user(&admin, "manager", Some(&bank)).await,
    );

    assert_eq!(names(&admin, "destinations").await, ["all", "shops", "none"]);
    assert_eq!(names(&manager, "destinations").await, ["all", "shops"]);
    assert_eq!(names(&other, "destinations").await, ["all"]);
    assert_eq!(names(&manager, "policies").await, ["gold"]);
    assert!(names(&other, "policies").await.is_empty());
    for (kind, id) in [("destinations", &shops), ("policies", &gold)] {
        let path = format!("/api/v1/{kind}/{id}");
        assert_eq!(status(&manager.get::<Value>(&path).await), 200);
        assert_eq!(status(&other.get::<Value>(&path).await), 404);
    }

    // What is not seen is not used.
    let device = json!({"source": {"kind": "device", "path": "/dev/x"}, "tags": ["gold"]});
    for (project, client, code) in [(&shop, &manager, 200), (&bank, &other, 404)] {
        let body = json!({"project": project, "name": "web", "spec": device});
        let web = make(&admin, "instances", body).await;
        let start = json!({"kind": "backup", "instance": web, "destination": shops});
        let told = client.send(Method::POST, "/api/v1/tasks", Some(&start), &[]).await;
        assert_eq!(status(&told), code, "{told:?}");
        let hand = format!("/api/v1/policies/{gold}/instances/{web}");
        let told = client.send(Method::PUT, &hand, None, &[]).await;
        assert_eq!(status(&told) == 404, code == 404, "{told:?}");
        let body = json!({"project": project, "name": "own", "spec": {"rules": [rule]}});
        let told = client.send(Method::POST, "/api/v1/policies", Some(&body), &[]).await;
        assert_eq!(status(&told), code, "{told:?}");
    }

    // It is changed as everything else, to and fro.
    change(&admin, "destinations", &shops, "shops", &at("/shops", json!([bank]))).await;
    assert_eq!(names(&manager, "destinations").await, ["all"]);
    assert_eq!(names(&other, "destinations").await, ["all", "shops"]);
    change(&admin, "destinations", &shops, "shops", &json!({"url": "/shops"})).await;
    assert_eq!(names(&manager, "destinations").await, ["all", "shops"]);
}

#[tokio::test]
async fn a_policy_that_nobody_sees_has_what_it_finds() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let device = json!({"source": {"kind": "device", "path": "/dev/x"}});
    make(&admin, "instances", json!({"project": shop, "name": "web", "spec": device})).await;
    let spec = json!({"assign": {"everything": true}, "rules": [], "visible_to": []});
    let hidden = make(&admin, "policies", json!({"name": "hidden", "spec": spec})).await;
    let has: Value = admin.get(&format!("/api/v1/policies/{hidden}/instances")).await.unwrap();
    assert_eq!(has["items"].as_array().unwrap().len(), 1);
    let viewer = lab.user(&admin, "viewer", Some(&shop)).await;
    assert!(names(&viewer, "policies").await.is_empty());
    let told: Value = viewer.get("/api/v1/reports/sla").await.unwrap();
    assert_eq!((&told["total"], &told["items"][0]["policies"]), (&json!(1), &json!([])));
}

#[tokio::test]
async fn a_role_in_one_project_lends_nothing_to_another() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let bank = make(&admin, "projects", json!({"name": "bank", "spec": {}})).await;
    let spec = json!({"url": "/shops", "visible_to": [shop]});
    let shops = make(&admin, "destinations", json!({"name": "shops", "spec": spec})).await;
    let rule = json!({"name": "main", "destination": shops, "schedules": []});
    let spec = json!({"rules": [rule], "visible_to": [shop]});
    let gold = make(&admin, "policies", json!({"name": "gold", "spec": spec})).await;
    let device = json!({"source": {"kind": "device", "path": "/dev/x"}});
    let body = json!({"project": bank, "name": "vault", "spec": device});
    let vault = make(&admin, "instances", body).await;
    let grants = json!([{"role": "viewer", "project": shop}, {"role": "manager", "project": bank}]);
    let anna = lab.user_with(&admin, "anna", grants).await;
    assert_eq!(names(&anna, "destinations").await, ["shops"]);
    let start = json!({"kind": "backup", "instance": vault, "destination": shops});
    let own = json!({"project": bank, "name": "own", "spec": {"rules": [rule]}});
    let hand = format!("/api/v1/policies/{gold}/instances/{vault}");
    for (method, path, body) in [
        (Method::POST, "/api/v1/tasks", Some(&start)),
        (Method::POST, "/api/v1/policies", Some(&own)),
        (Method::PUT, hand.as_str(), None),
    ] {
        let told = anna.send(method.clone(), path, body, &[]).await;
        assert_eq!(status(&told), 404, "{method} {path}");
        // Who manages the system decides otherwise.
        assert_eq!(status(&admin.send(method, path, body, &[]).await), 200, "{path}");
    }
}

//! How policies find instances.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use crate::support::{Lab, make};

const PREVIEW: &str = "/api/v1/policies/preview";

async fn instance(admin: &Client, project: &str, name: &str, more: Value) {
    let mut spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    make(admin, "instances", json!({"project": project, "name": name, "spec": spec})).await;
}

fn names(list: &Value) -> Vec<String> {
    let items = list["items"].as_array().unwrap();
    let mut names: Vec<_> =
        items.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    names
}

async fn preview(client: &Client, draft: Value) -> Vec<String> {
    names(&client.send(Method::POST, PREVIEW, Some(&draft), &[]).await.unwrap().body)
}

#[tokio::test]
async fn a_preview_tells_what_a_policy_would_have_and_a_policy_has_just_that() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let bank = make(&admin, "projects", json!({"name": "bank", "spec": {}})).await;
    instance(&admin, &shop, "web-1", json!({"tags": ["gold"], "cluster": "rack-1"})).await;
    instance(&admin, &shop, "web-2", json!({"tags": ["gold", "test"], "cluster": "rack-2"})).await;
    instance(&admin, &shop, "db-1", json!({"cluster": "rack-1"})).await;
    instance(&admin, &bank, "web-3", json!({"tags": ["gold"]})).await;

    for (project, assign, wanted) in [
        (None, json!({}), &[][..]),
        (None, json!({"everything": true}), &["db-1", "web-1", "web-2", "web-3"]),
        (Some(&shop), json!({"everything": true}), &["db-1", "web-1", "web-2"]),
        (None, json!({"names": ["web-*"]}), &["web-1", "web-2", "web-3"]),
        (None, json!({"names": ["web-*"], "projects": [bank]}), &["web-3"]),
        (Some(&shop), json!({"projects": [bank]}), &[]),
        (None, json!({"clusters": ["rack-1"]}), &["db-1", "web-1"]),
        (None, json!({"tags": ["gold"], "except_tags": ["test"]}), &["web-1", "web-3"]),
    ] {
        let draft = json!({"project": project, "assign": assign});
        assert_eq!(preview(&admin, draft.clone()).await, wanted, "{draft}");
        let name = format!("p{}", rand::random::<u64>());
        let spec = json!({"assign": assign, "rules": []});
        let body = json!({"project": project, "name": name, "spec": spec});
        let policy = make(&admin, "policies", body).await;
        let has: Value = admin.get(&format!("/api/v1/policies/{policy}/instances")).await.unwrap();
        assert_eq!(names(&has), wanted, "{draft}");
    }
}

#[tokio::test]
async fn a_preview_has_what_was_assigned_by_hand_and_nothing_that_others_have() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let bank = make(&admin, "projects", json!({"name": "bank", "spec": {}})).await;
    instance(&admin, &shop, "web", json!({})).await;
    instance(&admin, &bank, "vault", json!({})).await;
    let list: Value = admin.get("/api/v1/instances").await.unwrap();
    let web = list["items"].as_array().unwrap().iter().find(|one| one["name"] == "web").unwrap();
    let body = json!({"name": "by-hand", "spec": {"rules": []}});
    let policy = make(&admin, "policies", body).await;
    let path = format!("/api/v1/policies/{policy}/instances/{}", web["id"].as_str().unwrap());
    admin.send(Method::PUT, &path, None, &[]).await.unwrap();
    let draft = json!({"policy": policy, "assign": {"names": ["vault"]}});
    assert_eq!(preview(&admin, draft.clone()).await, ["vault", "web"]);

    let viewer = lab.user(&admin, "viewer", Some(&shop)).await;
    assert_eq!(preview(&viewer, draft).await, ["web"]);
    let everything = json!({"assign": {"everything": true}});
    assert_eq!(preview(&viewer, everything).await, ["web"]);
    let theirs = json!({"project": bank, "assign": {"everything": true}});
    let refused = viewer.send(Method::POST, PREVIEW, Some(&theirs), &[]).await.unwrap_err();
    assert_eq!(refused.status(), Some(404));
    let odd = json!({"assign": {"except_tags": ["a"]}});
    let refused = admin.send(Method::POST, PREVIEW, Some(&odd), &[]).await.unwrap_err();
    assert_eq!(refused.status(), Some(422), "{refused:?}");
}

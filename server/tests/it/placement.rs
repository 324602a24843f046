//! Which nodes work for what, and what people are told of it.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{Ability, Client, Hello, Lease};

use crate::support::{Lab, make, status};

async fn shown(client: &Client, task: &str) -> Value {
    client.get(&format!("/api/v1/tasks/{task}")).await.unwrap()
}

fn hello(abilities: Vec<Ability>) -> Hello {
    let kinds = vec!["backup".to_owned()];
    Hello { kinds, slots: 1, abilities, contract: 3, ..Hello::default() }
}

/// Gives a node a configuration and a state.
async fn put(admin: &Client, name: &str, change: Value) {
    let nodes: Value = admin.get("/api/v1/nodes").await.unwrap();
    let items = nodes["items"].as_array().unwrap();
    let id = items.iter().find(|node| node["name"] == name).unwrap()["id"].as_str().unwrap();
    admin.send(Method::PUT, &format!("/api/v1/nodes/{id}"), Some(&change), &[]).await.unwrap();
}

async fn instance(admin: &Client, project: &str, name: &str, spec: Value) -> String {
    make(admin, "instances", json!({"project": project, "name": name, "spec": spec})).await
}

#[tokio::test]
async fn a_configuration_has_the_instances_it_names_and_people_are_told_why() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let body = json!({"name": "s", "spec": {"url": "/b"}});
    let destination = make(&admin, "destinations", body).await;
    let racks = lab.node(&admin, "racks", &["backup"]).await;
    let plain = lab.node(&admin, "plain", &["backup"]).await;
    let spec = json!({"serves": {"clusters": ["rack-*"]}});
    let config = make(&admin, "node-configs", json!({"name": "rack-1", "spec": spec})).await;
    put(&admin, "racks", json!({"state": "enabled", "config": config})).await;
    let device = json!({"kind": "device", "path": "/dev/x"});
    let on = json!({"source": device, "cluster": "rack-1", "host": "hyper-7"});
    let near = instance(&admin, &shop, "near", on).await;
    let far = instance(&admin, &shop, "far", json!({ "source": device })).await;
    let start = |instance: &str| {
        let (kind, to) = ("backup", &destination);
        json!({"kind": kind, "instance": instance, "destination": to})
    };
    let lease = async |node: &Client| -> Option<Lease> {
        node.post("/api/node/v1/lease", &()).await.unwrap()
    };
    // The older one is passed over by the node that may not do it.
    let first = make(&admin, "tasks", start(&near)).await;
    let second = make(&admin, "tasks", start(&far)).await;
    assert_eq!(lease(&plain).await.unwrap().task, second);
    assert_eq!(lease(&racks).await.unwrap().task, first);
    let judged: Value = admin.get(&format!("/api/v1/instances/{near}/nodes")).await.unwrap();
    let of = |name: &str| {
        let items = judged["items"].as_array().unwrap();
        items.iter().find(|one| one["name"] == name).cloned().unwrap()
    };
    assert_eq!((&of("racks")["may"], &of("plain")["may"]), (&json!(true), &json!(false)));
    let because = "its configuration rack-1 serves the instance by its cluster";
    assert_eq!(of("racks")["because"], because);
    assert_eq!(of("plain")["because"], "the instance is served by rack-1, by its cluster");

    // Nobody may: it says so of each node, to those who may know of nodes.
    admin.send(Method::POST, &format!("/api/v1/tasks/{first}/cancel"), None, &[]).await.unwrap();
    put(&admin, "racks", json!({"state": "draining", "config": config})).await;
    let other = json!({"source": device, "cluster": "rack-2"});
    let other = instance(&admin, &shop, "other", other).await;
    let waits = make(&admin, "tasks", start(&other)).await;
    let told = shown(&admin, &waits).await;
    assert_eq!(told["waits_for"], "nodes-away");
    let why = told["waits_because"].as_str().unwrap();
    assert!(why.contains("racks: it is drained"), "{why}");
    assert!(why.contains("plain: the instance is served by rack-1, by its cluster"), "{why}");
    let viewer = lab.user(&admin, "viewer", Some(&shop)).await;
    let theirs = shown(&viewer, &waits).await;
    assert!(!theirs["waits_because"].as_str().unwrap().contains("racks"), "{theirs}");
    let odd = json!({"name": "odd", "spec": {"serves": {"instances": ["web"]}}});
    assert_eq!(status(&admin.post::<Value>("/api/v1/node-configs", &odd).await), 422);
}

#[tokio::test]
async fn an_inventory_goes_to_the_nodes_that_serve_its_cluster() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let racks = lab.node(&admin, "racks", &["inventory"]).await;
    let plain = lab.node(&admin, "plain", &["inventory"]).await;
    let spec = json!({"serves": {"clusters": ["rack-*"]}});
    let config = make(&admin, "node-configs", json!({"name": "rack-1", "spec": spec})).await;
    put(&admin, "racks", json!({"state": "enabled", "config": config})).await;
    let mut tasks = Vec::new();
    for (name, cluster) in [("near", json!("rack-1")), ("far", Value::Null)] {
        let look = json!({"kind": "files", "folder": "/srv/images"});
        let spec = json!({"look": look, "cluster": cluster});
        let body = json!({"project": shop, "name": name, "spec": spec});
        let inventory = make(&admin, "inventories", body).await;
        tasks.push(make(&admin, &format!("inventories/{inventory}/runs"), json!({})).await);
    }
    // The older one is passed over by the node that does not see the cluster's folder.
    for (node, task) in [(&plain, &tasks[1]), (&racks, &tasks[0])] {
        let lease: Option<Lease> = node.post("/api/node/v1/lease", &()).await.unwrap();
        assert_eq!(&lease.unwrap().task, task);
    }
    let back = format!("/api/v1/tasks/{}/cancel", tasks[0]);
    admin.send(Method::POST, &back, None, &[]).await.unwrap();
    put(&admin, "racks", json!({"state": "draining", "config": config})).await;
    let look = json!({"kind": "files", "folder": "/srv/other"});
    let body = json!({"project": shop, "name": "other",
        "spec": {"look": look, "cluster": "rack-2"}});
    let inventory = make(&admin, "inventories", body).await;
    let waits = make(&admin, &format!("inventories/{inventory}/runs"), json!({})).await;
    let why = shown(&admin, &waits).await["waits_because"].clone();
    let why = why.as_str().unwrap();
    assert!(why.contains("plain: the place is served by rack-1, by its cluster"), "{why}");
}

#[tokio::test]
async fn a_task_waits_for_a_node_where_what_it_needs_works() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let body = json!({"name": "s", "spec": {"url": "/b"}});
    let destination = make(&admin, "destinations", body).await;
    let lack = Ability::lacks("source:formats", "there is no qemu-nbd", "package qemu-utils");
    let node = lab.node_that(&admin, "mover", hello(vec![lack])).await;
    let images = json!([{"path": "/srv/web.vmdk"}]);
    let spec = json!({"source": {"kind": "disk-files", "images": images}});
    let web = instance(&admin, &shop, "web", spec).await;
    let start = json!({"kind": "backup", "instance": web, "destination": destination});
    let task = make(&admin, "tasks", start).await;
    let told = shown(&admin, &task).await;
    assert_eq!(told["waits_for"], "no-node");
    let why = told["waits_because"].as_str().unwrap();
    let named = "mover: source:formats does not work: there is no qemu-nbd; missing: package \
                 qemu-utils";
    assert!(why.contains(named), "{why}");
    let viewer = lab.user(&admin, "viewer", Some(&shop)).await;
    let theirs = shown(&viewer, &task).await["waits_because"].clone();
    assert!(theirs.as_str().unwrap().contains("needs source:formats"), "{theirs}");

    // It was installed meanwhile: the node says so without being started again.
    let works = hello(vec![Ability::works("source:formats")]);
    let orders: Value = node.post("/api/node/v1/standing", &works).await.unwrap();
    assert_eq!(orders, json!({"restart": false}));
    let nodes: Value = admin.get("/api/v1/nodes").await.unwrap();
    assert_eq!(nodes["items"][0]["capabilities"]["abilities"][0]["works"], true);
    let leased: Option<Lease> = node.post("/api/node/v1/lease", &()).await.unwrap();
    assert_eq!(leased.unwrap().task, task);
}

//! Mounted restore points, as people and nodes see them.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{
    Ask, Client, Finished, Held, HeldState, Hello, Lease, MountOrder, MountOrders, MountReport,
    Outcome, Report, Reported, TaskSpec,
};

use crate::support::{Lab, finish, make, status};

const POINT: &str = "shop.web@k3";

/// A project with a restore point, and the node that made it.
struct World {
    lab: Lab,
    admin: Client,
    node: Client,
    point: String,
}

impl World {
    async fn new() -> Self {
        let lab = Lab::new().await;
        let admin = lab.administrator().await;
        let node = lab.node(&admin, "mover", &["backup", "mount", "unmount"]).await;
        let project = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
        let body = json!({"name": "store", "spec": {"url": "/backup"}});
        let destination = make(&admin, "destinations", body).await;
        let secrets = json!({"secrets": {"SLUICE_PASSPHRASE": "hush-hush"}});
        let path = format!("/api/v1/destinations/{destination}/secrets");
        admin.send(Method::PUT, &path, Some(&secrets), &[]).await.unwrap();
        let spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
        let body = json!({"project": project, "name": "web", "spec": spec});
        let instance = make(&admin, "instances", body).await;
        let start = json!({"kind": "backup", "instance": instance, "destination": destination});
        // The repository is seen to first.
        let cancel: Value = admin.get("/api/v1/tasks").await.unwrap();
        for task in cancel["items"].as_array().unwrap() {
            let path = format!("/api/v1/tasks/{}/cancel", task["id"].as_str().unwrap());
            let _ = admin.send(Method::POST, &path, None, &[]).await;
        }
        let task = make(&admin, "tasks", start).await;
        finish(&node, &task, POINT).await;
        let points: Value = admin.get("/api/v1/points").await.unwrap();
        let point = points["items"][0]["id"].as_str().unwrap().to_owned();
        Self { lab, admin, node, point }
    }

    fn request(&self) -> Value {
        json!({"point": self.point, "protocol": "iscsi", "clients": ["192.0.2.0/24"],
            "initiators": ["iqn.2026-01.test:host-1"], "lease_seconds": 3600})
    }

    async fn mount(&self, request: &Value) -> String {
        let made: Value = self.admin.post("/api/v1/mounts", request).await.unwrap();
        made["id"].as_str().unwrap().to_owned()
    }

    async fn shown(&self, id: &str) -> Value {
        self.admin.get(&format!("/api/v1/mounts/{id}")).await.unwrap()
    }

    /// The next task about mounts.
    async fn lease(&self) -> Lease {
        let kinds = Some(TaskSpec::MOUNT_KINDS.map(str::to_owned).to_vec());
        let ask = Ask { kinds };
        let asked: Option<Lease> = self.node.post("/api/node/v1/lease", &ask).await.unwrap();
        asked.expect("there is a task")
    }

    async fn report(&self, lease: &Lease, outcome: Outcome, document: Value) {
        let message = "no such address".to_owned();
        let finished = Some(Finished { outcome, document, message, retryable: false });
        let report = Report { attempt: lease.attempt, finished, ..Report::default() };
        let path = format!("/api/node/v1/tasks/{}/report", lease.task);
        let _: Reported = self.node.post(&path, &report).await.unwrap();
    }

    async fn compare(&self, held: Vec<Held>) -> MountOrders {
        self.node.post("/api/node/v1/mounts", &MountReport { held }).await.unwrap()
    }
}

fn place() -> Value {
    let uri = "iscsi://192.0.2.7:3260/iqn.2026-01.test:web/0";
    json!({"type": "ready", "uri": uri, "luns": [{"name": "root", "uri": uri}]})
}

fn held(id: &str) -> Held {
    let (mount, state) = (id.to_owned(), HeldState::Running);
    Held { mount, state, place: place(), lease_ms: 3_600_000, ..Held::default() }
}

fn order(lease: &Lease) -> &MountOrder {
    let TaskSpec::Mount { mount } = &lease.work.spec else { panic!("{:?}", lease.work) };
    mount
}

#[tokio::test]
async fn a_mount_is_made_shown_and_ended() {
    let world = World::new().await;
    let mut request = world.request();
    request["chap_user"] = json!("backup");
    request["chap_secret"] = json!("a-secret-of-twenty-1");
    let id = world.mount(&request).await;
    let shown = world.shown(&id).await;
    assert_eq!((&shown["state"], &shown["uri"]), (&json!("requested"), &Value::Null));
    let lease = world.lease().await;
    let order = order(&lease);
    assert_eq!((order.id.as_str(), order.point.as_str(), &*order.protocol), (&*id, POINT, "iscsi"));
    assert!((3_500_000..=3_600_000).contains(&order.lease_ms), "{}", order.lease_ms);
    assert_eq!(order.initiators, ["iqn.2026-01.test:host-1"]);
    let secrets = ["SLUICE_PASSPHRASE", "SLUICE_CHAP_SECRET"];
    assert_eq!(lease.work.secret_names, secrets);
    assert_eq!(lease.work.environment["SLUICE_CHAP_SECRET"], "a-secret-of-twenty-1");
    world.report(&lease, Outcome::Succeeded, place()).await;
    let shown = world.shown(&id).await;
    assert_eq!((&shown["state"], &shown["uri"]), (&json!("ready"), &place()["uri"]));
    assert_eq!(shown["disks"][0]["name"], "root");
    let all: Value = world.admin.get("/api/v1/mounts").await.unwrap();
    let audit: Value = world.admin.get("/api/v1/audit").await.unwrap();
    let tasks: Value = world.admin.get("/api/v1/tasks").await.unwrap();
    for said in [&shown, &all, &audit, &tasks] {
        assert!(!said.to_string().contains("a-secret"), "{said}");
    }
    assert_eq!(world.compare(vec![held(&id)]).await, MountOrders::default());

    let path = format!("/api/v1/mounts/{id}");
    for _ in 0..2 {
        let ended = world.admin.send(Method::DELETE, &path, None, &[]).await.unwrap();
        assert_eq!((ended.status, &ended.body["state"]), (202, &json!("releasing")));
    }
    let late = json!({"lease_seconds": 60});
    let late = world.admin.post::<Value>(&format!("{path}/renew"), &late).await;
    assert_eq!(status(&late), 409);
    let lease = world.lease().await;
    assert_eq!(lease.work.spec, TaskSpec::Unmount { mount: id.clone() });
    assert!(lease.work.environment.is_empty(), "what ends a mount needs no secrets");
    world.report(&lease, Outcome::Succeeded, json!({})).await;
    assert_eq!(world.shown(&id).await["state"], "gone");
    let all: Value = world.admin.get("/api/v1/mounts").await.unwrap();
    assert_eq!(all["items"], json!([]));
}

#[tokio::test]
async fn what_the_node_has_and_what_is_wanted_come_together() {
    let world = World::new().await;
    let id = world.mount(&world.request()).await;
    let lease = world.lease().await;
    world.report(&lease, Outcome::Succeeded, place()).await;
    // It comes back after a restart, without its secrets, and is told of a longer lease.
    let renewed = json!({"lease_seconds": 7200});
    let path = format!("/api/v1/mounts/{id}/renew");
    let _: Value = world.admin.post(&path, &renewed).await.unwrap();
    let message = "the passphrase is gone".to_owned();
    let poor = Held { state: HeldState::Failed, needs_secrets: true, message, ..held(&id) };
    let orders = world.compare(vec![poor, held("stranger")]).await;
    assert_eq!(orders.release, ["stranger"]);
    assert_eq!(orders.supply[&id]["SLUICE_PASSPHRASE"], "hush-hush");
    assert!(orders.renew[&id] > 7_100_000);
    let shown = world.shown(&id).await;
    assert_eq!(
        (&shown["state"], &shown["message"]),
        (&json!("failed"), &json!("the passphrase is gone"))
    );
    let mut back = held(&id);
    back.lease_ms = 7_200_000;
    assert_eq!(world.compare(vec![back]).await, MountOrders::default());
    assert_eq!(world.shown(&id).await["state"], "ready");
    // A node that has lost its state makes it again, at the same place.
    assert_eq!(world.compare(vec![]).await, MountOrders::default());
    assert_eq!(world.shown(&id).await["state"], "requested");
    let lease = world.lease().await;
    assert_eq!(order(&lease).place, Some(place()));
    world.report(&lease, Outcome::Failed, Value::Null).await;
    let shown = world.shown(&id).await;
    assert_eq!((&shown["state"], &shown["message"]), (&json!("failed"), &json!("no such address")));
    // And the other way round: what is ended is ended, though the task of it is never done.
    let path = format!("/api/v1/mounts/{id}");
    world.admin.send(Method::DELETE, &path, None, &[]).await.unwrap();
    assert_eq!(world.compare(vec![held(&id)]).await.release, std::slice::from_ref(&id));
    assert_eq!(world.compare(vec![]).await, MountOrders::default());
    assert_eq!(world.shown(&id).await["state"], "gone");
}

#[tokio::test]
async fn a_lease_that_is_over_ends_a_mount_that_nobody_has_made() {
    let world = World::new().await;
    let mut request = world.request();
    request["lease_seconds"] = json!(5);
    let id = world.mount(&request).await;
    // The server looks every second; the node is told nothing but to end it.
    let lease = loop {
        let lease = world.lease().await;
        match &lease.work.spec {
            TaskSpec::Mount { .. } => {
                // Never done: it is cancelled with the lease.
                continue;
            }
            _ => break lease,
        }
    };
    assert_eq!(lease.work.spec, TaskSpec::Unmount { mount: id.clone() });
    world.report(&lease, Outcome::Succeeded, json!({})).await;
    let shown = world.shown(&id).await;
    assert_eq!(shown["state"], "gone");
    let audit: Value = world.admin.get("/api/v1/audit").await.unwrap();
    assert!(audit.to_string().contains("mount.lease-over"));
}

#[tokio::test]
async fn a_mount_by_http_has_a_token_that_those_see_who_may_make_mounts() {
    let world = World::new().await;
    let request = json!({"point": world.point, "protocol": "http", "clients": ["192.0.2.0/24"]});
    // The first nodes make none, and nobody is asked in vain.
    let told = world.admin.post::<Value>("/api/v1/mounts", &request).await;
    assert_eq!(status(&told), 409);
    let hello = Hello {
        kinds: TaskSpec::MOUNT_KINDS.map(str::to_owned).to_vec(),
        mounts: vec!["http".into()],
        missing: vec!["mounts by fuse: package fuse3".into()],
        slots: 1,
        ..Hello::default()
    };
    let node = world.lab.node_that(&world.admin, "shower", hello).await;
    let local = json!({"point": world.point, "protocol": "fuse"});
    let nodes: Value = world.admin.get("/api/v1/nodes").await.unwrap();
    let shower = nodes["items"].as_array().unwrap().iter().find(|one| one["name"] == "shower");
    let mut named = local.clone();
    named["node"] = shower.unwrap()["id"].clone();
    let told = world.admin.post::<Value>("/api/v1/mounts", &named).await.unwrap_err();
    assert!(told.to_string().contains("package fuse3"), "{told}");

    let id = world.mount(&request).await;
    let lease: Option<Lease> = node.post("/api/node/v1/lease", &()).await.unwrap();
    let lease = lease.expect("there is a task");
    let token = lease.work.environment["SLUICE_HTTP_TOKEN"].clone();
    assert!(lease.work.secret_names.contains(&"SLUICE_HTTP_TOKEN".to_owned()) && token.len() > 60);
    let uri = "https://192.0.2.7:4711/TOKEN/";
    let disk = format!("{uri}root.raw");
    let document = json!({"uri": uri, "exports": [{"name": "root", "uri": disk}],
        "fingerprint": "ab:cd"});
    let (outcome, message) = (Outcome::Succeeded, String::new());
    let finished = Some(Finished { outcome, document, message, retryable: false });
    let report = Report { attempt: lease.attempt, finished, ..Report::default() };
    let path = format!("/api/node/v1/tasks/{}/report", lease.task);
    let _: Reported = node.post(&path, &report).await.unwrap();
    let shown = world.shown(&id).await;
    assert_eq!(shown["uri"], format!("https://192.0.2.7:4711/{token}/"));
    assert_eq!(shown["disks"][0]["uri"], format!("https://192.0.2.7:4711/{token}/root.raw"));
    assert_eq!(shown["fingerprint"], "ab:cd");
    // Who may only look, and whatever lists or logs, has no token.
    let viewer = world.lab.user(&world.admin, "viewer", None).await;
    let seen: Value = viewer.get(&format!("/api/v1/mounts/{id}")).await.unwrap();
    assert_eq!(seen["uri"], uri);
    for path in ["mounts", "audit", "tasks"] {
        let said: Value = world.admin.get(&format!("/api/v1/{path}")).await.unwrap();
        assert!(!said.to_string().contains(&token), "{path}");
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let world = World::new().await;
    for (name, value) in [
        ("clients", json!([])),
        ("clients", json!(["192.0.2.0/33"])),
        ("lease_seconds", json!(4)),
        ("lease_seconds", json!(u64::MAX)),
        ("initiators", json!(["host 1"])),
        ("initiators", json!(["--writable"])),
        ("protocol", json!("nbd")),
        ("protocol", json!("telepathy")),
        ("chap_user", json!("backup")),
        ("chap_secret", json!("a-secret-of-twenty-1")),
        ("image", json!("a:b")),
        ("colour", json!("red")),
        ("folder", json!("web")),
        ("protocol", json!("fuse")),
    ] {
        let mut request = world.request();
        request[name] = value.clone();
        let told = world.admin.post::<Value>("/api/v1/mounts", &request).await;
        assert_eq!(status(&told), 422, "{name}: {value}");
    }
    let local = json!({"point": world.point, "protocol": "fuse"});
    for (name, value) in [
        ("clients", json!(["192.0.2.0/24"])),
        ("writable", json!(true)),
        ("image", json!("root")),
        ("folder", json!("../etc")),
        ("folder", json!("")),
        ("folder", json!("/etc")),
    ] {
        let mut request = local.clone();
        request[name] = value.clone();
        let told = world.admin.post::<Value>("/api/v1/mounts", &request).await;
        assert_eq!(status(&told), 422, "{name}: {value}");
    }
    // No node that could: one that is drained gets nothing new.
    let nodes: Value = world.admin.get("/api/v1/nodes").await.unwrap();
    let path = format!("/api/v1/nodes/{}", nodes["items"][0]["id"].as_str().unwrap());
    let drain = json!({"state": "draining"});
    let id = world.mount(&world.request()).await;
    world.admin.send(Method::PUT, &path, Some(&drain), &[]).await.unwrap();
    let told = world.admin.post::<Value>("/api/v1/mounts", &world.request()).await;
    assert_eq!(status(&told), 409);
    // But it ends what it has.
    let path = format!("/api/v1/mounts/{id}");
    world.admin.send(Method::DELETE, &path, None, &[]).await.unwrap();
    assert_eq!(world.lease().await.work.spec, TaskSpec::Unmount { mount: id });
    drop(world.lab);
}

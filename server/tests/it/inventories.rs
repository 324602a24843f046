//! Inventories: what becomes of what a node tells.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{
    Client, Finished, FoundDisk, InventoryOrder, InventoryReport, InventoryTrouble, Lease, Outcome,
    Report, Reported, TaskSpec,
};

use crate::support::{Lab, make, status};

/// A project with an inventory, and a node that looks.
struct Place {
    lab: Lab,
    admin: Client,
    node: Client,
    project: String,
    inventory: String,
}

impl Place {
    async fn new(more: Value) -> Self {
        let lab = Lab::new().await;
        let admin = lab.administrator().await;
        let node = lab.node(&admin, "mover", &["inventory", "backup"]).await;
        let project = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
        let look = json!({"kind": "files", "folder": "/srv/images", "depth": 1});
        let mut spec = json!({"look": look, "tags": ["gold"], "cluster": "lab"});
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let body = json!({"project": project, "name": "images", "spec": spec});
        let inventory = make(&admin, "inventories", body).await;
        Self { lab, admin, node, project, inventory }
    }

    async fn start(&self, how: Value) -> String {
        let path = format!("/api/v1/inventories/{}/runs", self.inventory);
        let task: Value = self.admin.post(&path, &how).await.unwrap();
        task["id"].as_str().unwrap().to_owned()
    }

    /// Takes the next look as a node does.
    async fn take(&self) -> (Lease, InventoryOrder) {
        let lease: Option<Lease> = self.node.post("/api/node/v1/lease", &()).await.unwrap();
        let lease = lease.expect("a task");
        let TaskSpec::Inventory { look } = lease.work.spec.clone() else { panic!() };
        (lease, look)
    }

    async fn tell(&self, lease: &Lease, report: &InventoryReport) {
        let finished = Finished {
            outcome: Outcome::Succeeded,
            document: json!(report),
            message: String::new(),
            retryable: false,
        };
        let finished = Some(finished);
        let report = Report { attempt: lease.attempt, finished, ..Report::default() };
        let path = format!("/api/node/v1/tasks/{}/report", lease.task);
        let _: Reported = self.node.post(&path, &report).await.unwrap();
    }

    /// Looks, finds these names, and returns the task.
    async fn look(&self, how: Value, names: &[&str]) -> Value {
        let task = self.start(how).await;
        let (lease, order) = self.take().await;
        assert_eq!(lease.task, task);
        self.tell(&lease, &report(&order, names)).await;
        self.task(&task).await
    }

    async fn task(&self, id: &str) -> Value {
        self.admin.get(&format!("/api/v1/tasks/{id}")).await.unwrap()
    }

    /// The instances: name, and whether they are present.
    async fn instances(&self) -> Vec<(String, bool)> {
        let all: Value = self.admin.get("/api/v1/instances").await.unwrap();
        let all = all["items"].as_array().unwrap().iter();
        let of = |one: &Value| {
            (one["name"].as_str().unwrap().to_owned(), one["spec"]["present"] == true)
        };
        let mut all: Vec<_> = all.map(of).collect();
        all.sort();
        all
    }

    async fn found(&self) -> Value {
        self.admin.get(&format!("/api/v1/inventories/{}/found", self.inventory)).await.unwrap()
    }
}

fn report(order: &InventoryOrder, names: &[&str]) -> InventoryReport {
    let disk = |name: &&str| FoundDisk {
        path: format!("{}/{name}.raw", order.folder),
        size_bytes: 7,
        format: "raw".into(),
        identity: format!("id {name}"),
        file: format!("file {name}"),
    };
    let disks = names.iter().map(disk).collect();
    InventoryReport {
        order: order.name(),
        disks,
        mounted_on: "/".into(),
        ..InventoryReport::default()
    }
}

fn state(task: &Value) -> &str {
    task["state"].as_str().unwrap()
}

#[tokio::test]
async fn what_a_node_finds_becomes_instances_that_policies_take() {
    let place = Place::new(json!({})).await;
    let assign = json!({"tags": ["gold"], "clusters": ["lab"]});
    let body = json!({"project": place.project, "name": "daily",
        "spec": {"assign": assign, "rules": []}});
    let policy = make(&place.admin, "policies", body).await;
    // Two of the system, of which the project may know of one.
    for (name, to) in [("shown", json!([place.project])), ("hidden", json!([]))] {
        let spec = json!({"assign": {"tags": ["gold"]}, "rules": [], "visible_to": to});
        make(&place.admin, "policies", json!({"name": name, "spec": spec})).await;
    }

    let tried = place.look(json!({"dry_run": true}), &["a", "b"]).await;
    assert_eq!((state(&tried), place.instances().await.len()), ("succeeded", 0));
    assert_eq!(tried["result"]["added"][1]["name"], "b");
    let known = json!(["daily", "shown", "one that you may not know of"]);
    assert_eq!(tried["result"]["added"][0]["policies"], known);
    assert_eq!(place.found().await["looked"], Value::Null, "nothing is noted");

    let done = place.look(json!({}), &["a", "b"]).await;
    assert_eq!((state(&done), &done["message"]), ("succeeded", &"2 there, 2 new".into()));
    let has: Value =
        place.admin.get(&format!("/api/v1/policies/{policy}/instances")).await.unwrap();
    assert_eq!(has["items"].as_array().unwrap().len(), 2);
    let spec = &has["items"][0]["spec"];
    assert_eq!(spec["source"]["images"][0]["path"], "/srv/images/a.raw");
    assert_eq!((&spec["cluster"], &spec["tags"][0]), (&"lab".into(), &"gold".into()));

    let gone = place.look(json!({}), &["b"]).await;
    assert_eq!(gone["result"]["gone"], json!(["a"]));
    assert_eq!(place.instances().await, [("a".into(), false), ("b".into(), true)]);
    let found = place.found().await;
    assert_eq!((&found["looked"]["there"], &found["items"][0]["name"]), (&1.into(), &"a".into()));
    assert!(
        found["items"][0]["gone_ms"].as_u64().is_some() && found["items"][1]["present"] == true
    );
    let back = place.look(json!({}), &["a", "b"]).await;
    assert_eq!(back["result"]["back"], json!(["a"]));
    assert_eq!(place.instances().await, [("a".into(), true), ("b".into(), true)]);

    let audit: Value = place.admin.get("/api/v1/audit?limit=1000").await.unwrap();
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().map(|e| e["action"].as_str().unwrap()).collect();
    for (action, many) in [("instance.found", 2), ("instance.gone", 1), ("instance.back", 1)] {
        assert_eq!(actions.iter().filter(|one| **one == action).count(), many, "{action}");
    }
}

#[tokio::test]
async fn a_look_that_failed_marks_nothing_and_an_empty_folder_waits_for_somebody() {
    let place = Place::new(json!({})).await;
    place.look(json!({}), &["a", "b", "c"]).await;
    let all = |present| ["a", "b", "c"].map(|name| (name.to_owned(), present));

    let task = place.start(json!({})).await;
    let (lease, order) = place.take().await;
    let why = "permission denied".to_owned();
    let unread = vec![InventoryTrouble { path: order.folder.clone(), why }];
    place.tell(&lease, &InventoryReport { unread, ..report(&order, &[]) }).await;
    let task = place.task(&task).await;
    assert_eq!((state(&task), place.instances().await), ("warnings", all(true).to_vec()));
    let log: Value = place
        .admin
        .get(&format!("/api/v1/tasks/{}/log", task["id"].as_str().unwrap()))
        .await
        .unwrap();
    assert!(log.to_string().contains("permission denied"), "{log}");

    let empty = place.look(json!({}), &[]).await;
    assert_eq!((state(&empty), place.instances().await), ("warnings", all(true).to_vec()));
    assert_eq!(empty["result"]["counts"]["held"], 3);
    assert_eq!(place.found().await["looked"]["held"], 3);
    let empty = place.look(json!({"accept_gone": true}), &[]).await;
    assert_eq!((state(&empty), place.instances().await), ("succeeded", all(false).to_vec()));
    assert_eq!(place.found().await["looked"]["held"], 0);
}

#[tokio::test]
async fn what_was_changed_meanwhile_or_cannot_be_understood_counts_for_nothing() {
    let place = Place::new(json!({})).await;
    let path = format!("/api/v1/inventories/{}", place.inventory);
    let id = place.start(json!({})).await;
    let refused = place.admin.post::<Value>(&format!("{path}/runs"), &json!({})).await;
    assert_eq!(status(&refused), 409, "one look at a time");
    let (lease, order) = place.take().await;
    let change = json!({"name": "images", "spec": {"look": {"kind": "files", "folder": "/other"}}});
    place.admin.send(Method::PUT, &path, Some(&change), &[("if-match", "\"1\"")]).await.unwrap();
    place.tell(&lease, &report(&order, &["a"])).await;
    let task = place.task(&id).await;
    assert_eq!((state(&task), place.instances().await.len()), ("queued", 0), "{task}");
    assert!(task["message"].as_str().unwrap().contains("was changed"), "{task}");

    let (lease, order) = place.take().await;
    assert_eq!((&lease.task, &*order.folder), (&id, "/other"), "a node is told what it says now");
    let many: Vec<String> = (0..5001).map(|n| format!("d{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    place.tell(&lease, &report(&order, &many)).await;
    assert_eq!((state(&place.task(&id).await), place.instances().await.len()), ("failed", 0));

    let id = place.start(json!({})).await;
    let (lease, order) = place.take().await;
    place.tell(&lease, &report(&order, &["../../etc/shadow"])).await;
    assert_eq!((state(&place.task(&id).await), place.instances().await.len()), ("failed", 0));

    // Gone while it is looked through: there is nothing to note it with.
    let id = place.start(json!({})).await;
    let (lease, order) = place.take().await;
    place.admin.send(Method::DELETE, &path, None, &[]).await.unwrap();
    place.tell(&lease, &report(&order, &["a"])).await;
    assert_eq!((state(&place.task(&id).await), place.instances().await.len()), ("failed", 0));
}

#[tokio::test]
async fn what_is_found_lies_in_its_folder_and_nodes_look_only_where_they_may() {
    let place = Place::new(json!({})).await;
    let body = json!({"name": "default", "spec": {"only_paths": ["/other"]}});
    let config = make(&place.admin, "node-configs", body).await;
    let id = place.start(json!({})).await;
    // Nothing is given to the node: the task ends where it would have begun.
    let ended = tokio::select! {
        ended = ended(&place, &id) => ended,
        lease = place.node.post::<Option<Lease>>("/api/node/v1/lease", &()) => {
            panic!("{:?}", lease.map(|lease| lease.map(|lease| lease.work)))
        }
    };
    assert!(ended["message"].as_str().unwrap().contains("lies in no folder"), "{ended}");
    place
        .admin
        .send(Method::DELETE, &format!("/api/v1/node-configs/{config}"), None, &[])
        .await
        .unwrap();

    place.look(json!({}), &["a"]).await;
    let all: Value = place.admin.get("/api/v1/instances").await.unwrap();
    let instance = all["items"][0]["id"].as_str().unwrap();
    let body = json!({"project": null, "name": "vault", "spec": {"url": "/backup"}});
    let vault = make(&place.admin, "destinations", body).await;
    let start = json!({"kind": "backup", "instance": instance, "destination": vault});
    make(&place.admin, "tasks", start).await;
    let lease: Option<Lease> = place.node.post("/api/node/v1/lease", &()).await.unwrap();
    assert_eq!(lease.unwrap().work.folders, [["/srv/images"]]);
    drop(place.lab);
}

async fn ended(place: &Place, id: &str) -> Value {
    loop {
        let task = place.task(id).await;
        if !["queued", "running"].contains(&state(&task)) {
            return task;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schedule_looks_again_and_again_and_never_twice_at_once() {
    let often = |seconds: u64| json!({"kind": "every", "seconds": seconds});
    let schedules = json!([{"name": "often", "when": often(1)},
        {"name": "off", "paused": true, "when": often(1)}]);
    let place = Place::new(json!({"schedules": schedules})).await;
    for names in [&["a"][..], &["a", "b"]] {
        let (lease, order) = place.take().await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
        let tasks: Value = place.admin.get("/api/v1/tasks").await.unwrap();
        let tasks = tasks["items"].as_array().unwrap();
        let open = tasks.iter().filter(|task| ["queued", "running"].contains(&state(task)));
        assert_eq!(open.count(), 1, "what is due meanwhile makes no other");
        place.tell(&lease, &report(&order, names)).await;
    }
    assert_eq!(place.instances().await.len(), 2);
}

#[tokio::test]
async fn a_project_may_look_and_not_say_where() {
    let place = Place::new(json!({})).await;
    let operator = place.lab.user(&place.admin, "operator", Some(&place.project)).await;
    let manager = place.lab.user(&place.admin, "manager", Some(&place.project)).await;
    let runs = format!("/api/v1/inventories/{}/runs", place.inventory);
    let spec = json!({"look": {"kind": "files", "folder": "/etc"}});
    let body = json!({"project": place.project, "name": "mine", "spec": spec});
    let made = manager.post::<Value>("/api/v1/inventories", &body).await;
    assert_eq!(status(&made), 403);
    let accept = json!({"accept_gone": true});
    assert_eq!(status(&operator.post::<Value>(&runs, &accept).await), 403);
    assert_eq!(status(&operator.post::<Value>(&runs, &json!({})).await), 200);
    assert_eq!(status(&manager.post::<Value>(&runs, &accept).await), 409);
}

//! Snapshots at sources: who makes them, what becomes of them, and what backups read.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{Client, Finished, Lease, Outcome, Report, Reported, TaskSpec};

use crate::support::{Lab, make, status};

struct World {
    lab: Lab,
    admin: Client,
    node: Client,
    instance: String,
    destination: String,
}

impl World {
    async fn new() -> Self {
        let lab = Lab::new().await;
        let admin = lab.administrator().await;
        let node = lab.node(&admin, "mover", &["backup", "snapshot", "unsnapshot"]).await;
        let spec = json!({"snapshot_folders": ["/srv/kept"], "commands": ["/opt/hooks"]});
        make(&admin, "node-configs", json!({"name": "default", "spec": spec})).await;
        let project = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
        let source = json!({"kind": "disk-files", "images": [{"path": "/srv/disk.raw"}]});
        let body = json!({"project": project, "name": "web", "spec": {"source": source}});
        let instance = make(&admin, "instances", body).await;
        let destination =
            make(&admin, "destinations", json!({"name": "s", "spec": {"url": "/b"}})).await;
        Self { lab, admin, node, instance, destination }
    }

    async fn lease(&self) -> Lease {
        self.node.post::<Option<Lease>>("/api/node/v1/lease", &()).await.unwrap().unwrap()
    }

    async fn end(&self, lease: &Lease, outcome: Outcome, document: Value) {
        let message = "as the node says".to_owned();
        let finished = Some(Finished { outcome, document, message, retryable: false });
        let report = Report { attempt: lease.attempt, finished, ..Report::default() };
        let path = format!("/api/node/v1/tasks/{}/report", lease.task);
        let _: Reported = self.node.post(&path, &report).await.unwrap();
    }

    async fn snapshot(&self, id: &str) -> Value {
        self.admin.get(&format!("/api/v1/snapshots/{id}")).await.unwrap()
    }

    /// Asks for a snapshot, and makes it as a node would.
    async fn made(&self, made_ms: u64) -> String {
        let id = make(&self.admin, "snapshots", json!({"instance": self.instance})).await;
        let lease = self.lease().await;
        self.end(&lease, Outcome::Succeeded, document(&id, made_ms)).await;
        id
    }
}

fn document(id: &str, made_ms: u64) -> Value {
    let path = format!("/srv/kept/{id}/disk/disk.raw");
    json!({"snapshot": id, "made_ms": made_ms,
        "images": [{"name": "disk", "path": path, "bytes": 7}]})
}

#[tokio::test]
async fn a_snapshot_is_made_backed_up_and_removed_where_it_lies() {
    let world = World::new().await;
    let id = make(&world.admin, "snapshots", json!({"instance": world.instance})).await;
    assert_eq!(world.snapshot(&id).await["state"], "requested");
    let lease = world.lease().await;
    let TaskSpec::Snapshot { snapshot, images, .. } = &lease.work.spec else { panic!() };
    assert_eq!((&snapshot.name, &snapshot.folders), (&id, &vec!["/srv/kept".to_owned()]));
    assert_eq!((images, &*lease.work.url), (&vec!["/srv/disk.raw".to_owned()], ""));
    world.end(&lease, Outcome::Succeeded, document(&id, 3)).await;
    let ready = world.snapshot(&id).await;
    assert_eq!((&ready["state"], &ready["made_ms"]), (&json!("ready"), &json!(3)));

    // A backup of it reads what lies there, and nothing else.
    let (instance, destination) = (&world.instance, &world.destination);
    let start = json!({"kind": "backup", "instance": instance, "destination": destination,
        "snapshot": id});
    let task = make(&world.admin, "tasks", start.clone()).await;
    let path = format!("/api/v1/snapshots/{id}");
    let told = world.admin.send(Method::DELETE, &path, None, &[]).await;
    assert_eq!(status(&told), 409, "a backup is going to read it");
    let lease = world.lease().await;
    let TaskSpec::Backup { images, no_hooks, .. } = &lease.work.spec else { panic!() };
    assert_eq!(images, &[format!("disk=/srv/kept/{id}/disk/disk.raw")]);
    assert!(*no_hooks && lease.work.folders == [["/srv/kept"]]);
    assert_eq!(lease.task, task);
    let point = json!({"point": {"point": "shop.web@k3", "created_ms": 5, "stats": {}}});
    world.end(&lease, Outcome::Succeeded, point).await;
    let points: Value = world.admin.get("/api/v1/points").await.unwrap();
    assert_eq!(points["items"][0]["taken_ms"], 3, "it holds the moment of the snapshot");

    world.admin.send(Method::DELETE, &path, None, &[]).await.unwrap();
    assert_eq!(world.snapshot(&id).await["state"], "removing");
    assert_eq!(status(&world.admin.post::<Value>("/api/v1/tasks", &start).await), 409);
    let lease = world.lease().await;
    let TaskSpec::Unsnapshot { snapshot } = &lease.work.spec else { panic!() };
    assert_eq!((&snapshot.name, &snapshot.folders), (&id, &vec!["/srv/kept".to_owned()]));
    world.end(&lease, Outcome::Succeeded, json!({"removed": true})).await;
    assert_eq!(world.snapshot(&id).await["state"], "gone");
}

#[tokio::test]
async fn what_a_failed_snapshot_left_is_removed_and_what_nobody_began_is_gone() {
    let world = World::new().await;
    let id = make(&world.admin, "snapshots", json!({"instance": world.instance})).await;
    let lease = world.lease().await;
    world.end(&lease, Outcome::Failed, Value::Null).await;
    let failed = world.snapshot(&id).await;
    assert_eq!(
        (&failed["state"], &failed["message"]),
        (&json!("removing"), &json!("as the node says"))
    );
    let lease = world.lease().await;
    assert!(matches!(&lease.work.spec, TaskSpec::Unsnapshot { snapshot } if snapshot.name == id));
    world.end(&lease, Outcome::Succeeded, json!({"removed": false})).await;
    assert_eq!(world.snapshot(&id).await["state"], "gone");

    let id = make(&world.admin, "snapshots", json!({"instance": world.instance})).await;
    let path = format!("/api/v1/snapshots/{id}");
    world.admin.send(Method::DELETE, &path, None, &[]).await.unwrap();
    while world.snapshot(&id).await["state"] != "gone" {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_rule_keeps_as_many_as_it_says_and_one_by_hand_goes_in_time() {
    let world = World::new().await;
    let schedule = json!({"name": "often", "when": {"kind": "every", "seconds": 1}});
    let rule = json!({"name": "keep-two", "keep": {"last": 2}, "schedules": [schedule]});
    let spec = json!({"assign": {"everything": true}, "rules": [], "snapshots": [rule]});
    let policy = make(&world.admin, "policies", json!({"name": "p", "spec": spec})).await;
    let mut made = Vec::new();
    while made.len() < 3 {
        let lease = world.lease().await;
        let TaskSpec::Snapshot { snapshot, .. } = &lease.work.spec else { continue };
        made.push(snapshot.name.clone());
        let document = document(&snapshot.name, 100 + made.len() as u64);
        world.end(&lease, Outcome::Succeeded, document).await;
    }
    let oldest = world.snapshot(&made[0]).await;
    assert_eq!((&oldest["state"], &oldest["rule"]), (&json!("removing"), &json!("keep-two")));
    assert_eq!(world.snapshot(&made[1]).await["state"], "ready");
    let path = format!("/api/v1/policies/{policy}");
    world.admin.send(Method::DELETE, &path, None, &[]).await.unwrap();

    let short = json!({"instance": world.instance, "keep_seconds": 1});
    let id = make(&world.admin, "snapshots", short).await;
    loop {
        let lease = world.lease().await;
        let name = match &lease.work.spec {
            TaskSpec::Snapshot { snapshot, .. } | TaskSpec::Unsnapshot { snapshot } => {
                snapshot.name.clone()
            }
            _ => panic!(),
        };
        world.end(&lease, Outcome::Succeeded, document(&name, 200)).await;
        if matches!(&lease.work.spec, TaskSpec::Unsnapshot { .. }) && name == id {
            break;
        }
    }
    assert_eq!(world.snapshot(&id).await["state"], "gone");
    assert_eq!(world.snapshot(&made[1]).await["state"], "ready", "its rule is gone, and it stays");
}

#[tokio::test]
async fn a_backup_from_a_new_snapshot_is_ordered_where_rules_or_people_say_so() {
    let world = World::new().await;
    let (instance, destination) = (&world.instance, &world.destination);
    let rule = json!({"name": "r", "destination": destination, "schedules": [],
        "from_snapshot": true});
    let spec = json!({"assign": {"everything": true}, "rules": [rule]});
    make(&world.admin, "policies", json!({"name": "p", "spec": spec})).await;
    for (said, fresh) in [(json!(null), true), (json!(false), false), (json!(true), true)] {
        let start = json!({"kind": "backup", "instance": instance, "destination": destination,
            "from_snapshot": said});
        let task = make(&world.admin, "tasks", start).await;
        let lease = world.lease().await;
        let TaskSpec::Backup { images, snapshot, .. } = &lease.work.spec else { panic!() };
        assert_eq!(images, &["/srv/disk.raw"]);
        let named = snapshot.as_ref().map(|one| one.order.name.clone());
        assert_eq!(named, fresh.then(|| format!("{task}-1")), "{said}");
        world.end(&lease, Outcome::Failed, Value::Null).await;
    }

    // What has no snapshots is told so at once.
    let project: Value = world.admin.get("/api/v1/projects").await.unwrap();
    let source = json!({"kind": "device", "path": "/dev/x"});
    let body =
        json!({"project": project["items"][0]["id"], "name": "db", "spec": {"source": source}});
    let device = make(&world.admin, "instances", body).await;
    let told = world.admin.post::<Value>("/api/v1/snapshots", &json!({"instance": device})).await;
    assert_eq!(status(&told), 422);
    assert!(format!("{}", told.unwrap_err()).contains("block device"));
    let id = world.made(7).await;
    let start = json!({"kind": "backup", "instance": device, "destination": destination,
        "snapshot": id});
    assert_eq!(status(&world.admin.post::<Value>("/api/v1/tasks", &start).await), 404);
    let path = format!("/api/v1/instances/{}", world.instance);
    assert_eq!(status(&world.admin.send(Method::DELETE, &path, None, &[]).await), 409);
    drop(world.lab);
}

#[tokio::test]
async fn a_snapshot_has_the_commands_of_its_rule_and_one_by_hand_those_of_the_first_with_any() {
    let world = World::new().await;
    let rule = |name: &str, schedules: Value, program: &str| {
        let command = |word: &str| json!([{"command": [format!("/opt/hooks/{program}"), word]}]);
        let hooks = json!({"before": command("quiesce"), "after": command("resume")});
        let hooks = if program.is_empty() { json!({}) } else { hooks };
        json!({"name": name, "keep": {"last": 9}, "schedules": schedules, "hooks": hooks})
    };
    let often = json!([{"name": "often", "when": {"kind": "every", "seconds": 1}}]);
    let rules = json!([
        rule("bare", json!([]), ""),
        rule("one", json!([]), "one"),
        rule("two", often, "two")
    ]);
    let spec = json!({"assign": {"everything": true}, "rules": [], "snapshots": rules});
    let policy = make(&world.admin, "policies", json!({"name": "p", "spec": spec})).await;
    let told = |lease: &Lease| {
        let orders = lease.work.hooks.clone().unwrap_or_default();
        let words = orders.before.iter().chain(&orders.after).map(|one| one.command.join(" "));
        (words.collect::<Vec<_>>(), orders.variables)
    };
    let lease = world.lease().await;
    let TaskSpec::Snapshot { snapshot, .. } = &lease.work.spec else { panic!() };
    let (words, variables) = told(&lease);
    assert_eq!(words, ["/opt/hooks/two quiesce", "/opt/hooks/two resume"]);
    let variable = |name: &str| variables[name].as_str();
    assert_eq!((variable("SLUICE_SNAPSHOT"), variable("SLUICE_RULE")), (&*snapshot.name, "two"));
    assert_eq!((variable("SLUICE_INSTANCE"), variable("SLUICE_POLICY")), ("web", "p"));
    world.end(&lease, Outcome::Succeeded, document(&snapshot.name, 5)).await;
    let path = format!("/api/v1/policies/{policy}");
    let mut record: Value = world.admin.get(&path).await.unwrap();
    record["spec"]["snapshots"][2]["paused"] = json!(true);
    let body = json!({"name": "p", "spec": record["spec"]});
    let tag = [("if-match", "\"1\"")];
    world.admin.send(Method::PUT, &path, Some(&body), &tag).await.unwrap();

    for (left_out, wanted) in [(false, "/opt/hooks/one quiesce"), (true, "")] {
        let body = json!({"instance": world.instance, "no_hooks": left_out});
        let id = make(&world.admin, "snapshots", body).await;
        let lease = loop {
            let lease = world.lease().await;
            let TaskSpec::Snapshot { snapshot, .. } = &lease.work.spec else { panic!() };
            if snapshot.name == id {
                break lease;
            }
            // One that became due before the rule was paused.
            world.end(&lease, Outcome::Succeeded, document(&snapshot.name, 5)).await;
        };
        let words = told(&lease).0;
        assert_eq!(words.first().map_or("", String::as_str), wanted, "{left_out}");
        world.end(&lease, Outcome::Succeeded, document(&id, 6)).await;
    }
    let odd = json!({"instance": world.instance, "no_hook": true});
    assert_eq!(status(&world.admin.post::<Value>("/api/v1/snapshots", &odd).await), 422);
}

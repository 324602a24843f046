//! Restore tests and recovery plans, as people and nodes see them.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{Ask, Client, Finished, Lease, Outcome, Report, Reported, TaskSpec};

use crate::support::{Lab, finish, make, status};

/// A project with a restore point, and the node that made it.
struct World {
    lab: Lab,
    admin: Client,
    node: Client,
    project: String,
    instance: String,
    point: String,
}

impl World {
    async fn new(kinds: &[&str]) -> Self {
        let lab = Lab::new().await;
        let admin = lab.administrator().await;
        let node = lab.node(&admin, "mover", kinds).await;
        let project = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
        let body = json!({"name": "store", "spec": {"url": "/backup"}});
        let destination = make(&admin, "destinations", body).await;
        let spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
        let body = json!({"project": project, "name": "web", "spec": spec});
        let instance = make(&admin, "instances", body).await;
        let start = json!({"kind": "backup", "instance": instance, "destination": destination});
        let tasks: Value = admin.get("/api/v1/tasks").await.unwrap();
        for task in tasks["items"].as_array().unwrap() {
            let path = format!("/api/v1/tasks/{}/cancel", task["id"].as_str().unwrap());
            let _ = admin.send(Method::POST, &path, None, &[]).await;
        }
        let task = make(&admin, "tasks", start).await;
        finish(&node, &task, "shop.web@k3").await;
        let points: Value = admin.get("/api/v1/points").await.unwrap();
        let point = points["items"][0]["id"].as_str().unwrap().to_owned();
        Self { lab, admin, node, project, instance, point }
    }

    async fn node_id(&self) -> String {
        let nodes: Value = self.admin.get("/api/v1/nodes").await.unwrap();
        nodes["items"][0]["id"].as_str().unwrap().to_owned()
    }

    async fn lease(&self, kind: &str) -> Lease {
        let ask = Ask { kinds: Some(vec![kind.to_owned()]) };
        let asked: Option<Lease> = self.node.post("/api/node/v1/lease", &ask).await.unwrap();
        asked.expect("there is a task")
    }

    async fn report(&self, lease: &Lease, outcome: Outcome, document: Value) {
        let message = "it broke".to_owned();
        let finished = Some(Finished { outcome, document, message, retryable: false });
        let report = Report { attempt: lease.attempt, finished, ..Report::default() };
        let path = format!("/api/node/v1/tasks/{}/report", lease.task);
        let _: Reported = self.node.post(&path, &report).await.unwrap();
    }

    /// The run once it has ended.
    async fn ended(&self, id: &str) -> Value {
        loop {
            let run: Value = self.admin.get(&format!("/api/v1/plan-runs/{id}")).await.unwrap();
            if run["state"] != "running" {
                return run;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_verdict_is_kept_with_what_proves_it() {
    let world = World::new(&["backup", "restore-test"]).await;
    let boot = json!({"checks": [{"kind": "tcp", "port": 22, "banner": "^SSH"}], "cpus": 2});
    let body = json!({"point": world.point, "boot": boot});
    let test = make(&world.admin, "restore-tests", body).await;
    let lease = world.lease("restore-test").await;
    let TaskSpec::RestoreTest { test: order } = &lease.work.spec else { panic!() };
    assert_eq!((&*order.id, &*order.point, order.cpus), (&*test, "shop.web@k3", 2));
    assert_eq!((&*order.tcp[0], &*order.firmware, &*order.disk), ("22=^SSH", "bios", "virtio"));
    let told = json!({"verdict": "failed", "reason": "port 22 does not answer",
        "screenshot": "iVBORw==", "console": "panic\n", "timings": {"start_ms": 5}});
    world.report(&lease, Outcome::Warnings, told).await;
    let path = format!("/api/v1/restore-tests/{test}");
    let shown: Value = world.admin.get(&path).await.unwrap();
    assert_eq!(
        (&shown["state"], &shown["message"]),
        (&json!("failed"), &json!("port 22 does not answer"))
    );
    assert_eq!(shown["report"]["timings"]["start_ms"], 5);
    assert_eq!(world.admin.fetch(&format!("{path}/screenshot")).await.unwrap(), b"\x89PNG");
    assert_eq!(world.admin.fetch(&format!("{path}/console")).await.unwrap(), b"panic\n");
    let task: Value = world.admin.get(&format!("/api/v1/tasks/{}", lease.task)).await.unwrap();
    assert_eq!((&task["state"], &task["result"]["screenshot"]), (&json!("warnings"), &Value::Null));

    // One whose node has no verdict was not done, and one that was cancelled says so.
    let test = make(&world.admin, "restore-tests", json!({"point": world.point})).await;
    let lease = world.lease("restore-test").await;
    world.report(&lease, Outcome::Failed, Value::Null).await;
    let shown: Value = world.admin.get(&format!("/api/v1/restore-tests/{test}")).await.unwrap();
    assert_eq!((&shown["state"], &shown["message"]), (&json!("undone"), &json!("it broke")));
    let bad = json!({"point": world.point, "boot": {"checks": [{"kind": "console",
        "pattern": "("}]}});
    let refused = world.admin.post::<Value>("/api/v1/restore-tests", &bad).await;
    assert_eq!(status(&refused), 422);
}

#[tokio::test]
async fn a_test_that_no_node_can_do_names_the_package() {
    let world = World::new(&["backup"]).await;
    let body = json!({"point": world.point});
    let refused = world.admin.post::<Value>("/api/v1/restore-tests", &body).await.unwrap_err();
    assert_eq!(refused.status(), Some(409));
    assert!(refused.to_string().contains("qemu-system-x86"), "{refused}");
}

#[tokio::test]
async fn scripts_and_paths_take_more_than_a_project() {
    let world = World::new(&["backup", "restore", "script"]).await;
    let node = world.node_id().await;
    let item = |target: Value| json!({"instance": world.instance, "target": target});
    let file = json!({"kind": "file", "node": node, "path": "${where}/web.raw"});
    let script = json!({"name": "s", "node": node, "command": ["/bin/echo", "${where}"]});
    let plan = |group: Value| {
        let spec = json!({"parameters": {"where": "/srv"}, "groups": [group]});
        json!({"project": world.project, "name": format!("p{}", rand::random::<u64>()),
            "spec": spec})
    };
    let boots = plan(json!({"name": "g", "items": [item(json!({"kind": "boot-test"}))]}));
    let writes = plan(json!({"name": "g", "items": [item(file)]}));
    let runs = plan(json!({"name": "g", "before": [script]}));
    let manager = world.lab.user(&world.admin, "manager", Some(&world.project)).await;
    let operator = world.lab.user(&world.admin, "operator", Some(&world.project)).await;
    let everywhere = world.lab.user(&world.admin, "manager", None).await;
    let store = async |client: &Client, plan: &Value| {
        status(&client.post::<Value>("/api/v1/plans", plan).await)
    };
    let told = [
        store(&manager, &boots).await,
        store(&manager, &writes).await,
        store(&manager, &runs).await,
        store(&everywhere, &writes).await,
        store(&everywhere, &runs).await,
    ];
    assert_eq!(told, [200, 403, 403, 200, 403]);

    // What was stored may be run, but not with other paths.
    let plans: Value = world.admin.get("/api/v1/plans").await.unwrap();
    let named = |one: &&Value| one["name"] == writes["name"];
    let stored = plans["items"].as_array().unwrap().iter().find(named).unwrap();
    let path = format!("/api/v1/plans/{}/runs", stored["id"].as_str().unwrap());
    let body = |where_: Value| json!({"mode": "run", "parameters": where_});
    let other = body(json!({"where": "/etc"}));
    assert_eq!(status(&operator.post::<Value>(&path, &other).await), 403);
    let odd = body(json!({"what": "/etc"}));
    assert_eq!(status(&world.admin.post::<Value>(&path, &odd).await), 422);
    let run: Value = operator.post(&path, &body(json!({}))).await.unwrap();
    let lease = world.lease("restore").await;
    let TaskSpec::Restore { target, .. } = &lease.work.spec else { panic!() };
    assert_eq!(target, "/srv/web.raw");
    world.report(&lease, Outcome::Failed, Value::Null).await;
    let run = world.ended(run["id"].as_str().unwrap()).await;
    assert_eq!((&run["state"], &run["message"]), (&json!("failed"), &json!("web: it broke")));

    // Nobody reaches into another project.
    let far = make(&world.admin, "projects", json!({"name": "far", "spec": {}})).await;
    let mut stolen = boots.clone();
    stolen["project"] = far.as_str().into();
    assert_eq!(store(&world.admin, &stolen).await, 404);
}

#[tokio::test]
async fn a_plan_that_is_cancelled_ends_what_it_has_started() {
    let world = World::new(&["backup", "script"]).await;
    let node = world.node_id().await;
    let script = |name: &str| json!({"name": name, "node": node, "command": ["/bin/sleep", "9"]});
    let group = json!({"name": "g", "before": [script("one"), script("two")]});
    let body = json!({"project": world.project, "name": "p", "spec": {"groups": [group]}});
    let plan = make(&world.admin, "plans", body).await;
    let run = make(&world.admin, &format!("plans/{plan}/runs"), json!({"mode": "run"})).await;
    let lease = world.lease("script").await;
    let TaskSpec::Script { script } = &lease.work.spec else { panic!() };
    assert_eq!(script.command, ["/bin/sleep", "9"]);
    assert!(lease.work.url.is_empty() && lease.work.environment["SLUICE_PLAN"] == "p");
    let cancel = format!("/api/v1/plan-runs/{run}/cancel");
    world.admin.send(Method::POST, &cancel, None, &[]).await.unwrap();
    let report = Report { attempt: lease.attempt, ..Report::default() };
    let path = format!("/api/node/v1/tasks/{}/report", lease.task);
    loop {
        let told: Reported = world.node.post(&path, &report).await.unwrap();
        if told.cancel {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    world.report(&lease, Outcome::Cancelled, Value::Null).await;
    let run = world.ended(&run).await;
    let steps = run["steps"].as_array().unwrap().iter();
    let states: Vec<_> = steps.map(|step| step["state"].as_str().unwrap()).collect();
    assert_eq!((&run["state"], states), (&json!("cancelled"), vec!["cancelled", "cancelled"]));
    let again = world.admin.send(Method::POST, &cancel, None, &[]).await;
    assert_eq!(status(&again), 409);
}

#[tokio::test]
async fn what_is_booted_together_is_one_task_and_each_has_its_own_proof() {
    let world = World::new(&["backup", "restore-test"]).await;
    let boot = json!({"checks": [{"kind": "console", "pattern": "login:"}]});
    let item = |stage: u32, address: Value| {
        json!({"instance": world.instance, "stage": stage, "address": address,
            "target": {"kind": "boot-test", "boot": boot}})
    };
    let items = [item(0, Value::Null), item(1, "10.1.0.40".into())];
    let body = |name: &str, network: Value| {
        let group = json!({"name": "g", "concurrency": 1, "network": network, "items": items});
        json!({"project": world.project, "name": name, "spec": {"groups": [group]}})
    };
    for bad in [Value::Null, json!({}), json!({"subnet": "10.1.0.0"})] {
        let refused = world.admin.post::<Value>("/api/v1/plans", &body("bad", bad)).await;
        assert_eq!(status(&refused), 422);
    }
    let far = json!({"subnet": "10.1.0.0/16", "node": "00000000-0000-7000-8000-000000000000"});
    let refused = world.admin.post::<Value>("/api/v1/plans", &body("far", far)).await;
    assert_eq!(status(&refused), 404, "there is no such node");

    let plan = make(&world.admin, "plans", body("p", json!({"subnet": "10.1.0.0/16"}))).await;
    let begin = async || {
        let run = make(&world.admin, &format!("plans/{plan}/runs"), json!({"mode": "run"})).await;
        let lease = world.lease("restore-test").await;
        let TaskSpec::RestoreTest { test } = lease.work.spec.clone() else { panic!() };
        (run, lease, test)
    };
    let (run, lease, order) = begin().await;
    assert_eq!((order.guests.len(), &*order.subnet), (2, "10.1.0.0/16"));
    let told = order.guests.iter().map(|guest| (guest.stage, &*guest.address, &*guest.console[0]));
    assert_eq!(told.collect::<Vec<_>>(), [(0, "", "login:"), (1, "10.1.0.40", "login:")]);
    let ids: Vec<_> = order.guests.iter().map(|guest| guest.id.clone()).collect();
    let document = json!({"verdict": "failed", "guests": [
        {"id": ids[1], "verdict": "undone", "reason": "it was not tried", "checks": []},
        {"id": ids[0], "verdict": "ok", "checks": [{"kind": "console"}], "console": "login: \n"},
    ]});
    world.report(&lease, Outcome::Warnings, document).await;
    let run = world.ended(&run).await;
    let steps = run["steps"].as_array().unwrap();
    let step = |at: usize| (steps[at]["state"].as_str(), steps[at]["message"].as_str());
    assert_eq!(step(0), (Some("done"), Some("")));
    assert_eq!(step(1), (Some("failed"), Some("it was not tried")));
    let path = format!("/api/v1/restore-tests/{}/console", ids[0]);
    assert_eq!(world.admin.fetch(&path).await.unwrap(), b"login: \n");
    let task: Value = world.admin.get(&format!("/api/v1/tasks/{}", lease.task)).await.unwrap();
    assert_eq!(task["result"]["guests"][1]["console"], Value::Null, "evidence is kept once");

    // A node that knows nothing of guests proves nothing.
    let (run, lease, _) = begin().await;
    let document = json!({"verdict": "ok", "checks": [{"kind": "console"}]});
    world.report(&lease, Outcome::Succeeded, document).await;
    let run = world.ended(&run).await;
    for step in run["steps"].as_array().unwrap() {
        assert_eq!(step["state"], "failed", "{run}");
        assert!(step["message"].as_str().unwrap().contains("another release"), "{run}");
    }
}

#[tokio::test]
async fn what_is_not_booted_says_nothing_of_where_the_others_are() {
    let world = World::new(&["backup", "restore", "restore-test"]).await;
    // It cannot boot anything.
    world.lab.node(&world.admin, "store", &["restore"]).await;
    let nodes: Value = world.admin.get("/api/v1/nodes?name=store").await.unwrap();
    let store = &nodes["items"][0]["id"];
    let target = json!({"kind": "file", "node": store, "path": "/srv/web.raw"});
    let items = json!([
        {"instance": world.instance, "target": target},
        {"instance": world.instance, "target": {"kind": "boot-test"}},
    ]);
    let group = json!({"name": "g", "network": {}, "items": items});
    let body = json!({"project": world.project, "name": "p", "spec": {"groups": [group]}});
    let plan = make(&world.admin, "plans", body).await;
    let run = make(&world.admin, &format!("plans/{plan}/runs"), json!({"mode": "run"})).await;
    let lease = world.lease("restore-test").await;
    let TaskSpec::RestoreTest { test } = &lease.work.spec else { panic!() };
    assert_eq!(test.guests.len(), 1);
    let document = json!({"verdict": "ok", "guests": [
        {"id": test.guests[0].id, "verdict": "ok", "checks": [{"kind": "console"}]}]});
    world.report(&lease, Outcome::Succeeded, document).await;
    let path = format!("/api/v1/plan-runs/{run}");
    loop {
        let run: Value = world.admin.get(&path).await.unwrap();
        assert_ne!(run["steps"][1]["state"], "failed", "{run}");
        if run["steps"][1]["state"] == "done" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

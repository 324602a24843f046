//! Roles on single resources: what they open, what lists show, and that they end.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use crate::support::{Lab, PASSWORD, finish, make, on, status};

/// A project with a destination, a node, and instances with a restore point each.
struct Shop {
    project: String,
    destination: String,
    node: String,
    instances: Vec<String>,
    points: Vec<String>,
}

impl Shop {
    async fn new(lab: &Lab, admin: &Client, instances: usize) -> Self {
        let project = make(admin, "projects", json!({"name": "shop", "spec": {}})).await;
        let body = json!({"project": project, "name": "store", "spec": {"url": "/backup"}});
        let destination = make(admin, "destinations", body).await;
        let node = lab.node(admin, "alpha", &["backup", "mount", "restore"]).await;
        let (mut ids, mut points) = (Vec::new(), Vec::new());
        for number in 0..instances {
            let spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
            let body = json!({"project": project, "name": format!("web-{number}"), "spec": spec});
            let instance = make(admin, "instances", body).await;
            let start = json!({"kind": "backup", "instance": instance,
                "destination": destination});
            let task = make(admin, "tasks", start).await;
            finish(&node, &task, &format!("shop.web-{number}@k3")).await;
            let path = format!("/api/v1/points?instance={instance}");
            points.push(ids_of(admin, &path).await.remove(0));
            ids.push(instance);
        }
        let node = ids_of(admin, "/api/v1/nodes").await.remove(0);
        Self { project, destination, node, instances: ids, points }
    }

    fn mount(&self, number: usize) -> Value {
        json!({"point": self.points[number], "protocol": "nbd", "clients": ["192.0.2.0/24"]})
    }
}

async fn items(client: &Client, path: &str) -> Vec<Value> {
    let list: Value = client.get(path).await.unwrap();
    list["items"].as_array().unwrap().clone()
}

async fn ids_of(client: &Client, path: &str) -> Vec<String> {
    let found = items(client, path).await;
    found.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

async fn send(client: &Client, method: Method, path: &str, body: Value) -> u16 {
    match client.send(method, path, Some(&body), &[]).await {
        Ok(answer) => answer.status,
        Err(error) => error.status().unwrap(),
    }
}

#[tokio::test]
async fn an_operator_of_one_instance_sees_and_mounts_that_and_nothing_else() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = Shop::new(&lab, &admin, 2).await;
    for number in 0..2 {
        admin.post::<Value>("/api/v1/mounts", &shop.mount(number)).await.unwrap();
    }
    let grants = json!([on("operator", "instance", &shop.instances[1])]);
    let anna = lab.user_with(&admin, "anna", grants).await;
    assert_eq!(ids_of(&anna, "/api/v1/instances").await, shop.instances[1..]);
    assert_eq!(ids_of(&anna, "/api/v1/points").await, shop.points[1..]);
    for list in ["tasks", "mounts"] {
        let all = items(&admin, &format!("/api/v1/{list}")).await;
        let own: Vec<&Value> =
            all.iter().filter(|one| one["instance"] == *shop.instances[1]).collect();
        let seen = items(&anna, &format!("/api/v1/{list}")).await;
        assert!(!own.is_empty() && own.len() < all.len(), "{list}");
        assert_eq!(seen.iter().collect::<Vec<_>>(), own, "{list}");
        // Asking for another's by name shows nothing either.
        let path = format!("/api/v1/{list}?instance={}", shop.instances[0]);
        assert!(items(&anna, &path).await.is_empty(), "{list}");
    }
    for list in ["projects", "destinations", "policies", "plans", "node-configs", "restore-tests"] {
        assert!(items(&anna, &format!("/api/v1/{list}")).await.is_empty(), "{list}");
    }
    // Names are unique only in a project: its own is told, also where usage is counted by it.
    for path in ["instances".to_owned(), format!("instances/{}", shop.instances[1])] {
        let told: Value = anna.get(&format!("/api/v1/{path}")).await.unwrap();
        let one = if path == "instances" { &told["items"][0] } else { &told };
        assert_eq!((&one["project_name"], &one["name"]), (&json!("shop"), &json!("web-1")));
    }
    let used: Value = anna.get("/api/v1/usage?by=project").await.unwrap();
    let used = &used["items"][0];
    assert_eq!((&used["id"], &used["name"]), (&json!(shop.project), &json!("shop")));
    assert_eq!(status(&anna.post::<Value>("/api/v1/mounts", &shop.mount(1)).await), 200);
    assert_eq!(status(&anna.post::<Value>("/api/v1/mounts", &shop.mount(0)).await), 404);
    for path in [
        format!("instances/{}", shop.instances[0]),
        format!("points/{}", shop.points[0]),
        format!("projects/{}", shop.project),
        format!("destinations/{}", shop.destination),
    ] {
        assert_eq!(status(&anna.get::<Value>(&format!("/api/v1/{path}")).await), 404, "{path}");
    }
    assert_eq!(status(&anna.get::<Value>("/api/v1/nodes").await), 403);
    let dashboard: Value = anna.get("/api/v1/dashboard").await.unwrap();
    assert_eq!(dashboard["protection"]["total"], 1);
    assert_eq!(dashboard["storage"]["destinations"][0]["instances"], 1);
    assert_eq!(dashboard["last_day"]["succeeded"], 1);
    let report: Value = anna.get("/api/v1/reports/protection").await.unwrap();
    assert_eq!((&report["total"], report["items"].as_array().unwrap().len()), (&json!(1), 1));
}

#[tokio::test]
async fn usage_counts_what_is_granted_only() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = Shop::new(&lab, &admin, 3).await;
    let grants = json!([on("viewer", "instance", &shop.instances[0])]);
    let anna = lab.user_with(&admin, "anna", grants).await;
    // A period with whole days, which the ledger has added up for projects.
    let path = "/api/v1/usage?from_ms=0&until_ms=4102444800000&by=project";
    for (client, tasks) in [(&admin, 3), (&anna, 1)] {
        let told: Value = client.get(path).await.unwrap();
        assert_eq!(told["items"][0]["usage"]["tasks"]["backup"], tasks, "{told}");
    }
}

#[tokio::test]
async fn pages_of_what_is_granted_are_full() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = Shop::new(&lab, &admin, 7).await;
    let own = [0, 2, 3, 6].map(|number| shop.instances[number].clone());
    let mut grants: Vec<Value> = own.iter().map(|id| on("viewer", "instance", id)).collect();
    // The same again is no second entry.
    grants.push(on("operator", "instance", &own[0]));
    let anna = lab.user_with(&admin, "anna", json!(grants)).await;
    let (mut seen, mut path) = (Vec::new(), "/api/v1/instances?limit=3".to_owned());
    let mut sizes = Vec::new();
    loop {
        let part: Value = anna.get(&path).await.unwrap();
        let found = part["items"].as_array().unwrap();
        sizes.push(found.len());
        seen.extend(found.iter().map(|one| one["id"].as_str().unwrap().to_owned()));
        let Some(next) = part["next"].as_str() else { break };
        path = format!("/api/v1/instances?limit=3&after={next}");
    }
    assert_eq!((sizes, seen), (vec![3, 1], own.to_vec()));
    let newest: Value = anna.get("/api/v1/tasks?limit=2").await.unwrap();
    let of: Vec<&Value> =
        newest["items"].as_array().unwrap().iter().map(|task| &task["instance"]).collect();
    assert_eq!(of, [&own[3], &own[2]]);
    assert!(newest["next"].is_string());
}

#[tokio::test]
async fn what_names_two_resources_takes_a_role_on_each() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = Shop::new(&lab, &admin, 2).await;
    let alone = json!([on("operator", "instance", &shop.instances[0])]);
    let anna = lab.user_with(&admin, "anna", alone.clone()).await;
    let mut more = alone.as_array().unwrap().clone();
    more.push(on("operator", "node", &shop.node));
    more.push(on("viewer", "destination", &shop.destination));
    let otto = lab.user_with(&admin, "otto", json!(more)).await;
    let restore = |number: usize| {
        json!({"kind": "restore", "point": shop.points[number], "node": shop.node,
            "target": "/restored"})
    };
    let backup = |number: usize| {
        json!({"kind": "backup", "instance": shop.instances[number],
            "destination": shop.destination})
    };
    for (number, body, by_anna, by_otto) in [
        (0, restore(0), 403, 201),
        (1, restore(1), 404, 404),
        (0, backup(0), 404, 201),
        (1, backup(1), 404, 404),
    ] {
        let told = send(&anna, Method::POST, "/api/v1/tasks", body.clone()).await;
        assert_eq!(told, by_anna, "{number} by anna");
        let told = send(&otto, Method::POST, "/api/v1/tasks", body).await;
        assert_eq!(told, by_otto, "{number} by otto");
    }
    // A viewer of the destination starts nothing on all of it.
    let verify = json!({"kind": "verify", "destination": shop.destination});
    assert_eq!(send(&otto, Method::POST, "/api/v1/tasks", verify).await, 403);
    assert_eq!(ids_of(&otto, "/api/v1/nodes").await, std::slice::from_ref(&shop.node));
    let others = lab.node(&admin, "beta", &["backup"]).await;
    drop(others);
    assert_eq!(ids_of(&otto, "/api/v1/nodes").await, std::slice::from_ref(&shop.node));
}

#[tokio::test]
async fn a_role_on_one_record_does_not_reach_others_through_it() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = Shop::new(&lab, &admin, 2).await;
    let body = json!({"project": shop.project, "name": "daily", "spec": {"rules": []}});
    let policy = make(&admin, "policies", body).await;
    let body = json!({"project": shop.project, "name": "flood", "spec": {"groups": []}});
    let plan = make(&admin, "plans", body).await;
    let anna = lab
        .user_with(
            &admin,
            "anna",
            json!([
                on("admin", "policy", &policy),
                on("admin", "plan", &plan),
                on("admin", "node", &shop.node),
                on("viewer", "instance", &shop.instances[0]),
                on("manager", "instance", &shop.instances[1]),
            ]),
        )
        .await;
    let change = async |path: &str, spec: Value| {
        let (path, based) = (format!("/api/v1/{path}"), [("if-match", "\"1\"")]);
        let body = json!({"name": path.split('/').next_back().unwrap(), "spec": spec});
        match anna.send(Method::PUT, &path, Some(&body), &based).await {
            Ok(answer) => answer.status,
            Err(error) => error.status().unwrap(),
        }
    };
    // A policy cannot be made to take instances that one does not manage.
    let path = format!("policies/{policy}");
    assert_eq!(change(&path, json!({"rules": [], "assign": {"tags": ["all"]}})).await, 403);
    let assign = |number: usize| format!("/api/v1/{path}/instances/{}", shop.instances[number]);
    assert_eq!(send(&anna, Method::PUT, &assign(0), json!(null)).await, 403);
    assert_eq!(send(&anna, Method::PUT, &assign(1), json!(null)).await, 204);
    assert_eq!(change(&path, json!({"rules": [], "description": "mine"})).await, 200);
    // Nor can a plan restore one that one only sees.
    let item = |number: usize| {
        json!({"groups": [{"name": "g", "items": [{"instance": shop.instances[number],
            "target": {"kind": "mount", "node": shop.node, "protocol": "nbd",
            "clients": ["192.0.2.0/24"]}}]}]})
    };
    let path = format!("plans/{plan}");
    assert_eq!(change(&path, item(0)).await, 403);
    assert_eq!(change(&path, item(1)).await, 200);
    // What a node may reach is the system's affair, whether it takes tasks is not.
    let path = format!("/api/v1/nodes/{}", shop.node);
    let more = json!({"state": "enabled", "destinations": [shop.destination]});
    assert_eq!(send(&anna, Method::PUT, &path, more).await, 403);
    assert_eq!(send(&anna, Method::PUT, &path, json!({"state": "draining"})).await, 200);
    assert_eq!(send(&anna, Method::POST, "/api/v1/node-tokens", json!(null)).await, 403);
    let audit = items(&anna, "/api/v1/audit").await;
    let own = [&policy, &plan, &shop.node];
    assert!(audit.len() >= 3);
    assert!(audit.iter().all(|row| own.iter().any(|id| row["object"] == **id)), "{audit:?}");
}

#[tokio::test]
async fn grants_end_with_what_they_are_on() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let project = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
    let body = json!({"project": project, "name": "web", "spec": spec});
    let instance = make(&admin, "instances", body).await;
    let grant = on("viewer", "instance", &instance);
    let anna = lab.user_with(&admin, "anna", json!([grant])).await;
    let user = json!({"login": "otto", "password": PASSWORD, "keep_password": true});
    let otto = make(&admin, "users", user).await;
    let group = json!({"name": "few", "members": [otto], "grants": [grant]});
    let group = make(&admin, "groups", group).await;
    let mapping = json!({"group": "web", "grants": [grant, {"role": "viewer"}]});
    let via = json!({"kind": "oidc", "issuer": "https://id.example.org", "client_id": "x"});
    let provider = json!({"name": "id", "spec": {"via": via, "mappings": [mapping]}});
    let provider = make(&admin, "identity-providers", provider).await;
    let otto = lab.login("otto").await;
    let path = format!("/api/v1/instances/{instance}");
    for client in [&anna, &otto] {
        let told: Value = client.get("/api/v1/me").await.unwrap();
        assert_eq!(
            told["grants"],
            json!([{"role": "viewer", "project": null,
            "resource": {"kind": "instance", "id": instance}}])
        );
        assert_eq!(status(&client.get::<Value>(&path).await), 200);
    }
    let audit = items(&admin, "/api/v1/audit").await;
    let written = audit.iter().any(|row| row["detail"]["grants"][0]["resource"]["id"] == *instance);
    assert!(written, "who may do what is written down");
    admin.send(Method::DELETE, &path, None, &[]).await.unwrap();
    for client in [&anna, &otto] {
        let told: Value = client.get("/api/v1/me").await.unwrap();
        assert_eq!(told["grants"], json!([]));
        assert_eq!(status(&client.get::<Value>(&path).await), 403, "there is no role left");
    }
    let told: Value = admin.get(&format!("/api/v1/groups/{group}")).await.unwrap();
    assert_eq!(told["grants"], json!([]));
    let told: Value = admin.get(&format!("/api/v1/identity-providers/{provider}")).await.unwrap();
    let left = json!([{"role": "viewer", "project": null}]);
    assert_eq!(told["spec"]["mappings"][0]["grants"], left);
    let gone = json!({"login": "eva", "service": true, "grants": [grant]});
    assert_eq!(status(&admin.post::<Value>("/api/v1/users", &gone).await), 404);
    let both = json!({"role": "viewer", "project": project, "resource": grant["resource"]});
    let odd = json!({"login": "eva", "service": true, "grants": [both]});
    assert_eq!(status(&admin.post::<Value>("/api/v1/users", &odd).await), 422);
}

#[tokio::test]
async fn tokens_of_service_accounts_open_one_resource_too() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = Shop::new(&lab, &admin, 2).await;
    let grants = json!([on("operator", "instance", &shop.instances[0])]);
    let user = json!({"login": "robot", "service": true, "grants": grants});
    let robot = make(&admin, "users", user).await;
    let path = format!("/api/v1/users/{robot}/tokens");
    let made: Value = admin.post(&path, &json!({"name": "ci"})).await.unwrap();
    let program = lab.anybody.clone().with_token(made["token"].as_str().unwrap());
    assert_eq!(ids_of(&program, "/api/v1/points").await, shop.points[..1]);
    assert_eq!(status(&program.post::<Value>("/api/v1/mounts", &shop.mount(0)).await), 200);
    assert_eq!(status(&program.post::<Value>("/api/v1/mounts", &shop.mount(1)).await), 404);
    let path = format!("/api/v1/users/{robot}/grants");
    assert_eq!(send(&admin, Method::PUT, &path, json!([])).await, 204);
    assert_eq!(status(&program.get::<Value>("/api/v1/points").await), 403);
}

#[tokio::test]
async fn who_asks_sees_what_becomes_of_it() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let shop = Shop::new(&lab, &admin, 1).await;
    let rules = json!({"approvals": {"actions": ["collect"]}});
    admin.send(Method::PUT, "/api/v1/access-rules", Some(&rules), &[]).await.unwrap();
    let of = on("operator", "destination", &shop.destination);
    let anna = lab.user_with(&admin, "anna", json!([of])).await;
    let otto = lab.user_with(&admin, "otto", json!([of])).await;
    let collect = json!({"kind": "collect", "destination": shop.destination});
    let asked = make(&anna, "tasks", collect).await;
    assert_eq!(ids_of(&anna, "/api/v1/approvals").await, std::slice::from_ref(&asked));
    assert!(ids_of(&otto, "/api/v1/approvals").await.is_empty());
    let path = format!("/api/v1/approvals/{asked}");
    assert_eq!(status(&otto.get::<Value>(&path).await), 404);
    let agree = format!("{path}/approve");
    assert_eq!(send(&anna, Method::POST, &agree, json!({})).await, 403);
    assert_eq!(send(&admin, Method::POST, &agree, json!({})).await, 200);
    let done: Value = anna.get(&path).await.unwrap();
    assert_eq!(done["state"], "done");
    let tasks = items(&anna, "/api/v1/tasks").await;
    let kinds: Vec<&Value> = tasks.iter().map(|task| &task["kind"]).collect();
    assert_eq!(kinds, ["collect"], "and not the tasks of instances that go there");
}

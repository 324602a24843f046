//! Every endpoint with every role: who gets in, who is refused, and who is told that there is
//! nothing. An endpoint of the OpenAPI document that this table does not have fails the test.

use std::collections::BTreeSet;

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::Client;

use crate::support::{Lab, finish, make, on};

/// What an endpoint takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Needs {
    /// Nothing: it is how one gets in.
    Nobody,
    /// To be logged in.
    Login,
    /// A role, in the project of what the path or document names.
    Project(Level),
    /// A role in any scope; lists show what may be seen.
    Anywhere(Level),
    /// A role in the system.
    System(Level),
}
use Needs::{Anywhere, Login, Nobody, Project, System};

/// Rank of the weakest role that is let in.
type Level = usize;
const ROLES: [&str; 4] = ["viewer", "operator", "manager", "admin"];
const READ: Level = 0;
const OPERATE: Level = 1;
const MANAGE: Level = 2;
const ADMINISTER: Level = 3;

const TABLE: &[(&str, &str, Needs)] = &[
    ("POST", "/api/v1/setup", Nobody),
    ("POST", "/api/v1/sessions", Nobody),
    ("GET", "/api/v1/login-providers", Nobody),
    ("POST", "/api/v1/oidc-logins", Nobody),
    ("POST", "/api/v1/oidc-logins/finish", Nobody),
    ("POST", "/api/v1/device-logins", Nobody),
    ("POST", "/api/v1/device-logins/finish", Nobody),
    ("GET", "/api/v1/identity-providers", System(ADMINISTER)),
    ("POST", "/api/v1/identity-providers", System(ADMINISTER)),
    ("GET", "/api/v1/identity-providers/{id}", System(ADMINISTER)),
    ("PUT", "/api/v1/identity-providers/{id}", System(ADMINISTER)),
    ("DELETE", "/api/v1/identity-providers/{id}", System(ADMINISTER)),
    ("PUT", "/api/v1/identity-providers/{id}/secret", System(ADMINISTER)),
    ("POST", "/api/v1/identity-providers/{id}/test", System(ADMINISTER)),
    ("POST", "/api/v1/directory-logins", Nobody),
    ("DELETE", "/api/v1/sessions/current", Login),
    ("GET", "/api/v1/me", Login),
    ("GET", "/api/v1/tokens", Login),
    ("POST", "/api/v1/tokens", Login),
    ("DELETE", "/api/v1/tokens/{id}", Login),
    ("GET", "/api/v1/users", System(ADMINISTER)),
    ("POST", "/api/v1/users", System(ADMINISTER)),
    ("DELETE", "/api/v1/users/{id}", System(ADMINISTER)),
    ("PUT", "/api/v1/users/{id}/grants", System(ADMINISTER)),
    ("PUT", "/api/v1/users/{id}/password", System(ADMINISTER)),
    ("GET", "/api/v1/projects", Anywhere(READ)),
    ("POST", "/api/v1/projects", System(ADMINISTER)),
    ("GET", "/api/v1/projects/{id}", Project(READ)),
    ("PUT", "/api/v1/projects/{id}", Project(ADMINISTER)),
    ("DELETE", "/api/v1/projects/{id}", Project(ADMINISTER)),
    ("GET", "/api/v1/destinations", Anywhere(READ)),
    ("POST", "/api/v1/destinations", Project(MANAGE)),
    ("GET", "/api/v1/destinations/{id}", Project(READ)),
    ("PUT", "/api/v1/destinations/{id}", Project(MANAGE)),
    ("DELETE", "/api/v1/destinations/{id}", Project(MANAGE)),
    ("PUT", "/api/v1/destinations/{id}/secrets", Project(MANAGE)),
    ("GET", "/api/v1/instances", Anywhere(READ)),
    ("POST", "/api/v1/instances", Project(MANAGE)),
    ("GET", "/api/v1/instances/{id}", Project(READ)),
    ("PUT", "/api/v1/instances/{id}", Project(MANAGE)),
    ("DELETE", "/api/v1/instances/{id}", Project(MANAGE)),
    ("GET", "/api/v1/inventories", Anywhere(READ)),
    ("POST", "/api/v1/inventories", System(MANAGE)),
    ("GET", "/api/v1/inventories/{id}", Project(READ)),
    ("PUT", "/api/v1/inventories/{id}", System(MANAGE)),
    ("DELETE", "/api/v1/inventories/{id}", System(MANAGE)),
    ("POST", "/api/v1/inventories/{id}/runs", Project(OPERATE)),
    ("GET", "/api/v1/inventories/{id}/found", Project(READ)),
    ("GET", "/api/v1/policies", Anywhere(READ)),
    ("POST", "/api/v1/policies", Project(MANAGE)),
    ("GET", "/api/v1/policies/{id}", Project(READ)),
    ("PUT", "/api/v1/policies/{id}", Project(MANAGE)),
    ("DELETE", "/api/v1/policies/{id}", Project(MANAGE)),
    ("GET", "/api/v1/reports/sla", Anywhere(READ)),
    ("GET", "/api/v1/reports/forecast", Anywhere(READ)),
    ("GET", "/api/v1/reports/{report}/document", Anywhere(READ)),
    ("POST", "/api/v1/policies/preview", Anywhere(READ)),
    ("GET", "/api/v1/policies/{id}/instances", Project(READ)),
    ("PUT", "/api/v1/policies/{id}/instances/{instance}", Project(MANAGE)),
    ("DELETE", "/api/v1/policies/{id}/instances/{instance}", Project(MANAGE)),
    ("GET", "/api/v1/nodes", System(READ)),
    ("GET", "/api/v1/nodes/{id}", System(READ)),
    ("PUT", "/api/v1/nodes/{id}", System(ADMINISTER)),
    ("DELETE", "/api/v1/nodes/{id}", System(ADMINISTER)),
    ("POST", "/api/v1/nodes/{id}/upgrade", System(ADMINISTER)),
    ("DELETE", "/api/v1/nodes/{id}/upgrade", System(ADMINISTER)),
    ("GET", "/api/v1/instances/{id}/nodes", System(READ)),
    ("POST", "/api/v1/node-tokens", System(ADMINISTER)),
    ("GET", "/api/v1/node-configs", Anywhere(READ)),
    ("POST", "/api/v1/node-configs", System(ADMINISTER)),
    ("GET", "/api/v1/node-configs/{id}", Anywhere(READ)),
    ("PUT", "/api/v1/node-configs/{id}", System(ADMINISTER)),
    ("DELETE", "/api/v1/node-configs/{id}", System(ADMINISTER)),
    ("GET", "/api/v1/points", Anywhere(READ)),
    ("GET", "/api/v1/points/{id}", Project(READ)),
    ("GET", "/api/v1/retention-events", Anywhere(READ)),
    ("POST", "/api/v1/retention-events", Project(MANAGE)),
    ("DELETE", "/api/v1/retention-events/{id}", Project(MANAGE)),
    ("GET", "/api/v1/snapshots", Anywhere(READ)),
    ("POST", "/api/v1/snapshots", Project(OPERATE)),
    ("GET", "/api/v1/snapshots/{id}", Project(READ)),
    ("DELETE", "/api/v1/snapshots/{id}", Project(MANAGE)),
    ("GET", "/api/v1/mounts", Anywhere(READ)),
    ("POST", "/api/v1/mounts", Project(OPERATE)),
    ("GET", "/api/v1/mounts/{id}", Project(READ)),
    ("DELETE", "/api/v1/mounts/{id}", Project(OPERATE)),
    ("POST", "/api/v1/mounts/{id}/renew", Project(OPERATE)),
    ("GET", "/api/v1/mounts/{id}/files", Project(OPERATE)),
    ("GET", "/api/v1/mounts/{id}/file", Project(OPERATE)),
    ("GET", "/api/v1/mounts/{id}/content", Project(OPERATE)),
    ("GET", "/api/v1/restore-tests", Anywhere(READ)),
    ("POST", "/api/v1/restore-tests", Project(OPERATE)),
    ("GET", "/api/v1/restore-tests/{id}", Project(READ)),
    ("GET", "/api/v1/restore-tests/{id}/screenshot", Project(READ)),
    ("GET", "/api/v1/restore-tests/{id}/console", Project(READ)),
    ("GET", "/api/v1/plans", Anywhere(READ)),
    ("POST", "/api/v1/plans", Project(MANAGE)),
    ("GET", "/api/v1/plans/{id}", Project(READ)),
    ("PUT", "/api/v1/plans/{id}", Project(MANAGE)),
    ("DELETE", "/api/v1/plans/{id}", Project(MANAGE)),
    ("POST", "/api/v1/plans/{id}/runs", Project(OPERATE)),
    ("GET", "/api/v1/plan-runs", Anywhere(READ)),
    ("GET", "/api/v1/plan-runs/{id}", Project(READ)),
    ("POST", "/api/v1/plan-runs/{id}/cancel", Project(OPERATE)),
    ("POST", "/api/v1/mounts/{id}/commit", Project(OPERATE)),
    ("GET", "/api/v1/tasks", Anywhere(READ)),
    ("POST", "/api/v1/tasks", Project(OPERATE)),
    ("GET", "/api/v1/tasks/{id}", Project(READ)),
    ("POST", "/api/v1/tasks/{id}/cancel", Project(OPERATE)),
    ("GET", "/api/v1/tasks/{id}/log", Project(READ)),
    ("GET", "/api/v1/tasks/{id}/events", Project(READ)),
    ("GET", "/api/v1/limits", System(READ)),
    ("PUT", "/api/v1/limits", System(ADMINISTER)),
    ("GET", "/api/v1/projects/{id}/quota", Project(READ)),
    ("PUT", "/api/v1/projects/{id}/quota", System(ADMINISTER)),
    ("GET", "/api/v1/usage", Anywhere(READ)),
    ("GET", "/api/v1/reports/protection", Anywhere(READ)),
    ("GET", "/api/v1/reports/missed", Anywhere(READ)),
    ("GET", "/api/v1/audit", Anywhere(ADMINISTER)),
    ("GET", "/api/v1/audit/verify", System(ADMINISTER)),
    ("GET", "/api/v1/sessions", Login),
    ("DELETE", "/api/v1/sessions/{id}", Login),
    ("DELETE", "/api/v1/users/{id}/sessions", System(ADMINISTER)),
    ("GET", "/api/v1/users/{id}/tokens", System(ADMINISTER)),
    ("POST", "/api/v1/users/{id}/tokens", System(ADMINISTER)),
    ("DELETE", "/api/v1/users/{id}/tokens/{token}", System(ADMINISTER)),
    ("POST", "/api/v1/me/totp", Login),
    ("POST", "/api/v1/me/totp/confirm", Login),
    ("POST", "/api/v1/me/totp/remove", Login),
    ("DELETE", "/api/v1/users/{id}/totp", System(ADMINISTER)),
    ("GET", "/api/v1/me/passkeys", Login),
    ("POST", "/api/v1/me/passkeys", Login),
    ("POST", "/api/v1/me/passkeys/finish", Login),
    ("POST", "/api/v1/me/passkeys/challenge", Login),
    ("PUT", "/api/v1/me/passkeys/{id}", Login),
    ("POST", "/api/v1/me/passkeys/{id}/remove", Login),
    ("DELETE", "/api/v1/users/{id}/passkeys", System(ADMINISTER)),
    ("POST", "/api/v1/passkey-logins", Nobody),
    ("POST", "/api/v1/passkey-logins/finish", Nobody),
    ("GET", "/api/v1/groups", System(ADMINISTER)),
    ("POST", "/api/v1/groups", System(ADMINISTER)),
    ("GET", "/api/v1/groups/{id}", System(ADMINISTER)),
    ("PUT", "/api/v1/groups/{id}", System(ADMINISTER)),
    ("DELETE", "/api/v1/groups/{id}", System(ADMINISTER)),
    ("GET", "/api/v1/access-rules", System(READ)),
    ("PUT", "/api/v1/access-rules", System(ADMINISTER)),
    ("GET", "/api/v1/approvals", Anywhere(READ)),
    ("GET", "/api/v1/approvals/{id}", Project(READ)),
    ("POST", "/api/v1/approvals/{id}/approve", Project(ADMINISTER)),
    ("POST", "/api/v1/approvals/{id}/reject", Project(ADMINISTER)),
    ("GET", "/api/v1/dashboard", Anywhere(READ)),
    ("GET", "/api/v1/self-backup", System(ADMINISTER)),
    ("PUT", "/api/v1/self-backup", System(ADMINISTER)),
    ("POST", "/api/v1/self-backup", System(ADMINISTER)),
    ("POST", "/api/v1/destinations/{id}/points", System(ADMINISTER)),
    ("GET", "/api/v1/notifications", System(ADMINISTER)),
    ("PUT", "/api/v1/notifications", System(ADMINISTER)),
    ("PUT", "/api/v1/notifications/{channel}/secret", System(ADMINISTER)),
    ("POST", "/api/v1/notifications/{channel}/test", System(ADMINISTER)),
    ("POST", "/api/v1/notifications/reports/{name}/send", System(ADMINISTER)),
];

/// A project with one of everything.
struct World {
    name: String,
    project: String,
    destination: String,
    instance: String,
    inventory: String,
    policy: String,
    task: String,
    point: String,
    snapshot: String,
    mount: String,
    test: String,
    plan: String,
    run: String,
    approval: String,
    event: String,
}

impl World {
    async fn new(lab: &Lab, admin: &Client, name: &str) -> Self {
        let project = make(admin, "projects", json!({"name": name, "spec": {}})).await;
        let spec = json!({"url": "/backup"});
        let body = json!({"project": project, "name": "store", "spec": spec});
        let destination = make(admin, "destinations", body).await;
        let images = json!([{"path": "/srv/x.raw"}]);
        let spec = json!({"source": {"kind": "disk-files", "images": images}});
        let body = json!({"project": project, "name": "web", "spec": spec});
        let instance = make(admin, "instances", body).await;
        let look = json!({"kind": "files", "folder": "/srv/images"});
        let body = json!({"project": project, "name": "images", "spec": {"look": look}});
        let inventory = make(admin, "inventories", body).await;
        let body = json!({"project": project, "name": "daily", "spec": {"rules": []}});
        let policy = make(admin, "policies", body).await;
        let start = json!({"kind": "backup", "instance": instance, "destination": destination});
        let point = backed_up(lab, admin, name, &start).await;
        let snapshot = make(admin, "snapshots", json!({"instance": instance})).await;
        let body = json!({"point": point, "protocol": "nbd", "clients": ["192.0.2.0/24"]});
        let mount = make(admin, "mounts", body).await;
        let body = json!({"project": project, "name": "flood", "spec": {"groups": []}});
        let plan = make(admin, "plans", body).await;
        let run = make(admin, &format!("plans/{plan}/runs"), json!({"mode": "test"})).await;
        let asked = json!({"point": point});
        let made: Value = admin.post("/api/v1/restore-tests", &asked).await.unwrap();
        let test = made["id"].as_str().unwrap().to_owned();
        // No other node is to find it.
        let cancel = format!("/api/v1/tasks/{}/cancel", made["task"].as_str().unwrap());
        admin.send(Method::POST, &cancel, None, &[]).await.unwrap();
        let task = make(admin, "tasks", start).await;
        // Whoever watches a task that has ended gets an answer that ends.
        let cancel = format!("/api/v1/tasks/{task}/cancel");
        admin.send(Method::POST, &cancel, None, &[]).await.unwrap();
        let collect = json!({"kind": "collect", "destination": destination});
        let approval = make(admin, "tasks", collect).await;
        let told = json!({"instance": instance, "event": "sold"});
        let event = make(admin, "retention-events", told).await;
        let name = name.to_owned();
        Self {
            name,
            project,
            destination,
            instance,
            inventory,
            policy,
            task,
            point,
            snapshot,
            mount,
            test,
            plan,
            run,
            approval,
            event,
        }
    }

    fn path(&self, template: &str) -> String {
        let nobody = "0193a2b4-0000-7000-8000-000000000000";
        let id = match template.split('/').nth(3).unwrap() {
            "projects" => &self.project,
            "destinations" => &self.destination,
            "instances" => &self.instance,
            "inventories" => &self.inventory,
            "policies" => &self.policy,
            "tasks" => &self.task,
            "mounts" => &self.mount,
            "snapshots" => &self.snapshot,
            "restore-tests" => &self.test,
            "plans" => &self.plan,
            "plan-runs" => &self.run,
            "points" => &self.point,
            "approvals" => &self.approval,
            "retention-events" => &self.event,
            _ => nobody,
        };
        template
            .replace("{id}", id)
            .replace("{instance}", &self.instance)
            .replace("{token}", nobody)
            .replace("{channel}", "ops")
            .replace("{report}", "sla")
            .replace("{name}", "weekly")
    }

    /// A document that is understood, so that it is the access that is judged.
    fn document(&self, method: &str, template: &str) -> Option<Value> {
        let device = json!({"source": {"kind": "device", "path": "/dev/x"}});
        let spec = match template.split('/').nth(3).unwrap() {
            "destinations" => json!({"url": "/backup"}),
            "instances" => device,
            "inventories" => json!({"look": {"kind": "files", "folder": "/srv/images"}}),
            "policies" => json!({"rules": []}),
            "plans" => json!({"groups": []}),
            "identity-providers" => {
                let issuer = "https://id.example.org";
                json!({"via": {"kind": "oidc", "issuer": issuer, "client_id": "x"}})
            }
            _ => json!({}),
        };
        let secret = json!({"secrets": {"SLUICE_PASSPHRASE": "hush"}});
        let password = "a long enough password";
        Some(match (method, template) {
            ("GET" | "DELETE", _) => return None,
            (_, "/api/v1/setup") => json!({"token": "x", "login": "x", "password": password}),
            (_, "/api/v1/sessions") => json!({"login": "x", "password": "x"}),
            (_, "/api/v1/tokens") => json!({"name": format!("t{}", rand::random::<u64>())}),
            (_, "/api/v1/users") => {
                json!({"login": format!("u{}", rand::random::<u64>()), "password": password})
            }
            (_, "/api/v1/users/{id}/grants") => json!([]),
            (_, "/api/v1/users/{id}/tokens") => json!({"name": "t"}),
            (_, "/api/v1/me/totp") => json!({"password": "not this one"}),
            (_, "/api/v1/me/totp/confirm") => json!({"code": "123456"}),
            (_, "/api/v1/me/totp/remove") => json!({"password": "no", "code": "123456"}),
            (_, "/api/v1/me/passkeys") => json!({"password": "not this one"}),
            (_, "/api/v1/me/passkeys/finish") => {
                let response = json!({"clientDataJSON": "", "attestationObject": ""});
                let credential = json!({"id": "", "response": response});
                json!({"registration": "x", "name": "x", "credential": credential})
            }
            (_, "/api/v1/me/passkeys/challenge") => return None,
            (_, "/api/v1/me/passkeys/{id}") => json!({"name": "x"}),
            (_, "/api/v1/me/passkeys/{id}/remove") => json!({"password": "no", "code": "123456"}),
            (_, "/api/v1/groups" | "/api/v1/groups/{id}") => {
                json!({"name": format!("g{}", rand::random::<u64>())})
            }
            (_, "/api/v1/access-rules") => json!({}),
            (_, "/api/v1/approvals/{id}/approve" | "/api/v1/approvals/{id}/reject") => json!({}),
            (_, "/api/v1/users/{id}/password") => json!({"password": password}),
            (_, "/api/v1/destinations/{id}/secrets") => secret,
            (_, "/api/v1/identity-providers/{id}/secret") => json!({"secret": "hush"}),
            (_, "/api/v1/identity-providers/{id}/test") => json!({}),
            ("POST", "/api/v1/identity-providers") => {
                json!({"name": format!("i{}", rand::random::<u64>()), "spec": spec})
            }
            ("PUT", "/api/v1/self-backup") => json!({"destination": self.destination}),
            ("POST", "/api/v1/self-backup") => return None,
            ("PUT", "/api/v1/notifications") => json!({}),
            (_, "/api/v1/notifications/{channel}/secret") => json!({"secret": "hush"}),
            (_, "/api/v1/notifications/{channel}/test") => return None,
            (_, "/api/v1/notifications/reports/{name}/send") => return None,
            (_, "/api/v1/destinations/{id}/points") => json!([]),
            (_, "/api/v1/nodes/{id}") => json!({"state": "enabled"}),
            (_, "/api/v1/node-tokens" | "/api/v1/tasks/{id}/cancel") => return None,
            (_, "/api/v1/plan-runs/{id}/cancel") => return None,
            (_, "/api/v1/plans/{id}/runs") => json!({"mode": "test"}),
            (_, "/api/v1/inventories/{id}/runs") => json!({"dry_run": true}),
            ("PUT", "/api/v1/limits" | "/api/v1/projects/{id}/quota") => json!({}),
            (_, "/api/v1/tasks") => {
                let (instance, destination) = (&self.instance, &self.destination);
                json!({"kind": "backup", "instance": instance, "destination": destination})
            }
            (_, "/api/v1/snapshots") => json!({"instance": self.instance}),
            (_, "/api/v1/mounts") => {
                json!({"point": self.point, "protocol": "nbd", "clients": ["192.0.2.0/24"]})
            }
            (_, "/api/v1/retention-events") => json!({"point": self.point, "event": "sold"}),
            (_, "/api/v1/restore-tests") => json!({"point": self.point}),
            (_, "/api/v1/mounts/{id}/commit") => return None,
            (_, "/api/v1/mounts/{id}/renew") => json!({"lease_seconds": 3600}),
            (_, "/api/v1/policies/preview") => json!({"assign": {"everything": true}}),
            ("POST", "/api/v1/projects") => {
                json!({"name": format!("p{}", rand::random::<u64>()), "spec": {}})
            }
            ("POST", _) => json!({
                "project": self.project,
                "name": format!("n{}", rand::random::<u64>()),
                "spec": spec,
            }),
            ("PUT", "/api/v1/policies/{id}/instances/{instance}") => return None,
            (_, "/api/v1/projects/{id}") => json!({"name": self.name, "spec": spec}),
            (_, "/api/v1/instances/{id}") => json!({"name": "web", "spec": spec}),
            _ => json!({"name": "renamed", "spec": spec}),
        })
    }
}

/// A restore point, which a node of its own has made; its id.
async fn backed_up(lab: &Lab, admin: &Client, name: &str, start: &Value) -> String {
    let node = lab.node(admin, name, &["backup", "mount", "restore-test"]).await;
    let task = make(admin, "tasks", start.clone()).await;
    finish(&node, &task, &format!("{name}.web@k3")).await;
    let points: Value = admin.get("/api/v1/points").await.unwrap();
    let named = |point: &&Value| point["point"] == format!("{name}.web@k3");
    let point = points["items"].as_array().unwrap().iter().find(named).unwrap();
    point["id"].as_str().unwrap().to_owned()
}

async fn ask(client: &Client, world: &World, method: &str, template: &str) -> u16 {
    let document = world.document(method, template);
    let word: Method = method.parse().unwrap();
    // A revision that is never there: nothing changes, and what the access says comes first.
    let headers: &[(&str, &str)] = &[("if-match", "\"99999\"")];
    let path = world.path(template);
    match client.send(word, &path, document.as_ref(), headers).await {
        Ok(answer) => answer.status,
        Err(error) => match error.status() {
            Some(status) => status,
            // A stream of events is no document; that it begins is enough.
            None if ["/events", "/console", "/document"]
                .iter()
                .any(|end| template.ends_with(end)) =>
            {
                200
            }
            None => panic!("{method} {path}: {error:?}"),
        },
    }
}

#[tokio::test]
async fn the_table_has_every_endpoint_and_no_other() {
    let document: Value = serde_json::from_str(&sluice_server::openapi()).unwrap();
    let mut declared = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            if ["get", "put", "post", "delete", "patch"].contains(&method.as_str()) {
                declared.insert((method.to_uppercase(), path.clone()));
            }
        }
    }
    let table = TABLE.iter().map(|(method, path, _)| (method.to_string(), path.to_string()));
    assert_eq!(table.collect::<BTreeSet<_>>(), declared);
}

#[tokio::test]
async fn every_role_gets_what_it_may_and_nothing_else() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    // Something waits for a second person, so that there are approvals.
    let rules = json!({"approvals": {"actions": ["collect"]}});
    admin.send(Method::PUT, "/api/v1/access-rules", Some(&rules), &[]).await.unwrap();
    let own = World::new(&lab, &admin, "own").await;
    let other = World::new(&lab, &admin, "other").await;
    let nobody = lab.anybody.clone().with_token("session-0");
    let mut users = Vec::new();
    for (rank, role) in ROLES.iter().enumerate() {
        users.push((rank, true, lab.user(&admin, role, None).await));
        users.push((rank, false, lab.user(&admin, role, Some(&own.project)).await));
    }
    for (method, template, needs) in TABLE {
        if *needs != Nobody {
            let told = ask(&nobody, &own, method, template).await;
            assert_eq!(told, 401, "{method} {template} to a stranger");
        }
        // What ends or removes is tried where it is refused only: others need what it removes.
        let removes = *method == "DELETE" && !template.contains("/users/");
        for (rank, system, client) in &users {
            let (rank, system) = (*rank, *system);
            let who = format!("{method} {template} to {} of {system}", ROLES[rank]);
            let allowed = match needs {
                Nobody | Login => continue,
                Project(level) | Anywhere(level) => rank >= *level,
                System(level) => system && rank >= *level,
            };
            if !allowed || !removes {
                let told = ask(client, &own, method, template).await;
                assert_eq!(told == 403, !allowed, "{who}: {told}");
                assert!(told < 500 && told != 401, "{who}: {told}");
            }
            if let (Project(_), false) = (needs, system) {
                let told = ask(client, &other, method, template).await;
                assert!(told == 404 || told == 403, "{who}, elsewhere: {told}");
                let named = template.contains("{id}") || *method == "POST";
                assert!(told == 404 || !named || rank < level(*needs), "{who}, elsewhere: {told}");
                if template.contains("{id}") {
                    assert_eq!(told, 404, "{who}, elsewhere: it must not be told of");
                }
            }
        }
    }
}

/// The kind of resource that an endpoint is about alone: a role on that is enough. What names two
/// of them takes a role on each.
fn comes_with(method: &str, template: &str) -> Option<&'static str> {
    let one = template.contains("{id}") && !template.contains("{instance}");
    Some(match template.split('/').nth(3).unwrap() {
        "instances" if one => "instance",
        "destinations" if one => "destination",
        "policies" if one => "policy",
        "plans" | "plan-runs" if one => "plan",
        "points" | "tasks" if one => "instance",
        "mounts" | "restore-tests" | "retention-events" | "snapshots"
            if one || method == "POST" =>
        {
            "instance"
        }
        _ => return None,
    })
}

#[tokio::test]
async fn a_role_on_one_resource_opens_that_and_nothing_else() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let rules = json!({"approvals": {"actions": ["collect"]}});
    admin.send(Method::PUT, "/api/v1/access-rules", Some(&rules), &[]).await.unwrap();
    let own = World::new(&lab, &admin, "own").await;
    let other = World::new(&lab, &admin, "other").await;
    let kinds = [
        ("instance", &own.instance),
        ("policy", &own.policy),
        ("destination", &own.destination),
        ("plan", &own.plan),
    ];
    let mut users = Vec::new();
    for (kind, id) in kinds {
        for (rank, role) in ROLES.iter().enumerate() {
            let grants = json!([on(role, kind, id)]);
            users.push((
                kind,
                rank,
                lab.user_with(&admin, &format!("{role}-{kind}"), grants).await,
            ));
        }
    }
    for (method, template, needs) in TABLE {
        for (kind, rank, client) in &users {
            let (kind, rank) = (*kind, *rank);
            let who = format!("{method} {template} to {} of one {kind}", ROLES[rank]);
            let its = comes_with(method, template) == Some(kind);
            let allowed = match needs {
                Nobody | Login => continue,
                System(_) => false,
                Anywhere(level) => rank >= *level,
                Project(level) => its && rank >= *level,
            };
            // What it may remove is needed by others.
            if allowed && *method == "DELETE" {
                continue;
            }
            let told = ask(client, &own, method, template).await;
            assert!(told < 500 && told != 401, "{who}: {told}");
            match needs {
                Project(level) if !its => {
                    let blind = !template.contains("{id}") && rank < *level;
                    assert!(told == 404 || (blind && told == 403), "{who}: {told}");
                }
                // There is no picture of a test that did not run.
                Project(_) if allowed && !template.ends_with("/screenshot") => {
                    assert!(told != 403 && told != 404, "{who}: {told}");
                }
                _ => assert_eq!(told == 403, !allowed, "{who}: {told}"),
            }
            if matches!(needs, Project(_)) && template.contains("{id}") {
                let told = ask(client, &other, method, template).await;
                assert_eq!(told, 404, "{who}, elsewhere: it must not be told of");
            }
        }
    }
}

fn level(needs: Needs) -> Level {
    match needs {
        Project(level) | Anywhere(level) | System(level) => level,
        Nobody | Login => 0,
    }
}

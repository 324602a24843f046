//! What destinations may name of nodes, by whom, and what comes of it for tasks.

use std::collections::BTreeMap;
use std::sync::Mutex;

use http::Method;
use serde_json::{Value, json};
use sluice_catalog::{Catalog, DestinationId, NewTask};
use sluice_node_api::{Client, Finished, Lease, Outcome, Report, Reported, Work};
use tokio::task::JoinHandle;

use crate::support::{Lab, make, on, status};

/// What the node asks for: never for the look at a repository that follows each change of secrets.
const KINDS: [&str; 6] = ["backup", "collect", "prune", "verify", "replicate", "copy"];

/// A server with two projects, and who manages the first.
struct Place {
    lab: Lab,
    admin: Client,
    manager: Client,
    shop: String,
    node: Client,
    /// The node's request for a task that has got none yet.
    asking: Mutex<Option<JoinHandle<Option<Lease>>>>,
}

impl Place {
    async fn new() -> Self {
        let lab = Lab::new().await;
        let admin = lab.administrator().await;
        let shop = make(&admin, "projects", json!({"name": "shop", "spec": {}})).await;
        let manager = lab.user(&admin, "manager", Some(&shop)).await;
        let node = lab.node(&admin, "mover", &KINDS).await;
        Self { lab, admin, manager, shop, node, asking: Mutex::default() }
    }

    /// A destination in the project.
    async fn destination(&self, by: &Client, name: &str, spec: Value) -> Result<String, u16> {
        let body = json!({"project": self.shop, "name": name, "spec": spec});
        let made = by.post::<Value>("/api/v1/destinations", &body).await;
        let made = made.map_err(|error| error.status().unwrap())?;
        Ok(made["id"].as_str().unwrap().to_owned())
    }

    async fn put(&self, by: &Client, id: &str, name: &str, spec: Value) -> u16 {
        let path = format!("/api/v1/destinations/{id}");
        let now: Value = self.admin.get(&path).await.unwrap();
        let tag = format!("\"{}\"", now["revision"]);
        let body = json!({"name": name, "spec": spec});
        status(&by.send(Method::PUT, &path, Some(&body), &[("if-match", &tag)]).await)
    }

    /// Sets secrets, and takes the task away that looks at the repository afterwards.
    async fn secrets(&self, by: &Client, id: &str, secrets: Value) -> u16 {
        let path = format!("/api/v1/destinations/{id}/secrets");
        let told = by.send(Method::PUT, &path, Some(&json!({"secrets": secrets})), &[]).await;
        let waits: Value = self.admin.get("/api/v1/tasks?state=queued").await.unwrap();
        for task in waits["items"].as_array().unwrap() {
            let path = format!("/api/v1/tasks/{}/cancel", task["id"].as_str().unwrap());
            self.admin.send(Method::POST, &path, None, &[]).await.unwrap();
        }
        status(&told)
    }

    /// Starts a task; returns what its node is told, or why it has failed.
    async fn run(&self, by: &Client, start: Value) -> Result<Work, String> {
        let task = make(by, "tasks", start).await;
        self.given(&task).await
    }

    async fn given(&self, task: &str) -> Result<Work, String> {
        let mut asks = self.asking.lock().unwrap().take().unwrap_or_else(|| self.ask());
        let lease = loop {
            let now: Value = self.admin.get(&format!("/api/v1/tasks/{task}")).await.unwrap();
            if now["state"] == "failed" {
                // It goes on asking, for the next task.
                *self.asking.lock().unwrap() = Some(asks);
                return Err(now["message"].as_str().unwrap().to_owned());
            }
            if asks.is_finished() {
                match asks.await.unwrap() {
                    Some(lease) => break lease,
                    None => asks = self.ask(),
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        };
        let outcome = Outcome::Cancelled;
        let finished =
            Finished { outcome, document: json!({}), message: "".into(), retryable: false };
        let finished = Some(finished);
        let report = Report { attempt: lease.attempt, finished, ..Report::default() };
        let path = format!("/api/node/v1/tasks/{task}/report");
        let _: Reported = self.node.post(&path, &report).await.unwrap();
        Ok(lease.work)
    }

    /// Lets the node ask for a task.
    fn ask(&self) -> JoinHandle<Option<Lease>> {
        let node = self.node.clone();
        tokio::spawn(async move { node.post("/api/node/v1/lease", &()).await.unwrap() })
    }

    /// Its database, as another server would have it open.
    async fn catalog(&self) -> Catalog {
        let file = self.lab.folder.path().join("catalog.sqlite");
        Catalog::open(&format!("sqlite:{}", file.display())).await.unwrap()
    }

    /// Makes a destination one that was written when nobody noted by whom.
    async fn forget(&self, id: &str) {
        let catalog = self.catalog().await;
        let mut tx = catalog.begin().await.unwrap();
        tx.trust_destination(id.parse::<DestinationId>().unwrap(), false).await.unwrap();
        tx.commit().await.unwrap();
        catalog.close().await;
    }
}

fn keys() -> Value {
    json!({"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key", "SLUICE_PASSPHRASE": "p"})
}

#[tokio::test]
async fn what_names_anything_of_a_node_is_for_those_who_manage_the_system() {
    let place = Place::new().await;
    let (admin, manager) = (&place.admin, &place.manager);
    let evil = "gcs://bucket?endpoint=https://evil.example";
    let with = |url: &str, name: &str| json!({"url": url, "environment": {name: "/etc/shadow"}});
    for (at, spec) in [
        json!({"url": "/var/lib/sluice/server/repository"}),
        json!({"url": "file:///srv"}),
        json!({"url": "sftp://root@host/srv?key-file=/etc/key&known-hosts=/x"}),
        json!({"url": "s3://bucket?credentials=/etc/shadow"}),
        json!({"url": "s3://bucket?arbiter=/srv"}),
        with(evil, "SLUICE_GCS_TOKEN_FILE"),
        with(evil, "SLUICE_GCS_METADATA"),
        with(evil, "GOOGLE_APPLICATION_CREDENTIALS"),
        with("s3://bucket", "SLUICE_PASSPHRASE_FILE"),
        with("s3://bucket", "SLUICE_CACHE_DIR"),
        with("s3://bucket", "AWS_PROFILE"),
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("d{at}");
        assert_eq!(place.destination(manager, &name, spec.clone()).await, Err(422), "{spec}");
        let made = place.destination(admin, &name, spec.clone()).await;
        let id = made.unwrap_or_else(|code| panic!("{code}: {spec}"));
        // What it says stays trusted while nobody else says anything of that.
        let mut noted = spec.clone();
        noted["description"] = json!("ours");
        assert_eq!(place.put(manager, &id, &name, noted.clone()).await, 200, "{spec}");
        noted["environment"]["AWS_REGION"] = json!("x");
        assert_eq!(place.put(manager, &id, &name, noted).await, 422, "{spec}");
    }
    let spec = json!({"url": "s3://bucket/p?region=eu", "environment": {"AWS_REGION": "eu"}});
    let own = place.destination(manager, "own", spec).await.unwrap();
    assert_eq!(place.put(manager, &own, "own", json!({"url": "/srv"})).await, 422);
    assert_eq!(place.put(manager, &own, "own", json!({"url": "s3://other"})).await, 200);
    assert_eq!(place.secrets(manager, &own, keys()).await, 200);
    let file = json!({"SLUICE_PASSPHRASE_FILE": "/etc/shadow"});
    assert_eq!(place.secrets(manager, &own, file.clone()).await, 422);
    assert_eq!(place.secrets(admin, &own, file.clone()).await, 422, "it is not trusted yet");
    let elsewhere = json!({"OS_AUTH_URL": "https://evil.example"});
    assert_eq!(place.secrets(manager, &own, elsewhere.clone()).await, 200);
    assert_eq!(place.put(admin, &own, "own", json!({"url": "s3://other"})).await, 200);
    assert_eq!(place.secrets(admin, &own, file.clone()).await, 200);
    assert_eq!(
        place.secrets(manager, &own, elsewhere).await,
        422,
        "an administrator has said where"
    );
    // Who manages one destination of the system is none who manages the system.
    let body = json!({"name": "vault", "spec": {"url": "/vault"}});
    let vault = make(admin, "destinations", body).await;
    let grants = json!([on("manager", "destination", &vault)]);
    let otto = place.lab.user_with(admin, "otto", grants).await;
    assert_eq!(place.put(&otto, &vault, "vault", json!({"url": "/etc"})).await, 422);
    assert_eq!(place.secrets(&otto, &vault, file).await, 422);
}

#[tokio::test]
async fn what_was_written_before_works_only_if_a_project_may_write_it() {
    let place = Place::new().await;
    let (admin, manager) = (&place.admin, &place.manager);
    let old = place.destination(admin, "old", json!({"url": "/srv/shop"})).await.unwrap();
    let file = json!({"SLUICE_PASSPHRASE_FILE": "/etc/p", "SLUICE_PASSPHRASE": "p"});
    assert_eq!(place.secrets(admin, &old, file).await, 200);
    let start = json!({"kind": "collect", "destination": old});
    let work = place.run(manager, start.clone()).await.unwrap();
    assert!(!work.no_identity && work.environment.len() == 2);
    place.forget(&old).await;
    let why = place.run(manager, start.clone()).await.unwrap_err();
    assert!(why.contains("a folder of a node") && why.contains("manages the system"), "{why}");
    // Somebody looks at it: what it says counts again, and not what nobody can look at.
    let spec = json!({"url": "/srv/shop", "description": "looked at"});
    assert_eq!(place.put(admin, &old, "old", spec).await, 200);
    let work = place.run(manager, start).await.unwrap();
    assert_eq!(work.environment, BTreeMap::from([("SLUICE_PASSPHRASE".into(), "p".into())]));
    // What a project may write goes on.
    let far = json!({"url": "s3://bucket"});
    let far = place.destination(admin, "far", far).await.unwrap();
    let start = json!({"kind": "collect", "destination": far});
    let work = place.run(manager, start.clone()).await.unwrap();
    assert!(!work.no_identity, "it may use the account of the machine");
    assert_eq!(work.destination, far, "by which its cache is its own");
    place.forget(&far).await;
    let why = place.run(manager, start.clone()).await.unwrap_err();
    assert!(why.contains("AWS_ACCESS_KEY_ID"), "{why}");
    assert_eq!(place.secrets(manager, &far, keys()).await, 200);
    assert!(place.run(manager, start).await.unwrap().no_identity);
}

#[tokio::test]
async fn secrets_do_not_go_where_somebody_else_says() {
    let place = Place::new().await;
    let (admin, manager) = (&place.admin, &place.manager);
    let spec = json!({"url": "swift://store?auth=https://id.example.org"});
    let id = place.destination(admin, "store", spec.clone()).await.unwrap();
    let secrets = json!({"OS_PASSWORD": "hush", "SLUICE_PASSPHRASE": "p"});
    assert_eq!(place.secrets(admin, &id, secrets).await, 200);
    let start = json!({"kind": "verify", "destination": id});
    assert_eq!(place.put(manager, &id, "renamed", spec.clone()).await, 200);
    let work = place.run(manager, start.clone()).await.unwrap();
    assert_eq!(work.environment["OS_PASSWORD"], "hush");
    let spec = json!({"url": "swift://store?auth=https://id.example.org",
        "environment": {"OS_AUTH_URL": "https://evil.example"}});
    assert_eq!(place.put(manager, &id, "renamed", spec).await, 200);
    let work = place.run(manager, start).await.unwrap();
    assert_eq!(work.environment.keys().collect::<Vec<_>>(), ["OS_AUTH_URL"]);
    assert!(work.no_identity);
    let audit: Value = admin.get("/api/v1/audit?limit=1000").await.unwrap();
    assert!(audit.to_string().contains("\"dropped\":[\"OS_PASSWORD\",\"SLUICE_PASSPHRASE\"]"));
}

#[tokio::test]
async fn a_copy_is_known_as_its_machine_only_between_trusted_destinations() {
    let place = Place::new().await;
    let (admin, manager) = (&place.admin, &place.manager);
    let spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
    let web = json!({"project": place.shop, "name": "web", "spec": spec});
    let web = make(admin, "instances", web).await;
    let trusted = place.destination(admin, "a", json!({"url": "/a"})).await.unwrap();
    let other = place.destination(admin, "b", json!({"url": "/b"})).await.unwrap();
    let own = place.destination(manager, "c", json!({"url": "s3://c"})).await.unwrap();
    let copy = |from: &str, to: &str| {
        let mut start = json!({"kind": "copy", "instance": web, "destination": from});
        start["to"] = json!(to);
        start
    };
    assert!(!place.run(manager, copy(&trusted, &other)).await.unwrap().no_identity);
    // Keys of the other one are no keys for this one.
    assert!(place.run(manager, copy(&own, &trusted)).await.unwrap_err().contains("AWS_"));
    assert_eq!(place.secrets(manager, &own, keys()).await, 200);
    assert!(place.run(manager, copy(&own, &trusted)).await.unwrap().no_identity);
    assert!(place.run(manager, copy(&trusted, &own)).await.unwrap().no_identity);
}

#[tokio::test]
async fn a_repository_of_others_is_not_pruned_by_another_name() {
    let place = Place::new().await;
    let (admin, manager) = (&place.admin, &place.manager);
    let own = place.destination(admin, "own", json!({"url": "/srv/./backup/"})).await.unwrap();
    let prune = |id: &str| json!({"kind": "prune", "destination": id, "keep": {"last": 1}});
    let collect = |id: &str| json!({"kind": "collect", "destination": id});
    place.run(manager, prune(&own)).await.unwrap();
    let body = json!({"name": "all", "spec": {"url": "file:///srv/backup"}});
    make(admin, "destinations", body).await;
    for start in [prune(&own), collect(&own)] {
        let told = manager.post::<Value>("/api/v1/tasks", &start).await.unwrap_err();
        assert_eq!((told.status(), told.code()), (Some(403), "shared-repository"));
        place.run(admin, start).await.unwrap();
    }
    // What a project says of itself is in nobody's way.
    let bank = make(admin, "projects", json!({"name": "bank", "spec": {}})).await;
    let banker = place.lab.user(admin, "manager", Some(&bank)).await;
    let spec = json!({"url": "s3://vault/p?endpoint=https://s3.example.org"});
    let body = json!({"project": bank, "name": "claim", "spec": spec});
    make(&banker, "destinations", body).await;
    let vault = place.destination(admin, "vault", spec).await.unwrap();
    place.run(manager, prune(&vault)).await.unwrap();
}

#[tokio::test]
async fn where_a_replica_goes_is_for_those_to_say_who_manage_the_system() {
    let place = Place::new().await;
    let own = place.destination(&place.admin, "own", json!({"url": "/srv/own"})).await.unwrap();
    let start = json!({"kind": "replicate", "destination": own, "to": "/srv/elsewhere"});
    let told = place.manager.post::<Value>("/api/v1/tasks", &start).await.unwrap_err();
    assert_eq!((told.status(), told.code()), (Some(403), "target-not-allowed"));
    place.run(&place.admin, start).await.unwrap();
    // One that waits since an earlier release may be anybody's.
    let catalog = place.catalog().await;
    let mut tx = catalog.begin().await.unwrap();
    let task = NewTask {
        project: Some(place.shop.parse().unwrap()),
        instance: None,
        policy: None,
        destination: Some(own.parse().unwrap()),
        wanted_node: None,
        kind: "replicate".into(),
        priority: 60,
        due_key: None,
        max_attempts: 2,
        not_before_ms: 0,
        spec: json!({"kind": "replicate", "to": "/srv/elsewhere"}),
    };
    let task = tx.add_task(&task, 1).await.unwrap().unwrap();
    tx.commit().await.unwrap();
    catalog.close().await;
    let why = place.given(&task.to_string()).await.unwrap_err();
    assert!(why.contains("starts it again"), "{why}");
}

#[tokio::test]
async fn the_control_plane_is_not_backed_up_where_a_project_says() {
    let place = Place::new().await;
    let own = place.destination(&place.manager, "own", json!({"url": "s3://own"})).await.unwrap();
    let put = async |id: &str| {
        let wanted = json!({"destination": id});
        let path = "/api/v1/self-backup";
        status(&place.admin.send(Method::PUT, path, Some(&wanted), &[]).await)
    };
    assert_eq!(put(&own).await, 409);
    let vault =
        make(&place.admin, "destinations", json!({"name": "vault", "spec": {"url": "/vault"}}));
    assert_eq!(put(&vault.await).await, 200);
}

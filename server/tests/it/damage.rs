//! One record that is damaged, and everything else that goes on.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_catalog::{Catalog, Kind, PolicyId, Project, ProjectId, Sealer, Visible};
use sluice_node_api::{Lease, Outcome};
use zeroize::Zeroizing;

use crate::copies::{end, next};
use crate::retention::Place;
use crate::support::make;

/// What a policy of a later release may say.
#[derive(Serialize, Deserialize)]
struct Later(Value);

impl Kind for Later {
    type Id = PolicyId;
    const TABLE: &'static str = "policies";
    const WORD: &'static str = "policy";
    const SHARED: bool = true;

    fn check(&self) -> sluice_catalog::Result<()> {
        Ok(())
    }
}

/// The server's own catalog, for what no request can do.
async fn catalog(place: &Place) -> Catalog {
    let file = place.lab.folder.path().join("catalog.sqlite");
    Catalog::open(&format!("sqlite:{}", file.display())).await.unwrap()
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    for _ in 0..600 {
        if done().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{what} does not come");
}

#[tokio::test]
async fn an_instance_without_its_project_and_a_policy_of_another_release_stop_no_schedule() {
    let place = Place::new().await;
    let lost = make(&place.admin, "projects", json!({"name": "blog", "spec": {}})).await;
    let spec = json!({"source": {"kind": "device", "path": "/dev/x"}, "tags": ["gold"]});
    let body = json!({"project": lost, "name": "old", "spec": spec});
    let orphan = make(&place.admin, "instances", body).await;
    let catalog = catalog(&place).await;
    let mut tx = catalog.begin().await.unwrap();
    let project: ProjectId = lost.parse().unwrap();
    assert!(tx.get::<Project>(project, &Visible::All).await.is_ok());
    // Without asking whether anything is in it.
    tx.delete::<Project>(project).await.unwrap();
    tx.insert(None, "later", Later(json!({"mood": "good"})), 1).await.unwrap();
    tx.commit().await.unwrap();
    // The policy that has both, and another behind it.
    let when = json!({"kind": "every", "seconds": 1});
    for name in ["first", "second"] {
        let rule = json!({"name": name, "destination": place.destination,
            "schedules": [{"name": "often", "when": when}]});
        let spec = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
        make(&place.admin, "policies", json!({"name": name, "spec": spec})).await;
    }
    let backups = async |policy: usize| {
        let tasks: Value = place.admin.get("/api/v1/tasks").await.unwrap();
        let policies: std::collections::BTreeSet<_> = (tasks["items"].as_array().unwrap().iter())
            .filter(|task| task["kind"] == "backup" && task["instance"] == place.instance.as_str())
            .map(|task| task["policy"].to_string())
            .collect();
        policies.len() >= policy
    };
    until("a backup of both policies", async || backups(2).await).await;
    until("word of the lost instance", async || {
        let missed: Value = place.admin.get("/api/v1/reports/missed").await.unwrap();
        let all = missed["items"].as_array().unwrap();
        all.iter().any(|one| one["reason"] == "broken" && one["instance"] == orphan.as_str())
    })
    .await;
    catalog.close().await;
}

#[tokio::test]
async fn a_policy_that_cannot_be_read_keeps_no_other_from_verifying_new_points() {
    let place = Place::new().await;
    let rule = json!({"name": "main", "destination": place.destination, "schedules": [],
        "verify": [{"name": "all"}]});
    let spec = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    make(&place.admin, "policies", json!({"name": "proven", "spec": spec})).await;
    let start = json!({"kind": "backup", "instance": place.instance,
        "destination": place.destination});
    make(&place.admin, "tasks", start).await;
    let lease = next(&place).await;
    let catalog = catalog(&place).await;
    let mut tx = catalog.begin().await.unwrap();
    tx.insert(None, "later", Later(json!({"mood": "good"})), 1).await.unwrap();
    tx.commit().await.unwrap();
    catalog.close().await;
    let point = json!({"point": "shop.web@k1", "created_ms": 5, "stats": {}});
    end(&place, &lease, Outcome::Succeeded, json!({ "point": point })).await;
    let tasks: Value = place.admin.get("/api/v1/tasks").await.unwrap();
    let mut kinds = tasks["items"].as_array().unwrap().iter().map(|task| &task["kind"]);
    assert!(kinds.any(|kind| kind == "verify"), "{tasks}");
}

#[tokio::test]
async fn a_snapshot_that_cannot_be_read_keeps_no_other_from_being_settled() {
    let place = Place::new().await;
    let source = json!({"kind": "disk-files", "images": [{"path": "/srv/disk.raw"}]});
    let body = json!({"project": place.project, "name": "files", "spec": {"source": source}});
    let instance = make(&place.admin, "instances", body).await;
    // Nobody makes them: once they are cancelled, they are gone.
    let mut made = Vec::new();
    for _ in 0..2 {
        made.push(make(&place.admin, "snapshots", json!({"instance": instance})).await);
    }
    sqlx::any::install_default_drivers();
    let file = place.lab.folder.path().join("catalog.sqlite");
    let pool = sqlx::AnyPool::connect(&format!("sqlite:{}", file.display())).await.unwrap();
    let sql = "UPDATE snapshots SET images = 'odd' WHERE id = $1";
    sqlx::query(sql).bind(made[0].clone()).execute(&pool).await.unwrap();
    let sql = "UPDATE tasks SET state = 'failed' WHERE kind = 'snapshot'";
    sqlx::query(sql).execute(&pool).await.unwrap();
    pool.close().await;
    until("the end of the snapshot that can be read", async || {
        let path = format!("/api/v1/snapshots/{}", made[1]);
        let shown: Value = place.admin.get(&path).await.unwrap();
        shown["state"] == "gone"
    })
    .await;
    let list: Value = place.admin.get("/api/v1/snapshots").await.unwrap();
    assert_eq!(list["unreadable"][0]["id"], made[0].as_str(), "{list}");
}

#[tokio::test]
async fn a_secret_that_cannot_be_opened_fails_its_own_task_only() {
    let place = Place::new().await;
    let body = json!({"name": "sealed", "spec": {"url": "/sealed"}});
    let sealed = make(&place.admin, "destinations", body).await;
    let catalog = catalog(&place).await;
    let mut tx = catalog.begin().await.unwrap();
    let other = Sealer::new(&[7; 32]);
    let secrets = [("SLUICE_PASSPHRASE".to_owned(), Zeroizing::new("x".to_owned()))].into();
    tx.set_secrets(&other, &sealed, &secrets).await.unwrap();
    tx.commit().await.unwrap();
    catalog.close().await;
    let backup = async |to: &str| {
        let start = json!({"kind": "backup", "instance": place.instance, "destination": to});
        make(&place.admin, "tasks", start).await
    };
    let broken = backup(&sealed).await;
    let lease: Option<Lease> = tokio::select! {
        lease = place.mover.post("/api/node/v1/lease", &()) => lease.unwrap(),
        () = until("the end of the one that cannot be told", async || {
            let shown: Value =
                place.admin.get(&format!("/api/v1/tasks/{broken}")).await.unwrap();
            shown["state"] == "failed"
        }) => None,
    };
    assert!(lease.is_none(), "nobody can do it");
    let good = backup(&place.destination).await;
    let lease: Option<Lease> = place.mover.post("/api/node/v1/lease", &()).await.unwrap();
    assert_eq!(lease.unwrap().task, good);
}

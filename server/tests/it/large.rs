//! What nodes tell at size, and what is kept of it.

use serde_json::{Value, json};
use sluice_catalog::{
    Catalog, DestinationId, Held, InstanceId, NewPoint, NewTask, TaskState, Visible,
};
use sluice_node_api::{Client, Finished, Hello, Lease, Outcome, Report, Reported};

use crate::retention::Place;
use crate::support::{Lab, make};

/// Restore points of an instance that is backed up each five minutes, and kept for weeks.
const POINTS: usize = 12_000;
const INSTANCES: usize = 10_000;

/// A node that does these, and nothing else.
async fn mover(lab: &Lab, admin: &Client) -> Client {
    let kinds = ["prune", "stat"].map(str::to_owned).to_vec();
    lab.node_that(admin, "keeper", Hello { kinds, slots: 1, ..Hello::default() }).await
}

/// Takes the next task and reports that it has printed this.
async fn done(node: &Client, kind: &str, document: Value) -> String {
    let lease: Option<Lease> = node.post("/api/node/v1/lease", &()).await.unwrap();
    let lease = lease.unwrap();
    assert_eq!(lease.work.spec.kind(), kind);
    let outcome = Outcome::Succeeded;
    let finished = Some(Finished { outcome, document, message: "".into(), retryable: false });
    let report = Report { attempt: lease.attempt, finished, ..Report::default() };
    assert!(serde_json::to_string(&report).unwrap().len() > 2 << 20);
    let path = format!("/api/node/v1/tasks/{}/report", lease.task);
    let _: Reported = node.post(&path, &report).await.unwrap();
    lease.task
}

async fn catalog(lab: &Lab) -> Catalog {
    let file = lab.folder.path().join("catalog.sqlite");
    Catalog::open(&format!("sqlite:{}", file.display())).await.unwrap()
}

/// Restore points of an instance in the catalog, and what they hold.
async fn fill(catalog: &Catalog, instance: InstanceId, destination: DestinationId) {
    let mut tx = catalog.begin().await.unwrap();
    for number in 0..POINTS {
        let point = NewPoint {
            destination,
            task: None,
            point: format!("shop.web@k{number}"),
            taken_ms: 5,
            image_bytes: 1,
            new_bytes: 1,
            stored_bytes: 1,
        };
        tx.add_point(instance, None, &point, 5).await.unwrap();
    }
    let held = Held {
        instance,
        destination,
        project: None,
        policy: None,
        stored_bytes: 1_000_000,
        front_end_bytes: 1,
        last_good_ms: 5,
    };
    tx.set_held(&held, 5).await.unwrap();
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn documents_at_size_are_heard_followed_and_kept_short() {
    let place = Place::new().await;
    let keeper = mover(&place.lab, &place.admin).await;
    let (instance, destination) =
        (place.instance.parse().unwrap(), place.destination.parse().unwrap());
    let catalog = catalog(&place.lab).await;
    fill(&catalog, instance, destination).await;

    let start = json!({"kind": "prune", "destination": place.destination, "keep": {"last": 3}});
    let prune = make(&place.admin, "tasks", start).await;
    let point = |number: usize| {
        json!({
            "point": format!("shop.web@k{number}"), "id": format!("k{number}"),
            "instance": "shop.web", "created": "2026-11-01T03:00:00Z", "keep": number < 3,
            "reasons": ["keep-last", "keep-hourly", "keep-daily", "keep-monthly"],
            "retain_until": "2027-11-01T03:00:00Z"
        })
    };
    let points: Vec<Value> = (0..POINTS).map(point).collect();
    let document = json!({"kept": 3, "removed": POINTS - 3, "points": points});
    assert_eq!(done(&keeper, "prune", document).await, prune);
    let left: Value = place.admin.get("/api/v1/points?limit=1000").await.unwrap();
    assert_eq!(left["items"].as_array().unwrap().len(), 3);
    let shown: Value = place.admin.get(&format!("/api/v1/tasks/{prune}")).await.unwrap();
    let kept = json!({"kept": 3, "removed": POINTS - 3, "points": POINTS});
    assert_eq!((&shown["state"], &shown["result"]), (&json!("succeeded"), &kept));

    // What the points that are gone have freed is counted.
    let row = |number: usize| {
        let name = if number == 7 { "shop.web".to_owned() } else { format!("shop.n{number}") };
        json!({
            "instance": name, "project": "shop", "points": 365, "logical_bytes": 10_000_000_000u64,
            "latest_bytes": 10_000_000_000u64, "data_bytes": 10_000_000_000u64,
            "content_bytes": 10_000_000_000u64, "unique_bytes": 5, "shared_bytes": 6,
            "stored_bytes": 11, "chunks": {"unique_bytes": 5, "shared_bytes": 6},
            "maps": {"unique_bytes": 5, "shared_bytes": 6}, "damaged": 0
        })
    };
    let rows: Vec<Value> = (0..INSTANCES).map(row).collect();
    done(&keeper, "stat", json!({"damaged_points": 0, "by_instance": rows})).await;
    let held = catalog.read().await.unwrap().held_at(instance, destination).await.unwrap();
    assert_eq!(held.unwrap().stored_bytes, 11);

    let listed: Value = place.admin.get("/api/v1/tasks?limit=1000").await.unwrap();
    let items = listed["items"].as_array().unwrap();
    assert!(items.len() >= 2 && items.iter().all(|task| task["result"].is_null()), "{listed}");
}

#[tokio::test]
async fn history_ends_after_its_days_and_what_is_young_stays() {
    let place = Place::new().await;
    let rules: Value = place.admin.get("/api/v1/limits").await.unwrap();
    assert_eq!(rules["history_days"], 400);
    let node = mover(&place.lab, &place.admin).await;
    drop(node);
    let nodes: Value = place.admin.get("/api/v1/nodes").await.unwrap();
    let node = nodes["items"][0]["id"].as_str().unwrap().parse().unwrap();
    let catalog = catalog(&place.lab).await;
    let day = 86_400_000;
    let now: Value =
        place.admin.get(&format!("/api/v1/instances/{}", place.instance)).await.unwrap();
    let now = now["created_ms"].as_u64().unwrap();
    let mut ids = Vec::new();
    let mut tx = catalog.begin().await.unwrap();
    for days in [401, 399] {
        let at = now - days * day;
        let task = NewTask {
            project: None,
            instance: Some(place.instance.parse().unwrap()),
            policy: None,
            destination: None,
            wanted_node: None,
            kind: "backup".into(),
            priority: 50,
            due_key: None,
            max_attempts: 1,
            not_before_ms: 0,
            spec: json!({}),
        };
        let id = tx.add_task(&task, at).await.unwrap().unwrap();
        tx.lease(id, node, at, at).await.unwrap().unwrap();
        tx.log(id, 1, &[("info".to_owned(), "read".to_owned())], at).await.unwrap();
        let done = TaskState::Succeeded;
        tx.finish((id, node, 1), done, &json!({}), "", None, at).await.unwrap();
        ids.push(id);
    }
    tx.commit().await.unwrap();
    let folder = place.lab.stop().await;
    // It is looked at the start, too.
    let lab = Lab::start(folder, std::time::Duration::from_secs(60)).await;
    loop {
        let gone = catalog.read().await.unwrap().task(ids[0], &Visible::All).await.is_err();
        if gone {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let mut tx = catalog.read().await.unwrap();
    assert!(tx.task(ids[1], &Visible::All).await.is_ok());
    assert!(tx.log_lines(ids[0], 0, 10).await.unwrap().is_empty());
    assert_eq!(tx.log_lines(ids[1], 0, 10).await.unwrap().len(), 1);
    drop(lab);
}

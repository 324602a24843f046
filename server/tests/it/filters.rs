//! What lists are filtered by, and what of them cannot be read.

use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_catalog::{Catalog, InstanceId, Kind};
use sluice_node_api::Client;

use crate::retention::Place;
use crate::support::{finish, make, status};

/// The names, or the ids, of what is listed.
async fn listed(client: &Client, path: &str) -> Vec<String> {
    let list: Value = client.get(&format!("/api/v1/{path}")).await.unwrap();
    let items = list["items"].as_array().unwrap();
    let word = |item: &Value| item["name"].as_str().or(item["id"].as_str()).unwrap().to_owned();
    items.iter().map(word).collect()
}

#[tokio::test]
async fn records_are_filtered_by_what_they_say() {
    let place = Place::new().await;
    let (admin, shop) = (&place.admin, &place.project);
    let blog = make(admin, "projects", json!({"name": "blog", "spec": {}})).await;
    let source = json!({"kind": "device", "path": "/dev/x"});
    for (project, name, spec) in [
        (shop, "db-1", json!({"source": source, "tags": ["gold"], "cluster": "c1"})),
        (shop, "db-2", json!({"source": source, "tags": ["gol\"d"], "paused": true})),
        (&blog, "db-3", json!({"source": source, "tags": ["gold"], "present": false})),
    ] {
        make(admin, "instances", json!({"project": project, "name": name, "spec": spec})).await;
    }
    let rule = json!({"name": "r", "destination": place.destination, "schedules": []});
    let spec = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    let policy = make(admin, "policies", json!({"name": "daily", "spec": spec})).await;
    let spec = json!({"rules": [], "paused": true});
    make(admin, "policies", json!({"name": "other", "spec": spec})).await;
    let (shop, destination) = (shop.as_str(), place.destination.as_str());
    for (path, wanted) in [
        ("instances?name=db-*".to_owned(), "db-1 db-2 db-3"),
        ("instances?name=db-?&tag=gold".to_owned(), "db-1 db-3"),
        ("instances?tag=gol%22d".to_owned(), "db-2"),
        (format!("instances?project={shop}&name=db-*"), "db-1 db-2"),
        ("instances?cluster=c1".to_owned(), "db-1"),
        ("instances?name=db-*&paused=false".to_owned(), "db-1 db-3"),
        ("instances?paused=true".to_owned(), "db-2"),
        ("instances?present=false&source=device".to_owned(), "db-3"),
        (format!("instances?policy={policy}"), "web db-1 db-3"),
        (format!("policies?destination={destination}"), "daily"),
        ("policies?paused=true".to_owned(), "other"),
        ("projects?name=b*".to_owned(), "blog"),
        ("destinations?scheme=s3".to_owned(), ""),
        ("nodes?state=draining".to_owned(), ""),
    ] {
        assert_eq!(listed(admin, &path).await.join(" "), wanted, "{path}");
    }
    // Somebody of one project finds nothing of another, and knows of no policy of another.
    let anna = place.lab.user(admin, "viewer", Some(shop)).await;
    assert_eq!(listed(&anna, "instances?tag=gold").await, ["web", "db-1"]);
    assert!(listed(&anna, &format!("instances?project={blog}")).await.is_empty());
    let hidden = json!({"project": blog, "name": "hidden", "spec": {"rules": []}});
    let hidden = make(admin, "policies", hidden).await;
    let told = anna.get::<Value>(&format!("/api/v1/instances?policy={hidden}")).await;
    assert_eq!(status(&told), 404);
}

#[tokio::test]
async fn what_was_done_is_filtered_by_what_it_was_done_to_and_when() {
    let place = Place::new().await;
    let admin = &place.admin;
    let (instance, destination) = (place.instance.as_str(), place.destination.as_str());
    let start = json!({"kind": "backup", "instance": instance, "destination": destination});
    let first = make(admin, "tasks", start.clone()).await;
    finish(&place.mover, &first, "shop.web@a").await;
    let second = make(admin, "tasks", start).await;
    let task: Value = admin.get(&format!("/api/v1/tasks/{second}")).await.unwrap();
    let (project, at) = (&place.project, task["created_ms"].as_u64().unwrap());
    for (path, wanted) in [
        ("tasks?kind=backup&state=succeeded".to_owned(), vec![&first]),
        (format!("tasks?destination={destination}&kind=backup"), vec![&second, &first]),
        (format!("tasks?project={project}&order=oldest&kind=backup"), vec![&first, &second]),
        (format!("tasks?since_ms={at}&instance={instance}"), vec![&second]),
        (format!("tasks?until_ms={at}&instance={instance}"), vec![&first]),
        ("tasks?kind=restore".to_owned(), vec![]),
    ] {
        let found = listed(admin, &path).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), wanted, "{path}");
    }
    for (path, many) in [
        (format!("points?destination={destination}"), 1),
        (format!("points?project={project}&since_ms=5&until_ms=6&order=newest"), 1),
        ("points?since_ms=6".to_owned(), 0),
        (format!("mounts?destination={destination}&order=oldest"), 0),
        ("restore-tests?since_ms=1".to_owned(), 0),
        ("plan-runs?mode=test".to_owned(), 0),
        ("approvals?requester=admin".to_owned(), 0),
        ("audit?action=task.*&actor=admin&order=newest".to_owned(), 2),
        (format!("audit?object={second}"), 1),
        (format!("audit?action=task.start&since_ms={at}"), 1),
        ("reports/missed?reason=too-late".to_owned(), 0),
    ] {
        let list: Value = admin.get(&format!("/api/v1/{path}")).await.unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), many, "{path}");
    }
}

#[tokio::test]
async fn a_word_that_is_longer_than_any_that_records_say_is_refused() {
    let place = Place::new().await;
    // Documents write each of these signs with six.
    let long = "%01".repeat(9_000);
    for name in ["tag", "cluster", "source"] {
        let path = format!("/api/v1/instances?{name}={long}");
        let told = place.admin.send(Method::GET, &path, None, &[]).await;
        assert_eq!(status(&told), 422, "{name}");
    }
    // Names are sought as they are.
    for path in ["instances?name=", "users?login=", "groups?name=", "audit?action="] {
        let path = format!("/api/v1/{path}{}*", "%25".repeat(16_000));
        let told = place.admin.send(Method::GET, &path, None, &[]).await;
        assert_eq!(status(&told), 200, "{}", &path[..30]);
    }
}

#[tokio::test]
async fn a_filter_that_nobody_knows_is_refused_and_the_known_ones_are_named() {
    let place = Place::new().await;
    for (path, names) in [
        ("tasks?statte=failed", "state, instance, kind, "),
        ("instances?tags=gold", "name, project, tag, "),
        ("projects?project=x", "name, after, limit"),
        ("users?name=x", "login, after, limit"),
        ("usage?since_ms=1", "from_ms, until_ms, "),
    ] {
        let told = place.admin.send(Method::GET, &format!("/api/v1/{path}"), None, &[]).await;
        assert_eq!(status(&told), 400, "{path}");
        let error = told.unwrap_err();
        assert_eq!(error.code(), "bad-query");
        assert!(error.to_string().contains(names), "{path}: {error}");
    }
    for (path, code) in [
        ("tasks?state=odd", 400),
        ("tasks?kind=%00", 400),
        ("tasks?since_ms=2&until_ms=1", 422),
        ("points?order=newest&after=x", 422),
        ("instances?node=x", 400),
        ("instances?paused=maybe", 400),
        ("instances?name=a&name=b", 400),
    ] {
        let told = place.admin.get::<Value>(&format!("/api/v1/{path}")).await;
        assert_eq!(status(&told), code, "{path}");
    }
}

/// What an instance of a later release may say.
#[derive(Serialize, Deserialize)]
pub struct Later(pub Value);

impl Kind for Later {
    type Id = InstanceId;
    const TABLE: &'static str = "instances";
    const WORD: &'static str = "instance";
    const SHARED: bool = false;

    fn check(&self) -> sluice_catalog::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn one_record_that_cannot_be_read_is_told_and_the_others_are_listed() {
    let place = Place::new().await;
    let file = place.lab.folder.path().join("catalog.sqlite");
    let catalog = Catalog::open(&format!("sqlite:{}", file.display())).await.unwrap();
    let mut tx = catalog.begin().await.unwrap();
    let project = place.project.parse().unwrap();
    let later = Later(json!({"mood": "good"}));
    let odd = tx.insert(Some(project), "later", later, 1).await.unwrap().id.to_string();
    tx.commit().await.unwrap();
    catalog.close().await;
    let list: Value = place.admin.get("/api/v1/instances").await.unwrap();
    let named = |list: &Value| -> Vec<String> {
        let items = list.as_array().unwrap();
        items.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(named(&list["items"]), ["web"]);
    assert_eq!(named(&list["unreadable"]), ["later"]);
    assert_eq!(list["unreadable"][0]["id"], odd.as_str());
    assert!(list["unreadable"][0]["why"].as_str().unwrap().contains("unreadable"));
    // What counts all of them goes on too.
    for path in ["reports/protection", "usage?by=instance", "dashboard", "reports/sla"] {
        let _: Value = place.admin.get(&format!("/api/v1/{path}")).await.unwrap();
    }
    let told = place.admin.get::<Value>(&format!("/api/v1/instances/{odd}")).await;
    assert_eq!(status(&told), 500);
}

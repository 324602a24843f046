//! Restore points that become instances: who may, and what becomes of the record.

use http::Method;
use serde_json::{Value, json};
use sluice_node_api::{Client, Finished, Lease, Outcome, Report, Reported, TaskSpec};

use crate::support::{Lab, finish, make, status};

/// A restore point of `shop/web`, which a node has made that imports, too: node, project, point,
/// and the node's id.
async fn backed_up(lab: &Lab, admin: &Client) -> (Client, String, String, String) {
    let node = lab.node(admin, "mover", &["backup", "import", "unimport"]).await;
    let spec = json!({"import_folders": ["/srv/{project}/new"]});
    make(admin, "node-configs", json!({"name": "default", "spec": spec})).await;
    let project = make(admin, "projects", json!({"name": "shop", "spec": {}})).await;
    let spec = json!({"source": {"kind": "device", "path": "/dev/x"}});
    let body = json!({"project": project, "name": "web", "spec": spec});
    let instance = make(admin, "instances", body).await;
    let spec = json!({"url": "/b"});
    let destination = make(admin, "destinations", json!({"name": "s", "spec": spec})).await;
    let start = json!({"kind": "backup", "instance": instance, "destination": destination});
    let task = make(admin, "tasks", start).await;
    finish(&node, &task, "shop.web@k3").await;
    let points: Value = admin.get("/api/v1/points").await.unwrap();
    let nodes: Value = admin.get("/api/v1/nodes").await.unwrap();
    let id = |list: &Value| list["items"][0]["id"].as_str().unwrap().to_owned();
    (node, project, id(&points), id(&nodes))
}

async fn end(node: &Client, lease: &Lease, outcome: Outcome) {
    let (document, message) = (json!({}), "as the node says".to_owned());
    let finished = Some(Finished { outcome, document, message, retryable: false });
    let report = Report { attempt: lease.attempt, finished, ..Report::default() };
    let path = format!("/api/node/v1/tasks/{}/report", lease.task);
    let _: Reported = node.post(&path, &report).await.unwrap();
}

async fn lease(node: &Client) -> Lease {
    node.post::<Option<Lease>>("/api/node/v1/lease", &()).await.unwrap().unwrap()
}

async fn named(admin: &Client, name: &str) -> Option<Value> {
    let all: Value = admin.get("/api/v1/instances").await.unwrap();
    all["items"].as_array().unwrap().iter().find(|one| one["name"] == name).cloned()
}

#[tokio::test]
async fn an_instance_is_there_when_its_images_are_and_gone_when_they_are_not() {
    let lab = Lab::new().await;
    let admin = lab.administrator().await;
    let (node, project, point, id) = backed_up(&lab, &admin).await;
    let start = |name: &str| {
        json!({"kind": "import", "point": point, "node": id, "name": name, "format": "qcow2",
            "tags": ["gold"]})
    };
    let manager = lab.user(&admin, "manager", Some(&project)).await;
    let operator = lab.user(&admin, "operator", Some(&project)).await;
    let told = operator.post::<Value>("/api/v1/tasks", &start("copy")).await;
    assert_eq!(status(&told), 403, "it makes an instance");
    make(&manager, "tasks", start("copy")).await;
    let absent = named(&admin, "copy").await.unwrap();
    assert_eq!(
        (&absent["spec"]["present"], &absent["spec"]["paused"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(status(&manager.post::<Value>("/api/v1/tasks", &start("copy")).await), 409);
    let order = lease(&node).await;
    let TaskSpec::Import { point: of, import, format } = &order.work.spec else { panic!() };
    assert_eq!((&**of, format.as_deref()), ("shop.web@k3", Some("qcow2")));
    assert_eq!((&*import.folder, &*import.name), ("/srv/shop/new", "copy"));
    end(&node, &order, Outcome::Succeeded).await;
    let there = loop {
        let now = named(&admin, "copy").await.unwrap();
        if now["spec"]["present"] == true {
            break now;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    };
    assert_eq!(there["spec"]["source"], json!({"kind": "folder", "path": "/srv/shop/new/copy"}));
    assert_eq!((&there["spec"]["tags"], &there["spec"]["node"]), (&json!(["gold"]), &json!(id)));

    // One that fails leaves neither a record nor files.
    make(&manager, "tasks", start("late")).await;
    let order = lease(&node).await;
    end(&node, &order, Outcome::Failed).await;
    let removes = lease(&node).await;
    assert!(matches!(&removes.work.spec, TaskSpec::Unimport { import } if import.name == "late"));
    assert!(named(&admin, "late").await.is_none());
    end(&node, &removes, Outcome::Succeeded).await;

    // One that something needs stays, and one that somebody has given another source.
    let needed = make(&manager, "tasks", start("needed")).await;
    let record = named(&admin, "needed").await.unwrap();
    let item = json!({"instance": record["id"], "target": {"kind": "boot-test"}});
    let spec = json!({"groups": [{"name": "g", "items": [item]}]});
    make(&manager, "plans", json!({"project": project, "name": "p", "spec": spec})).await;
    let order = lease(&node).await;
    assert_eq!(order.task, needed);
    end(&node, &order, Outcome::Failed).await;
    let removes = lease(&node).await;
    assert_eq!(removes.work.spec.kind(), "unimport");
    end(&node, &removes, Outcome::Succeeded).await;
    let left = named(&admin, "needed").await.unwrap();
    let (present, paused) = (&left["spec"]["present"], &left["spec"]["paused"]);
    assert_eq!((present, paused), (&json!(false), &json!(true)));
    make(&manager, "tasks", start("theirs")).await;
    let mut record = named(&admin, "theirs").await.unwrap();
    record["spec"]["source"] = json!({"kind": "device", "path": "/dev/y"});
    record["spec"]["present"] = true.into();
    let body = json!({"name": "theirs", "spec": record["spec"]});
    let path = format!("/api/v1/instances/{}", record["id"].as_str().unwrap());
    let based = [("if-match", "\"1\"")];
    admin.send(Method::PUT, &path, Some(&body), &based).await.unwrap();
    let order = lease(&node).await;
    end(&node, &order, Outcome::Failed).await;
    let removes = lease(&node).await;
    end(&node, &removes, Outcome::Succeeded).await;
    let left = named(&admin, "theirs").await.unwrap();
    assert_eq!(left["spec"], record["spec"]);
    let audit: Value = admin.get("/api/v1/audit?action=instance.import-failed").await.unwrap();
    assert_eq!(audit["items"].as_array().unwrap().len(), 2, "{audit}");

    // Nobody has begun it: there is nothing to remove.
    let task = make(&manager, "tasks", start("never")).await;
    let path = format!("/api/v1/tasks/{task}/cancel");
    manager.send(Method::POST, &path, None, &[]).await.unwrap();
    while named(&admin, "never").await.is_some() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let told = manager.post::<Value>("/api/v1/tasks", &start(".hidden")).await;
    assert_eq!(status(&told), 422);
    let mut tagged = start("tagged");
    tagged["tags"] = json!([""]);
    assert_eq!(status(&manager.post::<Value>("/api/v1/tasks", &tagged).await), 422);

    // It is read where it was put, and nowhere else.
    let stores: Value = admin.get("/api/v1/destinations").await.unwrap();
    let copy = json!({"kind": "backup", "instance": there["id"],
        "destination": stores["items"][0]["id"]});
    make(&admin, "tasks", copy).await;
    let order = lease(&node).await;
    assert_eq!(order.work.folders, [["/srv/shop/new"]]);
    end(&node, &order, Outcome::Failed).await;

    // It counts as a restore: two have begun.
    let quota = json!({"project": {"restores": {"hard": 2, "window": "1h"}}});
    let path = format!("/api/v1/projects/{project}/quota");
    admin.send(Method::PUT, &path, Some(&quota), &[]).await.unwrap();
    let told = manager.post::<Value>("/api/v1/tasks", &start("more")).await;
    assert_eq!(status(&told), 409);
    assert!(named(&admin, "more").await.is_none(), "nothing of it stays");
}

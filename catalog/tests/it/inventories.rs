//! Inventories, and what they have found.

use serde_json::json;
use sluice_catalog::{
    Finding, Instance, InstanceId, Inventory, InventoryId, Looked, NewTask, Page, Project,
    ProjectId, Source, TaskId, Tx, Visible,
};

use crate::records::instance;
use crate::support::{Lab, on_both};

on_both! {
    what_was_found_is_known_until_its_instance_or_its_inventory_is_gone
    looks_and_marks_are_remembered
    a_look_that_waits_or_runs_is_known
}

async fn images(tx: &mut Tx) -> (ProjectId, InventoryId) {
    let shop = tx.insert(None, "shop", Project::default(), 1).await.unwrap().id;
    let body: Inventory =
        serde_json::from_value(json!({"look": {"kind": "files", "folder": "/srv"}})).unwrap();
    (shop, tx.insert(Some(shop), "images", body, 1).await.unwrap().id)
}

fn found(instance: InstanceId, inventory: InventoryId, place: &str) -> Finding {
    Finding {
        instance,
        inventory,
        place: place.into(),
        source: Source::Device { path: place.into() },
        identity: "7".into(),
        format: "raw".into(),
        size_bytes: 1 << 40,
        gone_ms: None,
    }
}

async fn what_was_found_is_known_until_its_instance_or_its_inventory_is_gone(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let (shop, images) = images(&mut tx).await;
    let mut ids = Vec::new();
    for name in ["c", "a", "b"] {
        let id = tx.insert(Some(shop), name, instance(&[]), 1).await.unwrap().id;
        tx.set_found(&found(id, images, &format!("/srv/{name}"))).await.unwrap();
        ids.push(id);
    }
    let first = Page { after: None, limit: 2 };
    let places = |found: Vec<Finding>| -> Vec<String> {
        found.into_iter().map(|found| found.place).collect()
    };
    assert_eq!(places(tx.found(images, &first).await.unwrap()), ["/srv/a", "/srv/b"]);
    let next = Page { after: Some("/srv/b".into()), limit: 2 };
    assert_eq!(places(tx.found(images, &next).await.unwrap()), ["/srv/c"]);
    let gone = Finding { gone_ms: Some(50), ..found(ids[0], images, "/srv/c") };
    tx.set_found(&gone).await.unwrap();
    assert_eq!(tx.gone_since(50).await.unwrap().items, [gone]);
    assert!(tx.gone_since(51).await.unwrap().items.is_empty());
    assert!(tx.gone_since(0).await.unwrap().items.len() == 1, "what is there is not gone");
    tx.delete::<Instance>(ids[1]).await.unwrap();
    tx.forget_found(ids[2]).await.unwrap();
    assert_eq!(places(tx.found(images, &Page::default()).await.unwrap()), ["/srv/c"]);
    let project = tx.get::<Project>(shop, &Visible::All).await.unwrap();
    assert!(tx.refuse_if_used(&project, &Visible::All).await.is_err());
    tx.delete::<Inventory>(images).await.unwrap();
    assert!(tx.found(images, &Page::default()).await.unwrap().is_empty());
    assert!(tx.get::<Instance>(ids[0], &Visible::All).await.is_ok(), "it stays");
    tx.commit().await.unwrap();
}

async fn looks_and_marks_are_remembered(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let (_, images) = images(&mut tx).await;
    assert!(tx.looked(images).await.unwrap().is_none());
    for held in [0, 10, 3] {
        let mounts = ["/srv/nfs".to_owned()].into();
        let looked = Looked { task: Some(TaskId::new(1)), held, mounts, ..Looked::default() };
        tx.set_looked(images, &looked).await.unwrap();
        assert_eq!(tx.looked(images).await.unwrap(), Some(looked.clone()));
        let told = tx.held_looks().await.unwrap().items;
        assert_eq!(told, if held > 0 { vec![(images, looked)] } else { vec![] });
    }
    assert!(tx.move_mark::<Inventory>(images, "nightly", None, 9).await.unwrap());
    tx.delete::<Inventory>(images).await.unwrap();
    assert!(tx.marks::<Inventory>().await.unwrap().is_empty());
}

async fn a_look_that_waits_or_runs_is_known(lab: Lab) {
    let mut tx = lab.catalog.begin().await.unwrap();
    let (shop, images) = images(&mut tx).await;
    assert!(!tx.is_looked_through(images, false).await.unwrap());
    let mut task = NewTask {
        project: Some(shop),
        instance: None,
        policy: None,
        destination: None,
        wanted_node: None,
        kind: "inventory".into(),
        priority: 50,
        due_key: None,
        max_attempts: 1,
        not_before_ms: 0,
        spec: json!({"kind": "inventory", "look": {"inventory": images}}),
    };
    let id = tx.add_task(&task, 1).await.unwrap().unwrap();
    assert!(tx.is_looked_through(images, true).await.unwrap());
    assert!(!tx.is_looked_through(InventoryId::new(1), false).await.unwrap());
    tx.cancel(id, 2).await.unwrap();
    assert!(!tx.is_looked_through(images, false).await.unwrap());
    // A dry run is not what notes what is there.
    task.spec["dry_run"] = json!(true);
    tx.add_task(&task, 3).await.unwrap().unwrap();
    assert!(tx.is_looked_through(images, false).await.unwrap());
    assert!(!tx.is_looked_through(images, true).await.unwrap());
}

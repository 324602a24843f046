//! Retention that waits for events, as nodes and clients see it.

use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use sluice_catalog::{Catalog, Visible};
use sluice_node_api::{EVENTS, Lease, Outcome, TaskSpec};

use crate::copies::{back_up, copy, end, next, place, points, vault};
use crate::filters::Later;
use crate::retention::Place;
use crate::support::{Lab, make, status};

const DAY_MS: u64 = 86_400_000;

/// A policy that keeps this at the destination.
async fn policy(place: &Place, keep: Value) -> String {
    let rule = json!({"name": "main", "destination": place.destination, "keep": keep,
        "schedules": []});
    let spec = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    make(&place.admin, "policies", json!({"name": "contracts", "spec": spec})).await
}

async fn tell(place: &Place, event: Value) -> Value {
    place.admin.post("/api/v1/retention-events", &event).await.unwrap()
}

/// Tasks of a kind, oldest last.
async fn tasks(place: &Place, kind: &str) -> Vec<Value> {
    let all: Value = place.admin.get("/api/v1/tasks").await.unwrap();
    let items = all["items"].as_array().unwrap().clone();
    items.into_iter().filter(|task| task["kind"] == kind).collect()
}

fn pruned(lease: &Lease) -> (Value, Value) {
    let TaskSpec::Prune { keep, until, .. } = &lease.work.spec else { panic!("a prune") };
    (json!(keep), json!(until))
}

#[tokio::test]
async fn everything_is_kept_until_the_event_and_pruned_when_the_time_after_it_is_over() {
    let place = place().await;
    policy(&place, json!({"daily": 3, "after_event": {"sold": 30}})).await;
    back_up(&place, "shop.web@k1", 5).await;
    let point = points(&place).await.remove(0);
    assert_eq!(point["events"][0]["event"], "sold", "{point}");
    assert_eq!(
        (&point["events"][0]["days"], &point["events"][0]["until_ms"]),
        (&json!(30), &Value::Null)
    );

    // It happened, and the thirty days are not over: nothing is to be pruned by itself.
    let now: Value = place.admin.get("/api/v1/dashboard").await.unwrap();
    let now = now["now_ms"].as_u64().unwrap();
    let of = json!({"instance": place.instance, "event": "sold", "at_ms": now - DAY_MS});
    let told = tell(&place, of).await;
    let kept = points(&place).await.remove(0)["events"][0]["until_ms"].clone();
    assert_eq!(kept, now + 29 * DAY_MS);
    assert!(tasks(&place, "prune").await.is_empty());
    // Heard of twice, the later time counts.
    let earlier = json!({"instance": place.instance, "event": "sold", "at_ms": now - 90 * DAY_MS});
    assert_eq!(tell(&place, earlier.clone()).await["at_ms"], now - DAY_MS);

    // Taken back, it is waited for again; then it is told anew, and the time is over.
    let path = format!("/api/v1/retention-events/{}", told["id"].as_str().unwrap());
    place.admin.send(Method::DELETE, &path, None, &[]).await.unwrap();
    assert_eq!(points(&place).await[0]["events"][0]["until_ms"], Value::Null);
    tell(&place, earlier).await;
    let lease = next(&place).await;
    let (keep, until) = pruned(&lease);
    assert_eq!(keep, json!({"daily": 3, EVENTS: 1}));
    assert_eq!(until, json!({"all_ms": now - 60 * DAY_MS, "points_ms": {}}));
    end(&place, &lease, Outcome::Succeeded, json!({"points": []})).await;
    let all: Value = place.admin.get("/api/v1/retention-events").await.unwrap();
    assert_eq!(all["items"].as_array().unwrap().len(), 1);
    let audit: Value = place.admin.get("/api/v1/audit?limit=1000").await.unwrap();
    let actions = audit["items"].as_array().unwrap().iter().map(|row| &row["action"]);
    let actions: Vec<&Value> = actions.collect();
    assert!(actions.contains(&&json!("retention-event.set")), "{actions:?}");
    assert!(actions.contains(&&json!("retention-event.remove")), "{actions:?}");
}

#[tokio::test]
async fn an_event_of_one_restore_point_is_one_of_its_copies_and_of_no_other() {
    let place = place().await;
    let keep = json!({"last": 1, "after_event": {"sold": 30}});
    let far = vault(&place, json!({"keep": keep})).await;
    back_up(&place, "shop.web@k1", 5).await;
    let lease = next(&place).await;
    let TaskSpec::Copy { keep, .. } = &lease.work.spec else { panic!("a copy") };
    assert!(keep.is_empty(), "the copy takes all: {keep:?}");
    let copies = json!([copy("shop.web@v1", "shop.web@k1", 5)]);
    end(&place, &lease, Outcome::Succeeded, json!({"bytes": 1, "copies": copies})).await;
    // What is kept there is judged behind it.
    let lease = next(&place).await;
    assert_eq!(lease.work.url, "/vault");
    assert_eq!(pruned(&lease).1, json!({"all_ms": null, "points_ms": {}}));
    end(&place, &lease, Outcome::Succeeded, json!({"points": []})).await;

    let both = points(&place).await;
    let of_copy = both.iter().find(|point| point["destination"] == json!(far)).unwrap();
    let told = tell(&place, json!({"point": of_copy["id"], "event": "sold", "at_ms": 0})).await;
    assert_eq!(told["point"], of_copy["copy_of"], "it is one of the original");
    let lease = next(&place).await;
    let named = json!({"shop.web@k1": 30 * DAY_MS, "shop.web@v1": 30 * DAY_MS});
    assert_eq!(pruned(&lease).1, json!({"all_ms": null, "points_ms": named}));
    end(&place, &lease, Outcome::Succeeded, json!({"points": []})).await;
    let shown = points(&place).await;
    let until = |at: &str| {
        let point = shown.iter().find(|point| point["point"] == at).unwrap();
        point["events"].clone()
    };
    assert_eq!(until("shop.web@v1")[0]["until_ms"], 30 * DAY_MS);
    assert_eq!(until("shop.web@k1"), json!([]), "nobody asks for that at the first place");
}

#[tokio::test]
async fn an_event_is_of_an_instance_or_a_point_and_policies_have_names_for_it() {
    let place = place().await;
    for bad in [
        json!({"event": "sold"}),
        json!({"event": "", "instance": place.instance}),
        json!({"event": "sold", "instance": place.instance, "point": place.instance}),
    ] {
        let answer = place.admin.send(Method::POST, "/api/v1/retention-events", Some(&bad), &[]);
        assert_eq!(status(&answer.await), 422, "{bad}");
    }
    for bad in [json!({"sold": 0}), json!({"": 5}), json!({"sold": 99_999})] {
        let rule = json!({"name": "main", "destination": place.destination, "schedules": [],
            "keep": {"after_event": bad}});
        let body = json!({"name": "odd", "spec": {"rules": [rule]}});
        let answer = place.admin.send(Method::POST, "/api/v1/policies", Some(&body), &[]).await;
        assert_eq!(status(&answer), 422, "{bad}");
    }
}

#[tokio::test]
async fn an_event_waits_for_a_second_person_where_shorter_retention_does() {
    let place = place().await;
    policy(&place, json!({"after_event": {"sold": 30}})).await;
    let rules = json!({"approvals": {"actions": ["shorten-retention"]}});
    place.admin.send(Method::PUT, "/api/v1/access-rules", Some(&rules), &[]).await.unwrap();
    let event = json!({"instance": place.instance, "event": "sold", "at_ms": 0});
    let path = "/api/v1/retention-events";
    let answer = place.admin.send(Method::POST, path, Some(&event), &[]).await.unwrap();
    assert_eq!((answer.status, &answer.body["action"]), (202, &json!("shorten-retention")));
    let none: Value = place.admin.get(path).await.unwrap();
    assert_eq!(none["items"], json!([]));
}

#[tokio::test]
async fn events_are_filtered_by_what_the_list_knows_and_by_nothing_else() {
    let place = place().await;
    back_up(&place, "shop.web@k1", 5).await;
    for event in ["sold", "over"] {
        tell(&place, json!({"instance": place.instance, "event": event, "at_ms": 1})).await;
    }
    let blog = make(&place.admin, "projects", json!({"name": "blog", "spec": {}})).await;
    let (instance, shop) = (&place.instance, &place.project);
    for (filter, many) in [
        ("event=sold".to_owned(), 1),
        ("event=lost".to_owned(), 0),
        (format!("project={shop}&instance={instance}"), 2),
        (format!("project={blog}"), 0),
        (format!("instance={instance}&project={blog}"), 0),
        ("limit=1".to_owned(), 1),
    ] {
        let path = format!("/api/v1/retention-events?{filter}");
        let list: Value = place.admin.get(&path).await.unwrap();
        assert_eq!(list["items"].as_array().unwrap().len(), many, "{filter}");
        assert_eq!(list["next"].is_string(), filter == "limit=1", "{filter}");
    }
    for odd in ["since_ms=1", "order=newest", "destination=x", "until_ms=5"] {
        let path = format!("/api/v1/retention-events?{odd}");
        assert_eq!(status(&place.admin.get::<Value>(&path).await), 400, "{odd}");
    }
}

#[tokio::test]
async fn points_of_an_instance_that_cannot_be_read_are_listed_without_their_events() {
    let place = place().await;
    policy(&place, json!({"after_event": {"sold": 30}})).await;
    back_up(&place, "shop.web@k1", 5).await;
    assert_eq!(points(&place).await[0]["events"][0]["event"], "sold");
    let file = place.lab.folder.path().join("catalog.sqlite");
    let catalog = Catalog::open(&format!("sqlite:{}", file.display())).await.unwrap();
    let mut tx = catalog.begin().await.unwrap();
    let id = place.instance.parse().unwrap();
    let mut odd = tx.get::<Later>(id, &Visible::All).await.unwrap();
    odd.body = Later(json!({"mood": "good"}));
    tx.update(&mut odd, 1).await.unwrap();
    tx.commit().await.unwrap();
    catalog.close().await;
    let listed = points(&place).await;
    assert_eq!((&listed[0]["point"], &listed[0]["events"]), (&json!("shop.web@k1"), &json!([])));
    let path = format!("/api/v1/points/{}", listed[0]["id"].as_str().unwrap());
    let _: Value = place.admin.get(&path).await.unwrap();
}

#[tokio::test]
async fn a_prune_by_hand_keeps_what_events_keep_of_each_instance_and_nothing_else_of_policies() {
    let place = place().await;
    policy(&place, json!({"daily": 3, "after_event": {"sold": 30}})).await;
    // Elsewhere something else is waited for, and the same repository has a second name.
    for (name, url, event) in [("else", "/other", "lost"), ("twin", "/backup", "over")] {
        let body = json!({"name": name, "spec": {"url": url}});
        let at = make(&place.admin, "destinations", body).await;
        let keep = json!({"after_event": {event: 5}});
        let rule = json!({"name": "main", "destination": at, "keep": keep, "schedules": []});
        let spec = json!({"assign": {"tags": ["gold"]}, "rules": [rule], "paused": true});
        make(&place.admin, "policies", json!({"name": name, "spec": spec})).await;
    }
    // One that keeps everything says nothing against a prune by hand.
    let rule = json!({"name": "main", "destination": place.destination, "schedules": []});
    let spec = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    make(&place.admin, "policies", json!({"name": "all", "spec": spec})).await;
    let source = json!({"kind": "device", "path": "/dev/y"});
    let body = json!({"project": place.project, "name": "free", "spec": {"source": source}});
    make(&place.admin, "instances", body).await;
    back_up(&place, "shop.web@k1", 5).await;
    let start = json!({"kind": "prune", "destination": place.destination, "keep": {"last": 1}});
    let prune = async || {
        let _: Value = place.admin.post("/api/v1/tasks", &start).await.unwrap();
        let lease = next(&place).await;
        let TaskSpec::Prune { instance: None, .. } = &lease.work.spec else { panic!("a prune") };
        let told = pruned(&lease);
        end(&place, &lease, Outcome::Succeeded, json!({"points": []})).await;
        told
    };
    let (keep, until) = prune().await;
    assert_eq!(keep, json!({"last": 1, EVENTS: 1}));
    let waits = json!({"all_ms": 0, "points_ms": {}, "instances_ms": {"shop.web": null}});
    assert_eq!(until, waits);

    // Both have to be over. The prune that follows by policy is moot: one keeps everything.
    tell(&place, json!({"instance": place.instance, "event": "sold", "at_ms": 0})).await;
    assert_eq!(prune().await.1, waits);
    let now: Value = place.admin.get("/api/v1/dashboard").await.unwrap();
    let now = now["now_ms"].as_u64().unwrap();
    let point = points(&place).await[0]["id"].clone();
    tell(&place, json!({"point": point, "event": "over", "at_ms": now})).await;
    let told = prune().await.1;
    assert_eq!(told["instances_ms"], json!({"shop.web": null}));
    assert_eq!(told["points_ms"], json!({"shop.web@k1": now + 5 * DAY_MS}));
    tell(&place, json!({"instance": place.instance, "event": "over", "at_ms": now - DAY_MS})).await;
    let told = prune().await.1;
    assert_eq!(told["instances_ms"], json!({"shop.web": now + 4 * DAY_MS}));
}

/// The catalog of a place, beside its server.
async fn beside(place: &Place) -> Catalog {
    let file = place.lab.folder.path().join("catalog.sqlite");
    Catalog::open(&format!("sqlite:{}", file.display())).await.unwrap()
}

#[tokio::test]
async fn a_prune_is_asked_for_once_also_when_the_history_of_tasks_has_ended() {
    let place = place().await;
    policy(&place, json!({"daily": 3, "after_event": {"sold": 30}})).await;
    back_up(&place, "shop.web@k1", 5).await;
    let event = json!({"instance": place.instance, "event": "sold", "at_ms": 7});
    tell(&place, event.clone()).await;
    let lease = next(&place).await;
    assert!(matches!(lease.work.spec, TaskSpec::Prune { .. }));
    end(&place, &lease, Outcome::Succeeded, json!({"points": []})).await;
    let catalog = beside(&place).await;
    let mut tx = catalog.begin().await.unwrap();
    while tx.forget_ended(u64::MAX).await.unwrap() {}
    tx.commit().await.unwrap();
    catalog.close().await;
    assert!(tasks(&place, "prune").await.is_empty(), "nobody knows that task any more");
    tell(&place, event.clone()).await;
    assert!(tasks(&place, "prune").await.is_empty(), "it was asked for");
    // At a later time, it is another end.
    tell(&place, json!({"instance": place.instance, "event": "sold", "at_ms": 8})).await;
    assert_eq!(tasks(&place, "prune").await.len(), 1);
}

#[tokio::test]
async fn what_is_over_by_a_rule_of_later_is_found_by_the_look_from_time_to_time() {
    let place = place().await;
    back_up(&place, "shop.web@k1", 5).await;
    tell(&place, json!({"instance": place.instance, "event": "sold", "at_ms": 7})).await;
    tell(&place, json!({"instance": place.instance, "event": "lost", "at_ms": 7})).await;
    policy(&place, json!({"daily": 3, "after_event": {"sold": 30}})).await;
    let Place { lab, .. } = place;
    let lab = Lab::start(lab.stop().await, Duration::from_secs(60)).await;
    let admin = lab.login("admin").await;
    let prunes = async || {
        let all: Value = admin.get("/api/v1/tasks?kind=prune").await.unwrap();
        all["items"].as_array().unwrap().len()
    };
    while prunes().await == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert_eq!(prunes().await, 1, "of what no rule names nothing comes");
}

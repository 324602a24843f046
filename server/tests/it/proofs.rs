//! Backup types, and restore points that are read back, as nodes and clients see them.

use serde_json::{Value, json};
use sluice_node_api::{Finished, Lease, Outcome, Report, Reported, TaskSpec};

use crate::copies::{end, next, points};
use crate::retention::Place;
use crate::support::make;

/// With a node that verifies too.
async fn place() -> Place {
    let mut place = Place::new().await;
    let kinds = ["init", "backup", "verify", "prune", "stat"];
    place.mover = place.lab.node(&place.admin, "verifier", &kinds).await;
    place
}

/// A policy with one rule that says this beside.
async fn policy(place: &Place, more: Value) -> String {
    let mut rule = json!({"name": "main", "destination": place.destination, "schedules": []});
    for (name, value) in more.as_object().unwrap() {
        rule[name] = value.clone();
    }
    let spec = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    make(&place.admin, "policies", json!({"name": "proven", "spec": spec})).await
}

/// Asks for a backup and does it; its task.
async fn back_up(place: &Place, more: Value, point: &str, method: &str) -> (Lease, String) {
    let mut start = json!({"kind": "backup", "instance": place.instance,
        "destination": place.destination});
    for (name, value) in more.as_object().unwrap() {
        start[name] = value.clone();
    }
    let task = make(&place.admin, "tasks", start).await;
    let lease = next(place).await;
    assert_eq!(lease.task, task);
    let point = json!({"point": point, "created_ms": 5, "method": method, "stats": {}});
    end(place, &lease, Outcome::Succeeded, json!({ "point": point })).await;
    (lease, task)
}

fn is_full(lease: &Lease) -> bool {
    let TaskSpec::Backup { full, .. } = lease.work.spec else { panic!("a backup") };
    full
}

async fn proof(place: &Place, point: &str) -> Value {
    let all = points(place).await;
    all.iter().find(|one| one["point"] == point).unwrap()["proof"].clone()
}

async fn protection(place: &Place) -> Value {
    place.admin.get("/api/v1/reports/protection").await.unwrap()
}

/// What a verification of all restore points looked at.
fn all() -> Value {
    json!({"shop.web": ["k1", "k2"]})
}

/// Tells that all data was read, and that of this restore point it is damaged.
async fn damaged(place: &Place, lease: &Lease, point: &str) {
    let damage = json!([{"object": "d/1 slot 1", "problem": "changed", "points": [point]}]);
    let document = json!({"depth": "data", "damage": damage, "looked": all()});
    let (outcome, message) = (Outcome::Failed, "damaged".to_owned());
    let finished = Finished { outcome, document, message, retryable: false };
    let report = Report { attempt: lease.attempt, finished: Some(finished), ..Report::default() };
    let path = format!("/api/node/v1/tasks/{}/report", lease.task);
    let _: Reported = place.mover.post(&path, &report).await.unwrap();
}

#[tokio::test]
async fn a_backup_says_its_type_and_the_point_says_what_it_was() {
    let place = place().await;
    let (lease, task) = back_up(&place, json!({"type": "full"}), "shop.web@k1", "rescan").await;
    assert!(is_full(&lease));
    let shown: Value = place.admin.get(&format!("/api/v1/tasks/{task}")).await.unwrap();
    assert_eq!(shown["type"], "full");
    let (lease, task) = back_up(&place, json!({}), "shop.web@k2", "regions").await;
    assert!(!is_full(&lease));
    let shown: Value = place.admin.get(&format!("/api/v1/tasks/{task}")).await.unwrap();
    assert_eq!(shown["type"], "incremental");
    // A node of an older release, which does not know what is asked: the point tells the truth.
    back_up(&place, json!({"type": "full"}), "shop.web@k3", "regions").await;
    let types: Vec<_> = points(&place).await.iter().map(|one| one["type"].clone()).collect();
    assert_eq!(types, ["full", "incremental", "incremental"]);
    let report = protection(&place).await;
    assert_eq!(report["items"][0]["last_full_ms"], 5, "{report}");
}

#[tokio::test]
async fn a_schedule_that_is_full_takes_the_place_of_others_that_are_due_with_it() {
    let place = place().await;
    let when = json!({"kind": "every", "seconds": 1});
    let schedules = json!([{"name": "often", "when": when},
        {"name": "rarely", "type": "full", "when": when}]);
    policy(&place, json!({ "schedules": schedules })).await;
    let lease = next(&place).await;
    assert!(is_full(&lease), "both are due at each second");
    end(&place, &lease, Outcome::Failed, Value::Null).await;
}

#[tokio::test]
async fn each_new_point_is_verified_as_deep_as_the_deepest_rule_says() {
    let place = place().await;
    let verify = json!([{"name": "quick"}, {"name": "some", "depth": "sample", "percent": 5},
        {"name": "all", "depth": "data", "paused": true}]);
    policy(&place, json!({ "verify": verify })).await;
    back_up(&place, json!({}), "shop.web@k1", "full").await;
    let report = protection(&place).await;
    assert_eq!((&report["unproven"], &report["damaged"]), (&json!(1), &json!(0)), "{report}");
    assert_eq!(report["items"][0]["doubts"][0]["state"], "unproven", "{report}");

    let lease = next(&place).await;
    let TaskSpec::Verify { point, instance: None, sample, data } = &lease.work.spec else {
        panic!("a verification")
    };
    assert_eq!((point.as_deref(), *sample, *data), (Some("shop.web@k1"), Some(5), false));
    end(&place, &lease, Outcome::Succeeded, json!({"depth": "sample", "damage": []})).await;
    let found = proof(&place, "shop.web@k1").await;
    assert_eq!((&found["state"], &found["depth"]), (&json!("sound"), &json!("sample")));
    let report = protection(&place).await;
    assert_eq!((&report["unproven"], &report["items"][0]["doubts"]), (&json!(0), &json!([])));
}

#[tokio::test]
async fn damage_is_told_until_as_much_was_read_again() {
    let place = place().await;
    policy(&place, json!({"verify": [{"name": "all", "depth": "data"}]})).await;
    back_up(&place, json!({}), "shop.web@k1", "full").await;
    let lease = next(&place).await;
    damaged(&place, &lease, "shop.web@k1").await;
    assert_eq!(proof(&place, "shop.web@k1").await["state"], "damaged");
    let report = protection(&place).await;
    assert_eq!((&report["damaged"], &report["unproven"]), (&json!(1), &json!(0)), "{report}");
    let path = "/api/v1/reports/protection?late=true&max_age=36500d";
    let late: Value = place.admin.get(path).await.unwrap();
    assert_eq!(late["items"].as_array().unwrap().len(), 1, "it is not fine: {late}");
    let sla: Value = place.admin.get("/api/v1/reports/sla").await.unwrap();
    assert_eq!(sla["items"][0]["damaged"], 1, "{sla}");
    let newest = async |state: Value| {
        let report = protection(&place).await;
        let damaged = u64::from(state == "damaged");
        assert_eq!(
            (&report["items"][0]["newest"], &report["newest_damaged"]),
            (&state, &json!(damaged))
        );
        let sla: Value = place.admin.get("/api/v1/reports/sla").await.unwrap();
        assert_eq!(sla["items"][0]["newest"], state);
        for name in ["protection", "sla"] {
            let path = format!("/api/v1/reports/{name}/document?format=csv");
            let text = String::from_utf8(place.admin.fetch(&path).await.unwrap()).unwrap();
            let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
            let (columns, row) = (lines.next().unwrap(), lines.next().unwrap());
            let cell = |column: &str| row[columns.iter().position(|one| *one == column).unwrap()];
            assert_eq!(cell("Damaged"), "1", "{name}: {text}");
            assert_eq!(cell("Newest"), state.as_str().unwrap_or_default(), "{name}: {text}");
        }
    };
    newest(json!("damaged")).await;

    // What is newer is sound, and what is older stays damaged until somebody has healed it.
    back_up(&place, json!({}), "shop.web@k2", "regions").await;
    newest(json!("unproven")).await;
    let lease = next(&place).await;
    let TaskSpec::Verify { point, data: true, .. } = &lease.work.spec else {
        panic!("a verification of all data")
    };
    assert_eq!(point.as_deref(), Some("shop.web@k2"));
    end(&place, &lease, Outcome::Succeeded, json!({"depth": "data", "damage": []})).await;
    newest(Value::Null).await;
    assert_eq!(proof(&place, "shop.web@k2").await["state"], "sound");
    for (data, state) in [(false, "damaged"), (true, "sound")] {
        let verify = json!({"kind": "verify", "destination": place.destination, "data": data});
        make(&place.admin, "tasks", verify).await;
        let lease = next(&place).await;
        let depth = if data { "data" } else { "structure" };
        let document = json!({"depth": depth, "damage": [], "looked": all()});
        end(&place, &lease, Outcome::Succeeded, document).await;
        assert_eq!(proof(&place, "shop.web@k1").await["state"], state, "{depth}");
    }
    assert_eq!(proof(&place, "shop.web@k1").await["state"], "sound");
    assert_eq!(protection(&place).await["damaged"], 0);
}

#[tokio::test]
async fn a_schedule_verifies_all_points_of_each_instance_that_has_any() {
    let place = place().await;
    let schedules = json!([{"name": "often", "when": {"kind": "every", "seconds": 1}}]);
    let verify = json!([{"name": "round", "depth": "data", "schedules": schedules}]);
    back_up(&place, json!({}), "shop.web@k1", "full").await;
    back_up(&place, json!({}), "shop.web@k2", "regions").await;
    policy(&place, json!({ "verify": verify })).await;
    let lease = next(&place).await;
    let TaskSpec::Verify { point: None, instance, data: true, .. } = &lease.work.spec else {
        panic!("a verification of all data")
    };
    assert_eq!(instance.as_deref(), Some("shop.web"));
    damaged(&place, &lease, "shop.web@k1").await;
    let states = [proof(&place, "shop.web@k1").await, proof(&place, "shop.web@k2").await];
    let states = states.map(|proof| proof["state"].clone());
    assert_eq!(states, ["damaged", "sound"]);
}

#[tokio::test]
async fn a_verification_of_a_whole_destination_proves_all_points_there() {
    let place = place().await;
    back_up(&place, json!({}), "shop.web@k1", "full").await;
    let verify = json!({"kind": "verify", "destination": place.destination, "data": true});
    make(&place.admin, "tasks", verify).await;
    let lease = next(&place).await;
    let document = json!({"depth": "data", "damage": [], "looked": all()});
    end(&place, &lease, Outcome::Succeeded, document).await;
    assert_eq!(proof(&place, "shop.web@k1").await["depth"], "data");
    let path = format!("/api/v1/tasks/{}", lease.task);
    let kept: Value = place.admin.get(&path).await.unwrap();
    assert_eq!(kept["result"]["looked"], 2, "only how many they were is kept: {kept}");
}

#[tokio::test]
async fn a_restore_point_that_is_no_longer_there_is_not_proven_by_a_look_at_the_others() {
    let place = place().await;
    for (point, method) in [("shop.web@k1", "full"), ("shop.web@k2", "regions")] {
        back_up(&place, json!({}), point, method).await;
    }
    let states = async || {
        let all = points(&place).await;
        all.iter().map(|one| one["proof"]["state"].clone()).collect::<Vec<Value>>()
    };
    for (looked, wanted) in [
        // Without a word of what was there, nothing is known.
        (Value::Null, [Value::Null, Value::Null]),
        (json!({"shop.web": ["k2"]}), [Value::Null, json!("sound")]),
        (all(), [json!("sound"), json!("sound")]),
        // It was lost since: it is not what it was.
        (json!({"shop.web": ["k2"]}), [Value::Null, json!("sound")]),
        (json!({}), [Value::Null, Value::Null]),
    ] {
        let verify = json!({"kind": "verify", "destination": place.destination, "data": true});
        make(&place.admin, "tasks", verify).await;
        let lease = next(&place).await;
        let document = json!({"depth": "data", "damage": [], "looked": looked});
        end(&place, &lease, Outcome::Succeeded, document).await;
        assert_eq!(states().await, wanted, "{looked}");
    }
}

#[tokio::test]
async fn a_schedule_is_not_put_off_by_what_follows_backups_and_tells_what_it_missed() {
    let place = place().await;
    let schedules = json!([{"name": "often", "when": {"kind": "every", "seconds": 1}}]);
    let verify = json!([{"name": "each"},
        {"name": "round", "depth": "data", "schedules": schedules},
        {"name": "rests", "paused": true, "schedules": schedules}]);
    policy(&place, json!({ "verify": verify })).await;
    // What follows it waits all the time, for no node asks for it.
    back_up(&place, json!({}), "shop.web@k1", "full").await;
    let missed = loop {
        let missed: Value = place.admin.get("/api/v1/reports/missed").await.unwrap();
        let of = |schedule: &str| {
            let all = missed["items"].as_array().unwrap().iter();
            let mut all = all.filter(|one| one["schedule"] == schedule);
            all.next().cloned()
        };
        if let (Some(round), Some(rests)) = (of("round/often"), of("rests/often")) {
            break [round, rests];
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    };
    // One waits beside the other verification, and those that become due meanwhile are missed.
    assert_eq!(missed[0]["reason"], "still-active", "{missed:?}");
    assert_eq!(missed[0]["instance"], json!(place.instance));
    assert_eq!((&missed[1]["reason"], &missed[1]["instance"]), (&json!("paused"), &Value::Null));
    let all: Value = place.admin.get("/api/v1/tasks?kind=verify").await.unwrap();
    assert_eq!(all["items"].as_array().unwrap().len(), 2, "{all}");
}

//! What was promised and kept, what is to come, and documents of it.

use data_encoding::BASE64;
use http::Method;
use serde_json::{Value, json};

use crate::notify::{until, webhook};
use crate::retention::Place;
use crate::support::status;
use crate::usage::{backed_up, done, start};

async fn policy(place: &Place, name: &str, more: Value) -> String {
    let rule = json!({"name": "main", "destination": place.destination, "schedules": [
        {"name": "hourly", "when": {"kind": "every", "seconds": 3600}}]});
    let mut spec = json!({"assign": {"tags": ["gold"]}, "rules": [rule]});
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let body = json!({"project": place.project, "name": name, "spec": spec});
    crate::support::make(&place.admin, "policies", body).await
}

async fn report(place: &Place, path: &str) -> Value {
    place.admin.get(&format!("/api/v1/reports/{path}")).await.unwrap()
}

#[tokio::test]
async fn promises_of_policies_are_told_with_what_came_of_them() {
    let place = Place::new().await;
    assert_eq!(report(&place, "sla").await["total"], 0, "nothing was promised");
    let objectives = json!({"rpo_seconds": 7200});
    let own = policy(&place, "own", json!({"objectives": objectives})).await;
    start(&place).await.unwrap();
    done(&place, backed_up("shop.web@k1")).await;
    let told = report(&place, "sla").await;
    assert_eq!((&told["total"], &told["met"]), (&json!(1), &json!(1)));
    let row = &told["items"][0];
    assert_eq!((&row["rpo_seconds"], &row["rto_seconds"]), (&json!(7200), &Value::Null));
    assert_eq!((&row["coverage"]["percent"], &row["met"]), (&json!(100.0), &json!(true)));
    assert_eq!((&row["backups"], &row["policies"]), (&json!({"succeeded": 1}), &json!([own])));
    // The strictest of all counts, and what no test has shown is not met.
    let more = json!({"objectives": {"rpo_seconds": 3600, "rto_seconds": 600}});
    policy(&place, "strict", more).await;
    let told = report(&place, "sla").await;
    let row = &told["items"][0];
    assert_eq!((&row["rpo_seconds"], &row["rto_seconds"]), (&json!(3600), &json!(600)));
    assert_eq!((&row["met"], &told["met"]), (&json!(false), &json!(0)));
    assert_eq!(told["by_policy"][own.as_str()], json!({"instances": 1, "met": 0}));
    // Another project's reports are empty.
    let other = json!({"name": "bank", "spec": {}});
    let bank = crate::support::make(&place.admin, "projects", other).await;
    let viewer = place.lab.user(&place.admin, "viewer", Some(&bank)).await;
    let theirs: Value = viewer.get("/api/v1/reports/sla").await.unwrap();
    assert_eq!((&theirs["total"], &theirs["items"]), (&json!(0), &json!([])));
    let odd = place.admin.get::<Value>("/api/v1/reports/sla?from_ms=5&until_ms=5").await;
    assert_eq!(status(&odd), 422);
}

#[tokio::test]
async fn a_forecast_knows_what_backups_took() {
    let place = Place::new().await;
    policy(&place, "own", json!({})).await;
    let told = report(&place, "forecast").await;
    let sum = |told: &Value, name: &str| {
        let slots = told["slots"].as_array().unwrap();
        slots.iter().map(|slot| slot[name].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(told["slots"].as_array().unwrap().len(), 24);
    let times = told["schedules"][0]["times"].as_u64().unwrap();
    assert!((23..=24).contains(&times), "{told}");
    assert_eq!((sum(&told, "backups"), sum(&told, "unknown")), (times, times));
    start(&place).await.unwrap();
    done(&place, backed_up("shop.web@k1")).await;
    let told = report(&place, "forecast").await;
    assert_eq!((sum(&told, "unknown"), sum(&told, "logical_bytes")), (0, times * 1000));
    assert_eq!(told["total"]["transferred_bytes"], times * 210);
    assert_eq!(told["schedules"][0]["each"]["logical_bytes"], 1000);
    for odd in ["slot=59s", "until_ms=1", "until_ms=99999999999999"] {
        let path = format!("/api/v1/reports/forecast?{odd}");
        assert_eq!(status(&place.admin.get::<Value>(&path).await), 422, "{odd}");
    }
}

#[tokio::test]
async fn every_report_is_there_in_every_form() {
    let place = Place::new().await;
    policy(&place, "own", json!({})).await;
    start(&place).await.unwrap();
    done(&place, backed_up("shop.web@k1")).await;
    for name in ["protection", "missed", "usage", "sla", "forecast"] {
        for (format, begin) in [("html", "<!DOCTYPE html>"), ("pdf", "%PDF-"), ("csv", "")] {
            let path = format!("/api/v1/reports/{name}/document?format={format}");
            let made = place.admin.fetch(&path).await.unwrap();
            assert!(made.starts_with(begin.as_bytes()), "{path}");
            let text = String::from_utf8_lossy(&made);
            let told = text.contains("shop") || format == "pdf" || name == "missed";
            assert!(told || name == "forecast", "{path}: {text}");
        }
    }
    let path = format!("/api/v1/reports/usage/document?format=csv&project={}", place.project);
    let text = String::from_utf8(place.admin.fetch(&path).await.unwrap()).unwrap();
    assert_eq!(text.lines().nth(1), Some("shop,1,0,1000,300,210,210,0,1000"), "{text}");
    let odd = place.admin.fetch("/api/v1/reports/lies/document").await.unwrap_err();
    assert!(odd.status().is_some_and(|status| (400..500).contains(&status)), "{odd:?}");
}

#[tokio::test]
async fn a_report_is_sent_when_somebody_wants_it() {
    let place = Place::new().await;
    let (url, told) = webhook(0).await;
    let channel = json!({"name": "ops", "via": {"kind": "webhook", "url": url}});
    let when = json!({"kind": "calendar", "calendar": {"at": ["07:00"]}});
    let what = json!({"report": "usage", "format": "csv", "project": place.project});
    let weekly = json!({"name": "weekly", "what": what, "when": when, "channels": ["ops"]});
    let wanted = json!({"channels": [channel], "reports": [weekly]});
    let path = "/api/v1/notifications";
    place.admin.send(Method::PUT, path, Some(&wanted), &[]).await.unwrap();
    let read: Value = place.admin.get(path).await.unwrap();
    assert_eq!(read["wanted"]["reports"][0]["name"], "weekly");
    let send = |name: &str| format!("{path}/reports/{name}/send");
    place.admin.send(Method::POST, &send("weekly"), None, &[]).await.unwrap();
    until(|| !told.lock().unwrap().is_empty()).await;
    let (_, body) = told.lock().unwrap()[0].clone();
    assert_eq!(body["report"]["title"], "Usage");
    let content = body["report"]["content"].as_str().unwrap();
    let content = String::from_utf8(BASE64.decode(content.as_bytes()).unwrap()).unwrap();
    assert!(content.starts_with("Name,Backups,"), "{content}");
    let none = place.admin.send(Method::POST, &send("other"), None, &[]).await;
    assert_eq!(status(&none), 404);
    let odd = json!({"channels": [], "reports": [weekly]});
    assert_eq!(status(&place.admin.send(Method::PUT, path, Some(&odd), &[]).await), 422);
}

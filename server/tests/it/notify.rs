//! Who is told what: by a webhook, signed, again when it was not taken, and not in floods.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::copies;
use crate::retention::Place;
use crate::support::status;

/// What a webhook was sent: headers and bodies.
pub type Told = Arc<Mutex<Vec<(String, Value)>>>;

/// A webhook that refuses the first so many requests.
pub async fn webhook(refuse: usize) -> (String, Told) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    let told = Told::default();
    let kept = Arc::clone(&told);
    tokio::spawn(async move {
        let mut refused = 0;
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = Vec::new();
            let (head, body) = loop {
                let mut piece = [0; 4096];
                let read = stream.read(&mut piece).await.unwrap();
                bytes.extend_from_slice(&piece[..read]);
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                let head = head.to_ascii_lowercase();
                let length = head.split("content-length: ").nth(1).unwrap();
                let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
                if body.len() >= length {
                    break (head, body.to_owned());
                }
            };
            let answer = if refused < refuse { "503 Busy" } else { "204 Good" };
            if refused >= refuse {
                kept.lock().unwrap().push((head, serde_json::from_str(&body).unwrap()));
            }
            refused += 1;
            let answer = format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (url, told)
}

async fn put(place: &Place, path: &str, body: &Value) {
    let path = format!("/api/v1/{path}");
    place.admin.send(Method::PUT, &path, Some(body), &[]).await.unwrap();
}

pub async fn until(mut done: impl FnMut() -> bool) {
    while !done() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn many_failures_are_one_signed_message_and_are_told_once() {
    let place = Place::new().await;
    let (url, told) = webhook(0).await;
    let channel = json!({"name": "ops", "via": {"kind": "webhook", "url": url}});
    let rule = json!({"events": ["task-failed"], "channels": ["ops"]});
    let wanted = json!({"channels": [channel], "rules": [rule]});
    put(&place, "notifications", &wanted).await;
    put(&place, "notifications/ops/secret", &json!({"secret": "correct-horse-7"})).await;
    let view: Value = place.admin.get("/api/v1/notifications").await.unwrap();
    assert!(!view.to_string().contains("correct-horse-7"));
    // Backups above a hard limit fail by themselves, one each second.
    let quota = json!({"project": {"backups": {"hard": 0, "window": "24h"}}});
    put(&place, &format!("projects/{}/quota", place.project), &quota).await;
    place.often(json!({})).await;
    until(|| !told.lock().unwrap().is_empty()).await;
    let (head, body) = told.lock().unwrap()[0].clone();
    let signature = head.split("x-sluice-signature: ").nth(1).unwrap();
    assert!(signature.starts_with("t=") && signature.contains(",v1="), "{head}");
    assert!(!head.contains("correct-horse-7") && !body.to_string().contains("correct-horse-7"));
    let first = &body["events"][0];
    assert_eq!(
        (&first["event"], &first["project"]),
        (&"task-failed".into(), &json!(place.project))
    );
    let text = first["text"].as_str().unwrap();
    assert!(text.starts_with("backup of web failed: quota:"), "{text}");
    // What fails meanwhile waits for the end of the pause, and nothing is told twice.
    let failed = async || {
        let list: Value = place.admin.get("/api/v1/tasks?state=failed").await.unwrap();
        list["items"].as_array().unwrap().len()
    };
    let enough = failed().await + 6;
    while failed().await < enough {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(told.lock().unwrap().len(), 1, "one message in a minute");
}

#[tokio::test]
async fn what_was_not_taken_waits_and_says_why_and_tests_arrive() {
    let place = Place::new().await;
    let (url, told) = webhook(0).await;
    let (busy, never) = webhook(usize::MAX).await;
    let via = |url: &str| json!({"kind": "webhook", "url": url});
    let channels = json!([{"name": "good", "via": via(&url)}, {"name": "busy", "via": via(&busy)}]);
    put(&place, "notifications", &json!({"channels": channels})).await;
    for channel in ["good", "busy"] {
        let path = format!("/api/v1/notifications/{channel}/test");
        place.admin.send(Method::POST, &path, None, &[]).await.unwrap();
    }
    let unknown = place.admin.send(Method::POST, "/api/v1/notifications/x/test", None, &[]).await;
    assert_eq!(status(&unknown), 404);
    until(|| !told.lock().unwrap().is_empty()).await;
    let (head, body) = told.lock().unwrap()[0].clone();
    assert!(!head.contains("x-sluice-signature"), "there is no key to sign with");
    assert_eq!(body["events"][0]["event"], "test");
    let waiting = loop {
        let view: Value = place.admin.get("/api/v1/notifications").await.unwrap();
        if view["waiting"][1]["failure"].is_string() {
            break view["waiting"].clone();
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((&waiting[0]["waiting"], &waiting[1]["waiting"]), (&0.into(), &1.into()));
    assert!(waiting[1]["failure"].as_str().unwrap().contains("503"), "{waiting}");
    assert!(never.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_copy_that_was_not_made_in_time_is_told() {
    let place = copies::place().await;
    let vault = copies::vault(&place, json!({"overdue_seconds": 0})).await;
    copies::back_up(&place, "shop.web@k1", 5).await;
    let (url, told) = webhook(0).await;
    let channel = json!({"name": "ops", "via": {"kind": "webhook", "url": url}});
    let rule = json!({"events": ["copy-overdue"], "channels": ["ops"]});
    put(&place, "notifications", &json!({"channels": [channel], "rules": [rule]})).await;
    until(|| !told.lock().unwrap().is_empty()).await;
    let (_, body) = told.lock().unwrap()[0].clone();
    let event = &body["events"][0];
    let expected = "the copy away of web at vault is overdue: there is none of what was backed up \
                    at 1970-01-01T00:00:00.005Z and later";
    assert_eq!((&event["event"], &event["text"]), (&"copy-overdue".into(), &expected.into()));
    assert_eq!(event["project"], json!(place.project), "{vault}");
    // It is overdue still, and was told.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let view: Value = place.admin.get("/api/v1/notifications").await.unwrap();
    assert_eq!(view["waiting"][0]["waiting"], 0, "{view}");
}

//! The Google destination against fake-gcs-server, directly and through a proxy that breaks
//! things.

#[path = "../support/common.rs"]
mod common;
mod lab;
#[path = "../support/proxy.rs"]
mod proxy;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{IMPATIENT, QUICK, key, large};
use lab::Lab;
use proxy::{Fault, Proxy};
use sluice_destination::gcs::{GcsConfig, GcsDestination};
use sluice_destination::url::{OpenOptions, open};
use sluice_destination::wrap::Retry;
use sluice_destination::{
    ByteRange, Destination, ErrorKind, conformance, list_after, list_all, probe,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn google_keeps_the_contract() {
    let Some(lab) = Lab::find() else { return };
    let part = AtomicUsize::new(0);
    // The emulator closes the connection after it has refused a range, sometimes only when the next
    // request is on its way: such a request is repeated, as it is for everybody but tests.
    conformance::run(|| async {
        let part = part.fetch_add(1, Ordering::Relaxed);
        let store = Retry::new(lab.open(&lab.url(&format!("part-{part}"))), QUICK);
        Arc::new(store) as Arc<dyn Destination>
    })
    .await;
    lab.clean_up().await;
}

#[tokio::test]
async fn a_probed_google_can_arbitrate() {
    let Some(lab) = Lab::find() else { return };
    let opened = open(&lab.url("probed"), &OpenOptions::default()).await.unwrap();
    let found = probe::probe(&*opened.destination).await.unwrap();
    assert!(found.can_arbitrate(), "{found:?}");
    assert!(list_all(&*opened.destination, "").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_bucket_that_is_missing_is_told() {
    let Some(lab) = Lab::find() else { return };
    let name = format!("no-such-{:016x}", rand::random::<u64>());
    let store = lab.open(&lab.url("x").replacen(lab.bucket(), &name, 1));
    for error in [
        store.get(&key("a"), ByteRange::Full).await.unwrap_err(),
        store.head(&key("a")).await.unwrap_err(),
        store.list("", None, 1).await.unwrap_err(),
        store.delete(&key("a")).await.unwrap_err(),
        store.put_new(&key("a"), Bytes::new()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains("no such bucket"), "{error}");
    }
}

#[tokio::test]
async fn what_breaks_on_the_way_is_repeated_and_nothing_else_is() {
    let Some(lab) = Lab::find() else { return };
    let proxy = Proxy::start(lab.server()).await;
    let bare = lab.open(&lab.url_at("proxied", &proxy.endpoint()));
    bare.put(&key("a"), large()).await.unwrap();
    let store = Retry::new(Arc::clone(&bare), QUICK);
    for fault in [
        Fault::Answer(503, String::new()),
        Fault::Answer(429, String::new()),
        Fault::Reset(1000),
        Fault::Close(1000),
        Fault::Flip(77),
    ] {
        proxy.inject("GET", 1, fault.clone());
        let error = bare.get(&key("a"), ByteRange::Full).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error}");
        proxy.inject("GET", 2, fault);
        assert!(store.get(&key("a"), ByteRange::Full).await.unwrap() == large());
    }
    // The answer to a create was lost: its repetition finds the object, which is its own.
    proxy.inject("POST", 1, Fault::ResetAfter);
    let error = store.put_new(&key("b"), large()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(store.get(&key("b"), ByteRange::Full).await.unwrap() == large());
    let before = proxy.heads().len();
    store.put_new(&key("b"), Bytes::new()).await.unwrap_err();
    assert_eq!(proxy.heads().len(), before + 1, "a taken key is no reason to ask again");
    lab.clean_up().await;
}

#[tokio::test]
async fn an_object_stored_with_other_bytes_is_removed_and_put_again() {
    let Some(lab) = Lab::find() else { return };
    let proxy = Proxy::start(lab.server()).await;
    let bare = lab.open(&lab.url_at("damaged", &proxy.endpoint()));
    bare.put_new(&key("a"), large()).await.unwrap();
    // The server, which checks no sums itself, says that it holds something else.
    let other = r#"{"size":"3000000","generation":"1","crc32c":"AAAAAA=="}"#;
    proxy.inject("POST", 1, Fault::Answer(200, other.into()));
    let error = bare.put(&key("a"), large()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let heads = proxy.heads();
    let removal = heads.iter().find(|head| head.starts_with("delete ")).unwrap();
    assert!(removal.contains("generation=1 "), "{removal}");
    // With its repetition nothing is lost.
    proxy.inject("POST", 1, Fault::Answer(200, other.into()));
    Retry::new(Arc::clone(&bare), QUICK).put_new(&key("b"), large()).await.unwrap();
    assert!(bare.get(&key("b"), ByteRange::Full).await.unwrap() == large());
    lab.clean_up().await;
}

#[tokio::test]
async fn silence_ends_and_slowness_is_borne() {
    let Some(lab) = Lab::find() else { return };
    let proxy = Proxy::start(lab.server()).await;
    let url = lab.url_at("slow", &proxy.endpoint());
    lab.open(&url).put(&key("a"), large()).await.unwrap();
    let mut config = GcsConfig::from_url(&url.parse().unwrap()).unwrap();
    config.timeouts = IMPATIENT;
    let store = GcsDestination::open(config).unwrap();
    for fault in [Fault::Silence, Fault::Stall(1000), Fault::AnswerAfter(503)] {
        proxy.inject("GET", 1, fault.clone());
        let error = store.get(&key("a"), ByteRange::Full).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error}");
    }
    proxy.inject("GET", 1, Fault::Drip(1_000_000, Duration::from_millis(300)));
    assert!(store.get(&key("a"), ByteRange::Full).await.unwrap() == large());
    lab.clean_up().await;
}

#[tokio::test]
async fn a_listing_from_a_key_on_is_one_request() {
    let Some(lab) = Lab::find() else { return };
    let proxy = Proxy::start(lab.server()).await;
    let store = lab.open(&lab.url_at("listed", &proxy.endpoint()));
    for at in 0..9 {
        store.put(&key(&format!("k/{at}")), Bytes::new()).await.unwrap();
    }
    let before = proxy.heads().len();
    assert_eq!(list_after(&*store, "k/", Some(key("k/4"))).await.unwrap().len(), 4);
    let page = store.list("k/", Some(&key("k/1")), 3).await.unwrap();
    assert_eq!((page.objects.len(), page.more), (3, true));
    let heads = proxy.heads().split_off(before);
    assert_eq!(heads.len(), 2, "{heads:#?}");
    lab.clean_up().await;
}

/// The token in a request's head.
fn token(head: &str) -> Option<&str> {
    head.lines().find_map(|line| line.strip_prefix("authorization: bearer "))
}

#[tokio::test]
async fn a_token_is_asked_for_once_and_again_when_it_is_refused() {
    let Some(lab) = Lab::find() else { return };
    let proxy = Proxy::start(lab.server()).await;
    let host = proxy.endpoint().replace("http://", "");
    let credentials = lab.folder.path().join("credentials");
    let settings = format!("SLUICE_GCS_METADATA=1\nGCE_METADATA_HOST={host}\n");
    std::fs::write(&credentials, settings).unwrap();
    let url = lab.url_without_login("tokens", &proxy.endpoint());
    let store = lab.open(&format!("{url}&credentials={}", credentials.display()));
    let given = |token: &str| {
        let answer = format!(r#"{{"access_token":"{token}","expires_in":3600}}"#);
        Fault::Answer(200, answer)
    };
    proxy.inject("GET /computeMetadata/", 1, given("hunter2-one"));
    store.put(&key("a"), Bytes::new()).await.unwrap();
    store.head(&key("a")).await.unwrap();
    // Refused before its end: another one is asked for, once.
    proxy.inject("DELETE", 1, Fault::Answer(401, String::new()));
    proxy.inject("GET /computeMetadata/", 1, given("hunter2-two"));
    store.delete(&key("a")).await.unwrap();
    let heads = proxy.heads();
    let tokens: Vec<_> = heads.iter().filter_map(|head| token(head)).collect();
    assert_eq!(tokens, ["hunter2-one", "hunter2-one", "hunter2-one", "hunter2-two"]);
    let asked: Vec<_> = heads.iter().filter(|head| token(head).is_none()).collect();
    assert_eq!(asked.len(), 2, "{asked:#?}");
    assert!(asked.iter().all(|head| head.contains("metadata-flavor: google")), "{asked:#?}");
    // Refused for good.
    proxy.inject("DELETE", 2, Fault::Answer(401, String::new()));
    proxy.inject("GET /computeMetadata/", 1, given("hunter2-three"));
    let error = store.delete(&key("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
    for shown in [format!("{error} {error:?}"), store.location(), format!("{store:?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[tokio::test]
async fn a_service_account_exchanges_its_signature_for_a_token() {
    let Some(lab) = Lab::find() else { return };
    let proxy = Proxy::start(lab.server()).await;
    let credentials = lab.folder.path().join("key.json");
    let key_of_account = serde_json::json!({
        "type": "service_account",
        "client_email": "backup@site-1.example",
        "private_key": new_key(),
        "token_uri": format!("{}/token", proxy.endpoint()),
    });
    std::fs::write(&credentials, key_of_account.to_string()).unwrap();
    let url = lab.url_without_login("signed", &proxy.endpoint());
    let store = lab.open(&format!("{url}&credentials={}", credentials.display()));
    proxy.inject("POST /token", 1, Fault::Answer(503, String::new()));
    let error = store.put(&key("a"), Bytes::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let refusal = r#"{"error":"invalid_grant","error_description":"no such account"}"#;
    proxy.inject("POST /token", 1, Fault::Answer(400, refusal.into()));
    let error = store.put(&key("a"), Bytes::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
    assert!(error.to_string().contains("invalid_grant"), "{error}");
    let given = r#"{"access_token":"given","expires_in":3599}"#;
    proxy.inject("POST /token", 1, Fault::Answer(200, given.into()));
    store.put(&key("a"), large()).await.unwrap();
    assert!(store.get(&key("a"), ByteRange::Full).await.unwrap() == large());
    let heads = proxy.heads();
    assert_eq!(heads.iter().filter(|head| head.starts_with("post /token ")).count(), 3);
    assert_eq!(heads.iter().filter_map(|head| token(head)).collect::<Vec<_>>(), ["given"; 2]);
    lab.clean_up().await;
}

/// An RSA key in PEM.
fn new_key() -> String {
    let run = std::process::Command::new("openssl")
        .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
        .output()
        .expect("openssl makes keys; install the package openssl");
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    String::from_utf8(run.stdout).unwrap()
}

#[tokio::test]
async fn a_token_in_a_file_is_read_again_when_it_is_refused() {
    let Some(lab) = Lab::find() else { return };
    let proxy = Proxy::start(lab.server()).await;
    let (credentials, file) = (lab.folder.path().join("c"), lab.folder.path().join("token"));
    std::fs::write(&credentials, format!("SLUICE_GCS_TOKEN_FILE={}\n", file.display())).unwrap();
    std::fs::write(&file, "first\n").unwrap();
    let url = lab.url_without_login("file", &proxy.endpoint());
    let store = lab.open(&format!("{url}&credentials={}", credentials.display()));
    store.put(&key("a"), Bytes::new()).await.unwrap();
    std::fs::write(&file, "second\n").unwrap();
    proxy.inject("DELETE", 1, Fault::Answer(401, String::new()));
    store.delete(&key("a")).await.unwrap();
    let heads = proxy.heads();
    let tokens: Vec<_> = heads.iter().filter_map(|head| token(head)).collect();
    assert_eq!(tokens, ["first", "first", "second"]);
}

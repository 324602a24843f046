//! The Swift destination against a real OpenStack Swift, directly and through a proxy that breaks
//! things.

#[path = "../support/common.rs"]
mod common;
mod lab;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/start.rs"]
mod start;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{IMPATIENT, QUICK, key, large};
use lab::{Lab, Way};
use proxy::{Fault, Proxy};
use sluice_destination::swift::{SwiftConfig, SwiftDestination};
use sluice_destination::url::{OpenOptions, open};
use sluice_destination::wrap::{Retry, RetryPolicy};
use sluice_destination::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, conformance, list_all, probe,
};

/// For a server that has more to do than it can: it says 503, as any server of that kind may, and
/// programs come again.
const PATIENT: RetryPolicy = RetryPolicy {
    attempts: 8,
    base: Duration::from_millis(200),
    cap: Duration::from_secs(5),
    total: Duration::from_secs(60),
};

fn keys(count: usize) -> Vec<Key> {
    (0..count).map(|at| key(&format!("many/{at:04}"))).collect()
}

fn chain(error: &DestinationError) -> String {
    let mut text = format!("{error} {error:?}");
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// A lab, a proxy before its server, and a bare destination through it.
async fn through_proxy() -> Option<(Lab, Proxy, Arc<dyn Destination>)> {
    let lab = Lab::find(Way::Simple)?;
    let proxy = Proxy::start(lab.server()).await;
    let store = lab.open(&lab.url("proxied", &lab.through(&proxy.endpoint())));
    Some((lab, proxy, store))
}

fn requests(proxy: &Proxy, method: &str) -> usize {
    proxy.heads().iter().filter(|head| head.starts_with(method)).count()
}

async fn keeps_the_contract(way: Way) {
    let Some(lab) = Lab::find(way) else { return };
    let part = AtomicUsize::new(0);
    conformance::run_without_races(|| async {
        let part = part.fetch_add(1, Ordering::Relaxed);
        let store = lab.open(&lab.url(&format!("part-{part}"), ""));
        Arc::new(Retry::new(store, PATIENT)) as Arc<dyn Destination>
    })
    .await;
    lab.clean_up().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn swift_with_keystone_keeps_the_contract() {
    keeps_the_contract(Way::Password).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn swift_with_version_1_keeps_the_contract() {
    keeps_the_contract(Way::Simple).await;
}

#[tokio::test]
async fn an_application_credential_is_enough() {
    let Some(lab) = Lab::find(Way::Application) else { return };
    let store = lab.open(&lab.url("application", ""));
    store.put_new(&key("a"), large()).await.unwrap();
    assert_eq!(store.get(&key("a"), ByteRange::Full).await.unwrap(), large());
    lab.clean_up().await;
}

#[tokio::test]
async fn a_taken_key_is_refused_and_yet_nothing_rests_on_it() {
    let Some(lab) = Lab::find(Way::Simple) else { return };
    let create = OpenOptions { create: true, ..OpenOptions::default() };
    let opened = open(&lab.url("probed", ""), &create).await.unwrap();
    let store = &*opened.destination;
    store.put_new(&key("a"), Bytes::from("first")).await.unwrap();
    let error = store.put_new(&key("a"), Bytes::from("second")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert_eq!(store.get(&key("a"), ByteRange::Full).await.unwrap(), "first");
    store.delete(&key("a")).await.unwrap();

    let found = probe::probe(store).await.unwrap();
    assert!(!found.put_if_absent && !found.can_arbitrate() && !found.object_lock, "{found:?}");
    assert!(found.read_after_write && found.list_after_write && found.ranged_get, "{found:?}");
    assert!(found.checksum_verified && found.clock_offset_seconds.is_some(), "{found:?}");
    assert!(list_all(store, "").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let Some((lab, proxy, bare)) = through_proxy().await else { return };
    bare.put(&key("a"), large()).await.unwrap();
    proxy.inject("PUT", 1, Fault::Answer(401, String::new()));
    proxy.inject("GET", 1, Fault::Answer(401, String::new()));
    bare.put(&key("b"), large()).await.unwrap();
    assert_eq!(bare.get(&key("b"), ByteRange::Full).await.unwrap(), large());
    assert_eq!((requests(&proxy, "put"), requests(&proxy, "get")), (3, 2));
    proxy.inject("HEAD", 2, Fault::Answer(401, String::new()));
    let error = bare.head(&key("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
    lab.clean_up().await;
}

#[tokio::test]
async fn the_store_is_found_by_region_interface_and_name() {
    let Some(lab) = Lab::find(Way::Password) else { return };
    let at = |more: &str| lab.open_with(&lab.url("placed", more), |config| config.create = true);
    let internal = at("&interface=internal&service_name=swift");
    internal.put(&key("a"), Bytes::from_static(b"x")).await.unwrap();
    let shelf = "&interface=internal&service_name=shelf";
    for dead in ["&region=far-region", "&interface=admin", shelf] {
        let error = at(dead).head(&key("a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{dead}: {error}");
        assert!(chain(&error).contains("refused"), "{}", chain(&error));
    }
    for (unclear, words) in [("&region=nowhere", "far-region"), ("&interface=internal", "shelf")] {
        let error = at(unclear).head(&key("a")).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains(words), "what there is: {error}");
    }
    lab.clean_up().await;
}

#[tokio::test]
async fn a_servers_certificate_is_checked() {
    let Some(lab) = Lab::find(Way::Simple) else { return };
    let auth = lab.setting("SLUICE_TEST_SWIFT_TLS");
    lab.write_credentials(
        |name, value| {
            if name == "ST_AUTH" { auth.to_owned() } else { value.to_owned() }
        },
    );
    let error = lab.open(&lab.url("tls", "")).put(&key("a"), Bytes::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(error.to_string().contains("cacert="), "{error}");

    let trusting = lab.url("tls", &format!("&cacert={}", lab.setting("SLUICE_TEST_SWIFT_CA")));
    let store = lab.open(&trusting);
    store.put_new(&key("a"), large()).await.unwrap();
    assert_eq!(store.get(&key("a"), ByteRange::Full).await.unwrap(), large());
    store.delete(&key("a")).await.unwrap();
    // A port that does not speak TLS.
    let plain = lab.setting("ST_AUTH").replace("http:", "https:");
    let error = lab.open(&lab.url("tls", &format!("&auth={plain}"))).head(&key("a")).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    assert!(error.to_string().contains("scheme"), "{error}");
    for bad in ["/does/not/exist", lab.credentials().to_str().unwrap()] {
        let url = lab.url("tls", &format!("&cacert={bad}"));
        let config = SwiftConfig::from_url(&url.parse().unwrap()).unwrap();
        let error = SwiftDestination::open(config).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
}

#[tokio::test]
async fn wrong_credentials_are_access_denied_and_never_shown() {
    for (way, secret) in [(Way::Password, "OS_PASSWORD"), (Way::Simple, "ST_KEY")] {
        let Some(lab) = Lab::find(way) else { return };
        lab.write_credentials(|name, value| {
            if name == secret { "not-the-secret".into() } else { value.to_owned() }
        });
        let store = lab.open(&lab.url("x", ""));
        let error = store.put(&key("a"), Bytes::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
        for shown in [chain(&error), store.location(), format!("{store:?}")] {
            assert!(!shown.contains("not-the-secret"), "{shown}");
        }
        std::fs::remove_file(lab.credentials()).unwrap();
        let error = SwiftConfig::from_url(&lab.url("x", "").parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
        lab.write_credentials(|_, _| String::new());
        let error = SwiftConfig::from_url(&lab.url("x", "").parse().unwrap()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
    }
}

#[tokio::test]
async fn a_container_that_is_missing_is_told_or_made() {
    let Some(lab) = Lab::find(Way::Simple) else { return };
    let name = format!("no-such-{:016x}", rand::random::<u64>());
    let url = lab.url("x", "").replace("sluice-test", &name);
    let store = lab.open_with(&url, |_| {});
    for error in [
        store.get(&key("a"), ByteRange::Full).await.unwrap_err(),
        store.head(&key("a")).await.unwrap_err(),
        store.list("", None, 1).await.unwrap_err(),
        store.put(&key("a"), Bytes::new()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains("create it"), "{error}");
    }
    let maker = lab.open(&url);
    assert_eq!(maker.head(&key("a")).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(maker.list("", None, 1).await.unwrap().objects.is_empty());
    let maker = Retry::new(maker, RetryPolicy::default());
    maker.put_new(&key("a"), Bytes::from_static(b"x")).await.unwrap();
    assert_eq!(store.get(&key("a"), ByteRange::Full).await.unwrap(), "x");
    assert_eq!(store.head(&key("b")).await.unwrap_err().kind(), ErrorKind::NotFound);
    store.delete(&key("a")).await.unwrap();
}

#[tokio::test]
async fn a_busy_server_is_asked_again_by_the_wrapper_only() {
    let Some((lab, proxy, bare)) = through_proxy().await else { return };
    proxy.inject("PUT", 3, Fault::Answer(503, String::new()));
    let error = bare.put_new(&key("a"), large()).await.unwrap_err();
    assert_eq!((error.kind(), requests(&proxy, "put")), (ErrorKind::Unavailable, 1));
    let retry = Retry::new(bare, QUICK);
    retry.put_new(&key("a"), large()).await.unwrap();
    assert_eq!(requests(&proxy, "put"), 4);
    assert_eq!(retry.get(&key("a"), ByteRange::Full).await.unwrap(), large());
    lab.clean_up().await;
}

#[tokio::test]
async fn a_put_new_whose_answer_is_lost_has_happened() {
    for fault in [Fault::AnswerAfter(500), Fault::ResetAfter] {
        let Some((lab, proxy, bare)) = through_proxy().await else { return };
        proxy.inject("PUT", 1, fault.clone());
        let lost = bare.put_new(&key("a"), large()).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::Unavailable, "{fault:?}: {lost}");
        assert_eq!(bare.get(&key("a"), ByteRange::Full).await.unwrap(), large());
        let taken = Retry::new(bare, QUICK).put_new(&key("a"), large()).await.unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists, "{taken}");
        lab.clean_up().await;
    }
}

#[tokio::test]
async fn bodies_that_break_off_or_change_are_errors_and_then_repeated() {
    let Some((lab, proxy, bare)) = through_proxy().await else { return };
    bare.put_new(&key("a"), large()).await.unwrap();
    for fault in [Fault::Reset(100_000), Fault::Close(2_999_999), Fault::Flip(1_234_567)] {
        proxy.inject("GET", 1, fault.clone());
        let error = bare.get(&key("a"), ByteRange::Full).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error}");
    }
    let retry = Retry::new(bare, QUICK);
    proxy.inject("GET", 2, Fault::Reset(1_000_000));
    assert_eq!(retry.get(&key("a"), ByteRange::Full).await.unwrap(), large());
    assert_eq!(requests(&proxy, "get"), 3 + 3);
    lab.clean_up().await;
}

#[tokio::test]
async fn what_stands_still_is_given_up() {
    let Some((lab, proxy, patient)) = through_proxy().await else { return };
    patient.put_new(&key("a"), large()).await.unwrap();
    let url = lab.url("proxied", &lab.through(&proxy.endpoint()));
    let hasty = lab.open_with(&url, |config| config.timeouts = IMPATIENT);
    for fault in [Fault::Silence, Fault::Stall(1_000_000)] {
        proxy.inject("GET", 1, fault.clone());
        let error = hasty.get(&key("a"), ByteRange::Full).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error}");
    }
    proxy.inject("PUT", 1, Fault::Silence);
    let error = hasty.put_new(&key("b"), Bytes::from_static(b"b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    proxy.inject("GET", 1, Fault::Drip(100_000, Duration::from_millis(50)));
    assert_eq!(patient.get(&key("a"), ByteRange::Full).await.unwrap(), large());
    lab.clean_up().await;
}

#[tokio::test]
async fn other_bytes_than_asked_for_are_unfit() {
    let Some((_lab, proxy, bare)) = through_proxy().await else { return };
    let range = ByteRange::Span { offset: 2, length: 3 };
    proxy.inject("GET", 1, Fault::Answer(200, "the whole object".into()));
    let error = bare.get(&key("a"), range).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unfit, "{error}");
    let listing = r#"[{"name":"c","bytes":1},{"name":"b","bytes":1}]"#;
    let root = lab_root(&bare);
    proxy.inject("GET", 1, Fault::Answer(200, listing.replace("\"name\":\"", &root)));
    let error = bare.list("", None, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unfit, "{error}");
}

/// The beginning of a name in a listing below a destination's prefix.
fn lab_root(store: &Arc<dyn Destination>) -> String {
    let location = store.location();
    let prefix = location.strip_prefix("swift://sluice-test/").unwrap();
    format!("\"name\":\"{prefix}/")
}

#[tokio::test]
async fn a_thousand_are_removed_with_one_request() {
    let Some((lab, proxy, bare)) = through_proxy().await else { return };
    for key in keys(3) {
        bare.put(&key, Bytes::from_static(b"x")).await.unwrap();
    }
    bare.delete_many(&keys(1500)).await.unwrap();
    assert!(list_all(&*bare, "").await.unwrap().is_empty());
    assert_eq!((requests(&proxy, "post"), requests(&proxy, "delete")), (2, 0));

    let refused =
        r#"{"Response Status":"400 Bad Request","Errors":[["c/many/1","403 Forbidden"]]}"#;
    proxy.inject("POST", 1, Fault::Answer(200, refused.into()));
    let error = bare.delete_many(&keys(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
    assert!(error.to_string().contains("c/many/1"), "{error}");
    lab.clean_up().await;
}

#[tokio::test]
async fn a_server_without_that_request_gets_one_for_each() {
    let Some((lab, proxy, bare)) = through_proxy().await else { return };
    for key in keys(3) {
        bare.put(&key, Bytes::from_static(b"x")).await.unwrap();
    }
    proxy.inject("GET", 1, Fault::Answer(404, String::new()));
    bare.delete_many(&keys(3)).await.unwrap();
    assert_eq!((requests(&proxy, "post"), requests(&proxy, "delete")), (0, 3));
    assert!(list_all(&*bare, "").await.unwrap().is_empty());
    lab.clean_up().await;
}

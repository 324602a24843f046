//! The Azure destination against Azurite, directly and through a proxy that breaks things.

#[path = "../support/common.rs"]
mod common;
mod lab;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/settings.rs"]
mod settings;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use common::{IMPATIENT, QUICK, key, large};
use lab::{CONTAINER, Lab};
use proxy::{Fault, Proxy};
use sluice_destination::azblob::{AzblobConfig, AzblobDestination};
use sluice_destination::url::{OpenOptions, open};
use sluice_destination::wrap::Retry;
use sluice_destination::{
    ByteRange, Destination, ErrorKind, conformance, list_after, list_all, probe,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn azure_keeps_the_contract() {
    let Some(lab) = Lab::find() else { return };
    let part = AtomicUsize::new(0);
    conformance::run(|| async {
        let part = part.fetch_add(1, Ordering::Relaxed);
        lab.open(&lab.url(&format!("part-{part}")))
    })
    .await;
    lab.clean_up().await;
}

#[tokio::test]
async fn a_probed_azure_can_arbitrate() {
    let Some(lab) = Lab::find() else { return };
    let create = OpenOptions { create: true, ..OpenOptions::default() };
    let opened = open(&lab.url("probed"), &create).await.unwrap();
    let found = probe::probe(&*opened.destination).await.unwrap();
    assert!(found.can_arbitrate(), "{found:?}");
    assert!(list_all(&*opened.destination, "").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_shared_access_signature_is_enough() {
    let Some(lab) = Lab::find() else { return };
    let signature = lab.setting("SLUICE_TEST_AZURE_SIGNATURE");
    lab.write_credentials(&format!("AZURE_STORAGE_SAS_TOKEN='{signature}'\n"));
    let store = lab.open(&lab.url("signed"));
    store.put_new(&key("a"), large()).await.unwrap();
    assert!(store.get(&key("a"), ByteRange::Full).await.unwrap() == large());
    assert_eq!(list_all(&*store, "").await.unwrap().len(), 1);
    let error = store.put_new(&key("a"), large()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    lab.clean_up().await;
}

#[tokio::test]
async fn wrong_credentials_are_access_denied_and_never_shown() {
    let Some(lab) = Lab::find() else { return };
    let secret = "bm90LXRoZS1zZWNyZXQ=";
    for line in ["AZURE_STORAGE_KEY=", "AZURE_STORAGE_SAS_TOKEN=sv=2021-08-06&sig="] {
        lab.write_credentials(&format!("{line}{secret}\n"));
        let store = lab.open(&lab.url("x"));
        let error = store.put(&key("a"), Bytes::new()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
        for shown in [format!("{error} {error:?}"), store.location(), format!("{store:?}")] {
            assert!(!shown.contains("bm90"), "{shown}");
        }
    }
}

#[tokio::test]
async fn a_container_that_is_missing_is_told() {
    let Some(lab) = Lab::find() else { return };
    let name = format!("no-such-{:016x}", rand::random::<u64>());
    let url = lab.url("x").replacen(CONTAINER, &name, 1);
    let config = AzblobConfig::from_url(&url.parse().unwrap()).unwrap();
    let store = AzblobDestination::open(config).unwrap();
    for error in [
        store.get(&key("a"), ByteRange::Full).await.unwrap_err(),
        store.head(&key("a")).await.unwrap_err(),
        store.list("", None, 1).await.unwrap_err(),
        store.delete(&key("a")).await.unwrap_err(),
        store.put_new(&key("a"), Bytes::new()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains("create the container"), "{error}");
    }
}

#[tokio::test]
async fn what_breaks_on_the_way_is_repeated_and_nothing_else_is() {
    let Some(lab) = Lab::find() else { return };
    let proxy = Proxy::start(lab.server()).await;
    let bare = lab.open(&lab.url_at("proxied", &proxy.endpoint()));
    bare.put(&key("a"), large()).await.unwrap();
    let store = Retry::new(std::sync::Arc::clone(&bare), QUICK);
    for fault in [
        Fault::Answer(503, String::new()),
        Fault::Answer(500, String::new()),
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
    proxy.inject("PUT", 1, Fault::ResetAfter);
    let error = store.put_new(&key("b"), large()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error}");
    assert!(store.get(&key("b"), ByteRange::Full).await.unwrap() == large());
    let before = proxy.heads().len();
    store.put_new(&key("b"), Bytes::new()).await.unwrap_err();
    assert_eq!(proxy.heads().len(), before + 1, "a taken key is no reason to ask again");
    lab.clean_up().await;
}

#[tokio::test]
async fn silence_ends_and_slowness_is_borne() {
    let Some(lab) = Lab::find() else { return };
    let proxy = Proxy::start(lab.server()).await;
    let url = lab.url_at("slow", &proxy.endpoint());
    lab.open(&url).put(&key("a"), large()).await.unwrap();
    let mut config = AzblobConfig::from_url(&url.parse().unwrap()).unwrap();
    config.timeouts = IMPATIENT;
    let store = AzblobDestination::open(config).unwrap();
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
async fn a_listing_goes_on_where_it_ended() {
    let Some(lab) = Lab::find() else { return };
    let proxy = Proxy::start(lab.server()).await;
    let store = lab.open(&lab.url_at("listed", &proxy.endpoint()));
    for at in 0..9 {
        store.put(&key(&format!("k/{at}")), Bytes::new()).await.unwrap();
    }
    let before = proxy.heads().len();
    let mut after = None;
    for at in [0, 3, 6] {
        let page = store.list("k/", after.as_ref(), 3).await.unwrap();
        assert_eq!(page.objects[0].key, key(&format!("k/{at}")));
        assert_eq!((page.objects.len(), page.more), (3, at < 6));
        after = page.objects.last().map(|object| object.key.clone());
    }
    // Every later request carries the mark of the one before.
    let heads = proxy.heads().split_off(before);
    let unmarked = heads.iter().filter(|head| !head.contains("marker=")).count();
    assert_eq!(unmarked, 1, "{heads:#?}");
    // Another process knows no marks.
    let fresh = lab.open(&lab.url("listed"));
    assert_eq!(list_after(&*fresh, "k/", Some(key("k/4"))).await.unwrap().len(), 4);
    lab.clean_up().await;
}

//! Object lock, in a bucket that has it and in one that does not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use sluice_destination::url::{OpenOptions, open};
use sluice_destination::{ErrorKind, Lock, LockMode, conformance, list_all, probe};

use crate::lab::Lab;
use crate::proxy::{Fault, Proxy};
use crate::{key, requests, xml};

/// The bucket with locks; a server given by `SLUICE_TEST_S3` may have none.
fn lab() -> Option<Lab> {
    let lab = Lab::with_locks();
    if lab.is_none() {
        eprintln!("SLUICE_TEST_S3_LOCK names no bucket with object lock: not tried");
    }
    lab
}

#[tokio::test]
async fn a_bucket_with_locks_keeps_the_contract_of_locks() {
    let Some(lab) = lab() else { return };
    if lab.lacks("conditions-on-versions") {
        eprintln!("the server creates what is there, in a bucket with versions: not tried");
        return;
    }
    let part = AtomicUsize::new(0);
    conformance::run_locks(|| async {
        let part = part.fetch_add(1, Ordering::Relaxed);
        lab.open(&lab.url(&format!("part-{part}"))).await
    })
    .await;
}

#[tokio::test]
async fn a_probe_finds_the_locks_and_leaves_nothing() {
    let Some(lab) = lab() else { return };
    let opened = open(&lab.url("probed"), &OpenOptions::default()).await.unwrap();
    let found = probe::probe(&*opened.destination).await.unwrap();
    assert!(found.object_lock, "{found:?}");
    assert_eq!(found.can_arbitrate(), !lab.lacks("conditions-on-versions"), "{found:?}");
    assert!(list_all(&*opened.destination, "").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_bucket_without_locks_says_so() {
    let lab = Lab::find();
    let store = lab.open(&lab.url("unlocked")).await;
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    let lock = Lock { mode: LockMode::Governance, until };
    let error = store.put_locked(&key("a"), Bytes::new(), true, &lock).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.to_string().contains("object lock"), "{error}");
    assert!(list_all(&*store, "").await.unwrap().is_empty());
}

#[tokio::test]
async fn credentials_that_may_do_less_are_no_hindrance() {
    let Some(lab) = lab() else { return };
    let proxy = Proxy::start(lab.server()).await;
    let store = lab.open(&lab.url_at("less", &proxy.endpoint())).await;
    #[expect(clippy::disallowed_methods, reason = "a lock ends at a time of the real clock")]
    let now = SystemTime::now();
    // It must not be over before the store has been asked for it, twice.
    let until = now + Duration::from_secs(6);
    let lock = Lock { mode: LockMode::Governance, until }.whole_seconds();
    let denied = || Fault::Answer(403, xml("AccessDenied"));
    proxy.inject("PUT", 1, denied());
    assert!(!store.keeps_locks(&key("a"), &lock).await.unwrap(), "no lock may be set");
    // Kept by the server, and then by what these credentials may: the version is hidden.
    proxy.inject("DELETE", 5, denied());
    assert!(store.keeps_locks(&key("b"), &lock).await.unwrap());
    assert_eq!(requests(&proxy, "delete"), 6);
    assert!(list_all(&*store, "").await.unwrap().is_empty());
}

//! The S3 destination against a real server, directly and through a proxy that breaks things.

#[path = "../support/common.rs"]
mod common;
mod deletes;
#[path = "../support/lab.rs"]
mod lab;
mod locks;
#[path = "../support/proxy.rs"]
mod proxy;
#[path = "../support/start.rs"]
mod start;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use common::{IMPATIENT, QUICK, key, large};
use lab::Lab;
use proxy::{Fault, Proxy};
use sluice_destination::s3::{S3Config, S3Destination};
use sluice_destination::url::{OpenOptions, open};
use sluice_destination::wrap::Retry;
use sluice_destination::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, conformance, list_all, probe,
};

/// A lab, a proxy before its server, and a bare destination through it.
async fn through_proxy() -> (Lab, Proxy, Arc<dyn Destination>) {
    let lab = Lab::find();
    let proxy = Proxy::start(lab.server()).await;
    let store = lab.open(&lab.url_at("proxied", &proxy.endpoint())).await;
    (lab, proxy, store)
}

fn requests(proxy: &Proxy, method: &str) -> usize {
    proxy.heads().iter().filter(|head| head.starts_with(method)).count()
}

fn xml(code: &str) -> String {
    format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>told so</Message></Error>")
}

fn chain(error: &DestinationError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_real_server_keeps_the_contract() {
    let lab = Lab::find();
    let part = std::sync::atomic::AtomicUsize::new(0);
    conformance::run(|| async {
        let part = part.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        lab.open(&lab.url(&format!("part-{part}"))).await
    })
    .await;
    lab.clean_up().await;
}

#[tokio::test]
async fn a_probed_server_is_found_fit_and_left_clean() {
    let lab = Lab::find();
    let opened = open(&lab.url("probed"), &OpenOptions::default()).await.unwrap();
    let found = probe::probe(&*opened.destination).await.unwrap();
    assert!(found.can_arbitrate(), "{found:?}");
    assert!(!found.object_lock, "a bucket without locks keeps them: {found:?}");
    assert_eq!(found.checksum_verified, !lab.lacks("checksums"), "{found:?}");
    assert!(found.clock_offset_seconds.is_some(), "{found:?}");
    assert!(list_all(&*opened.destination, "").await.unwrap().is_empty());
    assert!(opened.counters.snapshot().put.requests > 8);
}

#[tokio::test]
async fn a_busy_server_is_asked_again_by_the_wrapper_only() {
    let (lab, proxy, bare) = through_proxy().await;
    proxy.inject("PUT", 3, Fault::Answer(503, xml("SlowDown")));
    let error = bare.put_new(&key("a"), large()).await.unwrap_err();
    assert_eq!((error.kind(), requests(&proxy, "put")), (ErrorKind::Unavailable, 1));
    assert!(error.to_string().contains("SlowDown"), "{error}");
    let retry = Retry::new(bare, QUICK);
    retry.put_new(&key("a"), large()).await.unwrap();
    assert_eq!(requests(&proxy, "put"), 4);
    assert_eq!(retry.get(&key("a"), ByteRange::Full).await.unwrap(), large());
    lab.clean_up().await;
}

#[tokio::test]
async fn bodies_that_break_off_are_errors_and_then_repeated() {
    let (lab, proxy, bare) = through_proxy().await;
    bare.put_new(&key("a"), large()).await.unwrap();
    for fault in [Fault::Reset(100_000), Fault::Close(2_999_999), Fault::Close(0)] {
        for range in [ByteRange::Full, ByteRange::Suffix(3_000_000)] {
            proxy.inject("GET", 1, fault.clone());
            let error = bare.get(&key("a"), range).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error}");
        }
    }
    let retry = Retry::new(bare, QUICK);
    proxy.inject("GET", 2, Fault::Reset(1_000_000));
    assert_eq!(retry.get(&key("a"), ByteRange::Full).await.unwrap(), large());
    assert_eq!(requests(&proxy, "get"), 6 + 3);
    lab.clean_up().await;
}

#[tokio::test]
async fn what_stands_still_is_given_up() {
    let (lab, proxy, patient) = through_proxy().await;
    patient.put_new(&key("a"), large()).await.unwrap();
    let hasty = lab.open_with(&lab.url_at("proxied", &proxy.endpoint()), IMPATIENT).await;
    for fault in [Fault::Silence, Fault::Stall(1_000_000)] {
        proxy.inject("GET", 1, fault.clone());
        let error = hasty.get(&key("a"), ByteRange::Full).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{fault:?}: {error}");
    }
    proxy.inject("PUT", 1, Fault::Silence);
    let error = hasty.put_new(&key("b"), Bytes::from_static(b"b")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    lab.clean_up().await;
}

#[tokio::test]
async fn a_slow_but_steady_body_arrives() {
    let (lab, proxy, bare) = through_proxy().await;
    bare.put_new(&key("a"), large()).await.unwrap();
    proxy.inject("GET", 1, Fault::Drip(100_000, Duration::from_millis(50)));
    assert_eq!(bare.get(&key("a"), ByteRange::Full).await.unwrap(), large());
    lab.clean_up().await;
}

#[tokio::test]
async fn a_put_new_whose_answer_is_lost_has_happened() {
    for fault in [Fault::AnswerAfter(500), Fault::ResetAfter] {
        let (lab, proxy, bare) = through_proxy().await;
        proxy.inject("PUT", 1, fault.clone());
        let lost = bare.put_new(&key("bare"), large()).await.unwrap_err();
        assert_eq!(lost.kind(), ErrorKind::Unavailable, "{fault:?}: {lost}");
        assert_eq!(bare.get(&key("bare"), ByteRange::Full).await.unwrap(), large());

        // The repetition meets our own object; only reading it back tells.
        let retry = Retry::new(bare, QUICK);
        proxy.inject("PUT", 1, fault);
        let taken = retry.put_new(&key("retried"), large()).await.unwrap_err();
        assert_eq!(taken.kind(), ErrorKind::AlreadyExists, "{taken}");
        assert_eq!(retry.get(&key("retried"), ByteRange::Full).await.unwrap(), large());
        lab.clean_up().await;
    }
}

#[tokio::test]
async fn a_conflict_with_a_rival_is_settled_here() {
    let (lab, proxy, bare) = through_proxy().await;
    proxy.inject("PUT", 2, Fault::Answer(409, xml("ConditionalRequestConflict")));
    bare.put_new(&key("a"), large()).await.unwrap();
    assert_eq!(requests(&proxy, "put"), 3);
    proxy.inject("PUT", usize::MAX, Fault::Answer(409, xml("ConditionalRequestConflict")));
    let error = bare.put_new(&key("b"), large()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    lab.clean_up().await;
}

#[tokio::test]
async fn a_bit_flipped_on_the_way_is_noticed() {
    let (lab, proxy, bare) = through_proxy().await;
    bare.put_new(&key("a"), large()).await.unwrap();
    proxy.inject("GET", 1, Fault::Flip(1_234_567));
    if lab.lacks("checksums") {
        // Nothing to check against; what is stored is authenticated above.
        assert!(bare.get(&key("a"), ByteRange::Full).await.is_ok());
        return lab.clean_up().await;
    }
    let error = bare.get(&key("a"), ByteRange::Full).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    lab.clean_up().await;
}

#[tokio::test]
async fn puts_carry_their_condition_and_checksum() {
    let (lab, proxy, bare) = through_proxy().await;
    bare.put_new(&key("a"), Bytes::from_static(b"123456789")).await.unwrap();
    bare.put(&key("a"), Bytes::from_static(b"123456789")).await.unwrap();
    let heads = proxy.heads();
    assert!(heads[0].contains("if-none-match: *\r\n"), "{}", heads[0]);
    assert!(!heads[1].contains("if-none-match"), "{}", heads[1]);
    for head in heads {
        // The check value of CRC-32C, E3069283, in base64.
        assert!(head.contains("x-amz-checksum-crc32c: 4wasgw==\r\n"), "{head}");
        assert!(head.contains("content-length: 9\r\n"), "the body is framed: {head}");
    }
    lab.clean_up().await;
}

#[tokio::test]
async fn a_server_that_sends_other_bytes_than_asked_for_is_unfit() {
    let (_lab, proxy, bare) = through_proxy().await;
    let range = ByteRange::Span { offset: 2, length: 3 };
    proxy.inject("GET", 1, Fault::Answer(200, "the whole object".into()));
    let error = bare.get(&key("a"), range).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unfit, "{error}");
}

#[tokio::test]
async fn pages_out_of_order_are_unfit_until_the_listing_starts_again() {
    let (lab, proxy, bare) = through_proxy().await;
    let url = lab.url("proxied").parse().unwrap();
    let prefix = S3Config::from_url(&url).unwrap().prefix;
    let contents: String = ["c", "b"]
        .map(|name| format!("<Contents><Key>{prefix}/{name}</Key><Size>1</Size></Contents>"))
        .concat();
    let listing = format!("<ListBucketResult>{contents}</ListBucketResult>");
    proxy.inject("GET", 1, Fault::Answer(200, listing));
    let error = bare.list("", Some(&key("a")), 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unfit, "{error}");
    assert!(bare.list("", None, 10).await.unwrap().objects.is_empty());
}

#[tokio::test]
async fn a_server_that_turns_out_to_list_by_folder_is_asked_by_folder() {
    let (lab, _proxy, bare) = through_proxy().await;
    let names = ["vm-1/x", "vm-1/y", "vm/x", "vm/y", "vm0/x"];
    for name in names {
        bare.put(&key(name), Bytes::from_static(b"x")).await.unwrap();
    }
    let all = list_all(&*bare, "vm").await.unwrap();
    assert_eq!(all.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), names);
    let rest = bare.list("", Some(&key("vm-1/x")), 2).await.unwrap();
    assert_eq!(rest.objects.iter().map(|o| o.key.as_str()).collect::<Vec<_>>(), names[1..3]);
    assert!(rest.more);
    lab.clean_up().await;
}

#[tokio::test]
async fn a_page_of_an_ordered_server_takes_one_request() {
    let (lab, proxy, bare) = through_proxy().await;
    let names = ["a/1", "a/2", "b/1", "b/2", "c/1"];
    for name in names {
        bare.put(&key(name), Bytes::from_static(b"x")).await.unwrap();
    }
    let mut found = Vec::new();
    let mut more = true;
    while more {
        let page = bare.list("", found.last(), 2).await.unwrap();
        more = page.more;
        found.extend(page.objects.into_iter().map(|object| object.key));
    }
    assert_eq!(found.iter().map(Key::as_str).collect::<Vec<_>>(), names);
    assert_eq!(requests(&proxy, "get"), 3);
    lab.clean_up().await;
}

#[tokio::test]
async fn foreign_names_below_the_prefix_are_passed_over() {
    let lab = Lab::find();
    let foreign = lab.open(&lab.url("shared/.foreign")).await;
    for name in ["x", "y", "z"] {
        foreign.put(&key(name), Bytes::from_static(b"foreign")).await.unwrap();
    }
    let ours = lab.open(&lab.url("shared")).await;
    ours.put(&key("mine"), Bytes::from_static(b"ours")).await.unwrap();
    let page = ours.list("", None, 1).await.unwrap();
    assert_eq!(page.objects.len(), 1, "a page of foreign names ended the listing");
    assert_eq!(page.objects[0].key, key("mine"));
    for name in ["x", "y", "z"] {
        foreign.delete(&key(name)).await.unwrap();
    }
    lab.clean_up().await;
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let (lab, proxy, bare) = through_proxy().await;
    proxy.inject("GET", 1, Fault::Answer(403, xml("RequestTimeTooSkewed")));
    let skewed = bare.get(&key("a"), ByteRange::Full).await.unwrap_err();
    assert_eq!(skewed.kind(), ErrorKind::AccessDenied);
    assert!(skewed.to_string().contains("clock"), "{skewed}");
    proxy.inject("PUT", 1, Fault::Answer(501, xml("NotImplemented")));
    let without = bare.put_new(&key("a"), Bytes::new()).await.unwrap_err();
    assert_eq!(without.kind(), ErrorKind::Unfit, "{without}");

    let bucket = lab.url("x").split('/').nth(2).unwrap().to_owned();
    let url = lab.url("x").replacen(&bucket, "no-such-bucket-here", 1);
    let elsewhere = lab.open(&url).await;
    // Some servers make the bucket at the first put, so that answer is made up.
    proxy.inject("PUT", 1, Fault::Answer(404, xml("NoSuchBucket")));
    for error in [
        elsewhere.get(&key("a"), ByteRange::Full).await.unwrap_err(),
        elsewhere.list("", None, 1).await.unwrap_err(),
        bare.put_new(&key("a"), Bytes::new()).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{error}");
        assert!(error.to_string().contains("create the bucket"), "{error}");
    }

    let nobody = lab.open(&lab.url_at("x", "http://127.0.0.1:9")).await;
    let error = nobody.get(&key("a"), ByteRange::Full).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("127.0.0.1:9") && chain(&error).contains("refused"));
}

#[tokio::test]
async fn wrong_and_missing_keys_are_access_denied_and_never_shown() {
    let lab = Lab::find();
    let text = std::fs::read_to_string(lab.folder().join("keys")).unwrap();
    let id = text.lines().nth(1).unwrap();
    let wrong = format!("[default]\n{id}\naws_secret_access_key = not-the-secret\n");
    std::fs::write(lab.folder().join("keys"), wrong).unwrap();
    let store = lab.open(&lab.url("x")).await;
    let error = store.put(&key("a"), Bytes::new()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
    let id = id.rsplit(' ').next().unwrap();
    for shown in [chain(&error), store.location(), format!("{store:?}"), format!("{error:?}")] {
        assert!(!shown.contains("not-the-secret") && !shown.contains(id), "{shown}");
    }
    for content in [Some("[default]\n"), None] {
        match content {
            Some(content) => std::fs::write(lab.folder().join("keys"), content).unwrap(),
            None => std::fs::remove_file(lab.folder().join("keys")).unwrap(),
        }
        let config = S3Config::from_url(&lab.url("x").parse().unwrap()).unwrap();
        let error = S3Destination::open(config).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AccessDenied, "{error}");
        assert!(error.to_string().contains("credentials"), "{error}");
    }
}

//! Many objects removed with one request.

use bytes::Bytes;
use sluice_destination::{ErrorKind, Key, list_all};

use crate::proxy::Fault;
use crate::{chain, key, requests, through_proxy};

fn keys(count: usize) -> Vec<Key> {
    (0..count).map(|at| key(&format!("many/{at:04}"))).collect()
}

#[tokio::test]
async fn a_thousand_are_removed_with_one_request() {
    let (lab, proxy, bare) = through_proxy().await;
    for key in keys(3) {
        bare.put(&key, Bytes::from_static(b"x")).await.unwrap();
    }
    bare.delete_many(&keys(2001)).await.unwrap();
    assert!(list_all(&*bare, "").await.unwrap().is_empty());
    // Two full requests, and the one that is left by itself.
    assert_eq!((requests(&proxy, "post"), requests(&proxy, "delete")), (2, 1));
    let heads = proxy.heads();
    let post = heads.iter().find(|head| head.starts_with("post")).unwrap();
    assert!(post.contains("content-md5: "), "{post}");
    lab.clean_up().await;
}

#[tokio::test]
async fn what_is_refused_is_told_by_name() {
    let (_lab, proxy, bare) = through_proxy().await;
    let refusal =
        |code: &str| format!("<Error><Key>some/prefix/many/0001</Key><Code>{code}</Code></Error>");
    for (codes, kind) in [
        (&["AccessDenied"][..], Some(ErrorKind::AccessDenied)),
        (&["SlowDown"], Some(ErrorKind::Unavailable)),
        (&["SlowDown", "AccessDenied"], Some(ErrorKind::AccessDenied)),
        (&["NoSuchKey"], None),
    ] {
        let errors: String = codes.iter().map(|code| refusal(code)).collect();
        let answer = format!("<DeleteResult>{errors}</DeleteResult>");
        proxy.inject("POST", 1, Fault::Answer(200, answer));
        let outcome = bare.delete_many(&keys(2)).await;
        assert_eq!(outcome.as_ref().err().map(|error| error.kind()), kind, "{codes:?}");
        if let Err(error) = outcome {
            assert!(chain(&error).contains("many/0001"), "{}", chain(&error));
        }
    }
}

#[tokio::test]
async fn a_server_without_that_request_gets_one_for_each() {
    let (lab, proxy, bare) = through_proxy().await;
    for key in keys(3) {
        bare.put(&key, Bytes::from_static(b"x")).await.unwrap();
    }
    proxy.inject(
        "POST",
        1,
        Fault::Answer(501, "<Error><Code>NotImplemented</Code></Error>".into()),
    );
    bare.delete_many(&keys(3)).await.unwrap();
    assert_eq!(requests(&proxy, "delete"), 3);
    assert!(list_all(&*bare, "").await.unwrap().is_empty());
    lab.clean_up().await;
}

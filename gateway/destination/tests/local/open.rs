use bytes::Bytes;
use sluice_destination::url::{OpenOptions, open};
use sluice_destination::{ByteRange, ErrorKind, Key};
use tempfile::tempdir;

#[tokio::test]
async fn a_folder_opens_as_path_and_as_url_and_is_counted() {
    let folder = tempdir().unwrap();
    let path = folder.path().join("with space");
    let create = OpenOptions { create: true, ..OpenOptions::default() };
    open(path.to_str().unwrap(), &OpenOptions::default()).await.unwrap_err();
    let opened = open(path.to_str().unwrap(), &create).await.unwrap();
    let key = Key::new("a/b").unwrap();
    opened.destination.put_new(&key, Bytes::from_static(b"body")).await.unwrap();

    let url = format!("file://{}", path.display()).replace(' ', "%20");
    let again = open(&url, &OpenOptions::default()).await.unwrap();
    assert_eq!(again.destination.get(&key, ByteRange::Full).await.unwrap(), "body");
    let counts = again.counters.snapshot();
    assert_eq!((counts.requests(), counts.get.requests, counts.get.bytes), (1, 1, 4));
    assert_eq!(opened.counters.snapshot().put.bytes, 4);
}

#[tokio::test]
async fn urls_that_name_nothing_are_invalid() {
    for url in ["", "ftp://x/y", "s3:bucket", "s3://", "file://host/x", "file:///tmp?x=1"] {
        let error = open(url, &OpenOptions::default()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{url}: {error}");
    }
}

//! What is answered to whom.

use serde_json::Value;

use crate::support::{DATE, SIZE, TAG, TOKEN, answer, content, plain, send};

#[tokio::test]
async fn a_disk_is_whole_or_a_range_or_refused() {
    let serving = plain().await;
    let content = content();
    let whole = serving.get(&[]).await;
    assert_eq!((whole.status, whole.header("content-length")), (200, Some("3000000")));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));
    assert_eq!(whole.header("etag"), Some(TAG));
    assert_eq!(whole.header("last-modified"), Some(DATE));
    assert!(whole.body == content);

    let part = serving.get(&["Range: bytes=499990-2500009"]).await;
    assert_eq!((part.status, part.header("content-length")), (206, Some("2000020")));
    assert_eq!(part.header("content-range"), Some("bytes 499990-2500009/3000000"));
    assert!(part.body == content[499_990..2_500_010]);

    let tail = serving.get(&["Range: bytes=-7"]).await;
    assert_eq!(tail.header("content-range"), Some("bytes 2999993-2999999/3000000"));
    assert_eq!(tail.body, content[SIZE - 7..]);

    let behind = serving.get(&["Range: bytes=3000000-"]).await;
    assert_eq!(behind.status, 416);
    assert_eq!(behind.header("content-range"), Some("bytes */3000000"));
    assert_eq!(serving.get(&["Range: lines=1-2"]).await.status, 200);
}

#[tokio::test]
async fn several_ranges_are_parts_of_one_answer() {
    let serving = plain().await;
    let content = content();
    let got = serving.get(&["Range: bytes=10-19,2900000-2999999,0-4"]).await;
    assert_eq!(got.status, 206);
    // 10-19 and 0-4 are close enough to be one.
    let kind = got.header("content-type").unwrap();
    let boundary = kind.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let part = |range: std::ops::Range<usize>| {
        let mut bytes = format!(
            "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
             Content-Range: bytes {}-{}/3000000\r\n\r\n",
            range.start,
            range.end - 1
        )
        .into_bytes();
        bytes.extend_from_slice(&content[range]);
        bytes
    };
    let end = format!("\r\n--{boundary}--\r\n").into_bytes();
    let expected = [part(0..20), part(2_900_000..SIZE), end].concat();
    assert!(got.body == expected);
    assert_eq!(got.header("content-length"), Some(expected.len().to_string().as_str()));
}

#[tokio::test]
async fn head_tells_what_get_would_and_sends_nothing() {
    let serving = plain().await;
    let mut stream = serving.connect().await;
    let path = format!("/{TOKEN}/disk.raw");
    send(&mut stream, "HEAD", &path, &["Range: bytes=0-1"]).await;
    let told = answer(&mut stream, false).await;
    assert_eq!((told.status, told.header("content-length")), (200, Some("3000000")));
    assert_eq!(told.header("accept-ranges"), Some("bytes"));
    // The next answer comes at once on the same connection: there was no body.
    send(&mut stream, "GET", &path, &["Range: bytes=0-1"]).await;
    let next = answer(&mut stream, true).await;
    assert_eq!((next.status, next.body.as_slice()), (206, &content()[..2]));
}

#[tokio::test]
async fn a_client_with_the_same_content_is_not_sent_it_again() {
    let serving = plain().await;
    let same = serving.get(&[&format!("If-None-Match: \"x\", W/{TAG}")]).await;
    assert_eq!((same.status, same.header("etag"), same.body.len()), (304, Some(TAG), 0));
    assert_eq!(serving.get(&[&format!("If-Modified-Since: {DATE}")]).await.status, 304);
    assert_eq!(serving.get(&["If-Match: \"other\""]).await.status, 412);

    let range = "Range: bytes=0-9";
    for (condition, status) in [
        (format!("If-Range: {TAG}"), 206),
        (format!("If-Range: {DATE}"), 206),
        ("If-Range: \"other\"".to_owned(), 200),
    ] {
        let got = serving.get(&[range, &condition]).await;
        assert_eq!(got.status, status, "{condition}");
        assert_eq!(got.body.len(), if status == 206 { 10 } else { SIZE });
    }
}

#[tokio::test]
async fn nothing_is_told_without_the_token() {
    let serving = plain().await;
    for path in ["/", "/disk.raw", "/index.json", "/none.raw", "/wrong-token/disk.raw"] {
        let refused = serving.ask("GET", path, &[]).await;
        assert_eq!(refused.status, 401, "{path}");
        assert!(refused.header("www-authenticate").unwrap().starts_with("Bearer"));
        assert!(refused.header("etag").is_none() && !refused.text().contains("disk"));
    }
    let bearer = format!("Authorization: Bearer {TOKEN}");
    assert_eq!(serving.ask("GET", "/disk.raw", &[&bearer]).await.status, 200);
    assert_eq!(serving.ask("GET", "/none.raw", &[&bearer]).await.status, 404);
    // A password: "user:token-of-the-tests".
    let basic = "Authorization: Basic dXNlcjp0b2tlbi1vZi10aGUtdGVzdHM=";
    assert_eq!(serving.ask("GET", "/disk.raw", &[basic]).await.status, 200);
    assert_eq!(serving.ask("GET", &format!("/{TOKEN}/none.raw"), &[]).await.status, 404);
    assert_eq!(serving.ask("GET", &format!("/{TOKEN}/disk"), &[]).await.status, 404);
    let written = serving.ask("PUT", &format!("/{TOKEN}/disk.raw"), &["Content-Length: 0"]).await;
    assert_eq!((written.status, written.header("allow")), (405, Some("GET, HEAD")));
}

#[tokio::test]
async fn the_list_leads_to_the_disk() {
    let serving = plain().await;
    let root = serving.ask("GET", &format!("/{TOKEN}"), &[]).await;
    assert_eq!((root.status, root.header("location")), (308, Some(&*format!("/{TOKEN}/"))));
    let page = serving.ask("GET", &format!("/{TOKEN}/"), &[]).await;
    assert!(page.header("content-type").unwrap().starts_with("text/html"));
    assert!(page.text().contains("href=\"./disk.raw\""));
    assert!(!page.text().contains(TOKEN), "the page is safe to show");
    for (path, lines) in [("index.json", &[][..]), ("", &["Accept: application/json"])] {
        let list = serving.ask("GET", &format!("/{TOKEN}/{path}"), lines).await;
        let list: Value = serde_json::from_slice(&list.body).unwrap();
        assert_eq!(list["exports"][0]["path"], "disk.raw");
        assert_eq!(list["exports"][0]["size"], SIZE);
    }
}

#[tokio::test]
async fn the_map_shows_the_hole() {
    let serving = plain().await;
    let path = format!("/{TOKEN}/disk.raw?extents");
    let map: Value = serde_json::from_slice(&serving.ask("GET", &path, &[]).await.body).unwrap();
    assert_eq!(map["size"], SIZE);
    let kinds: Vec<_> = map["extents"].as_array().unwrap().iter().map(|e| &e["type"]).collect();
    assert_eq!(kinds, ["data", "hole", "data"]);
    let part = serving.ask("GET", &format!("{path}&offset=1000000&length=4096"), &[]).await;
    let part: Value = serde_json::from_slice(&part.body).unwrap();
    assert_eq!(part["extents"][0]["offset"], 1_000_000);
    assert_eq!(part["extents"][0]["length"], 4096);
    assert_eq!(serving.ask("GET", &format!("{path}&offset=3000001"), &[]).await.status, 400);
}

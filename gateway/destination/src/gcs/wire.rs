//! What is sent to the service and what it answers; no connection is needed for this.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{Key, ObjectMeta};

/// What the service says of an object. Numbers of 64 bits are text in its JSON.
#[derive(Debug, PartialEq, Eq, Deserialize)]
struct Resource {
    name: Option<String>,
    size: String,
    updated: Option<String>,
    generation: Option<String>,
    crc32c: Option<String>,
}

/// The same, read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) name: String,
    pub(super) size: u64,
    updated: Option<Timestamp>,
    /// Which of the objects that had this name one after another it is.
    pub(super) generation: Option<String>,
    /// Its checksum, in base 64.
    pub(super) crc32c: Option<String>,
}

impl Object {
    fn read(resource: Resource) -> Option<Self> {
        let digits = |text: &String| text.bytes().all(|byte| byte.is_ascii_digit());
        Some(Self {
            name: resource.name.unwrap_or_default(),
            size: resource.size.parse().ok()?,
            updated: resource.updated.and_then(|time| time.parse().ok()),
            generation: resource.generation.filter(digits),
            crc32c: resource.crc32c,
        })
    }

    /// When it was written.
    pub(super) fn modified(&self) -> Option<SystemTime> {
        self.updated.map(SystemTime::from)
    }
}

/// What the service says of one object; none when it says something else.
pub(super) fn parse_object(body: &[u8]) -> Option<Object> {
    Object::read(serde_json::from_slice(body).ok()?)
}

/// What the service sends of a listing at a time.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Listing {
    pub(super) objects: Vec<ObjectMeta>,
    /// The mark where the next part begins.
    pub(super) next: Option<String>,
}

/// A part of a listing; `base` stands before every key. None when it is no listing.
pub(super) fn parse_listing(body: &[u8], base: &str) -> Option<Listing> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Page {
        #[serde(default)]
        items: Vec<Resource>,
        next_page_token: Option<String>,
    }
    let page: Page = serde_json::from_slice(body).ok()?;
    let mut objects = Vec::with_capacity(page.items.len());
    for item in page.items {
        let object = Object::read(item)?;
        // Names that no key can have are not ours.
        let Some(Ok(key)) = object.name.strip_prefix(base).map(Key::new) else { continue };
        objects.push(ObjectMeta { key, size: object.size, modified: object.modified() });
    }
    Some(Listing { objects, next: page.next_page_token.filter(|mark| !mark.is_empty()) })
}

/// Why the service refused something; empty where it does not say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: String,
    pub(super) message: String,
}

/// The reason in an answer that is an error, also of the place that gives tokens.
pub(super) fn parse_refusal(body: &[u8]) -> Refusal {
    let value: Value = serde_json::from_slice(body).unwrap_or_default();
    let error = &value["error"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let reason = if error.is_string() { error } else { &error["errors"][0]["reason"] };
    Refusal { reason: text(reason), message: text(&error["message"]) }
}

/// A token, and how long it holds.
pub(super) fn parse_token(body: &[u8]) -> Option<(String, Option<Duration>)> {
    #[derive(Deserialize)]
    struct Given {
        access_token: String,
        expires_in: Option<u64>,
    }
    let given: Given = serde_json::from_slice(body).ok()?;
    let token = Some(given.access_token).filter(|token| !token.is_empty())?;
    Some((token, given.expires_in.map(Duration::from_secs)))
}

/// The CRC-32C of a body, as the service writes it.
pub(super) fn checksum(body: &[u8]) -> String {
    BASE64.encode(&crc32c::crc32c(body).to_be_bytes())
}

/// The CRC-32C in a header of sums, such as `crc32c=AAAAAA==,md5=...`.
pub(super) fn crc32c_of(header: &str) -> Option<&str> {
    header.split(',').find_map(|sum| sum.trim().strip_prefix("crc32c="))
}

/// An object with its name and its checksum in one body, and the type of that.
pub(super) fn upload(name: &str, sum: &str, body: &[u8]) -> (String, Bytes) {
    // At random, so that no content holds it.
    let boundary = HEXLOWER.encode(&rand::random::<[u8; 16]>());
    let head = format!(
        "--{boundary}\r\ncontent-type: application/json; charset=utf-8\r\n\r\n{}\r\n\
         --{boundary}\r\ncontent-type: application/octet-stream\r\n\r\n",
        json!({ "name": name, "crc32c": sum })
    );
    let end = format!("\r\n--{boundary}--\r\n");
    let whole = [head.as_bytes(), body, end.as_bytes()].concat();
    (format!("multipart/related; boundary={boundary}"), whole.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTING: &str = r#"{"kind":"storage#objects","nextPageToken":"p/b","items":[
        {"name":"p/a","size":"7","updated":"1970-01-01T00:01:00.000Z","generation":"12"},
        {"name":"p/not a key","size":"1"},{"name":"other","size":"1"}]}"#;

    #[test]
    fn a_listing_holds_what_keys_can_be() {
        let listing = parse_listing(LISTING.as_bytes(), "p/").unwrap();
        assert_eq!(listing.next.as_deref(), Some("p/b"));
        let [object] = &listing.objects[..] else { panic!("{listing:?}") };
        assert_eq!((object.key.as_str(), object.size), ("a", 7));
        let minute = SystemTime::UNIX_EPOCH + Duration::from_secs(60);
        assert_eq!(object.modified, Some(minute));
        for end in ["{}", r#"{"items":[]}"#, r#"{"nextPageToken":""}"#] {
            assert_eq!(parse_listing(end.as_bytes(), ""), Some(Listing::default()), "{end}");
        }
    }

    #[test]
    fn what_is_cut_short_or_odd_is_no_listing() {
        for cut in 0..LISTING.len() {
            assert_eq!(parse_listing(&LISTING.as_bytes()[..cut], "p/"), None, "{cut}");
        }
        for odd in ["[]", r#"{"items":{}}"#, r#"{"items":[{"name":"a","size":"-1"}]}"#] {
            assert_eq!(parse_listing(odd.as_bytes(), ""), None, "{odd}");
        }
    }

    #[test]
    fn an_object_tells_its_size_and_generation() {
        let object = parse_object(br#"{"size":"5","generation":"17","crc32c":"mnG7TA=="}"#);
        let object = object.unwrap();
        assert_eq!((object.size, object.generation.as_deref()), (5, Some("17")));
        assert_eq!(object.crc32c, Some(checksum(b"hello")));
        assert_eq!(parse_object(b"{}"), None);
        let odd = parse_object(br#"{"size":"5","generation":"1&x=2"}"#).unwrap();
        assert_eq!(odd.generation, None);
    }

    #[test]
    fn refusals_of_both_kinds_are_read() {
        let store = br#"{"error":{"code":403,"message":"No.","errors":[{"reason":"forbidden"}]}}"#;
        let wanted = Refusal { reason: "forbidden".into(), message: "No.".into() };
        assert_eq!(parse_refusal(store), wanted);
        let token = br#"{"error":"invalid_grant","error_description":"Bad"}"#;
        assert_eq!(parse_refusal(token).reason, "invalid_grant");
        for odd in [&b""[..], b"<html>", b"[]", br#"{"error":7}"#, br#"{"error":{"errors":[]}}"#] {
            assert_eq!(parse_refusal(odd), Refusal::default());
        }
    }

    #[test]
    fn tokens_come_with_their_life() {
        let given = parse_token(br#"{"access_token":"t","expires_in":3599,"token_type":"Bearer"}"#);
        assert_eq!(given, Some(("t".into(), Some(Duration::from_secs(3599)))));
        assert_eq!(parse_token(br#"{"access_token":"t"}"#), Some(("t".into(), None)));
        for odd in [r#"{"access_token":""}"#, r#"{"expires_in":1}"#, "", "t"] {
            assert_eq!(parse_token(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn an_upload_is_name_and_sum_and_then_the_bytes() {
        let (kind, whole) = upload("a\"b", "sum", b"\r\n--x\0");
        let boundary = kind.strip_prefix("multipart/related; boundary=").unwrap();
        let mark = format!("--{boundary}");
        let whole = std::str::from_utf8(&whole).unwrap();
        let parts: Vec<_> = whole.split(&mark).collect();
        let ["", described, bytes, "--\r\n"] = parts[..] else { panic!("{parts:?}") };
        let (_, described) = described.split_once("\r\n\r\n").unwrap();
        let described: Value = serde_json::from_str(described).unwrap();
        assert_eq!(described, json!({ "name": "a\"b", "crc32c": "sum" }));
        assert_eq!(bytes.split_once("\r\n\r\n").unwrap().1, "\r\n--x\0\r\n");
    }
}

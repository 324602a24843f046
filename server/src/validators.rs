//! Entity tags: whether somebody has what is answered already, and whether what somebody changes is
//! still what they have read.
//!
//! ```text
//!   "BASE"        what a change is based on: a revision, or a hash of what is said
//!   "BASE-REST"   with what else is shown beside it, and changes by itself
//! ```
//!
//! `If-Match` looks at the base alone: that a node was heard of meanwhile keeps nobody from
//! changing what is said of it. `If-None-Match` looks at all of it. What has no base is tagged by a
//! hash of what is answered.

use aws_lc_rs::digest;
use axum::Json;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::problem::{Problem, Result};

/// Bytes of a hash that tell states of one thing apart.
const HASHED: usize = 12;

fn hash(bytes: &[u8]) -> String {
    let digest = digest::digest(&digest::SHA256, bytes);
    data_encoding::HEXLOWER.encode(&digest.as_ref()[..HASHED])
}

/// What a change of a document is based on, where that has no revision.
pub(crate) fn base_of<T: Serialize>(document: &T) -> String {
    hash(&serde_json::to_vec(document).unwrap_or_default())
}

/// An answer whose changes are based on something that is not all of it.
pub(crate) fn tagged<T: Serialize>(base: &str, view: T) -> Response {
    let tag = format!("\"{base}-{}\"", base_of(&view));
    let mut response = Json(view).into_response();
    put(&mut response, &tag);
    response
}

fn put(response: &mut Response, tag: &str) {
    if let Ok(value) = HeaderValue::from_str(tag) {
        response.headers_mut().insert(header::ETAG, value);
    }
}

/// The tags of a header, each without what is around it.
fn tags(headers: &HeaderMap, name: header::HeaderName) -> Vec<String> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    let bare = |tag: &str| {
        let tag = tag.trim();
        tag.strip_prefix("W/").unwrap_or(tag).trim_matches('"').to_owned()
    };
    lines.flat_map(|line| line.split(',').map(bare)).collect()
}

/// Refuses a change that is based on something else than `base`; one that does not say on what is
/// none of those.
///
/// # Errors
/// 412 when it was changed by somebody else.
pub(crate) fn check(headers: &HeaderMap, base: &str) -> Result<()> {
    if !headers.contains_key(header::IF_MATCH) {
        return Ok(());
    }
    let tags = tags(headers, header::IF_MATCH);
    let fits = |tag: &String| tag == "*" || tag.split('-').next() == Some(base);
    if tags.iter().any(fits) { Ok(()) } else { Err(stale()) }
}

/// The same, of what is only changed by who says on what the change is based.
///
/// # Errors
/// 428 when it is not said, 412 when it was changed by somebody else.
pub(crate) fn require(headers: &HeaderMap, base: &str) -> Result<()> {
    if !headers.contains_key(header::IF_MATCH) {
        let text = "a change names the revision it is based on: If-Match: \"REVISION\"";
        return Err(Problem::new(StatusCode::PRECONDITION_REQUIRED, "revision-needed", text));
    }
    check(headers, base)
}

fn stale() -> Problem {
    let text = "it was changed by somebody else: read it again";
    Problem::new(StatusCode::PRECONDITION_FAILED, "stale", text)
}

/// Tags the JSON that is answered to a GET, and answers nothing of it to whoever has it already.
/// What is no JSON (files, pictures, streams) goes out piece by piece, and is left as it is.
pub(crate) async fn layer(request: Request, next: Next) -> Response {
    let reads = request.method() == Method::GET;
    let known = match reads {
        true => tags(request.headers(), header::IF_NONE_MATCH),
        false => Vec::new(),
    };
    let response = next.run(request).await;
    let json = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/json"));
    if !reads || response.status() != StatusCode::OK || !json {
        return response;
    }
    let (mut head, body) = response.into_parts();
    // It is there as a whole already.
    let Ok(bytes) = to_bytes(body, usize::MAX).await else {
        let text = "what is to be answered cannot be read";
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        return Problem::new(status, "internal", text).into_response();
    };
    let tag = match head.headers.get(header::ETAG).and_then(|tag| tag.to_str().ok()) {
        Some(tag) => tag.to_owned(),
        None => format!("\"{}\"", hash(&bytes)),
    };
    let has = known.iter().any(|known| known == "*" || known == tag.trim_matches('"'));
    if has {
        let mut response = StatusCode::NOT_MODIFIED.into_response();
        put(&mut response, &tag);
        return response;
    }
    if let Ok(value) = HeaderValue::from_str(&tag) {
        head.headers.insert(header::ETAG, value);
    }
    // What one may read another may not: nobody keeps it for others.
    let private = HeaderValue::from_static("private, no-cache");
    head.headers.entry(header::CACHE_CONTROL).or_insert(private);
    Response::from_parts(head, Body::from(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(name: header::HeaderName, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_change_is_based_on_what_is_said_and_not_on_what_is_shown_beside_it() {
        let status = |value: &str, base: &str| {
            check(&given(header::IF_MATCH, value), base)
                .map_or_else(|problem| problem.status, |()| 0)
        };
        assert_eq!([status("\"3\"", "3"), status("\"3-abc\"", "3"), status("*", "3")], [0, 0, 0]);
        assert_eq!([status("\"2\", W/\"3\"", "3"), status("3", "3")], [0, 0]);
        assert_eq!([status("\"30\"", "3"), status("", "3"), status("abc", "3")], [412, 412, 412]);
        assert!(check(&HeaderMap::new(), "3").is_ok());
        assert_eq!(require(&HeaderMap::new(), "3").unwrap_err().status, 428);
    }
}

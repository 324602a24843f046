//! From a request to its answer.

use std::net::IpAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use http::header::{
    ACCEPT_RANGES, ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE,
    ETAG, HeaderMap, HeaderName, HeaderValue, LAST_MODIFIED, LOCATION, RANGE, REFERRER_POLICY,
    RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use sluice_door::Guard;

use crate::Token;
use crate::condition::{self, Verdict};
use crate::content::{self, Content};
use crate::export::{Exports, SUFFIX, Served};
use crate::range::{self, Asked};
use crate::{index, map, path};

/// A segment of a path this long may be a guess at a token; shorter ones are typing errors, or
/// what browsers ask for by themselves.
const GUESS: usize = 16;

/// What all requests share.
#[derive(Debug)]
pub(crate) struct Site {
    pub(crate) exports: Exports,
    pub(crate) token: Token,
    pub(crate) guard: Guard,
    /// What stands between the parts of an answer with several ranges: random, so that it is not
    /// in the content.
    pub(crate) boundary: String,
}

type Answer = Response<Content>;

impl Site {
    /// Answers a request.
    pub(crate) async fn answer<B>(&self, peer: IpAddr, request: &Request<B>) -> Answer {
        let mut answer = self.authorized(peer, request).await;
        let headers = answer.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        // The URL may hold the token.
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if *request.method() == Method::HEAD {
            // The length was announced as for GET, and stays.
            *answer.body_mut() = Content::empty();
        }
        answer
    }

    async fn authorized<B>(&self, peer: IpAddr, request: &Request<B>) -> Answer {
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are possible");
            return with(answer, ALLOW, "GET, HEAD");
        }
        let full = request.uri().path();
        let full = full.strip_prefix('/').unwrap_or(full);
        let (first, rest) = match full.split_once('/') {
            Some((first, rest)) => (first, Some(rest)),
            None => (full, None),
        };
        let headers = request.headers();
        let in_header = headers.contains_key(http::header::AUTHORIZATION);
        let is_guess = in_header || first.len() >= GUESS;
        let now = Instant::now();
        if is_guess && let Some(wait) = self.guard.wait(peer, now) {
            let answer = text(StatusCode::TOO_MANY_REQUESTS, "too many wrong tokens; wait");
            let answer = with(answer, RETRY_AFTER, &(wait.as_secs() + 1).to_string());
            return with(answer, CONNECTION, "close");
        }
        match (self.token.is(first), rest) {
            (true, Some(rest)) => self.open(rest, request).await,
            // Links of the list are relative to a folder.
            (true, None) => {
                let place = format!("/{}/", self.token.reveal());
                with(text(StatusCode::PERMANENT_REDIRECT, "see below"), LOCATION, &place)
            }
            _ if self.token.opens(headers) => self.open(full, request).await,
            _ => {
                if is_guess {
                    tracing::warn!(%peer, "wrong token");
                    self.guard.failed(peer, now);
                }
                let answer = text(StatusCode::UNAUTHORIZED, "the token is missing or wrong");
                let challenge = "Bearer realm=\"sluice\", Basic realm=\"sluice\"";
                with(answer, WWW_AUTHENTICATE, challenge)
            }
        }
    }

    /// Answers who knows the token.
    async fn open<B>(&self, place: &str, request: &Request<B>) -> Answer {
        let json = "application/json";
        match place {
            "index.json" => return page(json, index::json(&self.exports)),
            "" if index::wants_json(request.headers()) => {
                return page(json, index::json(&self.exports));
            }
            "" => return page("text/html; charset=utf-8", index::html(&self.exports)),
            _ => {}
        }
        let name = path::unescape(place);
        let found = name.as_deref().and_then(|name| name.strip_suffix(SUFFIX));
        let Some(served) = found.and_then(|name| self.exports.find(name)) else {
            return text(StatusCode::NOT_FOUND, "there is no such export; / lists them");
        };
        let query = request.uri().query().unwrap_or_default();
        let mut answer = match condition::judge(request.headers(), served.validators()) {
            Verdict::NotModified => empty(StatusCode::NOT_MODIFIED),
            Verdict::Failed => text(StatusCode::PRECONDITION_FAILED, "the content is another one"),
            Verdict::Proceed if path::query(query, "extents").is_some() => {
                extents(served, query).await
            }
            Verdict::Proceed => self.content(served, request.method(), request.headers()).await,
        };
        let headers = answer.headers_mut();
        if let Ok(etag) = HeaderValue::from_str(&served.etag) {
            headers.insert(ETAG, etag);
        }
        if let Ok(date) = HeaderValue::from_str(&index::date(served.modified)) {
            headers.insert(LAST_MODIFIED, date);
        }
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        // Not for caches that several people share, and not to be recompressed on the way.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-transform"));
        answer
    }

    async fn content(&self, served: &Served, method: &Method, headers: &HeaderMap) -> Answer {
        let size = served.export.device.size();
        // Ranges are defined for GET only.
        let header = headers.get(RANGE).filter(|_| *method == Method::GET);
        let asked = match header.and_then(|value| value.to_str().ok()) {
            Some(header) if condition::range_counts(headers, served.validators()) => {
                range::parse(header, size)
            }
            _ => Asked::Whole,
        };
        match asked {
            Asked::Whole if *method == Method::HEAD => octets(empty(StatusCode::OK), size),
            Asked::Whole => part(served, StatusCode::OK, 0..size).await,
            Asked::Parts(parts) => match <[_; 1]>::try_from(parts) {
                Ok([only]) => {
                    let place = content_range(&only, size);
                    let answer = part(served, StatusCode::PARTIAL_CONTENT, only).await;
                    // An answer that something failed is no part.
                    if answer.status() == StatusCode::PARTIAL_CONTENT {
                        with(answer, CONTENT_RANGE, &place)
                    } else {
                        answer
                    }
                }
                Err(parts) => self.parts(served, &parts).await,
            },
            Asked::Unsatisfiable => {
                let answer = text(
                    StatusCode::RANGE_NOT_SATISFIABLE,
                    "the range is behind the end, or in too many pieces",
                );
                with(answer, CONTENT_RANGE, &format!("bytes */{size}"))
            }
        }
    }

    /// Several ranges, as a multipart message.
    async fn parts(&self, served: &Served, parts: &[Range<u64>]) -> Answer {
        let device = &served.export.device;
        let size = device.size();
        let mut length = 0;
        let mut all = Vec::with_capacity(parts.len());
        for range in parts {
            let head = format!(
                "\r\n--{}\r\nContent-Type: application/octet-stream\r\nContent-Range: {}\r\n\r\n",
                self.boundary,
                content_range(range, size),
            );
            length += head.len() as u64 + range.end - range.start;
            all.push((Bytes::from(head), range.clone()));
        }
        let tail = Bytes::from(format!("\r\n--{}--\r\n", self.boundary));
        length += tail.len() as u64;
        let device = Arc::clone(device);
        let bits = stream::iter(all).flat_map(move |(head, range)| {
            stream::iter([Ok(head)]).chain(content::read(Arc::clone(&device), range))
        });
        let bits = bits.chain(stream::iter([Ok(tail)])).boxed();
        // The first part's head, and its first bytes.
        match content::begun(bits, 2).await {
            Ok(bits) => {
                let mut answer = Response::new(Content::new(bits, length));
                *answer.status_mut() = StatusCode::PARTIAL_CONTENT;
                let kind = format!("multipart/byteranges; boundary={}", self.boundary);
                with(with_length(answer, length), CONTENT_TYPE, &kind)
            }
            Err(error) => failed(served, &error),
        }
    }
}

/// One range as a body of its own.
async fn part(served: &Served, status: StatusCode, range: Range<u64>) -> Answer {
    let length = range.end - range.start;
    let bits = content::read(Arc::clone(&served.export.device), range);
    match content::begun(bits, 1).await {
        Ok(bits) => {
            let mut answer = Response::new(Content::new(bits, length));
            *answer.status_mut() = status;
            octets(answer, length)
        }
        Err(error) => failed(served, &error),
    }
}

async fn extents(served: &Served, query: &str) -> Answer {
    let device = &*served.export.device;
    let Some((offset, length)) = map::asked(query, device.size()) else {
        return text(StatusCode::BAD_REQUEST, "offset and length are not inside the disk");
    };
    match map::map(device, offset, length).await {
        Ok(map) => page("application/json", serde_json::to_string(&map).unwrap_or_default()),
        Err(error) => failed(served, &error),
    }
}

/// What the device reports is for the operator; a client learns that it failed.
fn failed(served: &Served, error: &content::Failure) -> Answer {
    content::log_failure(&served.export.name, error);
    text(StatusCode::INTERNAL_SERVER_ERROR, "the bytes cannot be read; the server's log says why")
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}

fn octets(answer: Answer, length: u64) -> Answer {
    with(with_length(answer, length), CONTENT_TYPE, "application/octet-stream")
}

fn text(status: StatusCode, message: &str) -> Answer {
    let mut answer = page("text/plain; charset=utf-8", format!("{message}\n"));
    *answer.status_mut() = status;
    answer
}

fn page(kind: &str, body: String) -> Answer {
    let length = body.len() as u64;
    let answer = with_length(Response::new(Content::from(body)), length);
    with(with(answer, CONTENT_TYPE, kind), CACHE_CONTROL, "no-store")
}

fn empty(status: StatusCode) -> Answer {
    let mut answer = Response::new(Content::empty());
    *answer.status_mut() = status;
    answer
}

fn with_length(mut answer: Answer, length: u64) -> Answer {
    answer.headers_mut().insert(CONTENT_LENGTH, length.into());
    answer
}

/// Adds a header; all that come here are of plain ASCII.
fn with(mut answer: Answer, name: HeaderName, value: &str) -> Answer {
    match HeaderValue::from_str(value) {
        Ok(value) => drop(answer.headers_mut().insert(name, value)),
        Err(_) => tracing::error!(%name, "a header could not be written"),
    }
    answer
}

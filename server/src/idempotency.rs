//! Requests that may be sent twice: the second one gets the answer of the first.
//!
//! Whoever sends `Idempotency-Key` with a POST gets the same answer for a day, and nothing is done
//! twice. Answers that hold secrets are not kept.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::auth;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// The most that a request or its answer may have, in bytes.
const LARGEST: usize = 2 << 20;
/// How long answers are kept.
const KEPT_MS: u64 = 24 * 3_600_000;
/// Where answers hold secrets.
const SECRET: [&str; 4] =
    ["/api/v1/setup", "/api/v1/sessions", "/api/v1/tokens", "/api/v1/node-tokens"];

/// Whether an answer holds a secret.
fn is_secret(path: &str) -> bool {
    let of_service = path.starts_with("/api/v1/users/") && path.ends_with("/tokens");
    let begins = ["/api/v1/me/totp", "/api/v1/me/passkeys", "/api/v1/passkey-logins"];
    SECRET.contains(&path) || of_service || begins.iter().any(|begin| path.starts_with(begin))
}

/// Keys of requests that are not answered yet.
#[derive(Debug, Default)]
pub(crate) struct UnderWay(Mutex<HashSet<String>>);

/// A key's place there, given back when dropped.
struct Place<'u>(&'u UnderWay, String);

impl UnderWay {
    fn take(&self, key: String) -> Option<Place<'_>> {
        let mut keys = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        keys.insert(key.clone()).then(|| Place(self, key))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

/// Answers requests with a key.
pub(crate) async fn layer(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let key = request.headers().get("idempotency-key");
    let key = key.and_then(|key| key.to_str().ok()).map(str::to_owned);
    let path = request.uri().path();
    match key {
        Some(key) if request.method() == Method::POST && !is_secret(path) => {
            answer(&shared, key, request, next).await.unwrap_or_else(Problem::into_response)
        }
        _ => next.run(request).await,
    }
}

async fn answer(shared: &Shared, key: String, request: Request, next: Next) -> Result<Response> {
    if key.is_empty() || key.len() > 200 {
        return Err(Problem::invalid("an idempotency key has 1 to 200 bytes"));
    }
    let (head, body) = request.into_parts();
    let actor = auth::actor(shared, &head.headers, head.uri.path()).await?.id();
    let body = to_bytes(body, LARGEST).await.map_err(|_| {
        let text = format!("a document has at most {LARGEST} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", text)
    })?;
    let mut whole = format!("{} {}\n", head.method, head.uri).into_bytes();
    whole.extend_from_slice(&body);
    let hash = sluice_catalog::token_hash(&String::from_utf8_lossy(&whole));
    let busy = || {
        let text = "the first request with this key is not answered yet";
        Problem::new(StatusCode::CONFLICT, "under-way", text)
    };
    let place = shared.under_way.take(format!("{actor} {key}")).ok_or_else(busy)?;
    let known = shared.catalog.read().await?.answered(&actor, &key).await?;
    if let Some((first, status, text)) = known {
        if first != hash {
            return Err(Problem::invalid("this key was used for another request"));
        }
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
        let mut response = (status, text).into_response();
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        return Ok(response);
    }
    let response = next.run(Request::from_parts(head, Body::from(body))).await;
    let (head, body) = response.into_parts();
    if !head.status.is_success() {
        return Ok(Response::from_parts(head, body));
    }
    let body = to_bytes(body, LARGEST).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&body).into_owned();
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    let status = head.status.as_u16();
    let kept = (hash.as_str(), status, text.as_str());
    tx.remember_answer(&actor, &key, kept, now, now.saturating_sub(KEPT_MS)).await?;
    tx.commit().await?;
    drop(place);
    Ok(Response::from_parts(head, Body::from(body)))
}

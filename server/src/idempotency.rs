//! Requests that may be sent twice: the second one gets the answer of the first.
//!
//! Whoever sends `Idempotency-Key` with a POST gets the same answer for a day, and nothing is done
//! twice. Answers that hold secrets are not kept.
//!
//! ```text
//!   claim, committed ──► the request, whose own transaction says that it was done ──► the answer
//! ```
//!
//! # Invariants
//!
//! * Wherever this ends, killed or without its database, one of two things is known of a request:
//!   nothing was done, and it may be sent again, or it was done, though perhaps nobody knows what
//!   was answered.
//! * A request goes on when whoever sent it has gone away, and of several servers on one database
//!   one does it.

use std::collections::BTreeMap;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sluice_catalog::{Answer, Claim, Claimed};

use crate::auth;
use crate::problem::{Problem, Result};
use crate::state::{Shared, new_token};

/// The most that a request or its answer may have, in bytes.
const LARGEST: usize = 2 << 20;
/// How long answers are kept.
const KEPT_MS: u64 = 24 * 3_600_000;
/// Whoever has done nothing for so long is taken for dead.
const LOST_MS: u64 = 60_000;
/// The headers that an answer is kept with.
const HEADERS: [HeaderName; 3] = [header::CONTENT_TYPE, header::ETAG, header::LOCATION];
/// Where answers hold secrets.
const SECRET: [&str; 4] =
    ["/api/v1/setup", "/api/v1/sessions", "/api/v1/tokens", "/api/v1/node-tokens"];
/// What stands before paths whose answers hold secrets.
const SECRET_BELOW: [&str; 6] = [
    "/api/v1/me/totp",
    "/api/v1/me/passkeys",
    "/api/v1/passkey-logins",
    "/api/v1/oidc-logins",
    "/api/v1/device-logins",
    "/api/v1/directory-logins",
];

/// Whether an answer holds a secret.
fn is_secret(path: &str) -> bool {
    let of_service = path.starts_with("/api/v1/users/") && path.ends_with("/tokens");
    let below = SECRET_BELOW.iter().any(|begin| path.starts_with(begin));
    SECRET.contains(&path) || of_service || below
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
    let claim = Claim { actor, key, id: new_token("claim") };
    let request = Request::from_parts(head, Body::from(body));
    // Whoever waits for the answer may go away, and this goes on to its end.
    let doing = tokio::spawn(once(shared.clone(), claim, hash, request, next));
    doing.await.unwrap_or_else(|_| {
        let text = "this request has failed in its middle";
        Err(Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", text))
    })
}

/// Does a request, unless that was done.
async fn once(
    shared: Shared,
    claim: Claim,
    hash: String,
    request: Request,
    next: Next,
) -> Result<Response> {
    let now = shared.now();
    let limits = (now.saturating_sub(LOST_MS), now.saturating_sub(KEPT_MS));
    let mut tx = shared.catalog.begin().await?;
    let claimed = tx.claim(&claim, &hash, now, limits).await?;
    tx.commit().await?;
    let no = |code: &str, text: &str| Err(Problem::new(StatusCode::CONFLICT, code, text));
    match claimed {
        Claimed::Mine => {}
        Claimed::Other => return Err(Problem::invalid("this key was used for another request")),
        Claimed::UnderWay => {
            return no(
                "under-way",
                "the first request with this key is not answered yet; if whoever did it is dead, \
                 it is done in a minute",
            );
        }
        Claimed::Lost => {
            return no(
                "answer-lost",
                "the first request with this key was done, and its answer is lost: look at what \
                 there is before you ask with another key",
            );
        }
        Claimed::Answered(answer) => return Ok(again(answer)),
    }
    let response = sluice_catalog::claimed(claim.clone(), next.run(request)).await;
    let (head, body) = response.into_parts();
    let body = to_bytes(Body::new(body), usize::MAX).await.map_err(|_| {
        let text = "the answer could not be read";
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", text)
    })?;
    if let Err(problem) = keep(&shared, &claim, (head.status, &head.headers), &body).await {
        tracing::warn!("the answer of a request with a key is not kept: {}", problem.detail);
    }
    Ok(Response::from_parts(head, Body::from(body)))
}

/// Keeps what was answered. A refusal is no answer: the same may be asked again, unless something
/// was done.
async fn keep(
    shared: &Shared,
    claim: &Claim,
    (status, headers): (StatusCode, &HeaderMap),
    body: &[u8],
) -> Result<()> {
    let mut tx = shared.catalog.begin().await?;
    if status.is_success() && body.len() <= LARGEST {
        let header = |name: &HeaderName| {
            Some((name.to_string(), headers.get(name)?.to_str().ok()?.to_owned()))
        };
        let headers: BTreeMap<String, String> = HEADERS.iter().filter_map(header).collect();
        let answer = Answer {
            status: status.as_u16(),
            headers: serde_json::to_string(&headers).unwrap_or_default(),
            body: String::from_utf8_lossy(body).into_owned(),
        };
        tx.keep_answer(claim, &answer).await?;
    } else {
        // After a failure, or when it cannot be kept, what was done stays done.
        tx.give_up(claim, !status.is_client_error()).await?;
    }
    Ok(tx.commit().await?)
}

/// The answer that was given before.
fn again(answer: Answer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = Response::new(Body::from(answer.body));
    *response.status_mut() = status;
    let headers: BTreeMap<String, String> =
        serde_json::from_str(&answer.headers).unwrap_or_default();
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Whether an answer has a field that is a secret.
    fn tells_secret(document: &Value, response: &Value) -> Option<bool> {
        let content = response["content"].as_object()?.values().next()?;
        let name = content["schema"]["$ref"].as_str()?.rsplit('/').next()?;
        let fields = document["components"]["schemas"][name]["properties"].as_object()?;
        let secret = ["token", "secret", "recovery_codes", "registration"];
        Some(fields.keys().any(|field| secret.contains(&field.as_str())))
    }

    #[test]
    fn no_answer_with_a_secret_is_kept() {
        let document: Value = serde_json::from_str(&crate::api::openapi()).unwrap();
        let mut found = 0;
        for (path, methods) in document["paths"].as_object().unwrap() {
            let responses = methods["post"]["responses"].as_object().into_iter().flatten();
            for (status, response) in responses.filter(|(status, _)| status.starts_with('2')) {
                if tells_secret(&document, response) == Some(true) {
                    found += 1;
                    assert!(is_secret(&path.replace("{id}", "x")), "{path} {status}");
                }
            }
        }
        assert!(found >= 12, "{found}");
        assert!(!is_secret("/api/v1/projects") && !is_secret("/api/v1/tasks"));
    }
}

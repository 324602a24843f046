//! Tokens: getting one, keeping it while it holds, and getting the next one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body_util::Full;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::login::Login;
use super::wire::{TokenAnswer, token_request};
use crate::url::invalid;
use crate::web::{Answer, Http, check_http};
use crate::{DestinationError, ErrorKind, Result};

/// A token is renewed when this part of its life has passed, so that it does not run out between
/// a request and its execution.
const PART_USED: f64 = 0.9;

/// A token, and where it is good for.
#[derive(Debug)]
pub(super) struct Session {
    /// Marked as sensitive, so that nothing prints it.
    pub(super) token: HeaderValue,
    /// The account's URL, without a slash at its end.
    pub(super) storage: String,
    renew_at: Option<Instant>,
}

/// Gets tokens as they are needed; one request for a token runs at a time.
#[derive(Debug)]
pub(super) struct Sessions {
    login: Login,
    /// Where the account is, when it is not as the server says.
    storage: Option<String>,
    current: Mutex<Option<Arc<Session>>>,
}

impl Sessions {
    pub(super) fn new(login: Login, storage: Option<String>) -> Self {
        Self { login, storage, current: Mutex::default() }
    }

    /// A token that still holds, as far as is known.
    pub(super) async fn get(&self, http: &Http) -> Result<Arc<Session>> {
        let mut current = self.current.lock().await;
        let holds = |session: &&Arc<Session>| {
            session.renew_at.is_none_or(|renew_at| Instant::now() < renew_at)
        };
        match current.as_ref().filter(holds) {
            Some(session) => Ok(Arc::clone(session)),
            None => Ok(Arc::clone(current.insert(Arc::new(self.log_in(http).await?)))),
        }
    }

    /// Another token than the one that was refused.
    pub(super) async fn renew(&self, http: &Http, refused: &Arc<Session>) -> Result<Arc<Session>> {
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|session| Arc::ptr_eq(session, refused)) {
            *current = None;
        }
        drop(current);
        self.get(http).await
    }

    async fn log_in(&self, http: &Http) -> Result<Session> {
        let (token, storage, lifetime) = match &self.login {
            Login::V1 { auth, user, key } => {
                let request = Request::get(auth).header("X-Auth-User", user);
                let request = request.header("X-Auth-Key", key.reveal()).body(Full::default());
                let answer = ask(http, auth, request).await?;
                let storage = answer.header("X-Storage-Url").map(str::to_owned);
                let lifetime = answer.header("X-Auth-Token-Expires").and_then(|t| t.parse().ok());
                (token(&answer, "X-Auth-Token")?, storage, lifetime.map(Duration::from_secs))
            }
            Login::V3 { auth, identity, project, place } => {
                let url = format!("{auth}/auth/tokens");
                let body = token_request(identity, project.as_ref()).to_string();
                let request = Request::builder().method(Method::POST).uri(&url);
                let request = request.header("Content-Type", "application/json");
                let answer = ask(http, &url, request.body(Full::from(body))).await?;
                let parsed = TokenAnswer::parse(&answer.body)?;
                let storage = match self.storage {
                    Some(_) => None,
                    None => Some(parsed.storage_url(place)?),
                };
                (token(&answer, "X-Subject-Token")?, storage, parsed.lifetime())
            }
        };
        let storage = self.storage.clone().or(storage).ok_or_else(|| {
            invalid("the server does not tell where the account is; add storage=URL to the URL")
        })?;
        check_http("the account's URL", &storage)?;
        let renew_at =
            lifetime.and_then(|life| Instant::now().checked_add(life.mul_f64(PART_USED)));
        Ok(Session { token, storage: storage.trim_end_matches('/').to_owned(), renew_at })
    }
}

async fn ask(
    http: &Http,
    url: &str,
    request: http::Result<Request<Full<Bytes>>>,
) -> Result<Answer> {
    let subject = format!("log in at {url}");
    // Without its source, which may show what it does not like.
    let request = request.map_err(|_| {
        invalid(format!(
            "{subject}: the URL or the credentials hold characters that cannot be sent"
        ))
    })?;
    let answer = http.send(&subject, request, 0).await?;
    if answer.is_success() {
        return Ok(answer);
    }
    let (kind, advice) = match answer.status {
        401 | 403 => (ErrorKind::AccessDenied, "check user, password and project"),
        300 | 404 | 405 => (ErrorKind::InvalidConfig, "this is no place to log in; check the URL"),
        408 | 429 | 500..=599 => (ErrorKind::Unavailable, "try again later"),
        _ => (ErrorKind::Other, "see the server's log"),
    };
    Err(DestinationError::new(kind, format!("{subject}: HTTP {}; {advice}", answer.status)))
}

fn token(answer: &Answer, name: &str) -> Result<HeaderValue> {
    let mut token = answer.headers.get(name).cloned().ok_or_else(|| {
        let context = "the server's answer to the login holds no token; check the URL";
        DestinationError::new(ErrorKind::InvalidConfig, context)
    })?;
    token.set_sensitive(true);
    Ok(token)
}

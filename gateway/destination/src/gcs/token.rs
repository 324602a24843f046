//! Tokens: getting one, keeping it while it holds, and getting the next one.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use jiff::Timestamp;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::config::Login;
use super::jwt::ServiceKey;
use super::wire::{parse_refusal, parse_token};
use crate::url::invalid;
use crate::web::Http;
use crate::{DestinationError, ErrorKind, Result};

/// A token is renewed when this part of its life has passed, so that it does not run out between
/// a request and its execution.
const PART_USED: f64 = 0.9;

/// How long a token from a file is used before the file is read again.
const FILE_AGAIN: Duration = Duration::from_secs(300);

/// What is said to the place that gives tokens.
const GRANT: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";

/// A token, as it stands in a request.
#[derive(Debug)]
pub(super) struct Token {
    /// Marked as sensitive, so that nothing prints it.
    pub(super) header: HeaderValue,
    renew_at: Option<Instant>,
}

impl Token {
    fn new(text: &str, life: Option<Duration>) -> Result<Self> {
        let header = HeaderValue::try_from(format!("Bearer {text}"));
        // Without its source, which may show what it does not like.
        let mut header = header.map_err(|_| {
            let context = "the token holds characters that cannot be sent";
            DestinationError::new(ErrorKind::AccessDenied, context)
        })?;
        header.set_sensitive(true);
        let renew_at = life.and_then(|life| Instant::now().checked_add(life.mul_f64(PART_USED)));
        Ok(Self { header, renew_at })
    }

    fn holds(&self) -> bool {
        self.renew_at.is_none_or(|renew_at| Instant::now() < renew_at)
    }
}

/// Gets tokens as they are needed; one request for a token runs at a time.
#[derive(Debug)]
pub(super) struct Tokens {
    login: Login,
    current: Mutex<Option<Arc<Token>>>,
}

impl Tokens {
    pub(super) fn new(login: Login) -> Self {
        Self { login, current: Mutex::default() }
    }

    /// A token that still holds, as far as is known; none where none is sent.
    pub(super) async fn get(&self, http: &Http) -> Result<Option<Arc<Token>>> {
        if self.login == Login::Anonymous {
            return Ok(None);
        }
        let mut current = self.current.lock().await;
        if let Some(token) = current.as_ref().filter(|token| token.holds()) {
            return Ok(Some(Arc::clone(token)));
        }
        let token = Arc::new(self.ask(http).await?);
        *current = Some(Arc::clone(&token));
        Ok(Some(token))
    }

    /// Another token than the one that was refused; none where there is no other.
    pub(super) async fn renew(
        &self,
        http: &Http,
        refused: &Arc<Token>,
    ) -> Result<Option<Arc<Token>>> {
        if matches!(self.login, Login::Anonymous | Login::Token(_)) {
            return Ok(None);
        }
        let mut current = self.current.lock().await;
        if current.as_ref().is_some_and(|token| Arc::ptr_eq(token, refused)) {
            *current = None;
        }
        drop(current);
        let token = self.get(http).await?;
        Ok(token.filter(|token| token.header != refused.header))
    }

    async fn ask(&self, http: &Http) -> Result<Token> {
        match &self.login {
            Login::Anonymous => Err(invalid("an anonymous request has no token")),
            Login::Token(token) => Token::new(token.reveal(), None),
            Login::File(path) => from_file(path).await,
            Login::Key(key) => from_key(http, key).await,
            Login::Metadata(host) => from_metadata(http, host).await,
        }
    }
}

async fn from_file(path: &Path) -> Result<Token> {
    let text = tokio::fs::read_to_string(path).await.map_err(|error| {
        let context = format!("cannot read the token in {}", path.display());
        DestinationError::caused(ErrorKind::AccessDenied, context, error)
    })?;
    let token = text.trim();
    if token.is_empty() {
        let context = format!("{} holds no token", path.display());
        return Err(DestinationError::new(ErrorKind::AccessDenied, context));
    }
    Token::new(token, Some(FILE_AGAIN))
}

async fn from_key(http: &Http, key: &ServiceKey) -> Result<Token> {
    #[expect(clippy::disallowed_methods, reason = "a claim says when it was made")]
    let now = Timestamp::now().as_second();
    let assertion = key.assertion(now)?;
    let body = format!("grant_type={GRANT}&assertion={}", assertion.reveal());
    let request = Request::post(&key.place)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(Full::from(body));
    exchange(http, &key.place, request).await
}

async fn from_metadata(http: &Http, host: &str) -> Result<Token> {
    let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
    let request = Request::get(&url).header("metadata-flavor", "Google").body(Full::default());
    exchange(http, &url, request).await
}

async fn exchange(
    http: &Http,
    url: &str,
    request: http::Result<Request<Full<Bytes>>>,
) -> Result<Token> {
    let subject = format!("ask for a token at {url}");
    let request = request.map_err(|_| invalid(format!("{subject}: this is no URL")))?;
    let answer = http.send(&subject, request, 0).await?;
    if !answer.is_success() {
        return Err(refused(&subject, answer.status, &answer.body));
    }
    let (token, life) = parse_token(&answer.body).ok_or_else(|| {
        let context = format!("{subject}: the answer holds no token");
        DestinationError::new(ErrorKind::InvalidConfig, context)
    })?;
    Token::new(&token, life)
}

fn refused(subject: &str, status: u16, body: &[u8]) -> DestinationError {
    let (kind, advice) = match status {
        400 | 401 | 403 => (
            ErrorKind::AccessDenied,
            "check that the account and its key exist, and this machine's clock",
        ),
        404 | 405 => {
            (ErrorKind::InvalidConfig, "no tokens are given there, or the machine has no account")
        }
        408 | 429 | 500..=599 => (ErrorKind::Unavailable, "the service asks to come back"),
        _ => (ErrorKind::Other, "check the URL"),
    };
    let reason = parse_refusal(body).reason;
    let fits = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    let reason: String = reason.chars().filter(fits).take(60).collect();
    let reason = if reason.is_empty() { reason } else { format!(" {reason}") };
    DestinationError::new(kind, format!("{subject}: HTTP {status}{reason}; {advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_renewed_before_its_end_and_never_shown() {
        let token = |life: Option<u64>| Token::new("hunter2", life.map(Duration::from_secs));
        assert!(token(None).unwrap().holds());
        let hour = token(Some(3600)).unwrap();
        assert!(hour.holds());
        let left = hour.renew_at.unwrap() - Instant::now();
        assert!(left <= Duration::from_secs(3240), "{left:?}");
        assert!(!token(Some(0)).unwrap().holds());
        assert!(!format!("{hour:?}").contains("hunter2"));
        let odd = Token::new("hunter2\n", None).unwrap_err();
        assert!(!format!("{odd:?}").contains("hunter2"));
    }

    #[test]
    fn refusals_have_the_kind_a_caller_acts_on() {
        for (status, kind) in [
            (400, ErrorKind::AccessDenied),
            (404, ErrorKind::InvalidConfig),
            (429, ErrorKind::Unavailable),
            (503, ErrorKind::Unavailable),
        ] {
            let error = refused("x", status, br#"{"error":"invalid_grant"}"#);
            assert_eq!(error.kind(), kind);
            assert!(error.to_string().contains("invalid_grant"), "{error}");
        }
    }
}

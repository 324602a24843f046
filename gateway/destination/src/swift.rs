//! Objects in a container of OpenStack Swift.
//!
//! * Logging in is by Keystone v3 (password or application credential) or by v1; the token is
//!   renewed before it runs out, and once when it is refused.
//! * Swift has several replicas of an object and nobody who decides between them: of two writers
//!   that both create an object, both may be told that they did. So this destination says of
//!   itself that it [does not create atomically](Destination::creates_atomically), and a
//!   repository on it needs an [arbiter](crate::wrap::Arbiter).
//! * A body is sent with its MD5, which the server checks, and a whole object that is read is
//!   checked against it. It guards against accidents on the way; content is authenticated above.
//! * An object is always one PUT: packs are far below the size at which Swift wants segments.
//! * Listings may lag behind: containers are updated after objects.
//! * Nothing is repeated here but what a refused token stopped; see [`crate::wrap::Retry`].

mod config;
mod delete;
mod login;
mod read;
mod session;
mod wire;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{Method, Request};
use http_body_util::Full;
use tokio::sync::OnceCell;

use crate::key::{below, may_start_key};
use crate::url::Scheme;
use crate::web::{self, Answer, Http, escape};
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, ListPage, ObjectMeta, Result,
    page_limit,
};
pub use config::SwiftConfig;
use session::{Session, Sessions};
use wire::parse_listing;

/// This destination in the table of schemes.
pub(crate) const SCHEME: Scheme = Scheme {
    name: "swift",
    form: "swift://CONTAINER/PREFIX?auth=URL&region=REGION",
    open: |url, options| {
        Box::pin(async move {
            let mut config = SwiftConfig::from_url(url)?;
            config.create = options.create;
            config.timeouts = config.timeouts.at_most(options.retry.total);
            Ok(std::sync::Arc::new(SwiftDestination::open(config)?) as _)
        })
    },
};

/// The MD5 of nothing.
const MD5_OF_NOTHING: &str = "d41d8cd98f00b204e9800998ecf8427e";

/// Objects in a Swift container, below a prefix.
pub struct SwiftDestination {
    config: SwiftConfig,
    http: Http,
    sessions: Sessions,
    /// Whether the container has been seen, so that "not found" is about an object.
    container_seen: AtomicBool,
    /// How many objects the server removes with one request; none when it has no such request.
    bulk: OnceCell<Option<usize>>,
}

impl fmt::Debug for SwiftDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SwiftDestination").field("location", &self.location()).finish()
    }
}

/// A request below the account's URL.
struct Ask {
    method: Method,
    /// Begins with a slash or a question mark.
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Bytes,
    /// What the server has to do besides taking the body, as bytes.
    extra: u64,
}

impl Ask {
    fn new(method: Method, path: String) -> Self {
        Self { method, path, headers: Vec::new(), body: Bytes::new(), extra: 0 }
    }

    fn request(&self, session: &Session) -> http::Result<Request<Full<Bytes>>> {
        let url = format!("{}{}", session.storage, self.path);
        let mut request = Request::builder().method(&self.method).uri(url);
        request = request.header("X-Auth-Token", &session.token);
        if self.method == Method::PUT || self.method == Method::POST {
            // Also of nothing: a body without a length is refused.
            request = request.header("Content-Length", self.body.len());
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        request.body(Full::from(self.body.clone()))
    }
}

impl SwiftDestination {
    /// A destination that sends nothing to its server yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when certificates cannot be read.
    pub fn open(config: SwiftConfig) -> Result<Self> {
        let http = Http::new(config.timeouts, config.authorities.as_deref())?;
        let sessions = Sessions::new(config.login.clone(), config.storage.clone());
        let container_seen = AtomicBool::new(false);
        Ok(Self { config, http, sessions, container_seen, bulk: OnceCell::new() })
    }

    /// The object's name in the container.
    fn name(&self, key: &str) -> String {
        below(&self.config.prefix, key)
    }

    fn container(&self) -> String {
        format!("/{}", escape(&self.config.container).replace('/', "%2F"))
    }

    fn path(&self, key: &Key) -> String {
        format!("{}/{}", self.container(), escape(&self.name(key.as_str())))
    }

    /// What was asked of whom, for messages.
    fn subject(&self, action: &str, key: &str) -> String {
        format!("{action} swift://{}/{}", self.config.container, self.name(key))
    }

    /// Sends a request; a refused token is renewed once.
    async fn call(&self, subject: &str, ask: &Ask) -> Result<Answer> {
        let session = self.sessions.get(&self.http).await?;
        let answer = self.send(subject, ask, &session).await?;
        if answer.status != 401 {
            return Ok(answer);
        }
        let session = self.sessions.renew(&self.http, &session).await?;
        self.send(subject, ask, &session).await
    }

    async fn send(&self, subject: &str, ask: &Ask, session: &Session) -> Result<Answer> {
        let request = ask.request(session).map_err(|error| {
            let context = format!("{subject}: the request cannot be made; check the URL");
            DestinationError::caused(ErrorKind::InvalidConfig, context, error)
        })?;
        self.http.send(subject, request, ask.extra).await
    }

    /// Puts an object, and the container before it where that is missing and wanted.
    async fn send_put(&self, key: &Key, body: Bytes, create_only: bool) -> Result<()> {
        let subject = self.subject("put", key.as_str());
        let sum = md5(&body).await?;
        let mut ask = Ask::new(Method::PUT, self.path(key));
        ask.headers.push(("ETag", sum.clone()));
        ask.headers.push(("Content-Type", "application/octet-stream".into()));
        if create_only {
            ask.headers.push(("If-None-Match", "*".into()));
        }
        ask.body = body;
        let mut answer = self.call(&subject, &ask).await?;
        if answer.status == 404 && self.config.create {
            self.create_container().await?;
            answer = self.call(&subject, &ask).await?;
            if answer.status == 404 {
                // Servers remember for some seconds that there is no such container.
                let context = format!("{subject}: the container was made only now");
                return Err(DestinationError::new(ErrorKind::Unavailable, context));
            }
        }
        if answer.status == 404 {
            return Err(self.no_container(&subject));
        }
        let answer = check(&subject, answer)?;
        self.container_seen.store(true, Ordering::Relaxed);
        match answer.header("ETag").map(|etag| etag.trim_matches('"')) {
            Some(stored) if stored != sum => {
                let context = format!("{subject}: the server stored other bytes than were sent");
                Err(DestinationError::new(ErrorKind::Unavailable, context))
            }
            _ => Ok(()),
        }
    }

    async fn create_container(&self) -> Result<()> {
        let subject = format!("create the container {}", self.config.container);
        let ask = Ask::new(Method::PUT, self.container());
        check(&subject, self.call(&subject, &ask).await?).map(drop)
    }

    fn no_container(&self, subject: &str) -> DestinationError {
        let context =
            format!("{subject}: there is no such container; create it, or correct its name");
        DestinationError::new(ErrorKind::InvalidConfig, context)
    }

    /// The error of an object that is not there: perhaps its container is not, either.
    async fn missing(&self, subject: &str) -> DestinationError {
        if !self.config.create && !self.container_seen.load(Ordering::Relaxed) {
            let ask = Ask::new(Method::HEAD, self.container());
            match self.call(subject, &ask).await {
                Ok(answer) if answer.status == 404 => return self.no_container(subject),
                Ok(answer) if answer.is_success() => {
                    self.container_seen.store(true, Ordering::Relaxed);
                }
                // Told by the next request, if it matters.
                _ => {}
            }
        }
        DestinationError::new(ErrorKind::NotFound, format!("{subject}: there is no such object"))
    }

    async fn page(&self, prefix: &str, marker: Option<&str>, limit: usize) -> Result<wire::Page> {
        let subject = self.subject("list", prefix);
        let mut path = format!("{}?format=json&limit={limit}", self.container());
        let prefix = self.name(prefix);
        for (name, value) in [("prefix", Some(prefix.as_str())), ("marker", marker)] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                path.push_str(&format!("&{name}={}", escape(value)));
            }
        }
        let answer = self.call(&subject, &Ask::new(Method::GET, path)).await?;
        if answer.status == 404 {
            return match self.config.create {
                true => parse_listing(b"", ""),
                false => Err(self.no_container(&subject)),
            };
        }
        let answer = check(&subject, answer)?;
        self.container_seen.store(true, Ordering::Relaxed);
        parse_listing(&answer.body, &self.name(""))
    }
}

#[async_trait]
impl Destination for SwiftDestination {
    fn location(&self) -> String {
        let mut url = format!("swift://{}", self.config.container);
        if !self.config.prefix.is_empty() {
            url.push('/');
            url.push_str(&self.config.prefix);
        }
        if let Some(auth) = &self.config.auth {
            url.push_str("?auth=");
            url.push_str(auth);
        }
        url
    }

    /// Refused when the key is taken, except when another writer takes it at the same time.
    /// By a quota.
    fn fills_up(&self) -> bool {
        true
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.send_put(key, body, true).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.send_put(key, body, false).await
    }

    fn creates_atomically(&self) -> bool {
        false
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        self.read(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.meta(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        if !may_start_key(prefix) {
            return Ok(ListPage::default());
        }
        let limit = page_limit(limit);
        let mut marker = after.map(|key| self.name(key.as_str()));
        let mut objects = Vec::new();
        while objects.len() <= limit {
            let page = self.page(prefix, marker.as_deref(), limit + 1 - objects.len()).await?;
            objects.extend(page.objects);
            // Only an empty answer is the end: a shorter one may come from a part of a
            // container that is spread over several servers.
            let Some(last) = page.last.filter(|_| page.names > 0) else { break };
            marker = Some(last);
        }
        let keys = after.into_iter().chain(objects.iter().map(|object| &object.key));
        if !keys.is_sorted_by(|earlier, later| earlier < later) {
            let context =
                format!("{}: the server lists out of order", self.subject("list", prefix));
            return Err(DestinationError::new(ErrorKind::Unfit, context));
        }
        let more = objects.len() > limit;
        objects.truncate(limit);
        Ok(ListPage { objects, more })
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.delete_one(key).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        self.delete_batches(keys).await
    }

    fn deletes_per_request(&self) -> usize {
        delete::BATCH
    }

    async fn verifies_checksums(&self, key: &Key) -> Result<bool> {
        let subject = self.subject("put", key.as_str());
        let mut ask = Ask::new(Method::PUT, self.path(key));
        ask.headers.push(("ETag", MD5_OF_NOTHING.into()));
        ask.body = Bytes::from_static(b"checked");
        match self.call(&subject, &ask).await? {
            answer if answer.status == 422 => Ok(true),
            answer => check(&subject, answer).map(|_| false),
        }
    }
}

/// The MD5 of a body in hex.
async fn md5(body: &Bytes) -> Result<String> {
    Ok(HEXLOWER.encode(&web::md5(body).await?))
}

/// Refuses an answer that is not a success.
fn check(subject: &str, answer: Answer) -> Result<Answer> {
    if answer.is_success() { Ok(answer) } else { Err(refusal(subject, answer.status)) }
}

/// The error of a status.
fn refusal(subject: &str, status: u16) -> DestinationError {
    let (kind, advice) = match status {
        401 => (ErrorKind::AccessDenied, "; a fresh token is refused, check the account's URL"),
        403 => (ErrorKind::AccessDenied, "; check that this user may do this to the container"),
        404 => (ErrorKind::NotFound, ""),
        409 => (ErrorKind::Unavailable, "; another request is changing the same object"),
        412 => (ErrorKind::AlreadyExists, "; the key is taken"),
        413 | 507 => (ErrorKind::NoSpace, "; make room, or raise the quota"),
        416 => (ErrorKind::InvalidRange, ""),
        422 => (ErrorKind::Unavailable, "; the body was damaged on its way"),
        501 => (ErrorKind::Unfit, "; the server does not have this function"),
        408 | 429 | 498 | 499 | 500..=599 => (ErrorKind::Unavailable, ""),
        _ => (ErrorKind::Other, ""),
    };
    DestinationError::new(kind, format!("{subject}: HTTP {status}{advice}"))
}

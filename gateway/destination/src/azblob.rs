//! Objects as block blobs in a container of Azure Blob Storage.
//!
//! * An object is created with `If-None-Match: *`, which the service decides in one place: exactly
//!   one of several writers wins.
//! * An object is always one Put Blob: packs are far below the size at which that ends.
//! * A body is sent with its MD5, which the service checks and keeps; a whole object that is read
//!   is checked against it. It guards against accidents on the way; content is authenticated
//!   above.
//! * Requests are signed with the account's key, or carry a shared access signature.
//! * The service begins a listing at the start of a prefix, or where an earlier page of it ended.
//!   So the ends of some pages are remembered.
//! * Nothing is repeated here; see [`crate::wrap::Retry`].

mod answer;
mod config;
mod list;
mod sign;
mod wire;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use data_encoding::BASE64;
use http::{Method, Request};
use http_body_util::Full;

use crate::key::below;
use crate::url::Scheme;
use crate::web::{Answer, Ask, Http, escape, is_of_nothing, md5};
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, ListPage, ObjectMeta, Result, range,
};
use answer::check;
pub use config::AzblobConfig;
use list::Pages;

/// This destination in the table of schemes.
pub(crate) const SCHEME: Scheme = Scheme {
    name: "azblob",
    form: "azblob://CONTAINER/PREFIX?account=NAME&endpoint=URL",
    open: |url, options| {
        Box::pin(async move {
            let mut config = AzblobConfig::from_url(url)?;
            config.create = options.create;
            config.timeouts = config.timeouts.at_most(options.retry.total);
            Ok(std::sync::Arc::new(AzblobDestination::open(config)?) as _)
        })
    },
};

/// The service version whose rules are followed.
const VERSION: &str = "2021-08-06";

/// Objects in an Azure container, below a prefix.
pub struct AzblobDestination {
    config: AzblobConfig,
    http: Http,
    pages: Pages,
    /// Whether the container is known to be there, or has been made.
    container_seen: AtomicBool,
}

impl fmt::Debug for AzblobDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AzblobDestination").field("location", &self.location()).finish()
    }
}

impl AzblobDestination {
    /// A destination that sends nothing to its server yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when there are no certificate authorities.
    pub fn open(config: AzblobConfig) -> Result<Self> {
        let http = Http::new(config.timeouts, None)?;
        let container_seen = AtomicBool::new(false);
        Ok(Self { config, http, pages: Pages::default(), container_seen })
    }

    /// The object's name in the container.
    fn name(&self, key: &str) -> String {
        below(&self.config.prefix, key)
    }

    fn container(&self) -> String {
        format!("/{}", self.config.container)
    }

    fn path(&self, key: &Key) -> String {
        format!("{}/{}", self.container(), escape(&self.name(key.as_str())))
    }

    /// What was asked of whom, for messages.
    fn subject(&self, action: &str, key: &str) -> String {
        format!("{action} azblob://{}/{}", self.config.container, self.name(key))
    }

    async fn send(&self, subject: &str, ask: Ask) -> Result<Answer> {
        let request = self.request(&ask).map_err(|error| {
            let context = format!("{subject}: the request cannot be made; check the endpoint");
            DestinationError::caused(ErrorKind::InvalidConfig, context, error)
        })?;
        self.http.send(subject, request, 0).await
    }

    /// The request, signed.
    fn request(&self, ask: &Ask) -> http::Result<Request<Full<Bytes>>> {
        let signed = sign::sign(&self.config, ask);
        let mut request = Request::builder().method(&ask.method).uri(signed.url);
        for (name, value) in ask.headers.iter().chain(&signed.headers) {
            request = request.header(*name, value);
        }
        if ask.method == Method::PUT {
            // Also of nothing: a body without a length is refused.
            request = request.header("content-length", ask.body.len());
        }
        if let Some(authorization) = signed.authorization {
            request = request.header("authorization", authorization);
        }
        request.body(Full::from(ask.body.clone()))
    }

    async fn store(&self, key: &Key, body: Bytes, create_only: bool) -> Result<()> {
        let subject = self.subject("put", key.as_str());
        let sum = BASE64.encode(&md5(&body).await?);
        let ask = || {
            let mut ask = Ask::new(Method::PUT, self.path(key))
                .header("x-ms-blob-type", "BlockBlob")
                .header("content-type", "application/octet-stream")
                .header("content-md5", sum.clone());
            if create_only {
                ask = ask.header("if-none-match", "*");
            }
            ask.body = body.clone();
            ask
        };
        let mut answer = self.send(&subject, ask()).await?;
        if self.config.create && answer::is_no_container(&answer) {
            self.create_container().await?;
            answer = self.send(&subject, ask()).await?;
        }
        check(&subject, answer).map(|_| self.seen())
    }

    async fn create_container(&self) -> Result<()> {
        let subject = format!("create the container {}", self.config.container);
        let ask = Ask::new(Method::PUT, self.container()).parameter("restype", "container");
        let answer = self.send(&subject, ask).await?;
        match answer.header("x-ms-error-code") {
            Some("ContainerAlreadyExists") => Ok(()),
            _ => check(&subject, answer).map(drop),
        }
    }

    fn seen(&self) {
        self.container_seen.store(true, Ordering::Relaxed);
    }

    /// A container that is made by the first put is empty until then.
    fn is_still_to_be_made(&self, answer: &Answer) -> bool {
        self.config.create && answer::is_no_container(answer)
    }

    /// The error of an object that is not there: perhaps its container is not, either. An answer
    /// to HEAD has no body, and servers differ in what they say of it.
    async fn missing(&self, subject: &str) -> DestinationError {
        if !self.config.create && !self.container_seen.load(Ordering::Relaxed) {
            let ask = Ask::new(Method::GET, self.container()).parameter("restype", "container");
            match self.send(subject, ask).await {
                Ok(answer) if answer.status == 404 => return answer::no_container(subject),
                Ok(answer) if answer.is_success() => self.seen(),
                // Told by the next request, if it matters.
                _ => {}
            }
        }
        DestinationError::new(ErrorKind::NotFound, format!("{subject}: there is no such object"))
    }

    /// Size, time and state of an object.
    async fn look_at(&self, key: &Key) -> Result<(ObjectMeta, Option<String>)> {
        let subject = self.subject("head", key.as_str());
        let answer = self.send(&subject, Ask::new(Method::HEAD, self.path(key))).await?;
        if answer.status == 404 {
            return Err(self.missing(&subject).await);
        }
        let answer = check(&subject, answer)?;
        let size = answer.header("content-length").and_then(|size| size.parse().ok());
        let Some(size) = size else {
            return Err(DestinationError::unfit(format!("{subject}: the answer tells no size")));
        };
        let modified = answer.header("last-modified").and_then(wire::parse_date);
        let state = answer.header("etag").map(str::to_owned);
        Ok((ObjectMeta { key: key.clone(), size, modified }, state))
    }

    /// A span of an object; `state` is that of the object which is meant.
    async fn span(&self, key: &Key, asked: ByteRange, state: Option<String>) -> Result<Bytes> {
        let Some(header) = range::header(asked) else {
            self.look_at(key).await?;
            return range::nothing(key, asked);
        };
        let subject = self.subject("get", key.as_str());
        let mut ask = Ask::new(Method::GET, self.path(key));
        ask.headers.extend(header.map(|range| ("x-ms-range", range)));
        ask.headers.extend(state.map(|state| ("if-match", state)));
        let answer = self.send(&subject, ask).await?;
        match answer.status {
            404 => Err(self.missing(&subject).await),
            412 => {
                let context = format!("{subject}: it was replaced while it was read");
                Err(DestinationError::new(ErrorKind::Unavailable, context))
            }
            416 => range::nothing(key, asked),
            _ => {
                let answer = check(&subject, answer)?;
                if is_of_nothing(asked, &answer) {
                    return range::nothing(key, asked);
                }
                answer::check_body(&subject, asked, &answer).await?;
                Ok(answer.body)
            }
        }
    }
}

#[async_trait]
impl Destination for AzblobDestination {
    fn location(&self) -> String {
        self.config.location()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.store(key, body, true).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.store(key, body, false).await
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        let ByteRange::Suffix(length) = range else { return self.span(key, range, None).await };
        // The service has no words for the end of an object whose size is not known.
        let (meta, state) = self.look_at(key).await?;
        let length = length.min(meta.size);
        if length == 0 {
            return Ok(Bytes::new());
        }
        self.span(key, ByteRange::Span { offset: meta.size - length, length }, state).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.look_at(key).await.map(|(meta, _)| meta)
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        self.list_page(prefix, after, limit).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let subject = self.subject("delete", key.as_str());
        let ask =
            Ask::new(Method::DELETE, self.path(key)).header("x-ms-delete-snapshots", "include");
        let answer = self.send(&subject, ask).await?;
        if answer.status == 404 {
            return match self.missing(&subject).await {
                error if error.kind() == ErrorKind::NotFound => Ok(()),
                error => Err(error),
            };
        }
        check(&subject, answer).map(drop)
    }

    async fn verifies_checksums(&self, key: &Key) -> Result<bool> {
        let subject = self.subject("put", key.as_str());
        let mut ask = Ask::new(Method::PUT, self.path(key))
            .header("x-ms-blob-type", "BlockBlob")
            .header("content-md5", BASE64.encode(&md5(&Bytes::new()).await?));
        ask.body = Bytes::from_static(b"checked");
        match self.send(&subject, ask).await? {
            answer if answer::is_damaged(&answer) => Ok(true),
            answer => check(&subject, answer).map(|_| false),
        }
    }
}

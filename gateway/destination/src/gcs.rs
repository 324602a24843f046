//! Objects in a bucket of Google Cloud Storage, over its JSON interface.
//!
//! * An object is created with `ifGenerationMatch=0`, which the service decides in one place:
//!   exactly one of several writers wins.
//! * A body is sent together with its name and its CRC-32C, which the service checks and keeps;
//!   what the service says it has stored is compared too. A whole object that is read is checked
//!   against it. It guards against accidents on the way; content is authenticated above.
//! * Requests carry a token, which is renewed before it ends; see `config` for where it comes
//!   from.
//! * Nothing is repeated here but a request whose token was refused; see [`crate::wrap::Retry`].

mod answer;
mod config;
mod jwt;
mod list;
mod token;
mod wire;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;

use crate::key::below;
use crate::url::Scheme;
use crate::web::{Answer, Ask, Http, escape, is_of_nothing};
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, ListPage, ObjectMeta, Result, range,
};
use answer::check;
pub use config::GcsConfig;
use token::Tokens;

/// This destination in the table of schemes.
pub(crate) const SCHEME: Scheme = Scheme {
    name: "gcs",
    form: "gcs://BUCKET/PREFIX?credentials=FILE",
    open: |url, options| {
        Box::pin(async move {
            let mut config = GcsConfig::from_url(url)?;
            config.timeouts = config.timeouts.at_most(options.retry.total);
            Ok(std::sync::Arc::new(GcsDestination::open(config)?) as _)
        })
    },
};

/// Objects in a Google bucket, below a prefix.
pub struct GcsDestination {
    config: GcsConfig,
    http: Http,
    tokens: Tokens,
    /// Whether the bucket is known to be there.
    bucket_seen: AtomicBool,
}

impl fmt::Debug for GcsDestination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcsDestination").field("location", &self.location()).finish()
    }
}

impl GcsDestination {
    /// A destination that sends nothing to its server yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`] when there are no certificate authorities.
    pub fn open(config: GcsConfig) -> Result<Self> {
        let http = Http::new(config.timeouts, None)?;
        let tokens = Tokens::new(config.login.clone());
        Ok(Self { config, http, tokens, bucket_seen: AtomicBool::new(false) })
    }

    /// The object's name in the bucket.
    fn name(&self, key: &str) -> String {
        below(&self.config.prefix, key)
    }

    /// Where the bucket's objects are.
    fn objects(&self) -> String {
        format!("/storage/v1/b/{}/o", self.config.bucket)
    }

    /// Where an object is: its name is one segment of the path.
    fn path(&self, key: &Key) -> String {
        let name = escape(&self.name(key.as_str())).replace('/', "%2F");
        format!("{}/{name}", self.objects())
    }

    /// What was asked of whom, for messages.
    fn subject(&self, action: &str, key: &str) -> String {
        format!("{action} gcs://{}/{}", self.config.bucket, self.name(key))
    }

    /// Sends a request with a token; with another one when the first is not taken.
    async fn send(&self, subject: &str, ask: Ask) -> Result<Answer> {
        let token = self.tokens.get(&self.http).await?;
        let answer = self.send_with(subject, &ask, token.as_deref()).await?;
        let Some(refused) = token.filter(|_| answer.status == 401) else { return Ok(answer) };
        match self.tokens.renew(&self.http, &refused).await? {
            Some(token) => self.send_with(subject, &ask, Some(&token)).await,
            None => Ok(answer),
        }
    }

    async fn send_with(
        &self,
        subject: &str,
        ask: &Ask,
        token: Option<&token::Token>,
    ) -> Result<Answer> {
        let url = format!("{}{}", self.config.endpoint, ask.target());
        let mut request = Request::builder().method(&ask.method).uri(url);
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        if let Some(token) = token {
            request = request.header("authorization", &token.header);
        }
        let request = request.body(Full::from(ask.body.clone())).map_err(|error| {
            let context = format!("{subject}: the request cannot be made; check the endpoint");
            DestinationError::caused(ErrorKind::InvalidConfig, context, error)
        })?;
        self.http.send(subject, request, 0).await
    }

    /// The request that stores a body whose checksum is said to be `sum`.
    fn upload(&self, key: &Key, body: &Bytes, sum: &str) -> Ask {
        let (content_type, body) = wire::upload(&self.name(key.as_str()), sum, body);
        let mut ask = Ask::new(Method::POST, format!("/upload{}", self.objects()))
            .parameter("uploadType", "multipart");
        ask.headers.push(("content-type", content_type));
        ask.body = body;
        ask
    }

    async fn store(&self, key: &Key, body: Bytes, create_only: bool) -> Result<()> {
        let subject = self.subject("put", key.as_str());
        let sum = wire::checksum(&body);
        let mut ask = self.upload(key, &body, &sum);
        if create_only {
            ask = ask.parameter("ifGenerationMatch", "0");
        }
        let answer = self.send(&subject, ask).await?;
        if answer.status == 404 {
            return Err(answer::no_bucket(&subject));
        }
        let answer = check(&subject, answer)?;
        self.seen();
        let stored = wire::parse_object(&answer.body).ok_or_else(|| {
            DestinationError::unfit(format!("{subject}: the answer tells nothing of the object"))
        })?;
        if stored.crc32c.is_none_or(|found| found == sum) && stored.size == body.len() as u64 {
            return Ok(());
        }
        // Not checked by the server. It must not stay: a repetition would find the key taken.
        if let Some(generation) = stored.generation {
            let ask = Ask::new(Method::DELETE, self.path(key)).parameter("generation", generation);
            let subject = self.subject("remove a damaged", key.as_str());
            let answer = self.send(&subject, ask).await?;
            if answer.status != 404 {
                check(&subject, answer)?;
            }
        }
        Err(answer::damaged(&subject))
    }

    fn seen(&self) {
        self.bucket_seen.store(true, Ordering::Relaxed);
    }

    /// The error of an object that is not there: perhaps its bucket is not, either. Both are
    /// answered alike.
    async fn missing(&self, subject: &str) -> DestinationError {
        if !self.bucket_seen.load(Ordering::Relaxed) {
            let ask = Ask::new(Method::GET, self.objects())
                .parameter("maxResults", "1")
                .parameter("fields", "nextPageToken");
            match self.send(subject, ask).await {
                Ok(answer) if answer.status == 404 => return answer::no_bucket(subject),
                Ok(answer) if answer.is_success() => self.seen(),
                // Told by the next request, if it matters.
                _ => {}
            }
        }
        DestinationError::new(ErrorKind::NotFound, format!("{subject}: there is no such object"))
    }

    async fn look_at(&self, key: &Key) -> Result<ObjectMeta> {
        let subject = self.subject("head", key.as_str());
        let ask = Ask::new(Method::GET, self.path(key)).parameter("fields", "name,size,updated");
        let answer = self.send(&subject, ask).await?;
        if answer.status == 404 {
            return Err(self.missing(&subject).await);
        }
        let answer = check(&subject, answer)?;
        let object = wire::parse_object(&answer.body).ok_or_else(|| {
            DestinationError::unfit(format!("{subject}: the answer tells no size"))
        })?;
        Ok(ObjectMeta { key: key.clone(), size: object.size, modified: object.modified() })
    }
}

#[async_trait]
impl Destination for GcsDestination {
    fn location(&self) -> String {
        self.config.location()
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.store(key, body, true).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.store(key, body, false).await
    }

    async fn get(&self, key: &Key, asked: ByteRange) -> Result<Bytes> {
        let Some(header) = range::header(asked) else {
            self.look_at(key).await?;
            return range::nothing(key, asked);
        };
        let subject = self.subject("get", key.as_str());
        let mut ask = Ask::new(Method::GET, self.path(key)).parameter("alt", "media");
        ask.headers.extend(header.map(|range| ("range", range)));
        let answer = self.send(&subject, ask).await?;
        match answer.status {
            404 => Err(self.missing(&subject).await),
            416 => range::nothing(key, asked),
            _ => {
                let answer = check(&subject, answer)?;
                if is_of_nothing(asked, &answer) {
                    return range::nothing(key, asked);
                }
                answer::check_body(&subject, asked, &answer)?;
                Ok(answer.body)
            }
        }
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.look_at(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        self.list_page(prefix, after, limit).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let subject = self.subject("delete", key.as_str());
        let answer = self.send(&subject, Ask::new(Method::DELETE, self.path(key))).await?;
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
        let body = Bytes::from_static(b"checked");
        let ask = self.upload(key, &body, &wire::checksum(b""));
        match self.send(&subject, ask).await? {
            answer if answer::is_damaged(&answer) => Ok(true),
            answer => check(&subject, answer).map(|_| false),
        }
    }
}

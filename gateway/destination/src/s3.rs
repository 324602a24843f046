//! Objects in an S3 bucket, of AWS or of any server that speaks its protocol.
//!
//! * [`put_new`](Destination::put_new) is one PUT with `If-None-Match: *`. Many servers ignore
//!   that header, so [`probe`](crate::probe) tries it before it is relied upon.
//! * An object is always one PUT, never multipart: some servers honour the condition for one and
//!   not for the other, and packs are small enough.
//! * Bodies carry a CRC-32C that servers check if they know it, and that is checked again when a
//!   whole object is read. Over TLS the signature leaves the body out, which TLS protects.
//! * Nothing is repeated here except a PUT refused with 409, which has done nothing. A lost
//!   answer is an [`ErrorKind::Unavailable`] that [`Retry`](crate::wrap::Retry) may repeat; its
//!   put_new then finds the key taken by its own first attempt, and the caller reads it back.
//! * Every request has a deadline that grows with its body, and a body that stands still ends
//!   the request earlier ([`Timeouts`](crate::Timeouts)).
//! * Servers that list in another order than S3 are met with another way of listing.

mod config;
mod delete;
mod error;
mod list;
mod lock;
mod read;

use std::fmt;
use std::future::Future;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::ChecksumAlgorithm;
use bytes::Bytes;

use crate::key::{below, may_start_key};
use crate::url::Scheme;
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, ListPage, Lock, ObjectMeta, Result,
    page_limit,
};
pub use config::S3Config;
use error::translate;
use list::ServerOrder;

/// This destination in the table of schemes.
pub(crate) const SCHEME: Scheme = Scheme {
    name: "s3",
    form: "s3://BUCKET/PREFIX?endpoint=URL&region=REGION",
    open: |url, options| {
        Box::pin(async move {
            let mut config = S3Config::from_url(url)?;
            config.timeouts = config.timeouts.at_most(options.retry.total);
            let store = S3Destination::open(config).await?;
            Ok(std::sync::Arc::new(store) as _)
        })
    },
};

/// How often a put that a rival's put got in the way of is sent.
const CONFLICT_ATTEMPTS: u32 = 6;

/// The longest wait between those.
const CONFLICT_WAIT: Duration = Duration::from_millis(200);

/// Objects in an S3 bucket, below a prefix.
pub struct S3Destination {
    client: Client,
    config: S3Config,
    order: ServerOrder,
}

impl fmt::Debug for S3Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3Destination").field("location", &self.location()).finish()
    }
}

impl S3Destination {
    /// Finds the credentials for the bucket; sends nothing to its server yet.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidConfig`]; [`ErrorKind::AccessDenied`] when there are no credentials.
    pub async fn open(config: S3Config) -> Result<Self> {
        let order = ServerOrder::default();
        let client = Box::pin(config.client(order.clone())).await?;
        Ok(Self { client, config, order })
    }

    /// The object's name in the bucket.
    fn name(&self, key: &str) -> String {
        below(&self.config.prefix, key)
    }

    /// What was asked of whom, for messages.
    fn subject(&self, action: &str, key: &str) -> String {
        let subject = format!("{action} s3://{}/{}", self.config.bucket, self.name(key));
        match &self.config.endpoint {
            Some(endpoint) => format!("{subject} at {endpoint}"),
            None => subject,
        }
    }

    /// Waits for a request that moves `length` bytes as long as it may take.
    fn within<'a, T: 'a>(
        &self,
        subject: &'a str,
        length: u64,
        request: impl Future<Output = Result<T>> + Send + 'a,
    ) -> impl Future<Output = Result<T>> + Send + 'a {
        self.config.timeouts.within(subject, length, request)
    }

    fn put_request(&self, key: &Key, body: Bytes) -> PutObjectFluentBuilder {
        self.client
            .put_object()
            .bucket(&self.config.bucket)
            .key(self.name(key.as_str()))
            .body(ByteStream::from(body))
    }

    /// Puts an object; the id of its version, where the server tells.
    async fn send_put(&self, key: &Key, body: Bytes, put: Put) -> Result<Option<String>> {
        let subject = self.subject("put", key.as_str());
        let length = body.len() as u64;
        let request = async {
            for _ in 1..CONFLICT_ATTEMPTS {
                match self.put_once(key, body.clone(), put).await {
                    Err(error) if has_status(&error, 409) => {
                        tokio::time::sleep(CONFLICT_WAIT.mul_f64(rand::random())).await;
                    }
                    outcome => return outcome.map_err(|error| translate(&subject, error)),
                }
            }
            let last = self.put_once(key, body.clone(), put).await;
            last.map_err(|error| translate(&subject, error))
        };
        self.within(&subject, length, request).await
    }

    async fn put_once(
        &self,
        key: &Key,
        body: Bytes,
        put: Put,
    ) -> Result<Option<String>, SdkError<PutObjectError, HttpResponse>> {
        let mut request = self.put_request(key, body).checksum_algorithm(ChecksumAlgorithm::Crc32C);
        if put.create_only {
            request = request.if_none_match("*");
        }
        if let Some(lock) = put.lock {
            request = request
                .object_lock_mode(lock::put_mode(lock.mode))
                .object_lock_retain_until_date(DateTime::from(lock.until));
        }
        let mut request = request.customize();
        if self.config.endpoint.as_ref().is_none_or(|url| url.starts_with("https:")) {
            request = request.disable_payload_signing();
        }
        request.send().await.map(|answer| answer.version_id)
    }
}

/// What is special about a put.
#[derive(Clone, Copy, Default)]
struct Put {
    create_only: bool,
    lock: Option<Lock>,
}

#[async_trait]
impl Destination for S3Destination {
    fn location(&self) -> String {
        let mut url = format!("s3://{}", self.config.bucket);
        if !self.config.prefix.is_empty() {
            url.push('/');
            url.push_str(&self.config.prefix);
        }
        if let Some(endpoint) = &self.config.endpoint {
            url.push_str("?endpoint=");
            url.push_str(endpoint);
        }
        url
    }

    /// By a quota.
    fn fills_up(&self) -> bool {
        true
    }

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.send_put(key, body, Put { create_only: true, lock: None }).await.map(drop)
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.send_put(key, body, Put::default()).await.map(drop)
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        self.read(key, range).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let subject = self.subject("head", key.as_str());
        let name = self.name(key.as_str());
        let request = self.client.head_object().bucket(&self.config.bucket).key(name).send();
        let request = async { request.await.map_err(|error| translate(&subject, error)) };
        let answer = self.within(&subject, 0, request).await?;
        let Some(size) = answer.content_length().and_then(|size| u64::try_from(size).ok()) else {
            return Err(DestinationError::unfit(format!("{subject}: the answer tells no size")));
        };
        Ok(ObjectMeta { key: key.clone(), size, modified: answer.last_modified().and_then(time) })
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        if !may_start_key(prefix) {
            return Ok(ListPage::default());
        }
        self.list_in_order(prefix, after, page_limit(limit)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let subject = self.subject("delete", key.as_str());
        let name = self.name(key.as_str());
        let request = self.client.delete_object().bucket(&self.config.bucket).key(name).send();
        let request = async { request.await.map_err(|error| translate(&subject, error)) };
        match self.within(&subject, 0, request).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        self.delete_batches(keys).await
    }

    fn deletes_per_request(&self) -> usize {
        delete::BATCH
    }

    async fn put_locked(
        &self,
        key: &Key,
        body: Bytes,
        create_only: bool,
        lock: &Lock,
    ) -> Result<()> {
        self.put_with_lock(key, body, create_only, lock).await.map(drop)
    }

    async fn extend_lock(&self, key: &Key, lock: &Lock) -> Result<()> {
        self.put_retention(key, lock).await
    }

    async fn lock_of(&self, key: &Key) -> Result<Option<Lock>> {
        self.retention(key).await
    }

    async fn keeps_locks(&self, key: &Key, lock: &Lock) -> Result<bool> {
        self.try_lock(key, lock).await
    }

    async fn verifies_checksums(&self, key: &Key) -> Result<bool> {
        let subject = self.subject("put", key.as_str());
        // The checksum of nothing, for a body that is something.
        let put =
            self.put_request(key, Bytes::from_static(b"checked")).checksum_crc32_c("AAAAAA==");
        let request = async {
            match put.send().await {
                Ok(_) => Ok(false),
                Err(error) if has_status(&error, 400) => Ok(true),
                Err(error) => Err(translate(&subject, error)),
            }
        };
        self.within(&subject, 0, request).await
    }
}

fn time(time: &DateTime) -> Option<SystemTime> {
    SystemTime::try_from(*time).ok()
}

fn has_status<E>(error: &SdkError<E, HttpResponse>, status: u16) -> bool {
    error.raw_response().is_some_and(|answer| answer.status().as_u16() == status)
}

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
//!   the request earlier ([`S3Timeouts`]).

mod config;
mod error;

use std::fmt;
use std::future::Future;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::operation::put_object::PutObjectError;
use aws_sdk_s3::operation::put_object::builders::PutObjectFluentBuilder;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode};
use bytes::Bytes;

use crate::key::may_start_key;
use crate::url::Scheme;
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, ListPage, ObjectMeta, Result,
    check_length, page_limit,
};
pub use config::{S3Config, S3Timeouts};
use error::translate;

/// This destination in the table of schemes.
pub(crate) const SCHEME: Scheme = Scheme {
    name: "s3",
    form: "s3://BUCKET/PREFIX?endpoint=URL&region=REGION",
    open: |url, _| {
        Box::pin(async move {
            let store = S3Destination::open(S3Config::from_url(url)?).await?;
            Ok(std::sync::Arc::new(store) as _)
        })
    },
};

/// How often a put that a rival's put got in the way of is sent.
const CONFLICT_ATTEMPTS: u32 = 6;

/// The longest wait between those.
const CONFLICT_WAIT: Duration = Duration::from_millis(200);

/// Memory set aside for a body before its bytes arrive; a pack fits.
const BODY_RESERVE: u64 = 64 << 20;

/// The largest offset sent: some servers parse signed numbers.
const LAST_OFFSET: u64 = i64::MAX as u64;

/// Objects in an S3 bucket, below a prefix.
pub struct S3Destination {
    client: Client,
    config: S3Config,
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
        let client = Box::pin(config.client()).await?;
        Ok(Self { client, config })
    }

    /// The object's name in the bucket.
    fn name(&self, key: &str) -> String {
        match self.config.prefix.as_str() {
            "" => key.to_owned(),
            prefix => format!("{prefix}/{key}"),
        }
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
    async fn within<T>(
        &self,
        subject: &str,
        length: u64,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let time = self.config.timeouts.whole(length);
        // The SDK's futures are many kilobytes large: keep them off the callers' stacks.
        match tokio::time::timeout(time, Box::pin(request)).await {
            Ok(outcome) => outcome,
            Err(elapsed) => {
                let context = format!("{subject}: not finished within {} s", time.as_secs());
                Err(DestinationError::caused(ErrorKind::Unavailable, context, elapsed))
            }
        }
    }

    fn put_request(&self, key: &Key, body: Bytes) -> PutObjectFluentBuilder {
        self.client
            .put_object()
            .bucket(&self.config.bucket)
            .key(self.name(key.as_str()))
            .body(ByteStream::from(body))
    }

    async fn send_put(&self, key: &Key, body: Bytes, condition: Option<&str>) -> Result<()> {
        let subject = self.subject("put", key.as_str());
        let length = body.len() as u64;
        let request = async {
            for _ in 1..CONFLICT_ATTEMPTS {
                match self.put_once(key, body.clone(), condition).await {
                    Err(error) if has_status(&error, 409) => {
                        tokio::time::sleep(CONFLICT_WAIT.mul_f64(rand::random())).await;
                    }
                    outcome => return outcome.map_err(|error| translate(&subject, error)),
                }
            }
            let last = self.put_once(key, body.clone(), condition).await;
            last.map_err(|error| translate(&subject, error))
        };
        self.within(&subject, length, request).await
    }

    async fn put_once(
        &self,
        key: &Key,
        body: Bytes,
        condition: Option<&str>,
    ) -> Result<(), SdkError<PutObjectError, HttpResponse>> {
        let put = self
            .put_request(key, body)
            .checksum_algorithm(ChecksumAlgorithm::Crc32C)
            .set_if_none_match(condition.map(str::to_owned))
            .customize();
        let encrypted = self.config.endpoint.as_ref().is_none_or(|url| url.starts_with("https:"));
        let put = if encrypted { put.disable_payload_signing() } else { put };
        put.send().await.map(drop)
    }

    async fn read_body(
        &self,
        subject: &str,
        key: &Key,
        range: ByteRange,
        answer: GetObjectOutput,
    ) -> Result<Bytes> {
        check_range(subject, range, &answer)?;
        let announced = answer.content_length.and_then(|length| u64::try_from(length).ok());
        if let Some(length) = announced {
            check_length(key, length)?;
        }
        let read = collect(subject, key, announced, answer.body);
        self.within(subject, announced.unwrap_or(BODY_RESERVE), read).await
    }

    async fn list_page(
        &self,
        prefix: &str,
        after: Option<&Key>,
        limit: usize,
        token: Option<String>,
    ) -> Result<ListObjectsV2Output> {
        let subject = self.subject("list", prefix);
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.config.bucket)
            .prefix(self.name(prefix))
            .set_start_after(after.map(|key| self.name(key.as_str())))
            .set_continuation_token(token)
            // At most MAX_PAGE.
            .max_keys(limit as i32)
            .send();
        let request = async { request.await.map_err(|error| translate(&subject, error)) };
        self.within(&subject, 0, request).await
    }

    /// The objects of an answer that are ours: foreign names are not keys, and not listed.
    fn objects(&self, answer: &ListObjectsV2Output) -> Vec<ObjectMeta> {
        let base = self.name("");
        let ours = answer.contents().iter().filter_map(|object| {
            let key = Key::new(object.key()?.strip_prefix(&base)?).ok()?;
            let size = u64::try_from(object.size()?).ok()?;
            Some(ObjectMeta { key, size, modified: object.last_modified().and_then(time) })
        });
        ours.collect()
    }
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

    async fn put_new(&self, key: &Key, body: Bytes) -> Result<()> {
        self.send_put(key, body, Some("*")).await
    }

    async fn put(&self, key: &Key, body: Bytes) -> Result<()> {
        self.send_put(key, body, None).await
    }

    async fn get(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
        let subject = self.subject("get", key.as_str());
        let Some(header) = range_header(range) else {
            // S3 has no words for these; only whether the object is there is asked.
            self.head(key).await?;
            return nothing(key, range);
        };
        let full = range == ByteRange::Full;
        let request = self
            .client
            .get_object()
            .bucket(&self.config.bucket)
            .key(self.name(key.as_str()))
            .set_range(header)
            // Checksums are of whole objects.
            .set_checksum_mode(full.then_some(ChecksumMode::Enabled))
            .send();
        let request = async { request.await.map_err(|error| translate(&subject, error)) };
        match self.within(&subject, 0, request).await {
            Ok(answer) => self.read_body(&subject, key, range, answer).await,
            // What a suffix of an empty object gets.
            Err(error) if error.kind() == ErrorKind::InvalidRange => nothing(key, range),
            Err(error) => Err(error),
        }
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let subject = self.subject("head", key.as_str());
        let name = self.name(key.as_str());
        let request = self.client.head_object().bucket(&self.config.bucket).key(name).send();
        let request = async { request.await.map_err(|error| translate(&subject, error)) };
        let answer = self.within(&subject, 0, request).await?;
        let Some(size) = answer.content_length().and_then(|size| u64::try_from(size).ok()) else {
            return Err(unfit(format!("{subject}: the answer tells no size")));
        };
        Ok(ObjectMeta { key: key.clone(), size, modified: answer.last_modified().and_then(time) })
    }

    async fn list(&self, prefix: &str, after: Option<&Key>, limit: usize) -> Result<ListPage> {
        if !may_start_key(prefix) {
            return Ok(ListPage::default());
        }
        let limit = page_limit(limit);
        let mut token = None;
        loop {
            let answer = self.list_page(prefix, after, limit, token.take()).await?;
            let objects = self.objects(&answer);
            check_order(&self.subject("list", prefix), after, &objects)?;
            let more = answer.is_truncated().unwrap_or(false);
            // A page of foreign names only says nothing: go on to the next.
            token = answer.next_continuation_token;
            if !objects.is_empty() || !more || token.is_none() {
                return Ok(ListPage { objects, more });
            }
        }
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

/// The Range header, none for the whole object; or none at all where S3 cannot express it.
fn range_header(range: ByteRange) -> Option<Option<String>> {
    match range {
        ByteRange::Full => Some(None),
        ByteRange::Suffix(0) => None,
        ByteRange::Suffix(length) => Some(Some(format!("bytes=-{}", length.min(LAST_OFFSET)))),
        ByteRange::Span { offset, length } => {
            let last = offset.checked_add(length.checked_sub(1)?).unwrap_or(LAST_OFFSET);
            let fits = offset <= LAST_OFFSET;
            fits.then(|| Some(format!("bytes={offset}-{}", last.min(LAST_OFFSET))))
        }
    }
}

/// What a range means that selects no byte of an object that exists.
fn nothing(key: &Key, range: ByteRange) -> Result<Bytes> {
    match range {
        ByteRange::Suffix(_) => Ok(Bytes::new()),
        _ => Err(range.invalid(key)),
    }
}

/// Refuses an answer to a range that holds other bytes than asked for.
fn check_range(subject: &str, range: ByteRange, answer: &GetObjectOutput) -> Result<()> {
    if range == ByteRange::Full {
        return Ok(());
    }
    let found = answer.content_range().and_then(parse_content_range);
    let right = found.is_some_and(|(first, last, size)| {
        let length = answer.content_length.and_then(|length| u64::try_from(length).ok());
        let sent = last.checked_sub(first).map(|span| span + 1);
        range.within(size).is_some_and(|wanted| wanted.start == first && wanted.end - 1 == last)
            && length.is_none_or(|length| Some(length) == sent)
    });
    if right {
        return Ok(());
    }
    let found = answer.content_range().unwrap_or("no range");
    Err(unfit(format!("{subject}: asked for {range:?}, the server sends {found:?}")))
}

/// The numbers of `bytes FIRST-LAST/SIZE` (RFC 9110 section 14.4).
fn parse_content_range(header: &str) -> Option<(u64, u64, u64)> {
    let (span, size) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

/// Reads a body to its end, which must be where the server announced it.
async fn collect(
    subject: &str,
    key: &Key,
    announced: Option<u64>,
    mut stream: ByteStream,
) -> Result<Bytes> {
    let broken = |error| {
        let context = format!("{subject}: the body broke off or was damaged on its way");
        DestinationError::caused(ErrorKind::Unavailable, context, error)
    };
    let reserve = announced.unwrap_or(0).min(BODY_RESERVE);
    let mut body = Vec::with_capacity(reserve as usize);
    while let Some(chunk) = stream.try_next().await.map_err(broken)? {
        body.extend_from_slice(&chunk);
        check_length(key, body.len() as u64)?;
    }
    let length = body.len() as u64;
    match announced {
        Some(announced) if announced != length => {
            let context = format!("{subject}: {length} of {announced} bytes arrived");
            Err(DestinationError::new(ErrorKind::Unavailable, context))
        }
        _ => Ok(Bytes::from(body)),
    }
}

/// Refuses a listing out of order, of which pages would skip or repeat objects.
fn check_order(subject: &str, after: Option<&Key>, objects: &[ObjectMeta]) -> Result<()> {
    let keys = objects.iter().map(|object| &object.key);
    if after.into_iter().chain(keys).is_sorted_by(|earlier, later| earlier < later) {
        return Ok(());
    }
    Err(unfit(format!("{subject}: the server lists objects out of order")))
}

fn unfit(context: String) -> DestinationError {
    DestinationError::new(ErrorKind::Unfit, context)
}

fn time(time: &DateTime) -> Option<SystemTime> {
    SystemTime::try_from(*time).ok()
}

fn has_status<E>(error: &SdkError<E, HttpResponse>, status: u16) -> bool {
    error.raw_response().is_some_and(|answer| answer.status().as_u16() == status)
}

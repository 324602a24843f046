//! Getting objects and ranges of them, and refusing other bytes than asked for.

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;
use bytes::Bytes;

use super::S3Destination;
use super::error::translate;
use crate::{
    ByteRange, Destination, DestinationError, ErrorKind, Key, Result, check_length, range,
};

/// Memory set aside for a body before its bytes arrive; a pack fits.
const BODY_RESERVE: u64 = 64 << 20;

impl S3Destination {
    pub(super) async fn read(&self, key: &Key, asked: ByteRange) -> Result<Bytes> {
        let subject = self.subject("get", key.as_str());
        let Some(header) = range::header(asked) else {
            // S3 has no words for these; only whether the object is there is asked.
            self.head(key).await?;
            return range::nothing(key, asked);
        };
        let full = asked == ByteRange::Full;
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
            Ok(answer) => self.read_body(&subject, key, asked, answer).await,
            // What a suffix of an empty object gets.
            Err(error) if error.kind() == ErrorKind::InvalidRange => range::nothing(key, asked),
            Err(error) => Err(error),
        }
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
}

/// Refuses an answer to a range that holds other bytes than asked for.
fn check_range(subject: &str, asked: ByteRange, answer: &GetObjectOutput) -> Result<()> {
    if asked == ByteRange::Full {
        return Ok(());
    }
    let length = answer.content_length.and_then(|length| u64::try_from(length).ok());
    let right = range::is_answer(asked, answer.content_range().unwrap_or_default(), length);
    if right {
        return Ok(());
    }
    let found = answer.content_range().unwrap_or("no range");
    Err(DestinationError::unfit(format!(
        "{subject}: asked for {asked:?}, the server sends {found:?}"
    )))
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

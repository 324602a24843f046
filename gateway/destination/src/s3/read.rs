//! Getting objects and ranges of them, and refusing other bytes than asked for.

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::ChecksumMode;
use bytes::Bytes;

use super::error::translate;
use super::{S3Destination, unfit};
use crate::{ByteRange, Destination, DestinationError, ErrorKind, Key, Result, check_length};

/// The largest offset sent: some servers parse signed numbers.
const LAST_OFFSET: u64 = i64::MAX as u64;

/// Memory set aside for a body before its bytes arrive; a pack fits.
const BODY_RESERVE: u64 = 64 << 20;

impl S3Destination {
    pub(super) async fn read(&self, key: &Key, range: ByteRange) -> Result<Bytes> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_fit_in_signed_numbers() {
        let span = |offset, length| ByteRange::Span { offset, length };
        for (range, header) in [
            (ByteRange::Full, Some(None)),
            (span(0, 1), Some(Some("bytes=0-0"))),
            (span(5, 10), Some(Some("bytes=5-14"))),
            (span(1, u64::MAX), Some(Some("bytes=1-9223372036854775807"))),
            (ByteRange::Suffix(9), Some(Some("bytes=-9"))),
            (ByteRange::Suffix(u64::MAX), Some(Some("bytes=-9223372036854775807"))),
            (span(0, 0), None),
            (span(u64::MAX, 1), None),
            (ByteRange::Suffix(0), None),
        ] {
            assert_eq!(range_header(range), header.map(|h| h.map(str::to_owned)), "{range:?}");
        }
    }

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(parse_content_range("bytes 5-14/100"), Some((5, 14, 100)));
        for bad in ["", "5-14/100", "bytes 5-14/*", "bytes */100", "bytes 5-/9", "bytes -5-1/9"] {
            assert_eq!(parse_content_range(bad), None, "{bad:?}");
        }
    }
}

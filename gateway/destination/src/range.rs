//! Byte ranges as HTTP has them (RFC 9110 section 14).

use bytes::Bytes;

use crate::{ByteRange, Key, Result};

/// The largest offset sent: some servers parse signed numbers.
const LAST_OFFSET: u64 = i64::MAX as u64;

/// The Range header, none for the whole object; or none at all where HTTP cannot express it.
pub(crate) fn header(range: ByteRange) -> Option<Option<String>> {
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
pub(crate) fn nothing(key: &Key, range: ByteRange) -> Result<Bytes> {
    match range {
        ByteRange::Suffix(_) => Ok(Bytes::new()),
        _ => Err(range.invalid(key)),
    }
}

/// Whether an answer's Content-Range and length are those of the range asked for.
pub(crate) fn is_answer(range: ByteRange, content_range: &str, length: Option<u64>) -> bool {
    parse_content_range(content_range).is_some_and(|(first, last, size)| {
        let sent = last.checked_sub(first).map(|span| span + 1);
        range.within(size).is_some_and(|wanted| wanted.start == first && wanted.end - 1 == last)
            && length.is_none_or(|length| Some(length) == sent)
    })
}

/// The numbers of `bytes FIRST-LAST/SIZE` (RFC 9110 section 14.4).
fn parse_content_range(header: &str) -> Option<(u64, u64, u64)> {
    let (span, size) = header.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(offset: u64, length: u64) -> ByteRange {
        ByteRange::Span { offset, length }
    }

    #[test]
    fn ranges_fit_in_signed_numbers() {
        for (range, wanted) in [
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
            assert_eq!(header(range), wanted.map(|h| h.map(str::to_owned)), "{range:?}");
        }
    }

    #[test]
    fn content_ranges_are_read_strictly() {
        assert_eq!(parse_content_range("bytes 5-14/100"), Some((5, 14, 100)));
        for bad in ["", "5-14/100", "bytes 5-14/*", "bytes */100", "bytes 5-/9", "bytes -5-1/9"] {
            assert_eq!(parse_content_range(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn only_the_range_asked_for_is_its_answer() {
        for (range, found, length, right) in [
            (span(5, 10), "bytes 5-14/100", Some(10), true),
            (span(5, 10), "bytes 5-14/100", None, true),
            (span(5, 10), "bytes 5-14/100", Some(9), false),
            (span(5, 10), "bytes 5-13/100", Some(9), false),
            (span(95, 10), "bytes 95-99/100", Some(5), true),
            (ByteRange::Suffix(5), "bytes 95-99/100", Some(5), true),
            (ByteRange::Suffix(5), "bytes 0-4/100", Some(5), false),
            (span(5, 10), "", Some(10), false),
        ] {
            assert_eq!(is_answer(range, found, length), right, "{range:?} {found:?} {length:?}");
        }
    }
}

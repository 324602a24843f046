//! What the destinations that speak HTTP share.

#[cfg(any(feature = "azblob", feature = "gcs"))]
mod ask;
#[cfg(any(feature = "azblob", feature = "swift"))]
mod digest;
mod http;
mod settings;

#[cfg(any(feature = "azblob", feature = "gcs"))]
pub(crate) use ask::Ask;
#[cfg(any(feature = "azblob", feature = "swift"))]
pub(crate) use digest::md5;
pub(crate) use http::{Answer, Http};
pub(crate) use settings::{Secret, Settings, check_http};

use crate::key::MAX_KEY;
use crate::url::invalid;
use crate::{ByteRange, DestinationError, Result, range};

/// The longest name of an object, in bytes, on every store there is a destination for.
const MAX_NAME: usize = 1024;

/// Text as it stands in a path: only letters, digits and `-._~/` as they are.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

/// The prefix in a URL's path, such that every key below it is a name the store takes.
pub(crate) fn check_prefix(path: &str) -> Result<String> {
    let prefix = path.trim_matches('/');
    let odd =
        |segment: &str| matches!(segment, "" | "." | "..") || segment.contains(char::is_control);
    if !prefix.is_empty() && prefix.split('/').any(odd) {
        return Err(invalid(format!("{prefix:?} cannot stand before the names of objects")));
    }
    if prefix.len() > MAX_NAME - MAX_KEY - 1 {
        return Err(invalid(format!("the prefix has {} bytes, too many", prefix.len())));
    }
    Ok(prefix.to_owned())
}

/// Whether an answer is the part of an object that was asked for, rather than all of it.
///
/// # Errors
/// [`ErrorKind::Unfit`] when it is neither.
pub(crate) fn is_part(subject: &str, asked: ByteRange, answer: &Answer) -> Result<bool> {
    let length = answer.body.len() as u64;
    if answer.status == 206 {
        let found = answer.header("content-range").unwrap_or_default();
        if asked != ByteRange::Full && range::is_answer(asked, found, Some(length)) {
            return Ok(true);
        }
        let context = format!("{subject}: asked for {asked:?}, the server sends {found:?}");
        return Err(DestinationError::unfit(context));
    }
    // A range of everything may be answered as the whole.
    if asked.within(length) != Some(0..length) {
        let context = format!("{subject}: asked for {asked:?}, the server sends {length} bytes");
        return Err(DestinationError::unfit(context));
    }
    Ok(false)
}

/// Whether an empty answer says that no byte of the object lies in the range. Azurite and
/// fake-gcs-server send that for some ranges at the end, where the services themselves answer 416.
#[cfg(any(feature = "azblob", feature = "gcs"))]
pub(crate) fn is_of_nothing(asked: ByteRange, answer: &Answer) -> bool {
    let size = answer.header("content-range").and_then(|range| range.rsplit_once('/'));
    let size = size.and_then(|(_, size)| size.parse().ok());
    answer.status == 206
        && answer.body.is_empty()
        && size.is_some_and(|size| asked.within(size).is_none_or(|span| span.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_byte_by_byte() {
        assert_eq!(escape("a/b-c._~9"), "a/b-c._~9");
        assert_eq!(escape("a b?&%\u{e9}"), "a%20b%3F%26%25%C3%A9");
    }
}

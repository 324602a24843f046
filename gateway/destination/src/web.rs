//! What the destinations that speak HTTP share.

mod http;
mod settings;

pub(crate) use http::{Answer, Http};
pub(crate) use settings::{Secret, Settings, check_http};

use bytes::Bytes;
use md5::{Digest, Md5};

use crate::key::MAX_KEY;
use crate::url::invalid;
use crate::{DestinationError, ErrorKind, Result};

/// The longest name of an object, in bytes, on every store there is a destination for.
const MAX_NAME: usize = 1024;

/// Bodies of this size and more are hashed where they do not keep other requests waiting.
const LARGE: usize = 256 << 10;

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

/// The MD5 of a body, computed where it does not keep other requests waiting.
pub(crate) async fn md5(body: &Bytes) -> Result<[u8; 16]> {
    let hash = |body: &Bytes| Md5::digest(body).into();
    if body.len() < LARGE {
        return Ok(hash(body));
    }
    let body = body.clone();
    tokio::task::spawn_blocking(move || hash(&body)).await.map_err(|error| {
        DestinationError::caused(ErrorKind::Other, "hashing a body was cut off", error)
    })
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

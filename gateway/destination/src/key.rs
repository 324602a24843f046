use std::fmt;

use crate::{DestinationError, ErrorKind, Result};

/// The longest key in bytes; far below the 1024 of S3, so that any prefix fits beside it.
pub const MAX_KEY: usize = 255;

/// The name of an object below the destination's prefix.
///
/// Segments of `a-z A-Z 0-9 - _ .` joined by `/`; no segment is empty or starts with a dot. This is
/// what every store and every file system takes as it is, and it cannot leave the prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(String);

impl Key {
    /// A key from its text.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidKey`] when the text is not of the form above.
    pub fn new(text: impl Into<String>) -> Result<Self> {
        let text = text.into();
        let fits = text.len() <= MAX_KEY && text.split('/').all(is_segment);
        if fits {
            Ok(Self(text))
        } else {
            Err(DestinationError::new(
                ErrorKind::InvalidKey,
                format!("not an object key: {text:?}"),
            ))
        }
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of an object, whose key or part of one this is, below a prefix that may be empty.
#[cfg(any(feature = "s3", feature = "web"))]
pub(crate) fn below(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}/{key}") }
}

/// Whether some key starts with `prefix`, which may end within a segment.
///
/// Every listing asks this first, so that no destination has to make sense of `../` or `//`.
pub(crate) fn may_start_key(prefix: &str) -> bool {
    let (folders, last) = prefix.rsplit_once('/').map_or((None, prefix), |(f, l)| (Some(f), l));
    prefix.len() <= MAX_KEY
        && folders.is_none_or(|folders| folders.split('/').all(is_segment))
        && (last.is_empty() || is_segment(last))
}

pub(crate) fn is_segment(segment: &str) -> bool {
    !segment.is_empty()
        && !segment.starts_with('.')
        && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_below_their_prefix() {
        for good in ["format", "d/0a/abc.0", "r/default/x-1/Y_2"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "/a", "a/", "a//b", "../a", "a/../b", ".tmp", "a b", "a\0b", "a\\b", "é"] {
            assert_eq!(Key::new(bad).unwrap_err().kind(), ErrorKind::InvalidKey, "{bad:?}");
        }
        assert!(Key::new("k".repeat(MAX_KEY + 1)).is_err());
    }

    #[test]
    fn prefixes_end_anywhere_in_a_key() {
        for good in ["", "d", "d/", "d/0", "d/0a/abc."] {
            assert!(may_start_key(good), "{good:?}");
        }
        for bad in ["/", "../", "d//", "d/../", ".", "d/.t", "a b", "d\0"] {
            assert!(!may_start_key(bad), "{bad:?}");
        }
    }
}

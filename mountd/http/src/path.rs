//! Paths and queries of URLs.

/// Percent-encodes what has a meaning in a URL, or none in ASCII. Slashes stay.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/@".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped += &format!("%{byte:02X}");
        }
    }
    escaped
}

/// Undoes percent-encoding; `None` when it is broken or is no text.
pub(crate) fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(rest.next())?, digit(rest.next())?);
        bytes.push((high << 4 | low) as u8);
    }
    String::from_utf8(bytes).ok()
}

/// The value of a key in a query; empty for a key that stands alone.
pub(crate) fn query<'a>(query: &'a str, key: &str) -> Option<&'a str> {
    query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == key).then_some(value)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    #[test]
    fn queries_have_keys_with_and_without_values() {
        assert_eq!(query("extents&offset=5&offset=6", "offset"), Some("5"));
        assert_eq!(query("extents&offset=5", "extents"), Some(""));
        assert_eq!(query("", "extents"), None);
    }

    #[test]
    fn broken_escapes_are_no_text() {
        assert_eq!(unescape("a%20b%C3%a4").as_deref(), Some("a bä"));
        for bad in ["%", "%2", "%zz", "%+1", "%ff"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn what_is_escaped_comes_back(text in any::<String>()) {
            let escaped = escape(&text);
            prop_assert!(escaped.is_ascii());
            prop_assert_eq!(unescape(&escaped), Some(text));
        }
    }
}

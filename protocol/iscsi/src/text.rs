//! Text keys: `key=value` pairs, each ended by a zero byte ("Text Format").

use crate::{WireError, limits};

/// The pairs of a text segment.
///
/// # Errors
/// [`WireError::Invalid`] for bytes that are not pairs of UTF-8, [`WireError::TooLong`] for too
/// many of them.
pub fn decode(bytes: &[u8]) -> Result<Vec<(&str, &str)>, WireError> {
    let mut pairs = Vec::new();
    // Some initiators pad with zero bytes inside the segment: empty pairs are nothing.
    for pair in bytes.split(|byte| *byte == 0).filter(|pair| !pair.is_empty()) {
        let text = str::from_utf8(pair).map_err(|_| invalid("text that is not UTF-8"))?;
        let (key, value) = text.split_once('=').ok_or(invalid("text without a value"))?;
        if key.is_empty() || key.len() > limits::KEY {
            return Err(invalid("the name of a key"));
        }
        if pairs.len() == limits::KEYS {
            let limit = limits::KEYS as u64;
            return Err(WireError::TooLong { what: "a list of keys", length: limit + 1, limit });
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Appends a pair.
pub fn encode(into: &mut Vec<u8>, key: &str, value: &str) {
    into.extend_from_slice(key.as_bytes());
    into.push(b'=');
    into.extend_from_slice(value.as_bytes());
    into.push(0);
}

fn invalid(what: &'static str) -> WireError {
    WireError::Invalid { what }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_go_there_and_back() {
        let mut bytes = Vec::new();
        encode(&mut bytes, "SendTargets", "All");
        encode(&mut bytes, "X-a", "b=c");
        assert_eq!(bytes, b"SendTargets=All\0X-a=b=c\0");
        assert_eq!(decode(&bytes).unwrap(), [("SendTargets", "All"), ("X-a", "b=c")]);
        assert_eq!(decode(b"a=\0\0\0").unwrap(), [("a", "")]);
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(decode(b"novalue\0").is_err());
        assert!(decode(b"=x\0").is_err());
        assert!(decode(b"a=\xff\0").is_err());
        assert!(decode(&b"a=b\0".repeat(limits::KEYS + 1)).is_err());
    }
}

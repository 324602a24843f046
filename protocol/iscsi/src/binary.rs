//! Binary values in text: hexadecimal or base64 ("Text Format").

use crate::{WireError, limits};

const BAD: WireError = WireError::Invalid { what: "a binary value" };

/// The bytes of `0x...` or `0b...`.
///
/// # Errors
/// [`WireError::Invalid`] for anything else, and for more than [`limits::BINARY`] bytes.
pub fn decode_binary(text: &str) -> Result<Vec<u8>, WireError> {
    let (kind, digits) = text.as_bytes().split_at_checked(2).ok_or(BAD)?;
    let bytes = match kind {
        b"0x" | b"0X" if digits.len() <= 2 * limits::BINARY => hexadecimal(digits),
        b"0b" | b"0B" if digits.len() <= 2 * limits::BINARY => base64(digits),
        _ => None,
    };
    bytes.filter(|bytes| !bytes.is_empty() && bytes.len() <= limits::BINARY).ok_or(BAD)
}

/// `bytes` in hexadecimal, with the `0x` in front.
pub fn encode_binary(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    "0x".chars().chain(digits.map(|digit| char::from(DIGITS[usize::from(digit)]))).collect()
}

fn hexadecimal(digits: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
    let (first, rest) = digits.split_at(digits.len() % 2);
    // An odd number of digits has a zero in front.
    let first = first.iter().map(digit);
    let pairs = rest.chunks_exact(2).map(|pair| Some(digit(&pair[0])? << 4 | digit(&pair[1])?));
    first.chain(pairs).collect()
}

fn base64(digits: &[u8]) -> Option<Vec<u8>> {
    let end = digits.iter().position(|byte| *byte == b'=').unwrap_or(digits.len());
    let (body, pad) = digits.split_at(end);
    if pad.len() > 2 || pad.iter().any(|byte| *byte != b'=') || body.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(body.len() / 4 * 3 + 2);
    for group in body.chunks(4) {
        let mut bits = 0;
        for byte in group {
            bits = bits << 6 | sextet(*byte)?;
        }
        bits <<= 6 * (4 - group.len());
        bytes.extend_from_slice(&bits.to_be_bytes()[1..group.len()]);
    }
    Some(bytes)
}

fn sextet(byte: u8) -> Option<u32> {
    let value = match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    };
    Some(u32::from(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_notations_are_read() {
        assert_eq!(decode_binary("0xA5ff00").unwrap(), [0xa5, 0xff, 0]);
        assert_eq!(decode_binary("0X123").unwrap(), [1, 0x23]);
        for (text, bytes) in [("0bZm9vYmFy", "foobar"), ("0bZm9vYg==", "foob"), ("0BZm8", "fo")] {
            assert_eq!(decode_binary(text).unwrap(), bytes.as_bytes());
        }
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(decode_binary(&encode_binary(&bytes)).unwrap(), bytes);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "0", "0x", "0xg0", "0bA", "0bA===", "0b=A==", "12", "0b\u{e4}", "\u{20ac}"]
        {
            assert!(decode_binary(text).is_err(), "{text}");
        }
        assert!(decode_binary(&format!("0x{}", "00".repeat(1025))).is_err());
    }
}

//! A checksum in JSON objects (`docs/format/`, sections 3 and 4).
//!
//! The descriptor and key slots are read before there is a key, and a flipped bit in them may
//! well leave valid JSON. Their last field, `check`, is a hash of all bytes before it. Readers that
//! do not know it ignore it, and objects without it are taken as they are.

/// What a checksum says of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The bytes are those that were written.
    Sound,
    /// They are not.
    Damaged,
    /// There is none.
    Absent,
}

const END: &[u8] = b"\n}";
const FIELD: &[u8] = b",\n  \"check\": \"";
const DIGITS: usize = 32;

fn digits(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&blake3::hash(bytes).as_bytes()[..DIGITS / 2])
}

/// Adds the checksum to a pretty-printed JSON map that is not empty.
pub fn with_check(mut json: Vec<u8>) -> Vec<u8> {
    if !json.ends_with(END) {
        return json;
    }
    json.truncate(json.len() - END.len());
    let check = digits(&json);
    json.extend_from_slice(FIELD);
    json.extend_from_slice(check.as_bytes());
    json.extend_from_slice(b"\"");
    json.extend_from_slice(END);
    json
}

/// What the checksum of an object says.
pub fn check(json: &[u8]) -> Check {
    let tail = FIELD.len() + DIGITS + 1 + END.len();
    let Some(at) = json.len().checked_sub(tail) else { return Check::Absent };
    let (body, tail) = json.split_at(at);
    if !tail.starts_with(FIELD) {
        return Check::Absent;
    }
    let rest = &tail[FIELD.len()..];
    let sound = rest[..DIGITS] == *digits(body).as_bytes()
        && rest[DIGITS] == b'"'
        && rest[DIGITS + 1..] == *END;
    if sound { Check::Sound } else { Check::Damaged }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_leaves_a_sound_checksum_and_the_json_stays_json() {
        let json = serde_json::json!({"a": 1, "b": "text", "c": {"d": []}});
        let plain = serde_json::to_vec_pretty(&json).unwrap();
        assert_eq!(check(&plain), Check::Absent);
        let checked = with_check(plain);
        assert_eq!(check(&checked), Check::Sound);
        let read: serde_json::Value = serde_json::from_slice(&checked).unwrap();
        assert_eq!((&read["a"], &read["c"]), (&json["a"], &json["c"]));
        for bit in 0..checked.len() * 8 {
            let mut bad = checked.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(check(&bad), Check::Sound, "bit {bit}");
        }
        for end in 0..checked.len() {
            assert_ne!(check(&checked[..end]), Check::Sound, "cut at {end}");
        }
    }
}

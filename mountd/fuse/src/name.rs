//! Names of files made from names people gave.

/// The link to the newest point. No name made here is equal to it.
pub(crate) const LATEST: &str = "latest";

/// Longest file name in bytes, with room for `.raw`.
const LONGEST: usize = 250;

/// A file name for any text: what cannot stand in a file name is written as `%` and two hex
/// digits, so different texts get different names; a leading dot likewise. The empty text is `%_`,
/// and `latest`, which is the name of a link, is `%6Catest`.
///
/// A name longer than 250 bytes is cut and told apart by a checksum of the whole.
pub fn file_name(text: &str) -> String {
    match text {
        "" => return "%_".to_owned(),
        LATEST => return "%6Catest".to_owned(),
        _ => {}
    }
    let mut name = String::with_capacity(text.len());
    for (at, c) in text.char_indices() {
        if c == '/' || c == '%' || c.is_control() || (at == 0 && c == '.') {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                name.push_str(&format!("%{byte:02X}"));
            }
        } else {
            name.push(c);
        }
    }
    if name.len() > LONGEST {
        let sum = checksum(text.as_bytes());
        let end = (0..=LONGEST - 17).rev().find(|end| name.is_char_boundary(*end));
        name.truncate(end.unwrap_or(0));
        name.push_str(&format!("~{sum:016x}"));
    }
    name
}

/// FNV-1a, 64 bits: only has to tell apart long names of one folder.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_names_stay_and_dangerous_ones_are_escaped() {
        assert_eq!(file_name("web-1"), "web-1");
        assert_eq!(file_name(".."), "%2E.");
        assert_eq!(file_name("a/b%"), "a%2Fb%25");
        assert_eq!(file_name("é x"), "é x");
        assert_eq!(file_name(""), "%_");
        assert_eq!(file_name("\0"), "%00");
        assert_eq!(file_name("latest"), "%6Catest");
    }

    proptest! {
        #[test]
        fn any_text_gives_a_name_of_its_own(a in ".{0,300}", b in ".{0,300}") {
            let (x, y) = (file_name(&a), file_name(&b));
            prop_assert!(!x.is_empty() && x.len() <= LONGEST);
            prop_assert!(!x.contains('/') && !x.contains('\0') && !x.starts_with('.'));
            prop_assert_eq!(a == b, x == y);
        }
    }
}

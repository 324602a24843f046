//! Time-based one-time codes: RFC 6238 with SHA-1, six digits and 30 seconds, which is what every
//! authenticator app knows. Pure: whoever asks says what time it is.

use aws_lc_rs::hmac;
use data_encoding::{BASE32, BASE32_NOPAD};
use zeroize::Zeroizing;

/// How long a code is shown.
const STEP_MS: u64 = 30_000;
/// So many steps before and after now are taken too: clocks differ.
const DRIFT: u64 = 1;
/// Bytes of a secret: as many as SHA-1 has.
const SECRET: usize = 20;
const DIGITS: usize = 6;
/// Bytes of a recovery code: too many to be guessed, offline too.
const RECOVERY: usize = 10;
/// How many recovery codes are made.
const RECOVERY_CODES: usize = 10;

/// A new secret, as Base32.
pub(crate) fn new_secret() -> Zeroizing<String> {
    let bytes = Zeroizing::new(rand::random::<[u8; SECRET]>());
    Zeroizing::new(BASE32_NOPAD.encode(&*bytes))
}

/// What authenticator apps read from a picture.
pub(crate) fn uri(secret: &str, login: &str) -> Zeroizing<String> {
    let mut label = String::new();
    for byte in login.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                label.push(char::from(byte));
            }
            _ => label.push_str(&format!("%{byte:02X}")),
        }
    }
    let text = format!(
        "otpauth://totp/Sluice:{label}?secret={secret}&issuer=Sluice&algorithm=SHA1&digits={DIGITS}\
         &period=30"
    );
    Zeroizing::new(text)
}

/// The code of a step.
fn code(secret: &[u8], step: u64) -> u32 {
    let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret);
    let tag = hmac::sign(&key, &step.to_be_bytes());
    let bytes = tag.as_ref();
    let at = usize::from(bytes.last().copied().unwrap_or(0) & 0xf);
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).unwrap_or([0; 4]);
    (u32::from_be_bytes(word) & 0x7fff_ffff) % 10_u32.pow(DIGITS as u32)
}

/// The step whose code this is, among those that are good now.
pub(crate) fn step_of(secret: &str, shown: &str, now_ms: u64) -> Option<u64> {
    let secret = Zeroizing::new(BASE32_NOPAD.decode(secret.as_bytes()).ok()?);
    let shown: String = shown.chars().filter(|letter| *letter != ' ').collect();
    if shown.len() != DIGITS || !shown.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let now = now_ms / STEP_MS;
    // All are looked at, so that how long it takes tells nothing.
    let steps = now.saturating_sub(DRIFT)..=now.saturating_add(DRIFT);
    let right = |step: u64| {
        let code = format!("{:0DIGITS$}", code(&secret, step));
        aws_lc_rs::constant_time::verify_slices_are_equal(code.as_bytes(), shown.as_bytes()).is_ok()
    };
    steps.fold(None, |found, step| if right(step) { Some(step) } else { found })
}

/// New recovery codes: four groups of four letters and digits each.
pub(crate) fn recovery_codes() -> Vec<String> {
    let one = |_| {
        let letters = BASE32.encode(&rand::random::<[u8; RECOVERY]>()).to_lowercase();
        let groups: Vec<&str> = (0..4).filter_map(|at| letters.get(at * 4..at * 4 + 4)).collect();
        groups.join("-")
    };
    (0..RECOVERY_CODES).map(one).collect()
}

/// A recovery code as it was made, however it was typed.
pub(crate) fn plain(code: &str) -> Zeroizing<String> {
    let letters = code.chars().filter(|letter| letter.is_ascii_alphanumeric());
    Zeroizing::new(letters.map(|letter| letter.to_ascii_lowercase()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table of RFC 6238, appendix B, for SHA-1; its last six digits.
    const TABLE: [(u64, &str); 6] = [
        (59, "287082"),
        (1_111_111_109, "081804"),
        (1_111_111_111, "050471"),
        (1_234_567_890, "005924"),
        (2_000_000_000, "279037"),
        (20_000_000_000, "353130"),
    ];

    #[test]
    fn codes_are_those_of_the_standard() {
        let secret = BASE32_NOPAD.encode(b"12345678901234567890");
        for (seconds, code) in TABLE {
            assert_eq!(step_of(&secret, code, seconds * 1000), Some(seconds / 30), "{seconds}");
        }
    }

    #[test]
    fn a_code_is_good_for_its_step_and_one_on_each_side() {
        let secret = BASE32_NOPAD.encode(b"12345678901234567890");
        let (seconds, code) = TABLE[3];
        let step = seconds / 30;
        let at = |step: u64| step_of(&secret, code, step * STEP_MS);
        assert_eq!((at(step - 1), at(step + 1)), (Some(step), Some(step)));
        assert_eq!((at(step - 2), at(step + 2)), (None, None));
        assert_eq!(step_of(&secret, "005 924", step * STEP_MS), Some(step));
        for odd in ["", "5924", "0059240", "00592x", "００５９２４"] {
            assert_eq!(step_of(&secret, odd, step * STEP_MS), None, "{odd}");
        }
        assert_eq!(step_of("no secret!", code, step * STEP_MS), None);
    }

    #[test]
    fn recovery_codes_are_many_and_different_and_forgive_how_they_are_typed() {
        let codes = recovery_codes();
        let different: std::collections::BTreeSet<_> = codes.iter().collect();
        assert_eq!(different.len(), RECOVERY_CODES);
        assert!(codes.iter().all(|code| code.len() == 19));
        assert_eq!(*plain(" ABCD-efgh 2345-6723"), "abcdefgh23456723");
    }

    #[test]
    fn the_name_in_a_uri_cannot_add_to_it() {
        let uri = uri("ABC", "an na&secret=x");
        assert!(
            uri.starts_with("otpauth://totp/Sluice:an%20na%26secret%3Dx?secret=ABC&"),
            "{uri:?}"
        );
    }
}

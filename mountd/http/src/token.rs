//! The secret that opens the exports: made, read from a request, compared.

use std::fmt;

use data_encoding::{BASE32_NOPAD, BASE64};
use http::header::{AUTHORIZATION, HeaderMap};
use zeroize::Zeroizing;

use crate::ServeError;

/// Bytes of chance in a token of our making: 160 bits.
const RANDOM_BYTES: usize = 20;
/// A shorter token could be guessed by a patient client.
const SHORTEST: usize = 16;
/// A longer one does not fit well into a line of a request.
const LONGEST: usize = 512;

/// A secret known to whoever may read: a segment of the URL, or a header.
///
/// Not shown by `Debug`, wiped from memory, and compared in constant time.
#[derive(Clone)]
pub struct Token(Zeroizing<String>);

impl Token {
    /// A token out of the system's source of randomness.
    ///
    /// # Errors
    /// [`ServeError::NoRandomness`].
    pub fn generate() -> Result<Self, ServeError> {
        let mut bytes = Zeroizing::new([0; RANDOM_BYTES]);
        aws_lc_rs::rand::fill(&mut *bytes).map_err(|_| ServeError::NoRandomness)?;
        Ok(Self(Zeroizing::new(BASE32_NOPAD.encode(&*bytes).to_ascii_lowercase())))
    }

    /// A token that was given.
    ///
    /// # Errors
    /// [`ServeError::BadToken`] when it is short, or would have to be escaped in a URL.
    pub fn new(text: &str) -> Result<Self, ServeError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
        if !(SHORTEST..=LONGEST).contains(&text.len()) || !text.bytes().all(allowed) {
            return Err(ServeError::BadToken { shortest: SHORTEST, longest: LONGEST });
        }
        Ok(Self(Zeroizing::new(text.to_owned())))
    }

    /// The token itself, to be told to whoever may read.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `guess` is the token, in a time that tells nothing of where they differ.
    pub(crate) fn is(&self, guess: &str) -> bool {
        use aws_lc_rs::constant_time::verify_slices_are_equal;
        use aws_lc_rs::digest::{SHA256, digest};
        // Digests have one length, so that of the token does not show either.
        let (own, guess) = (digest(&SHA256, self.0.as_bytes()), digest(&SHA256, guess.as_bytes()));
        verify_slices_are_equal(own.as_ref(), guess.as_ref()).is_ok()
    }

    /// Whether a request's `Authorization` proves knowledge of the token: as a bearer token, or
    /// as the password of any user.
    pub(crate) fn opens(&self, headers: &HeaderMap) -> bool {
        let Some(value) = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
            return false;
        };
        let Some((scheme, proof)) = value.split_once(' ') else { return false };
        let proof = proof.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return self.is(proof);
        }
        scheme.eq_ignore_ascii_case("basic") && password(proof).is_some_and(|text| self.is(&text))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

fn password(proof: &str) -> Option<Zeroizing<String>> {
    let decoded = Zeroizing::new(BASE64.decode(proof.as_bytes()).ok()?);
    let (_, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(Zeroizing::new(password.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_long_and_no_two_are_the_same() {
        let (one, other) = (Token::generate().unwrap(), Token::generate().unwrap());
        assert_eq!(one.reveal().len(), 32);
        assert_ne!(one.reveal(), other.reveal());
        assert!(one.is(one.reveal()) && !one.is(other.reveal()));
        assert!(Token::new(one.reveal()).is_ok());
        assert_eq!(format!("{one:?}"), "Token(..)");
    }

    #[test]
    fn what_does_not_go_into_a_url_is_refused() {
        for bad in ["", "short", "fifteen-letters", "sixteen/letters-", "sixteen letters-", "ä"] {
            assert!(Token::new(bad).is_err(), "{bad}");
        }
        assert!(Token::new("sixteen.letters_").is_ok());
    }

    #[test]
    fn bearer_and_basic_open_and_nothing_else_does() {
        let token = Token::new("0123456789abcdef").unwrap();
        let opens = |value: &str| {
            token.opens(&HeaderMap::from_iter([(AUTHORIZATION, value.parse().unwrap())]))
        };
        assert!(opens("Bearer 0123456789abcdef"));
        assert!(opens("bearer  0123456789abcdef"));
        assert!(opens(&format!("Basic {}", BASE64.encode(b"any:0123456789abcdef"))));
        assert!(opens(&format!("Basic {}", BASE64.encode(b":0123456789abcdef"))));
        for bad in [
            "0123456789abcdef",
            "Bearer",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdef0",
            "Digest 0123456789abcdef",
            "Basic 0123456789abcdef",
            "Basic ####",
        ] {
            assert!(!opens(bad), "{bad}");
        }
        assert!(!token.opens(&HeaderMap::new()));
    }
}

//! Passwords and tokens, as they are kept.

use argon2::Argon2;
use argon2::password_hash::{PasswordHasher, PasswordVerifier, phc::PasswordHash};

use crate::error::{CatalogError, ErrorKind, Result};

/// The Argon2id hash of a password, as a PHC string. Takes tens of milliseconds of a core: call
/// it where blocking is allowed.
///
/// # Errors
/// [`ErrorKind::Invalid`] when the password is too long to be hashed.
pub fn hash_password(password: &str) -> Result<String> {
    let hash = Argon2::default().hash_password(password.as_bytes());
    hash.map(|hash| hash.to_string()).map_err(|error| {
        CatalogError::new(ErrorKind::Invalid, "this password cannot be used")
            .with_source(error.to_string())
    })
}

/// Whether `password` is the one that `hash` was made of. A hash that cannot be read fits none.
pub fn verify_password(password: &str, hash: &str) -> bool {
    PasswordHash::new(hash)
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// What is kept of a token. Tokens are long and random, so no slow hash is needed.
pub fn token_hash(token: &str) -> String {
    blake3::derive_key("sluice catalog token 1", token.as_bytes())
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_password_fits_its_hash() {
        let hash = hash_password("a long enough one").unwrap();
        assert!(hash.starts_with("$argon2id$"), "{hash}");
        assert!(verify_password("a long enough one", &hash));
        assert!(!verify_password("a long enough two", &hash));
        assert!(!verify_password("a long enough one", "rubbish"));
        assert_ne!(hash, hash_password("a long enough one").unwrap(), "each has its own salt");
    }
}

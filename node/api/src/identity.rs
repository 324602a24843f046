//! What a node shows: a key of its own, and the server's certificate for it.

use rcgen::{CertificateParams, DnType, KeyPair, PKCS_ECDSA_P256_SHA256};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// A key, and the request for a certificate of it. The key never leaves the node.
pub struct KeyRequest {
    key: Zeroizing<String>,
    /// The request as PEM.
    pub request: String,
}

impl std::fmt::Debug for KeyRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeyRequest").finish_non_exhaustive()
    }
}

impl KeyRequest {
    /// A new key. The name stands in the request for people; what the certificate says is the
    /// server's choice.
    ///
    /// # Errors
    /// In words, when there is no randomness, or the name cannot be written.
    pub fn new(name: &str) -> Result<Self, String> {
        let failed = |error: rcgen::Error| format!("cannot make a key: {error}");
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let request = params.serialize_request(&pair).and_then(|r| r.pem()).map_err(failed)?;
        Ok(Self { key: Zeroizing::new(pair.serialize_pem()), request })
    }

    /// The identity that this key and the server's answer are.
    pub fn with(self, answer: Certified) -> Identity {
        Identity { key: self.key.to_string(), certified: answer }
    }
}

/// A certificate that a server has made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Certified {
    /// As PEM.
    pub certificate: String,
    /// When it was made, in milliseconds since 1970.
    pub issued_ms: u64,
    /// When it ends, in milliseconds since 1970.
    pub expires_ms: u64,
}

/// A key and a certificate of it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The key as PEM.
    pub key: String,
    /// The certificate.
    #[serde(flatten)]
    pub certified: Certified,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("expires_ms", &self.certified.expires_ms).finish()
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.key);
    }
}

impl Certified {
    /// Whether two thirds of its life are over, by a clock that says `now_ms`.
    pub fn is_due(&self, now_ms: u64) -> bool {
        let life = self.expires_ms.saturating_sub(self.issued_ms);
        now_ms >= self.issued_ms.saturating_add(life / 3 * 2)
    }
}

/// A node asks for a certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateRequest {
    /// The request as PEM.
    pub request: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_due_after_two_thirds_of_its_life() {
        let certified = Certified { issued_ms: 1_000, expires_ms: 91_000, ..Certified::default() };
        assert!(!certified.is_due(60_999) && certified.is_due(61_000) && certified.is_due(99_000));
        assert!(Certified::default().is_due(0), "none at all is due");
    }

    #[test]
    fn keys_are_not_shown_and_come_back_from_a_file() {
        let asked = KeyRequest::new("mover").unwrap();
        assert!(asked.request.contains("BEGIN CERTIFICATE REQUEST"));
        let identity = asked.with(Certified { expires_ms: 7, ..Certified::default() });
        assert!(identity.key.contains("PRIVATE KEY"));
        assert!(!format!("{identity:?}").contains("PRIVATE"));
        let text = serde_json::to_string(&identity).unwrap();
        assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), identity);
    }
}

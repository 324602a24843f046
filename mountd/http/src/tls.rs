//! Certificates: given, or made here.

use std::fmt;
use std::fmt::Write as _;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;
use zeroize::Zeroizing;

use crate::ServeError;

/// A certificate with its private key, ready for use.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ServerConfig>,
    fingerprint: String,
}

impl Tls {
    /// Takes a chain of certificates, the server's own first, and its private key, both as PEM.
    ///
    /// # Errors
    /// [`ServeError::BadCertificate`] when one cannot be read, or they do not belong together.
    pub fn from_pem(certificates: &[u8], key: &[u8]) -> Result<Self, ServeError> {
        let bad = |what: &'static str, source: Box<dyn std::error::Error + Send + Sync>| {
            ServeError::BadCertificate { what, source }
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificates)
            .collect::<Result<_, _>>()
            .map_err(|error| bad("the certificates cannot be read", error.into()))?;
        let Some(own) = chain.first() else {
            return Err(bad("there is no certificate", "no section CERTIFICATE".into()));
        };
        let fingerprint = fingerprint(own);
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| bad("the private key cannot be read", error.into()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
            .map_err(|error| bad("certificate and key cannot be used", error.into()))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { config: Arc::new(config), fingerprint })
    }

    /// SHA-256 of the server's own certificate, as pairs of hexadecimal digits with colons
    /// between: what browsers and `openssl x509 -fingerprint -sha256` show.
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config))
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("fingerprint", &self.fingerprint).finish_non_exhaustive()
    }
}

/// A new certificate that vouches for itself.
#[derive(Debug)]
pub struct SelfSigned {
    /// The certificate as PEM.
    pub certificate: String,
    /// Its private key as PEM.
    pub key: Zeroizing<String>,
}

/// Makes a certificate for these names and addresses. It does not expire: whoever trusts it
/// trusts its fingerprint.
///
/// # Errors
/// [`ServeError::BadCertificate`] when a name is no name, or there is no randomness.
pub fn self_signed(names: Vec<String>) -> Result<SelfSigned, ServeError> {
    let failed = |error: rcgen::Error| ServeError::BadCertificate {
        what: "a certificate cannot be made",
        source: error.into(),
    };
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let mut params = rcgen::CertificateParams::new(names).map_err(failed)?;
    let mut subject = rcgen::DistinguishedName::new();
    subject.push(rcgen::DnType::CommonName, "Sluice HTTP export");
    params.distinguished_name = subject;
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let certificate = params.self_signed(&key).map_err(failed)?;
    Ok(SelfSigned { certificate: certificate.pem(), key: Zeroizing::new(key.serialize_pem()) })
}

fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, certificate);
    let mut text = String::with_capacity(95);
    for (number, byte) in digest.as_ref().iter().enumerate() {
        let colon = if number == 0 { "" } else { ":" };
        // Writing to a string does not fail.
        let _ = write!(text, "{colon}{byte:02X}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_made_here_can_be_served_and_told_apart() {
        let names = || vec!["localhost".to_owned(), "192.0.2.7".to_owned()];
        let one = self_signed(names()).unwrap();
        let other = self_signed(names()).unwrap();
        let tls = Tls::from_pem(one.certificate.as_bytes(), one.key.as_bytes()).unwrap();
        assert_eq!(tls.fingerprint().len(), 95);
        let again = Tls::from_pem(one.certificate.as_bytes(), one.key.as_bytes()).unwrap();
        assert_eq!(again.fingerprint(), tls.fingerprint());
        let second = Tls::from_pem(other.certificate.as_bytes(), other.key.as_bytes()).unwrap();
        assert_ne!(second.fingerprint(), tls.fingerprint());
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let one = self_signed(vec!["a.example".to_owned()]).unwrap();
        let other = self_signed(vec!["a.example".to_owned()]).unwrap();
        let (certificate, key) = (one.certificate.as_bytes(), one.key.as_bytes());
        for (certificate, key) in [
            (certificate, other.key.as_bytes()),
            (&b""[..], key),
            (key, certificate),
            (certificate, &b"no key"[..]),
        ] {
            let refused = Tls::from_pem(certificate, key);
            assert!(matches!(refused, Err(ServeError::BadCertificate { .. })), "{refused:?}");
        }
        assert!(self_signed(vec!["ä b".to_owned()]).is_err());
    }
}

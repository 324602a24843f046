//! The server's own authority: it makes the certificates of nodes, and judges those that are shown.
//!
//! ```text
//!   node ── request for its key ──► issue ──► certificate, its fingerprint in the catalog
//!   node ── shows a certificate ──► judge (chain, use, time) ──► catalog (whose, still good)
//! ```
//!
//! Any certificate is taken while hands are shaken, and judged for each connection afterwards: so
//! whoever shows one that ended is told so in words, and not by a closed connection.

mod request;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName as Subject, Error, RootCertStore,
    SignatureScheme,
};
use sluice_catalog::{Catalog, NodeId, Sealer};
use sluice_node_api::{Certified, Fingerprint};
use zeroize::Zeroizing;

use crate::problem::{Problem, Result};
use crate::server::ServerError;

/// The setting that holds the authority's certificate, and the owner of its key.
const OWNER: &str = "node-authority";
/// The name of its key among the secrets.
const KEY: &str = "SLUICE_NODE_AUTHORITY_KEY";
/// Certificates begin so much before they are made: clocks differ. In milliseconds.
const SLACK_MS: u64 = 3_600_000;

/// Makes and judges certificates of nodes.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    verifier: Arc<dyn ClientCertVerifier>,
    /// How long certificates are good.
    life: Duration,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("life", &self.life).finish_non_exhaustive()
    }
}

/// What was found of the certificate that a client shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Shown {
    /// It is one of ours.
    Ours(Fingerprint),
    /// It is one of ours, and has ended.
    Ended(Fingerprint),
    /// It is none of ours, or is for something else.
    Foreign,
}

/// The authority of this database, made when there is none. Whoever asks first makes it.
pub(crate) async fn load(
    catalog: &Catalog,
    sealer: &Sealer,
    life: Duration,
) -> Result<Authority, ServerError> {
    let failed = |error| ServerError::new("cannot use the authority of the nodes", error);
    let mut tx = catalog.begin().await.map_err(failed)?;
    tx.decide_alone().await.map_err(failed)?;
    let kept = tx.setting(OWNER).await.map_err(failed)?;
    let key = tx.secrets(sealer, OWNER).await.map_err(failed)?.remove(KEY);
    if let (Some(certificate), Some(key)) = (kept, key) {
        return Authority::new(&certificate, &key, life);
    }
    let (certificate, key) = make()
        .map_err(|error| ServerError::new("cannot make the authority of the nodes", error))?;
    let authority = Authority::new(&certificate, &key, life)?;
    tx.set_setting(OWNER, &certificate).await.map_err(failed)?;
    let secrets = [(KEY.to_owned(), key)].into();
    tx.set_secrets(sealer, OWNER, &secrets).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(authority)
}

/// What the authority's certificate says. It is trusted because it lies in the database.
fn params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "Sluice nodes");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// A new authority: certificate and key as PEM.
fn make() -> Result<(String, Zeroizing<String>), rcgen::Error> {
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let certificate = params().self_signed(&pair)?;
    Ok((certificate.pem(), Zeroizing::new(pair.serialize_pem())))
}

impl Authority {
    fn new(certificate: &str, key: &str, life: Duration) -> Result<Self, ServerError> {
        let odd = |error: Box<dyn std::error::Error + Send + Sync>| {
            ServerError::new("the authority of the nodes is damaged", error)
        };
        let pair = KeyPair::from_pem(key).map_err(|error| odd(error.into()))?;
        let root = CertificateDer::from_pem_slice(certificate.as_bytes());
        let mut roots = RootCertStore::empty();
        roots.add(root.map_err(|e| odd(e.into()))?).map_err(|error| odd(error.into()))?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .map_err(|error| odd(error.into()))?;
        Ok(Self { issuer: Issuer::new(params(), pair), verifier, life })
    }

    /// Makes a certificate for a node, as its request asks; and its fingerprint.
    ///
    /// # Errors
    /// A problem when the request is none, or not for a key of P-256.
    pub(crate) fn issue(
        &self,
        node: NodeId,
        request: &str,
        now_ms: u64,
    ) -> Result<(Certified, Fingerprint)> {
        let key = request::key_of(request).map_err(Problem::invalid)?;
        let odd = |error: rcgen::Error| {
            tracing::error!("a certificate cannot be made: {error}");
            Problem::invalid("a certificate cannot be made")
        };
        let mut params = CertificateParams::new([format!("{node}.node.sluice")]).map_err(odd)?;
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, node.to_string());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let expires_ms = now_ms + u64::try_from(self.life.as_millis()).unwrap_or(u64::MAX / 2);
        let begin = rcgen::date_time_ymd(1970, 1, 1);
        params.not_before = begin + Duration::from_millis(now_ms.saturating_sub(SLACK_MS));
        params.not_after = begin + Duration::from_millis(expires_ms);
        let made = params.signed_by(&key, &self.issuer).map_err(odd)?;
        let fingerprint = Fingerprint::of(made.der());
        let certificate = made.pem();
        Ok((Certified { certificate, issued_ms: now_ms, expires_ms }, fingerprint))
    }

    /// Judges what a client has shown.
    pub(crate) fn judge(&self, chain: &[CertificateDer<'_>], now_ms: u64) -> Option<Shown> {
        let (own, others) = chain.split_first()?;
        let now = UnixTime::since_unix_epoch(Duration::from_millis(now_ms));
        let print = Fingerprint::of(own);
        Some(match self.verifier.verify_client_cert(own, others, now) {
            Ok(_) => Shown::Ours(print),
            Err(Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => Shown::Ended(print),
            Err(error) => {
                tracing::warn!("a client shows certificate {print}, which is refused: {error}");
                Shown::Foreign
            }
        })
    }

    /// For the handshake, which takes any certificate whose key the client has, or none.
    pub(crate) fn handshake(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::new(Anything(Arc::clone(&self.verifier)))
    }
}

/// Checks that a client has the key of what it shows, and leaves the rest to [`Authority::judge`].
#[derive(Debug)]
struct Anything(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Anything {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[Subject] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use sluice_node_api::KeyRequest;

    use super::*;

    const DAY_MS: u64 = 86_400_000;
    const NOW: u64 = 1_800_000_000_000;

    fn authority() -> Authority {
        let (certificate, key) = make().unwrap();
        Authority::new(&certificate, &key, Duration::from_millis(90 * DAY_MS)).unwrap()
    }

    fn chain(certified: &Certified) -> Vec<CertificateDer<'static>> {
        vec![CertificateDer::from_pem_slice(certified.certificate.as_bytes()).unwrap()]
    }

    #[test]
    fn a_certificate_is_good_until_it_ends_and_only_here() {
        let (ours, theirs) = (authority(), authority());
        let request = KeyRequest::new("mover").unwrap().request;
        let (certified, print) = ours.issue(NodeId::new(NOW), &request, NOW).unwrap();
        assert_eq!(certified.expires_ms, NOW + 90 * DAY_MS);
        let chain = chain(&certified);
        assert_eq!(ours.judge(&chain, NOW + 89 * DAY_MS), Some(Shown::Ours(print)));
        assert_eq!(ours.judge(&chain, NOW + 91 * DAY_MS), Some(Shown::Ended(print)));
        assert_eq!(theirs.judge(&chain, NOW), Some(Shown::Foreign));
        assert_eq!(ours.judge(&[], NOW), None);
    }

    #[test]
    fn a_certificate_for_something_else_is_foreign() {
        let ours = authority();
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(["server".to_owned()]).unwrap();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let made = params.signed_by(&pair, &ours.issuer).unwrap();
        assert_eq!(ours.judge(&[made.der().clone()], NOW), Some(Shown::Foreign));
        let alone = params.self_signed(&pair).unwrap();
        assert_eq!(ours.judge(&[alone.der().clone()], NOW), Some(Shown::Foreign));
    }
}

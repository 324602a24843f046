//! The server's certificate: given, or made at the first start.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use sluice_node_api::{Fingerprint, fingerprint_of};
use tokio_rustls::TlsAcceptor;

use crate::authority::Authority;
use crate::server::{ServerError, write_private};

/// A certificate ready to be shown.
#[derive(Clone)]
pub(crate) struct Tls {
    pub(crate) acceptor: TlsAcceptor,
    pub(crate) fingerprint: Fingerprint,
    /// When it expires, in milliseconds since 1970, if that can be read.
    pub(crate) end_ms: Option<u64>,
}

/// The certificate in `certificate.pem` of the state folder with its key in `key.pem`; made for
/// these names when there is none. Whoever trusts it trusts its fingerprint, so it has no end.
pub(crate) fn load(
    state: &Path,
    names: Vec<String>,
    authority: &Authority,
) -> Result<Tls, ServerError> {
    let (certificate, key) = (state.join("certificate.pem"), state.join("key.pem"));
    if !certificate.exists() {
        let failed = |error: rcgen::Error| ServerError::new("cannot make a certificate", error);
        let pair = rcgen::KeyPair::generate().map_err(failed)?;
        let mut params = rcgen::CertificateParams::new(names).map_err(failed)?;
        let mut subject = rcgen::DistinguishedName::new();
        subject.push(rcgen::DnType::CommonName, "Sluice server");
        params.distinguished_name = subject;
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
        let made = params.self_signed(&pair).map_err(failed)?;
        // The certificate comes last: with it there is a key.
        write_private(&key, &pair.serialize_pem())?;
        write_private(&certificate, &made.pem())?;
    }
    let read = |path: &Path| {
        std::fs::read(path)
            .map_err(|error| ServerError::new(format!("cannot read {}", path.display()), error))
    };
    let (certificates, key_pem) = (read(&certificate)?, read(&key)?);
    let chain = CertificateDer::pem_slice_iter(&certificates).collect::<Result<Vec<_>, _>>();
    let chain = chain.map_err(|e| ServerError::new("certificate.pem is none", e))?;
    let end_ms = chain.first().and_then(|first| crate::certificate::end_ms(first));
    let key = PrivateKeyDer::from_pem_slice(&key_pem);
    let key = key.map_err(|error| ServerError::new("key.pem holds no key", error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| {
            builder.with_client_cert_verifier(authority.handshake()).with_single_cert(chain, key)
        })
        .map_err(|error| ServerError::new("certificate and key cannot be used", error))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let fingerprint = fingerprint_of(&certificates)
        .ok_or_else(|| ServerError::new("certificate.pem is empty", "no certificate in it"))?;
    Ok(Tls { acceptor: TlsAcceptor::from(Arc::new(config)), fingerprint, end_ms })
}

//! Asking a provider by HTTP: no redirects, no long answers, no patience without end.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The most that an answer may have, in bytes.
const LARGEST: usize = 1 << 20;

/// A way to ask one provider.
pub(super) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    /// Whether it is on this machine and speaks without TLS.
    plain: bool,
}

/// What a provider answers.
pub(super) struct Answer {
    pub(super) success: bool,
    pub(super) document: Value,
}

/// What TLS trusts: the certificates in `ca`, or what this machine trusts when there are none.
pub(crate) fn trust(ca: &str) -> Result<ClientConfig, String> {
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    if ca.is_empty() {
        let builder = builder.with_native_roots().map_err(|error| error.to_string())?;
        return Ok(builder.with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("ca: {error:?}"))?;
        roots.add(certificate).map_err(|error| format!("ca: {error}"))?;
    }
    if roots.is_empty() {
        return Err("ca has no certificate in PEM".to_owned());
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

impl Http {
    /// For a provider at `issuer`. Where that speaks TLS, everything it names must.
    pub(super) fn new(issuer: &str, ca: &str) -> Result<Self, String> {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(trust(ca)?)
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { client, plain: issuer.starts_with("http://") })
    }

    fn allows(&self, url: &str) -> bool {
        let Ok(uri) = url.parse::<Uri>() else { return false };
        let local =
            uri.host().is_some_and(|host| ["127.0.0.1", "[::1]", "localhost"].contains(&host));
        match uri.scheme_str() {
            Some("https") => true,
            Some("http") => self.plain && local,
            _ => false,
        }
    }

    /// A document.
    pub(super) async fn get(&self, url: &str, token: Option<&str>) -> Result<Value, String> {
        let authorization = token.map(|token| format!("Bearer {token}"));
        let answer = self.ask(Method::GET, url, authorization.as_deref(), String::new()).await?;
        match answer.success {
            true => Ok(answer.document),
            false => Err(format!("{url} does not answer with success")),
        }
    }

    /// Sends a form.
    pub(super) async fn post(
        &self,
        url: &str,
        authorization: Option<&str>,
        form: &[(&str, &str)],
    ) -> Result<Answer, String> {
        self.ask(Method::POST, url, authorization, encoded(form)).await
    }

    async fn ask(
        &self,
        method: Method,
        url: &str,
        authorization: Option<&str>,
        body: String,
    ) -> Result<Answer, String> {
        if !self.allows(url) {
            return Err(format!("{url} is not protected by TLS"));
        }
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")));
        if let Some(authorization) = authorization {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::new(Bytes::from(body))).map_err(|e| e.to_string())?;
        let asked = async {
            let answer = self.client.request(request).await.map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                cause.unwrap_or_else(|| error.to_string())
            })?;
            let success = answer.status().is_success();
            let status = answer.status();
            let body = Limited::new(answer.into_body(), LARGEST).collect().await;
            let body = body.map_err(|_| "its answer is too long, or breaks off".to_owned())?;
            let document = serde_json::from_slice(&body.to_bytes());
            match document {
                Ok(document) => Ok(Answer { success, document }),
                Err(_) => Err(format!("{url} answers {status} without a document")),
            }
        };
        let late = |_| Err(format!("{url} takes too long"));
        tokio::time::timeout(PATIENCE, asked).await.unwrap_or_else(late)
    }
}

/// A form, or what stands behind the question mark of a URL.
pub(super) fn encoded(form: &[(&str, &str)]) -> String {
    let pairs = form.iter().map(|(name, value)| format!("{}={}", escaped(name), escaped(value)));
    pairs.collect::<Vec<_>>().join("&")
}

/// A text with everything escaped that could mean something in a URL or a form.
pub(super) fn escaped(text: &str) -> String {
    let mut all = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                all.push(char::from(byte));
            }
            _ => all.push_str(&format!("%{byte:02X}")),
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_into_a_url_cannot_end_it() {
        let pairs = [("a", "1&b=2"), ("ä", "x y/?#%+")];
        assert_eq!(encoded(&pairs), "a=1%26b%3D2&%C3%A4=x%20y%2F%3F%23%25%2B");
    }

    #[test]
    fn a_provider_with_tls_cannot_name_places_without() {
        let far = Http::new("https://id.example.org", "").unwrap();
        assert!(far.allows("https://id.example.org/token"));
        assert!(!far.allows("http://127.0.0.1:9/token") && !far.allows("http://id.example.org"));
        assert!(!far.allows("file:///etc/passwd") && !far.allows(""));
        let near = Http::new("http://127.0.0.1:9", "").unwrap();
        assert!(near.allows("http://127.0.0.1:9/token") && !near.allows("http://example.org/"));
    }

    #[test]
    fn who_is_to_be_trusted_is_said_in_pem() {
        assert!(trust("nonsense").is_err());
        let pair = rcgen::generate_simple_self_signed(["x.test".to_owned()]).unwrap();
        assert!(trust(&pair.cert.pem()).is_ok());
    }
}

//! Requests over HTTP/1.1 with or without TLS, each with a deadline.

use std::error::Error as StdError;
use std::io;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper_rustls::{ConfigBuilderExt, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::url::invalid;
use crate::{DestinationError, ErrorKind, MAX_GET, Result, Timeouts};

/// How long an unused connection is kept: less than servers do, so that it is seldom found dead.
const IDLE: Duration = Duration::from_secs(20);

/// Memory set aside for a body before its bytes arrive; a pack fits.
const BODY_RESERVE: u64 = 64 << 20;

/// The most that is read of an answer that is an error.
const MAX_REFUSAL: u64 = 64 << 10;

/// A client with its connections.
#[derive(Debug, Clone)]
pub(crate) struct Http {
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    timeouts: Timeouts,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Http {
    /// A client that trusts the system's certificate authorities, or only those in a file.
    pub(crate) fn new(timeouts: Timeouts, authorities: Option<&Path>) -> Result<Self> {
        let mut http = HttpConnector::new();
        http.set_connect_timeout(Some(timeouts.connect));
        http.set_nodelay(true);
        http.enforce_http(false);
        let https = HttpsConnectorBuilder::new()
            .with_tls_config(tls(authorities)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(http);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE)
            .pool_timer(TokioTimer::new())
            .build(https);
        Ok(Self { client, timeouts })
    }

    /// Sends a request and reads its answer to the end. `extra` is what the server has to do
    /// besides, as bytes.
    pub(crate) async fn send(
        &self,
        subject: &str,
        request: Request<Full<Bytes>>,
        extra: u64,
    ) -> Result<Answer> {
        let bodiless = request.method() == Method::HEAD;
        let length = request.body().size_hint().exact().unwrap_or(0);
        let answer =
            async { self.client.request(request).await.map_err(|error| unsent(subject, error)) };
        let answer = self.timeouts.within(subject, length.saturating_add(extra), answer).await?;
        let (head, body) = answer.into_parts();
        let most = if head.status.is_success() { MAX_GET } else { MAX_REFUSAL };
        let announced = body.size_hint().exact().filter(|_| !bodiless);
        let read = self.collect(subject, announced, most, body);
        let body = self.timeouts.within(subject, announced.unwrap_or(BODY_RESERVE), read).await?;
        Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    async fn collect(
        &self,
        subject: &str,
        announced: Option<u64>,
        most: u64,
        mut stream: Incoming,
    ) -> Result<Bytes> {
        let reserve = announced.unwrap_or(0).min(BODY_RESERVE).min(most);
        let mut body = Vec::with_capacity(reserve as usize);
        loop {
            let frame = tokio::time::timeout(self.timeouts.stall, stream.frame()).await;
            let Some(frame) = frame.map_err(|error| broken(subject, error))? else { break };
            let frame = frame.map_err(|error| broken(subject, error))?;
            body.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            if body.len() as u64 > most {
                if most == MAX_REFUSAL {
                    break;
                }
                let context = format!("{subject}: the server sends more than {most} bytes");
                return Err(DestinationError::new(ErrorKind::Other, context));
            }
        }
        Ok(Bytes::from(body))
    }
}

fn tls(authorities: Option<&Path>) -> Result<ClientConfig> {
    let unusable = |error: Box<dyn StdError + Send + Sync>, what: String| {
        DestinationError::caused(ErrorKind::InvalidConfig, what, error)
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let builder = ClientConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .map_err(|error| unusable(error.into(), "cannot set TLS up".into()))?;
    let Some(path) = authorities else {
        let context = "no certificate authorities; install the package ca-certificates";
        let builder = builder.with_native_roots();
        let builder = builder.map_err(|error| unusable(error.into(), context.into()))?;
        return Ok(builder.with_no_client_auth());
    };
    let bad = || format!("cannot read certificates from {}", path.display());
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(path);
    for certificate in certificates.map_err(|error| unusable(error.into(), bad()))? {
        let certificate = certificate.map_err(|error| unusable(error.into(), bad()))?;
        roots.add(certificate).map_err(|error| unusable(error.into(), bad()))?;
    }
    if roots.is_empty() {
        return Err(invalid(format!("{} holds no certificate", path.display())));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

fn broken(subject: &str, error: impl StdError + Send + Sync + 'static) -> DestinationError {
    let context = format!("{subject}: the body broke off on its way");
    DestinationError::caused(ErrorKind::Unavailable, context, error)
}

fn unsent(subject: &str, error: hyper_util::client::legacy::Error) -> DestinationError {
    let (kind, advice) = match error_of_tls(&error) {
        Some(rustls::Error::InvalidCertificate(_)) => (
            ErrorKind::InvalidConfig,
            "the server's certificate is not trusted; name its authority with cacert=FILE",
        ),
        Some(_) => {
            (ErrorKind::InvalidConfig, "no TLS comes about; check scheme and port of the URL")
        }
        None if error.is_connect() => {
            (ErrorKind::Unavailable, "the server cannot be reached; check its URL and the network")
        }
        None => (ErrorKind::Unavailable, "the connection broke off"),
    };
    DestinationError::caused(kind, format!("{subject}: {advice}"), error)
}

/// What TLS itself failed with, for which trying again does not help.
fn error_of_tls<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    if let Some(error) = error.downcast_ref() {
        return Some(error);
    }
    // An I/O error hides what it wraps: its source is the source of that.
    let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let wrapped = wrapped.map(|inner| inner as &(dyn StdError + 'static));
    wrapped.or_else(|| error.source()).and_then(error_of_tls)
}

//! What anybody may ask of a server who has shown nothing yet.

use std::sync::Arc;

use futures::future::join_all;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::support::{Lab, status};

/// The most memory that this process has had so far, in MiB.
fn most_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}

#[tokio::test(flavor = "multi_thread")]
async fn many_logins_at_once_take_the_memory_of_few() {
    let lab = Lab::new().await;
    lab.administrator().await;
    let before = most_memory();
    let one = async |number: usize| {
        let wrong = json!({"login": format!("nobody-{number}"), "password": "wrong"});
        status(&lab.anybody.post::<Value>("/api/v1/sessions", &wrong).await)
    };
    let told = join_all((0..48).map(one)).await;
    assert!(told.iter().all(|status| [401, 429].contains(status)), "{told:?}");
    assert!(told.contains(&401), "somebody was heard: {told:?}");
    // Each hash takes 19 MiB while it is made: all at once, they would take 912. Threads keep some
    // of what they had, and connections take their part.
    let grown = most_memory() - before;
    assert!(grown < 600, "{grown} MiB");
    lab.login("admin").await;
}

/// Takes any certificate: this is about what comes behind it.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}

async fn connect(lab: &Lab) -> TlsStream<TcpStream> {
    let address = lab.anybody.server().trim_start_matches("https://").to_owned();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody))
        .with_no_client_auth();
    let stream = TcpStream::connect(&address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_never_ends_holds_no_connection() {
    let lab = Lab::new().await;
    let mut stream = connect(&lab).await;
    let head = "POST /api/v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                Content-Length: 100000\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut from, mut to) = tokio::io::split(stream);
    // A byte now and then, for as long as somebody listens.
    let trickle = async {
        while to.write_all(b" ").await.is_ok() && to.flush().await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        }
    };
    let heard = async {
        let mut told = Vec::new();
        // However the server ends it: what counts is that it does.
        let _ = from.read_to_end(&mut told).await;
        String::from_utf8_lossy(&told).into_owned()
    };
    let told = tokio::select! {
        () = trickle => String::new(),
        told = heard => told,
    };
    assert_eq!(told, "", "what was never asked has no answer");
}

//! Putting a message together, and sending it.

use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use http::{Request, header};
use http_body_util::Full;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use sluice_catalog::Notice;

use super::{Channel, IN_ONE, Via, mail};
use crate::reporting::document::Document;

/// How long a receiver may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What several notices say together.
pub(super) struct Message {
    pub(super) events: Vec<Value>,
    /// How many more there were.
    pub(super) more: u64,
    /// A report, which is a message by itself.
    pub(super) document: Option<Document>,
}

impl Message {
    pub(super) fn of(notices: &[&Notice]) -> Self {
        let mut events = Vec::new();
        let mut more = 0;
        for notice in notices {
            more += notice.body["more"].as_u64().unwrap_or(0);
            events.extend(notice.body["events"].as_array().into_iter().flatten().cloned());
        }
        more += events.len().saturating_sub(IN_ONE) as u64;
        events.truncate(IN_ONE);
        Self { events, more, document: None }
    }

    /// One line for people.
    pub(super) fn subject(&self) -> String {
        if let Some(document) = &self.document {
            return document.title.clone();
        }
        let first = self.events.first().and_then(|event| event["text"].as_str());
        let others = self.events.len() as u64 + self.more - 1;
        let first: String = first.unwrap_or("something happened").chars().take(120).collect();
        if others == 0 { first } else { format!("{first} (and {others} more)") }
    }

    /// All of it for people.
    pub(super) fn text(&self, server: &str) -> String {
        let mut text = String::new();
        if let Some(document) = &self.document {
            text.push_str(&format!("{}: {}\n", document.title, document.file));
        }
        for event in &self.events {
            let time = event["at_ms"].as_u64().unwrap_or(0);
            let time = crate::queue::moment(time).strftime("%F %T UTC").to_string();
            text.push_str(&format!("{time}  {}\n", event["text"].as_str().unwrap_or_default()));
        }
        if self.more > 0 {
            text.push_str(&format!("and {} more\n", self.more));
        }
        text.push_str(&format!("\n{server}\n"));
        text
    }
}

/// Sends what these notices say, by a channel. An error is one line for people.
pub(super) async fn message(
    server: &str,
    channel: &Channel,
    message: &Message,
    secret: Option<&str>,
    now: u64,
) -> Result<(), String> {
    let sent = async {
        match &channel.via {
            Via::Webhook { url } => webhook(server, url, message, secret, now).await,
            Via::Mail { .. } => mail::send(server, &channel.via, message, secret, now).await,
        }
    };
    let late = |_| Err("it takes too long".to_owned());
    tokio::time::timeout(PATIENCE, sent).await.unwrap_or_else(late)
}

/// The signature of a body.
fn signature(secret: &str, seconds: u64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{seconds}.{body}").as_bytes());
    format!("t={seconds},v1={}", HEXLOWER.encode(tag.as_ref()))
}

/// What TLS needs to know others by the certificates of this machine.
pub(super) fn tls() -> Result<rustls::ClientConfig, String> {
    use hyper_rustls::ConfigBuilderExt;
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = builder.with_native_roots().map_err(|error| error.to_string())?;
    Ok(builder.with_no_client_auth())
}

async fn webhook(
    server: &str,
    url: &str,
    message: &Message,
    secret: Option<&str>,
    now: u64,
) -> Result<(), String> {
    let Message { events, more, document } = message;
    let mut body = json!({"server": server, "events": events, "more": more});
    if let Some(document) = document {
        body["report"] = json!({
            "title": document.title,
            "file": document.file,
            "media_type": document.media_type,
            "content": BASE64.encode(&document.bytes),
        });
    }
    let body = body.to_string();
    let mut request = Request::post(url)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, concat!("sluice/", env!("CARGO_PKG_VERSION")));
    if let Some(secret) = secret {
        request = request.header("X-Sluice-Signature", signature(secret, now / 1000, &body));
    }
    let request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
    let connector = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls()?)
        .https_or_http()
        .enable_http1()
        .build();
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let answer = client.request(request).await.map_err(|error| {
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        cause.unwrap_or_else(|| error.to_string())
    })?;
    match answer.status() {
        status if status.is_success() => Ok(()),
        status => Err(format!("it answers {status}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_time_and_body() {
        // By: printf '1700000000.{}' | openssl dgst -sha256 -hmac key
        let expected =
            "t=1700000000,v1=9d713ed406bb7076d4123f0dc2c39d2df5c654ed4b0cd56b52c8b4c940bd63ae";
        assert_eq!(signature("key", 1_700_000_000, "{}"), expected);
    }

    #[test]
    fn much_is_told_in_little() {
        let events: Vec<Value> = (0..40).map(|n| json!({"text": format!("e{n}")})).collect();
        let notice = |more: u64| Notice {
            id: sluice_catalog::Guid::new(1),
            channel: "a".into(),
            created_ms: 0,
            attempts: 0,
            body: json!({"events": events, "more": more}),
            failure: String::new(),
        };
        let message = Message::of(&[&notice(0), &notice(7)]);
        assert_eq!((message.events.len(), message.more), (50, 37));
        assert_eq!(message.subject(), "e0 (and 86 more)");
        assert!(message.text("https://x").ends_with("and 37 more\n\nhttps://x\n"));
        assert_eq!(
            Message { events: vec![json!({"text": "a"})], more: 0, document: None }.subject(),
            "a"
        );
    }
}

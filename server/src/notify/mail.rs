//! Handing a mail to a mail server, by `lettre`.
//!
//! With STARTTLS nothing is sent before the connection is encrypted: a server that does not offer
//! it gets no letter, and no password.

use std::time::{Duration, UNIX_EPOCH};

use lettre::message::header::{ContentType, Header, HeaderName, HeaderValue};
use lettre::message::{Attachment, Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::extension::ClientId;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message as Letter, Tokio1Executor};

use super::send::Message;
use super::{Security, Via};
use crate::reporting::document::Document;

/// How long the mail server may take for one answer.
const PATIENCE: Duration = Duration::from_secs(15);
/// What we are called where a name is wanted: no name of a machine is given away.
const OWN_NAME: &str = "sluice.invalid";
/// An error is not longer than this, in characters.
const LONGEST_ERROR: usize = 300;

/// Says that no person wrote it (RFC 3834): nobody answers that he is on holiday.
#[derive(Clone)]
struct AutoSubmitted(String);

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(text: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self(text.to_owned()))
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), self.0.clone())
    }
}

/// Sends a message. An error is one line for people, with nothing secret in it.
pub(super) async fn send(
    server: &str,
    via: &Via,
    message: &Message,
    secret: Option<&str>,
    now: u64,
) -> Result<(), String> {
    trusting(&[], server, via, message, secret, now).await
}

/// The same, also to servers whose certificates these vouch for.
async fn trusting(
    roots: &[Certificate],
    server: &str,
    via: &Via,
    message: &Message,
    secret: Option<&str>,
    now: u64,
) -> Result<(), String> {
    let Via::Mail { server: address, security, user, from, to } = via else {
        return Err("this is no mail".to_owned());
    };
    let letter = letter(server, from, to, message, now)?;
    let (host, port) = address.rsplit_once(':').ok_or("a mail server is HOST:PORT")?;
    let host = host.trim_matches(['[', ']']);
    let port: u16 = port.parse().map_err(|_| format!("{port} is no port"))?;
    let tls = match security {
        Security::Tls => Tls::Wrapper(parameters(host, roots)?),
        Security::Starttls => Tls::Required(parameters(host, roots)?),
        Security::None => Tls::None,
    };
    let mut mailer = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
        .port(port)
        .tls(tls)
        .timeout(Some(PATIENCE))
        .hello_name(ClientId::Domain(OWN_NAME.to_owned()));
    if let (Some(user), Some(secret)) = (user, secret) {
        mailer = mailer
            .credentials(Credentials::new(user.clone(), secret.to_owned()))
            .authentication(vec![Mechanism::Plain, Mechanism::Login]);
    }
    let sent = mailer.build::<Tokio1Executor>().send(letter).await;
    sent.map(drop).map_err(|error| {
        let text = match error.is_permanent() || error.is_transient() {
            true => format!("the mail server says: {error}"),
            false => format!("cannot hand mail to {address}: {error}"),
        };
        text.replace(char::is_control, " ").chars().take(LONGEST_ERROR).collect()
    })
}

fn parameters(host: &str, roots: &[Certificate]) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(host.to_owned());
    for root in roots {
        builder = builder.add_root_certificate(root.clone());
    }
    builder.build_rustls().map_err(|error| error.to_string())
}

/// A letter with headers. What people or tasks wrote is encoded where it must be, so that no line
/// of it can be a header, or the end.
fn letter(
    server: &str,
    from: &str,
    to: &[String],
    message: &Message,
    now: u64,
) -> Result<Letter, String> {
    let mailbox = |name: Option<&str>, text: &str| {
        let address = text.parse().map_err(|error| format!("{text} is no address: {error}"))?;
        Ok::<_, String>(Mailbox::new(name.map(str::to_owned), address))
    };
    let mut builder = Letter::builder()
        .from(mailbox(Some("Sluice"), from)?)
        .date(UNIX_EPOCH + Duration::from_millis(now))
        .subject(format!("Sluice: {}", message.subject().replace(char::is_control, " ")))
        .message_id(Some(format!("<{now}.{}@{OWN_NAME}>", rand::random::<u64>())))
        .header(AutoSubmitted("auto-generated".to_owned()));
    for receiver in to {
        builder = builder.to(mailbox(None, receiver)?);
    }
    let text = message.text(server);
    let letter = match &message.document {
        None => builder.header(ContentType::TEXT_PLAIN).body(text),
        Some(document) => builder.multipart(enclosing(text, document)?),
    };
    letter.map_err(|error| error.to_string())
}

/// A text with a report: a page is shown in the letter itself, everything is a file in it.
fn enclosing(text: String, document: &Document) -> Result<MultiPart, String> {
    let parsed = ContentType::parse(document.media_type).map_err(|error| error.to_string())?;
    let file = Attachment::new(document.file.clone()).body(document.bytes.clone(), parsed);
    let page = document.media_type.starts_with("text/html");
    let shown = match page {
        true => {
            let page = String::from_utf8_lossy(&document.bytes).into_owned();
            MultiPart::mixed().multipart(MultiPart::alternative_plain_html(text, page))
        }
        false => MultiPart::mixed().singlepart(SinglePart::plain(text)),
    };
    Ok(shown.singlepart(file))
}

#[cfg(test)]
mod tests;

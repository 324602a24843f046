//! Against a real mail server: aiosmtpd, of the Debian package python3-aiosmtpd or of PyPI.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use super::*;

/// A mail server with one user, which tells each letter in a line.
const SERVER: &str = r#"
import asyncio, email, json, ssl, sys
from aiosmtpd.smtp import SMTP, AuthResult

security, folder = sys.argv[1], sys.argv[2]

def known(server, session, envelope, mechanism, data):
    good = data.login == b"sluice" and data.password == b"hush"
    return AuthResult(success=good, handled=False, message=None if good else "535 5.7.8 who?")

class Inbox:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return "550 5.1.1 no such user"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        encrypted = server.transport.get_extra_info("ssl_object") is not None
        letter = email.message_from_bytes(envelope.content)
        parts = [{"type": part.get_content_type(), "file": part.get_filename(),
            "content": part.get_payload(decode=True).decode()}
            for part in letter.walk() if not part.is_multipart()]
        print(json.dumps({"from": envelope.mail_from, "to": envelope.rcpt_tos,
            "content": envelope.content.decode(), "encrypted": encrypted,
            "text": parts[0]["content"], "parts": parts,
            "known": session.authenticated}), flush=True)
        return "250 kept"

more, context = {}, None
if security != "none":
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder + "/c.pem", folder + "/k.pem")
    more = dict(authenticator=known, auth_required=True)
    if security == "tls":
        more.update(auth_require_tls=False)
    else:
        more.update(tls_context=context, require_starttls=True)

async def main():
    loop = asyncio.get_running_loop()
    at_once = context if security == "tls" else None
    server = await loop.create_server(
        lambda: SMTP(Inbox(), hostname="here", loop=loop, **more), "127.0.0.1", 0, ssl=at_once)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)

asyncio.run(main())
"#;

/// Killed when dropped.
struct MailServer {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    address: String,
    root: Vec<Certificate>,
    _folder: tempfile::TempDir,
}

impl Drop for MailServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The Python that has the server: that of the tests' own tools, or Debian's.
fn python() -> &'static str {
    let has = |python: &&str| {
        let tried = Command::new(python).args(["-c", "import aiosmtpd"]).output();
        tried.is_ok_and(|tried| tried.status.success())
    };
    let found = ["python3", "/usr/bin/python3"].into_iter().find(has);
    found.expect("aiosmtpd is there: of the package python3-aiosmtpd")
}

impl MailServer {
    fn start(security: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = rcgen::KeyPair::generate().unwrap();
        let names = vec!["127.0.0.1".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
        let put = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        put("c.pem", &certificate.pem());
        put("k.pem", &key.serialize_pem());
        let root = vec![Certificate::from_pem(certificate.pem().as_bytes()).unwrap()];
        let mut child = Self::command(security, folder.path()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = lines.next().expect("it says where it listens").unwrap();
        Self { child, lines, address: format!("127.0.0.1:{port}"), root, _folder: folder }
    }

    fn command(security: &str, folder: &Path) -> Command {
        let mut command = Command::new(python());
        command.args(["-c", SERVER, security]).arg(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        command
    }

    fn letter(&mut self) -> Value {
        serde_json::from_str(&self.lines.next().unwrap().unwrap()).unwrap()
    }

    fn mail(&self, security: Security, user: Option<&str>, to: &[&str]) -> Via {
        let to = to.iter().map(|&to| to.to_owned()).collect();
        let (server, user) = (self.address.clone(), user.map(str::to_owned));
        Via::Mail { server, security, user, from: "a@b.example".into(), to }
    }

    async fn send(&self, via: &Via, text: &str, secret: Option<&str>) -> Result<(), String> {
        let events = vec![json!({"at_ms": 5, "text": text})];
        let message = Message { events, more: 2, document: None };
        trusting(&self.root, "https://here", via, &message, secret, 1_700_000_000_000).await
    }
}

#[tokio::test]
async fn a_letter_arrives_and_nothing_in_it_ends_it() {
    let mut server = MailServer::start("none");
    let to = ["ops@b.example", "night@b.example"];
    let via = server.mail(Security::None, None, &to);
    let text = "bad\r\n.\r\nRCPT TO:<x@y.example>\r\nBcc: v@y.example\r\nü€😀";
    server.send(&via, text, None).await.unwrap();
    let letter = server.letter();
    assert_eq!((&letter["from"], &letter["to"]), (&json!("a@b.example"), &json!(to)));
    let content = letter["content"].as_str().unwrap();
    let (head, _) = content.split_once("\r\n\r\n").unwrap();
    for line in [
        "Date: Tue, 14 Nov 2023 22:13:20 +0000",
        "Auto-Submitted: auto-generated",
        "To: ops@b.example, night@b.example",
        "From: Sluice <a@b.example>",
    ] {
        assert!(head.lines().any(|told| told == line), "{line} is not in\n{head}");
    }
    assert!(!head.lines().any(|line| line.starts_with("Bcc")), "{head}");
    assert!(content.lines().all(|line| line.len() <= 998), "{content}");
    let got = letter["text"].as_str().unwrap().replace("\r\n", "\n");
    assert!(got.contains(&text.replace("\r\n", "\n")) && letter["encrypted"] == false, "{got}");
    let refused = server.mail(Security::None, None, &["nobody@b.example"]);
    let why = server.send(&refused, "x", None).await.unwrap_err();
    assert!(why.starts_with("the mail server says: ") && why.contains("no such user"), "{why}");
}

#[tokio::test]
async fn a_report_is_a_file_in_the_letter_and_a_page_is_shown_too() {
    let mut server = MailServer::start("none");
    let via = server.mail(Security::None, None, &["ops@b.example"]);
    let csv = ("report.csv", "text/csv; charset=utf-8; header=present", "name\r\nü,1\r\n");
    let page = ("report.html", "text/html; charset=utf-8", "<!DOCTYPE html><p>ü</p>");
    for (file, media_type, content) in [csv, page] {
        let (title, bytes) = ("Usage".to_owned(), content.as_bytes().to_vec());
        let document = Some(Document { title, file: file.to_owned(), media_type, bytes });
        let message = Message { events: Vec::new(), more: 0, document };
        let sent = trusting(&[], "https://here", &via, &message, None, 1_700_000_000_000).await;
        sent.unwrap();
        let letter = server.letter();
        let parts = letter["parts"].as_array().unwrap();
        let of = |kind: &str| -> Vec<&Value> {
            parts.iter().filter(|part| part["type"] == kind).collect()
        };
        let files: Vec<_> = parts.iter().filter(|part| part["file"] == file).collect();
        assert_eq!(files.len(), 1, "{letter}");
        assert_eq!(files[0]["content"].as_str().unwrap().trim_end(), content.trim_end());
        assert!(of("text/plain")[0]["content"].as_str().unwrap().contains("https://here"));
        assert_eq!(of("text/html").len(), if file.ends_with("html") { 2 } else { 0 }, "{letter}");
        assert!(letter["content"].as_str().unwrap().contains("Subject: Sluice: Usage"));
    }
}

#[tokio::test]
async fn connections_are_encrypted_at_once_or_by_starttls_and_the_user_is_proven() {
    for (word, security) in [("starttls", Security::Starttls), ("tls", Security::Tls)] {
        let mut server = MailServer::start(word);
        let via = server.mail(security, Some("sluice"), &["ops@b.example"]);
        server.send(&via, "one", Some("hush")).await.unwrap();
        let letter = server.letter();
        assert_eq!((&letter["encrypted"], &letter["known"]), (&json!(true), &json!(true)));
        let why = server.send(&via, "two", Some("loud")).await.unwrap_err();
        assert!(why.contains("535") && !why.contains("loud"), "{word}: {why}");
        // A certificate that nobody vouches for is none.
        let message = Message { events: vec![json!({"text": "x"})], more: 0, document: None };
        let why = send("https://here", &via, &message, Some("hush"), 5).await.unwrap_err();
        assert!(why.starts_with("cannot hand mail to 127.0.0.1:"), "{word}: {why}");
    }
}

#[tokio::test]
async fn without_tls_where_it_is_wanted_nothing_is_sent() {
    let mut server = MailServer::start("none");
    let via = server.mail(Security::Starttls, Some("sluice"), &["ops@b.example"]);
    let why = server.send(&via, "secret", Some("hush")).await.unwrap_err();
    assert!(why.contains("STARTTLS"), "{why}");
    // The first letter that arrives is the next.
    let via = server.mail(Security::None, None, &["ops@b.example"]);
    server.send(&via, "open", None).await.unwrap();
    assert!(server.letter()["content"].as_str().unwrap().contains("open"));
}

#[tokio::test]
async fn what_does_not_listen_is_named() {
    // Bound, so that nobody else is given it.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let free = socket.local_addr().unwrap();
    let to = vec!["ops@b.example".to_owned()];
    let (security, from) = (Security::None, "a@b.example".to_owned());
    let via = Via::Mail { server: free.to_string(), security, user: None, from, to };
    let message = Message { events: vec![json!({"text": "x"})], more: 0, document: None };
    let why = send("https://here", &via, &message, None, 5).await.unwrap_err();
    assert!(why.starts_with(&format!("cannot hand mail to {free}")), "{why}");
}

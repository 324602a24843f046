//! Handing a mail to a mail server: as much of SMTP (RFC 5321, 3207, 4954) as a sender needs that
//! has one server and waits for its answers.

use data_encoding::BASE64;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::send::{Message, tls};
use super::{Security, Via};

/// The longest line of an answer that is read, in bytes, and how many lines an answer has.
const LINE: u64 = 2048;
const LINES: usize = 100;
/// Bytes of a line of Base64: RFC 2045 says 76 digits.
const CHUNK: usize = 57;
/// Bytes of a word of a header: RFC 2047 says 75 letters with what surrounds it.
const WORD: usize = 45;

/// Something that bytes go through in both directions.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A session with a mail server.
struct Session {
    stream: BufReader<Box<dyn Stream>>,
}

impl Session {
    fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: BufReader::new(Box::new(stream)) }
    }

    /// Reads an answer, which must be of this class: the first digit of its code.
    async fn answer(&mut self, class: u8) -> Result<Vec<String>, String> {
        let mut lines = Vec::new();
        loop {
            let mut line = Vec::new();
            let mut from = (&mut self.stream).take(LINE);
            from.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
            if line.len() < 4 || lines.len() > LINES {
                return Err("the mail server hangs up, or is none".to_owned());
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let last = line[3] != b'-';
            lines.push(text);
            if last {
                break;
            }
        }
        let said = lines.last().map(String::as_str).unwrap_or_default();
        if said.as_bytes().first() == Some(&class) {
            return Ok(lines);
        }
        Err(format!("the mail server says: {}", said.chars().take(200).collect::<String>()))
    }

    async fn say(&mut self, line: &str, class: u8) -> Result<Vec<String>, String> {
        self.put(&format!("{line}\r\n")).await?;
        self.answer(class).await
    }

    async fn put(&mut self, text: &str) -> Result<(), String> {
        let failed = |error: std::io::Error| error.to_string();
        self.stream.write_all(text.as_bytes()).await.map_err(failed)?;
        self.stream.flush().await.map_err(failed)
    }
}

async fn encrypted(stream: impl Stream + 'static, host: &str) -> Result<Session, String> {
    let name = rustls::pki_types::ServerName::try_from(host.to_owned());
    let name = name.map_err(|_| format!("{host} is no name of a server"))?;
    let connector = TlsConnector::from(std::sync::Arc::new(tls()?));
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    Ok(Session::new(stream))
}

/// Sends a message. An error is one line for people, with nothing secret in it.
pub(super) async fn send(
    server: &str,
    via: &Via,
    message: &Message,
    secret: Option<&str>,
    now: u64,
) -> Result<(), String> {
    let Via::Mail { server: address, security, user, from, to } = via else {
        return Err("this is no mail".to_owned());
    };
    let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    let stream = TcpStream::connect(address.as_str()).await;
    let stream = stream.map_err(|error| format!("cannot reach {address}: {error}"))?;
    let hello = "EHLO sluice.invalid";
    let mut session = match security {
        Security::Tls => {
            let mut session = encrypted(stream, host).await?;
            session.answer(b'2').await?;
            session
        }
        Security::None => {
            let mut session = Session::new(stream);
            session.answer(b'2').await?;
            session
        }
        Security::Starttls => {
            let mut session = Session::new(stream);
            session.answer(b'2').await?;
            session.say(hello, b'2').await?;
            session.say("STARTTLS", b'2').await?;
            // What was sent before its time is not believed to be of the encrypted session.
            if !session.stream.buffer().is_empty() {
                return Err("the mail server says too much before TLS".to_owned());
            }
            encrypted(session.stream.into_inner(), host).await?
        }
    };
    session.say(hello, b'2').await?;
    if let (Some(user), Some(secret)) = (user, secret) {
        let proof = BASE64.encode(format!("\0{user}\0{secret}").as_bytes());
        session.say(&format!("AUTH PLAIN {proof}"), b'2').await?;
    }
    session.say(&format!("MAIL FROM:<{from}>"), b'2').await?;
    for receiver in to {
        session.say(&format!("RCPT TO:<{receiver}>"), b'2').await?;
    }
    session.say("DATA", b'3').await?;
    session.put(&letter(server, from, to, message, now)).await?;
    session.say(".", b'2').await?;
    // It has the message; how it says good-bye does not matter.
    let _ = session.say("QUIT", b'2').await;
    Ok(())
}

/// A text as words of a header (RFC 2047): each of whole characters, and 75 letters at most.
fn encoded_words(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    for letter in text.chars() {
        match parts.last_mut() {
            Some(part) if part.len() + letter.len_utf8() <= WORD => part.push(letter),
            _ => parts.push(letter.into()),
        }
    }
    parts.iter().map(|part| format!("=?UTF-8?B?{}?=", BASE64.encode(part.as_bytes()))).collect()
}

/// A letter with headers. Everything that people or tasks wrote is in Base64, so no line of it can
/// be a header, or the end.
fn letter(server: &str, from: &str, to: &[String], message: &Message, now: u64) -> String {
    let words = encoded_words(&format!("Sluice: {}", message.subject()));
    let date = crate::queue::moment(now).strftime("%a, %d %b %Y %H:%M:%S +0000");
    let body = message.text(server);
    let lines: Vec<String> =
        body.as_bytes().chunks(CHUNK).map(|part| BASE64.encode(part)).collect();
    format!(
        "From: Sluice <{from}>\r\nTo: {}\r\nDate: {date}\r\nSubject: {}\r\n\
         Message-ID: <{now}.{}@sluice.invalid>\r\nAuto-Submitted: auto-generated\r\n\
         MIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
         Content-Transfer-Encoding: base64\r\n\r\n{}\r\n",
        to.join(", "),
        words.join("\r\n "),
        rand::random::<u64>(),
        lines.join("\r\n")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn words_of_a_header_are_whole_characters_and_short() {
        for text in ["", "a", &"x".repeat(45), &"é".repeat(200), &"a€😀".repeat(30)] {
            let mut back = String::new();
            for word in encoded_words(text) {
                assert!(word.len() <= 75, "{word}");
                let inside = word.strip_prefix("=?UTF-8?B?").unwrap().strip_suffix("?=").unwrap();
                let bytes = BASE64.decode(inside.as_bytes()).unwrap();
                back.push_str(std::str::from_utf8(&bytes).unwrap());
            }
            assert_eq!(back, text);
        }
    }

    /// A mail server that takes one letter and returns all that it was told.
    async fn receiver(refuses: &'static str) -> (String, tokio::task::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let told = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut stream = BufReader::new(stream);
            let (mut told, mut letter) = (Vec::new(), false);
            stream.write_all(b"220 here\r\n").await.unwrap();
            loop {
                let mut line = String::new();
                if stream.read_line(&mut line).await.unwrap() == 0 {
                    return told;
                }
                told.push(line.trim_end().to_owned());
                let answer = match line.trim_end() {
                    line if !refuses.is_empty() && line.starts_with(refuses) => "550 no",
                    "." => {
                        letter = false;
                        "250 kept"
                    }
                    _ if letter => continue,
                    "DATA" => {
                        letter = true;
                        "354 go on"
                    }
                    "EHLO sluice.invalid" => "250-here\r\n250 HELP",
                    "QUIT" => "221 bye",
                    _ => "250 good",
                };
                stream.write_all(format!("{answer}\r\n").as_bytes()).await.unwrap();
            }
        });
        (address, told)
    }

    fn mail(server: String, security: Security) -> Via {
        let to = vec!["ops@b.example".to_owned(), "night@b.example".to_owned()];
        Via::Mail { server, security, user: None, from: "a@b.example".into(), to }
    }

    #[tokio::test]
    async fn a_letter_arrives_and_nothing_in_it_ends_it() {
        let (address, told) = receiver("").await;
        let text = "bad\r\n.\r\nRCPT TO:<x@y.example>\r\nBcc: ü";
        let message = Message { events: vec![json!({"at_ms": 5, "text": text})], more: 2 };
        let via = mail(address, Security::None);
        send("https://here", &via, &message, None, 1_700_000_000_000).await.unwrap();
        let told = told.await.unwrap();
        let said = |line: &str| told.iter().filter(|told| told.as_str() == line).count();
        assert_eq!((said("."), said("RCPT TO:<x@y.example>"), said("QUIT")), (1, 0, 1));
        assert_eq!(said("RCPT TO:<night@b.example>"), 1);
        assert_eq!(said("Date: Tue, 14 Nov 2023 22:13:20 +0000"), 1);
        assert!(told.iter().all(|line| line.len() <= 998 && !line.starts_with("Bcc")));
        let start = told.iter().position(|line| line.is_empty()).unwrap() + 1;
        let end = told.iter().position(|line| line == ".").unwrap();
        let body = BASE64.decode(told[start..end].concat().as_bytes()).unwrap();
        assert!(String::from_utf8(body).unwrap().contains(text));
    }

    #[tokio::test]
    async fn without_tls_where_it_is_wanted_nothing_is_sent() {
        let (address, told) = receiver("STARTTLS").await;
        let message = Message { events: vec![json!({"text": "x"})], more: 0 };
        let via = mail(address, Security::Starttls);
        let why = send("https://here", &via, &message, Some("hush"), 5).await.unwrap_err();
        assert_eq!(why, "the mail server says: 550 no");
        assert_eq!(told.await.unwrap(), ["EHLO sluice.invalid", "STARTTLS"]);
    }
}

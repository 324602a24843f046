//! One connection to one server of a directory.
//!
//! The library parses what comes from whoever TLS has shown to be the right server, and nothing
//! from before: StartTLS is asked for here, by bytes of which few are read.

use std::sync::Arc;

use ldap3::{Ldap, LdapConnAsync, LdapConnSettings, LdapResult, Scope, SearchEntry, SearchOptions};
use ldap3::{ResultEntry, StdStream};
use sluice_catalog::LdapVia;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::steps::Steps;
use crate::identity::fetch::trust;

/// Results of operations, as RFC 4511 numbers them.
pub(super) mod code {
    pub(crate) const SUCCESS: u32 = 0;
    pub(crate) const SIZE_LIMIT: u32 = 4;
    pub(crate) const STRONGER_AUTH: u32 = 8;
    pub(crate) const REFERRAL: u32 = 10;
    pub(crate) const CONFIDENTIALITY: u32 = 13;
    pub(crate) const INVALID_CREDENTIALS: u32 = 49;
    pub(crate) const BUSY: u32 = 51;
    pub(crate) const UNAVAILABLE: u32 = 52;
}

/// What a server is asked that begins TLS: message 1, the extended request 1.3.6.1.4.1.1466.20037.
const START_TLS: &[u8] = b"\x30\x1d\x02\x01\x01\x77\x18\x80\x161.3.6.1.4.1.1466.20037";
/// The most that it may answer, in bytes.
const LARGEST: usize = 4096;

/// A connection to one server.
pub(super) struct Link {
    ldap: Ldap,
}

/// What a search has found.
pub(super) struct Found {
    pub(super) entries: Vec<Entry>,
    /// How it has ended.
    pub(super) end: LdapResult,
}

/// Something in a directory.
pub(super) struct Entry {
    pub(super) dn: String,
    attributes: Vec<(String, Vec<Vec<u8>>)>,
}

impl Entry {
    fn new(entry: ResultEntry) -> Self {
        let SearchEntry { dn, attrs, bin_attrs, .. } = SearchEntry::construct(entry);
        let texts = attrs.into_iter().map(|(name, values)| {
            (name, values.into_iter().map(String::into_bytes).collect::<Vec<_>>())
        });
        Self { dn, attributes: texts.chain(bin_attrs).collect() }
    }

    /// The values of an attribute; also those that come in a range, as Active Directory tells
    /// many of them.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &[u8]> {
        let own = self.attributes.iter().filter(move |(own, _)| {
            let (plain, option) = own.split_once(';').unwrap_or((own.as_str(), ""));
            plain.eq_ignore_ascii_case(name) && (option.is_empty() || option.starts_with("range="))
        });
        own.flat_map(|(_, values)| values.iter().map(Vec::as_slice))
    }

    /// The values of an attribute that are text.
    pub(super) fn texts(&self, name: &str) -> impl Iterator<Item = &str> {
        self.values(name).filter_map(|value| std::str::from_utf8(value).ok())
    }
}

/// Where a URL leads: whether TLS is spoken from the first byte, the host and the port.
pub(super) fn place(url: &str) -> Option<(bool, &str, u16)> {
    let (scheme, place) = url.split_once("://")?;
    let (tls, usual) = if scheme == "ldaps" { (true, 636) } else { (false, 389) };
    let place = place.trim_end_matches('/');
    match place.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => Some((tls, host, port.parse().ok()?)),
        _ => Some((tls, place, usual)),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

impl Link {
    /// Connects to a server, with the protection that is wanted.
    pub(super) async fn open(via: &LdapVia, url: &str, steps: &mut Steps) -> Result<Self, String> {
        let (tls, host, port) = place(url).ok_or("this is no url of a server")?;
        let (begin, protected) = (!tls && !via.plaintext, tls || !via.plaintext);
        steps.begin("connect");
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let mut stream = TcpStream::connect((bare, port)).await.map_err(text)?;
        steps.done(stream.peer_addr().map_or_else(|_| String::new(), |peer| peer.to_string()));
        if begin {
            steps.begin("start-tls");
            start_tls(&mut stream).await?;
            steps.done("the server agrees");
        }
        let settings = LdapConnSettings::new();
        let settings = match protected {
            true => {
                steps.begin("tls");
                settings.set_config(Arc::new(trust(&via.ca)?))
            }
            false => settings,
        };
        let stream = stream.into_std().map_err(text)?;
        let settings = settings.set_std_stream(StdStream::Tcp(stream));
        let scheme = if protected { "ldaps" } else { "ldap" };
        let url = format!("{scheme}://{host}:{port}");
        let (connection, ldap) =
            LdapConnAsync::with_settings(settings, &url).await.map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                cause.unwrap_or_else(|| error.to_string())
            })?;
        // It ends with the last handle.
        tokio::spawn(connection.drive());
        if protected {
            steps.done("the server is who it should be");
        }
        Ok(Self { ldap })
    }

    /// Shows who is there. A name without a password would be let in as nobody: it is not sent.
    pub(super) async fn bind(&mut self, dn: &str, password: &str) -> Result<LdapResult, String> {
        if dn.is_empty() != password.is_empty() {
            return Err("a name without a password, or the other way round, proves nothing".into());
        }
        self.ldap.simple_bind(dn, password).await.map_err(text)
    }

    /// Finds entries below a base, so many at most. What lies at other servers is left out.
    pub(super) async fn search(
        &mut self,
        base: &str,
        filter: &str,
        attributes: &[&str],
        most: usize,
    ) -> Result<Found, String> {
        let limit = i32::try_from(most).unwrap_or(i32::MAX);
        self.ldap.with_search_options(SearchOptions::new().sizelimit(limit));
        let search = self.ldap.streaming_search(base, Scope::Subtree, filter, attributes);
        let mut stream = search.await.map_err(text)?;
        let mut entries = Vec::new();
        while let Some(entry) = stream.next().await.map_err(text)? {
            if entry.is_ref() || entry.is_intermediate() {
                continue;
            }
            if entries.len() == most {
                return Err("it tells more than was asked for".to_owned());
            }
            entries.push(Entry::new(entry));
        }
        Ok(Found { entries, end: stream.finish().await })
    }
}

/// Asks the server to speak TLS from now on. Exactly its answer is read: what somebody has put
/// behind it becomes part of TLS, and breaks it.
async fn start_tls(stream: &mut TcpStream) -> Result<(), String> {
    stream.write_all(START_TLS).await.map_err(text)?;
    let odd = || "its answer to StartTLS is not one".to_owned();
    let mut head = [0; 2];
    stream.read_exact(&mut head).await.map_err(text)?;
    let more = usize::from(head[1]).saturating_sub(0x80);
    let mut message = vec![0x30, head[1]];
    if head[0] != 0x30 || more > 4 {
        return Err(odd());
    }
    message.resize(2 + more, 0);
    stream.read_exact(&mut message[2..]).await.map_err(text)?;
    let (length, _) =
        length(&message[1..]).filter(|(length, _)| *length <= LARGEST).ok_or_else(odd)?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.map_err(text)?;
    match start_tls_result(&body) {
        Some(0) => Ok(()),
        Some(code) => Err(format!("it does not speak StartTLS (result {code})")),
        None => Err(odd()),
    }
}

/// The length at the front of some bytes, as BER writes it, and what comes behind.
fn length(bytes: &[u8]) -> Option<(usize, &[u8])> {
    let (first, rest) = bytes.split_first()?;
    match first {
        0..=0x7f => Some((usize::from(*first), rest)),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
            let all = digits.iter().fold(0_u64, |all, digit| all << 8 | u64::from(*digit));
            Some((usize::try_from(all).ok()?, rest))
        }
        _ => None,
    }
}

/// The content of the element at the front, which must have this tag, and what comes behind.
fn element(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (first, rest) = bytes.split_first()?;
    let (length, rest) = length(rest).filter(|_| *first == tag)?;
    rest.split_at_checked(length)
}

/// The result of the extended request 1, from the inside of its answer.
fn start_tls_result(body: &[u8]) -> Option<u8> {
    let (number, rest) = element(body, 0x02)?;
    let (answer, _) = element(rest, 0x78)?;
    let (code, _) = element(answer, 0x0a)?;
    match (number, code) {
        ([1], [code]) => Some(*code),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[test]
    fn urls_lead_somewhere() {
        assert_eq!(place("ldaps://a.test"), Some((true, "a.test", 636)));
        assert_eq!(place("ldap://a.test/"), Some((false, "a.test", 389)));
        assert_eq!(place("ldap://[::1]"), Some((false, "[::1]", 389)));
        assert_eq!(place("ldap://[::1]:9"), Some((false, "[::1]", 9)));
        assert_eq!(place("ldap://a.test:x"), None);
    }

    #[test]
    fn answers_to_start_tls_are_read_to_the_byte() {
        let short = b"\x02\x01\x01\x78\x07\x0a\x01\x00\x04\x00\x04\x00";
        assert_eq!(start_tls_result(short), Some(0));
        // As Active Directory writes lengths.
        let long = b"\x02\x01\x01\x78\x84\x00\x00\x00\x07\x0a\x01\x34\x04\x00\x04\x00";
        assert_eq!(start_tls_result(long), Some(52));
        for cut in 0..8 {
            assert_eq!(start_tls_result(&short[..cut]), None, "{cut}");
        }
        // Of another message, or another answer.
        assert_eq!(start_tls_result(b"\x02\x01\x02\x78\x07\x0a\x01\x00\x04\x00\x04\x00"), None);
        assert_eq!(start_tls_result(b"\x02\x01\x01\x61\x07\x0a\x01\x00\x04\x00\x04\x00"), None);
        assert_eq!(length(b"\x84\xff\xff\xff\xff"), Some((0xffff_ffff, &b""[..])));
        assert_eq!(length(b"\x85\x00\x00\x00\x00\x00"), None);
        assert_eq!(length(b"\x80"), None);
    }

    #[tokio::test]
    async fn a_long_or_odd_answer_is_not_waited_for() {
        let answers: [&[u8]; 4] =
            [b"\x30\x84\xff\xff\xff\xff", b"HTTP/1.1 400", b"\x30\xff", b"\x30\x80"];
        for answer in answers {
            let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = socket.local_addr().unwrap();
            let server = tokio::spawn(async move {
                let (mut stream, _) = socket.accept().await.unwrap();
                let mut asked = [0; START_TLS.len()];
                stream.read_exact(&mut asked).await.unwrap();
                stream.write_all(answer).await.unwrap();
                let _ = stream.read(&mut asked).await;
            });
            let mut stream = TcpStream::connect(address).await.unwrap();
            assert!(start_tls(&mut stream).await.is_err(), "{answer:?}");
            drop(stream);
            server.await.unwrap();
        }
    }
}

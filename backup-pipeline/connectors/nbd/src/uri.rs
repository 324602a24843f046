//! NBD addresses, as qemu and libnbd write them.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use sluice_nbd_wire::{DEFAULT_PORT, limits};

use crate::NbdError;

/// Where an NBD server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A host name or address, and a port.
    Tcp {
        /// Host name, IPv4 address, or IPv6 address without brackets.
        host: String,
        /// Port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "the socket {}", path.display()),
        }
    }
}

/// An export of an NBD server: `nbd://HOST[:PORT]/EXPORT` or `nbd+unix:///EXPORT?socket=PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NbdUri {
    /// The server.
    pub target: Target,
    /// The export; empty for the default one.
    pub export: String,
}

impl FromStr for NbdUri {
    type Err = NbdError;

    fn from_str(uri: &str) -> Result<Self, NbdError> {
        let fail = |why| NbdError::Uri { uri: uri.to_owned(), why };
        let (scheme, rest) = uri.split_once("://").ok_or_else(|| fail("it has no scheme"))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let export = decode(path).ok_or_else(|| fail("the export name is badly escaped"))?;
        if export.len() > limits::STRING as usize {
            return Err(fail("the export name is too long"));
        }
        let target = match scheme {
            "nbd" => tcp(authority).map_err(fail)?,
            "nbd+unix" if !authority.is_empty() => {
                return Err(fail("a Unix socket has no host; write three slashes"));
            }
            "nbd+unix" => unix(query).map_err(fail)?,
            "nbds" | "nbds+unix" => return Err(fail("TLS is not supported")),
            _ => return Err(fail("the scheme is neither nbd nor nbd+unix")),
        };
        Ok(Self { target, export })
    }
}

fn tcp(authority: &str) -> Result<Target, &'static str> {
    let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or("the bracket is not closed")?;
            (host, port.strip_prefix(':').or(port.is_empty().then_some("")))
        }
        None => {
            let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
            (host, Some(port))
        }
    };
    let port = match port.ok_or("there is something odd after the bracket")? {
        "" => DEFAULT_PORT,
        digits => digits.parse().map_err(|_| "the port is not a number up to 65535")?,
    };
    let host = if host.is_empty() { "localhost" } else { host };
    Ok(Target::Tcp { host: host.to_owned(), port })
}

fn unix(query: &str) -> Result<Target, &'static str> {
    let socket = query.split('&').find_map(|pair| pair.strip_prefix("socket="));
    let path = socket.filter(|path| !path.is_empty()).ok_or("it lacks socket=PATH")?;
    decode(path).map(|path| Target::Unix(path.into())).ok_or("the socket is badly escaped")
}

/// Undoes percent-encoding; `None` when it is broken or the result is not UTF-8.
fn decode(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        out.push((high * 16 + low) as u8);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Target {
        Target::Tcp { host: host.into(), port }
    }

    #[test]
    fn addresses_are_understood() {
        for (uri, target, export) in [
            ("nbd://host", tcp("host", 10809), ""),
            ("nbd://host/", tcp("host", 10809), ""),
            ("nbd://host:1234/disk", tcp("host", 1234), "disk"),
            ("nbd://[::1]:1234/a/b%20c", tcp("::1", 1234), "a/b c"),
            ("nbd://[::1]", tcp("::1", 10809), ""),
            ("nbd:///disk", tcp("localhost", 10809), "disk"),
            ("nbd+unix:///disk?socket=/run/x.sock", Target::Unix("/run/x.sock".into()), "disk"),
            ("nbd+unix:///?a=b&socket=/a%3Fb", Target::Unix("/a?b".into()), ""),
        ] {
            let parsed: NbdUri = uri.parse().unwrap();
            assert_eq!(parsed, NbdUri { target, export: export.into() }, "{uri}");
        }
    }

    #[test]
    fn other_addresses_are_refused_with_a_hint() {
        for uri in [
            "",
            "host:1234",
            "http://host/x",
            "nbds://host/x",
            "nbd://host:port/x",
            "nbd://host:70000/x",
            "nbd://[::1/x",
            "nbd://[::1]x/x",
            "nbd://host/%zz",
            "nbd://host/%f",
            "nbd://host/%ff",
            "nbd+unix:///x",
            "nbd+unix:///x?socket=",
            "nbd+unix://host/x?socket=/y",
        ] {
            let error = uri.parse::<NbdUri>().unwrap_err();
            assert!(error.to_string().contains("write nbd://"), "{uri}: {error}");
        }
    }
}

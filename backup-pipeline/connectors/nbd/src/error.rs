use std::time::Duration;

use sluice_block::{BlockError, ErrorKind};
use sluice_nbd_wire::{Errno, WireError};
use thiserror::Error;

/// Why an NBD server cannot be used as a source.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum NbdError {
    /// The URI does not name an export.
    #[error(
        "{uri:?} is not an NBD address: {why}; write nbd://HOST[:PORT]/EXPORT or \
         nbd+unix:///EXPORT?socket=PATH"
    )]
    Uri {
        /// What was given.
        uri: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// The server does not accept a connection.
    #[error("cannot connect to {target}; check that the NBD server runs and is reachable")]
    Connect {
        /// Address or socket.
        target: String,
        /// What the system reports.
        source: std::io::Error,
    },
    /// The server is silent.
    #[error(
        "the NBD server did not answer within {after:?}; check the server and the network, and \
         whether it allows another client"
    )]
    Timeout {
        /// How long it was waited for.
        after: Duration,
    },
    /// The connection broke.
    #[error("the connection to the NBD server was lost: {why}")]
    Lost {
        /// What happened.
        why: String,
    },
    /// The server does not follow the protocol.
    #[error("the NBD server broke the protocol: {0}")]
    Wire(#[from] WireError),
    /// The server's messages are well-formed but make no sense.
    #[error("the NBD server broke the protocol: {0}")]
    Protocol(&'static str),
    /// The server only talks over TLS.
    #[error("the NBD server demands TLS, which is not supported; serve the export without it")]
    TlsRequired,
    /// There is no such export.
    #[error("the NBD server has no export called {name:?}; it offers {}", listed(offered))]
    NoSuchExport {
        /// The name asked for.
        name: String,
        /// The names the server lists, which may keep some to itself.
        offered: Vec<String>,
    },
    /// The server does not offer the dirty bitmap.
    #[error(
        "the NBD export has no dirty bitmap called {name:?}; it offers {}. Add it with \
         `qemu-img bitmap --add` and serve it with `qemu-nbd --bitmap`, or read the whole disk",
        listed(offered)
    )]
    NoSuchBitmap {
        /// The name asked for.
        name: String,
        /// The bitmaps the export offers.
        offered: Vec<String>,
    },
    /// The server refused to negotiate.
    #[error("the NBD server refused {what}: {message}")]
    Refused {
        /// The option.
        what: &'static str,
        /// What the server said.
        message: String,
    },
    /// A request failed.
    #[error(
        "the NBD server failed a request for {length} bytes at {offset} with {error}{}",
        with_message(message)
    )]
    Remote {
        /// The server's error.
        error: Errno,
        /// What the server said; may be empty.
        message: String,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        length: u64,
    },
    /// The export is not the one from before.
    #[error(
        "the NBD export changed its size from {before} to {now} bytes while it was read; \
         start again"
    )]
    SizeChanged {
        /// Bytes when the source was opened.
        before: u64,
        /// Bytes after reconnecting.
        now: u64,
    },
}

impl NbdError {
    /// Whether the same may succeed on a fresh connection.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Timeout { .. } | Self::Lost { .. } => true,
            Self::Remote { error, .. } => *error == Errno::Shutdown,
            _ => false,
        }
    }
}

impl From<NbdError> for BlockError {
    fn from(error: NbdError) -> Self {
        let kind = match &error {
            NbdError::Remote { error: Errno::NoSpace, .. } => ErrorKind::NoSpace,
            NbdError::Remote { error: Errno::Permission, .. } => ErrorKind::ReadOnly,
            other if other.is_retryable() => ErrorKind::Unavailable,
            _ => ErrorKind::Io,
        };
        Self::caused(kind, "cannot read from the NBD server", error)
    }
}

fn listed(names: &[String]) -> String {
    if names.is_empty() {
        return "none".to_owned();
    }
    names.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", ")
}

fn with_message(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

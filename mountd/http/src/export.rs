use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sluice_block::BlockRead;
use sluice_door::Places;

use crate::ServeError;
use crate::condition::Validators;

/// What every name ends with in a URL: clients guess the format by it.
pub(crate) const SUFFIX: &str = ".raw";

/// A device under the name by which clients ask for it.
#[derive(Clone)]
pub struct Export {
    /// The name; its URL is the name with `.raw` behind. It may have slashes.
    pub name: String,
    /// A text for people; may be empty.
    pub description: String,
    /// Letters and digits that are the same exactly when the content is: the entity tag.
    pub tag: String,
    /// When the content came to be.
    pub modified: SystemTime,
    /// What is served. Its content must not change.
    pub device: Arc<dyn BlockRead>,
}

impl Export {
    /// Path of the export below the server's root: escaped, without a slash before it.
    pub fn path(&self) -> String {
        format!("{}{SUFFIX}", crate::path::escape(&self.name))
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("name", &self.name)
            .field("tag", &self.tag)
            .field("size", &self.device.size())
            .finish_non_exhaustive()
    }
}

/// What one client may take of the server.
///
/// Memory for content is bounded by `max_connections` times 3 MiB, reached only when every client
/// reads large ranges.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time. Those that have not shown the token yet make room for newer ones, the
    /// oldest first; beyond that, further ones are closed at once.
    pub max_connections: usize,
    /// Connections at a time from one address (of IPv6, from one /64 network).
    pub max_connections_per_address: usize,
    /// Time for the TLS handshake, for the whole head of a request, and between requests.
    pub header_timeout: Duration,
    /// Time without any progress while an answer is sent.
    pub stall_timeout: Duration,
    /// Time that answers under way get to finish when the server shuts down.
    pub shutdown_grace: Duration,
}

impl Limits {
    pub(crate) fn places(&self) -> Places {
        let (all, per_address) = (self.max_connections, self.max_connections_per_address);
        Places { all, per_address, strangers: all }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 128,
            // A machine that copies with 16 connections, four times over.
            max_connections_per_address: 64,
            header_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

/// An export as requests see it.
#[derive(Debug)]
pub(crate) struct Served {
    pub(crate) export: Export,
    /// The tag in its quotation marks.
    pub(crate) etag: String,
    /// In whole seconds, as headers have it.
    pub(crate) modified: SystemTime,
}

impl Served {
    pub(crate) fn validators(&self) -> Validators<'_> {
        Validators { etag: &self.etag, modified: self.modified }
    }
}

/// The exports of a server, in the order given.
#[derive(Debug)]
pub(crate) struct Exports(Vec<Arc<Served>>);

impl Exports {
    pub(crate) fn new(exports: Vec<Export>) -> Result<Self, ServeError> {
        if exports.is_empty() {
            return Err(ServeError::NoExports);
        }
        let mut all: Vec<Arc<Served>> = Vec::with_capacity(exports.len());
        for export in exports {
            if export.tag.is_empty() || !export.tag.bytes().all(|b| b.is_ascii_alphanumeric()) {
                return Err(ServeError::BadTag { name: export.name });
            }
            if all.iter().any(|other| other.export.name == export.name) {
                return Err(ServeError::DuplicateName { name: export.name });
            }
            let since = export.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
            let modified = UNIX_EPOCH + Duration::from_secs(since.as_secs());
            let etag = format!("\"{}\"", export.tag);
            all.push(Arc::new(Served { export, etag, modified }));
        }
        Ok(Self(all))
    }

    /// The export of this name.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Served>> {
        self.0.iter().find(|served| served.export.name == name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Served> {
        self.0.iter().map(|served| &**served)
    }
}

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sluice_block::BlockRead;
use sluice_nbd_wire::limits;

use crate::ServeError;
use crate::buffer::Pool;

/// A device under the name by which clients ask for it.
#[derive(Clone)]
pub struct Export {
    /// The name; the first export of a server also answers to the empty name.
    pub name: String,
    /// A text for people; may be empty.
    pub description: String,
    /// What is served.
    pub device: Arc<dyn BlockRead>,
}

impl Export {
    /// Serves `device` as `name`, without a description.
    pub fn new(name: impl Into<String>, device: Arc<dyn BlockRead>) -> Self {
        Self { name: name.into(), description: String::new(), device }
    }

    /// The same export with a text for people.
    #[must_use]
    pub fn with_description(mut self, description: impl Into<String>) -> Self {
        self.description = description.into();
        self
    }
}

impl fmt::Debug for Export {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Export")
            .field("name", &self.name)
            .field("description", &self.description)
            .field("size", &self.device.size())
            .finish()
    }
}

/// What one client may take of the server.
///
/// Memory is bounded by `max_connections * bytes_in_flight`, reached only when every client
/// keeps its pipeline full.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at a time; further ones are closed at once.
    pub max_connections: usize,
    /// Requests a connection may have unanswered before its next one is read.
    pub requests_in_flight: usize,
    /// Bytes of replies a connection may have unanswered. At least one request of the largest
    /// size is always let through.
    pub bytes_in_flight: usize,
    /// Time from connecting to the end of the negotiation.
    pub handshake_timeout: Duration,
    /// Time without any progress in the middle of a request or a reply.
    pub stall_timeout: Duration,
    /// Time that requests under way get to finish when the server shuts down.
    pub shutdown_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // nbdcopy opens 4 connections, a Linux client one per core.
            max_connections: 128,
            // Twice the depth nbdcopy uses per connection.
            requests_in_flight: 128,
            bytes_in_flight: 32 << 20,
            handshake_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(60),
            shutdown_grace: Duration::from_secs(30),
        }
    }
}

/// An export as sessions hold it.
pub(crate) struct Served {
    pub(crate) export: Export,
    /// Buffers are shared within an export only, so that no bytes wander between devices even
    /// if one broke its promise to fill what it is given.
    pub(crate) pool: Arc<Pool>,
}

/// The exports of a server, in the order given.
pub(crate) struct Exports {
    all: Vec<Arc<Served>>,
}

impl Exports {
    pub(crate) fn new(exports: Vec<Export>) -> Result<Self, ServeError> {
        if exports.is_empty() {
            return Err(ServeError::NoExports);
        }
        let mut all: Vec<Arc<Served>> = Vec::with_capacity(exports.len());
        for export in exports {
            check_length("name", &export.name)?;
            check_length("description", &export.description)?;
            if all.iter().any(|other| other.export.name == export.name) {
                return Err(ServeError::DuplicateName { name: export.name });
            }
            all.push(Arc::new(Served { export, pool: Arc::default() }));
        }
        Ok(Self { all })
    }

    /// The export called `name`; the first one for the empty name.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<Served>> {
        let exact = self.all.iter().find(|served| served.export.name == name);
        exact.or_else(|| if name.is_empty() { self.all.first() } else { None })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Export> {
        self.all.iter().map(|served| &served.export)
    }
}

fn check_length(what: &'static str, text: &str) -> Result<(), ServeError> {
    let limit = limits::STRING as usize;
    if text.len() > limit {
        return Err(ServeError::TooLong { what, length: text.len(), limit });
    }
    Ok(())
}

use std::path::PathBuf;

use thiserror::Error;

/// Why a server cannot be set up.
///
/// Trouble with one connection is never an error of the server: it is logged and that connection
/// ends.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// There is nothing to serve.
    #[error("there is no export to serve; name at least one")]
    NoExports,
    /// Two exports have one name.
    #[error("two exports are called {name:?}; give each its own name")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A name or description is longer than the protocol allows.
    #[error("the {what} of an export has {length} bytes, over the protocol's limit of {limit}")]
    TooLong {
        /// Name or description.
        what: &'static str,
        /// Bytes found.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The block sizes of an export are not those of a disk.
    #[error(
        "the block sizes of {name:?} must be powers of two with minimum <= preferred <= maximum, \
        the minimum 64 KiB and the maximum 32 MiB at most"
    )]
    BlockSizes {
        /// Name of the export.
        name: String,
    },
    /// There is nowhere to listen.
    #[error("there is no address to listen on; name at least one")]
    NoListeners,
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// Address or path.
        address: String,
        /// What the system reports.
        source: std::io::Error,
    },
    /// Another server answers on the socket.
    #[error("another server is listening on {}; stop it or choose another path", path.display())]
    InUse {
        /// Path of the socket.
        path: PathBuf,
    },
    /// The path of a socket is taken by something that is not a socket.
    #[error("{} exists and is not a socket; remove it or choose another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
}

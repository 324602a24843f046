use std::net::SocketAddr;

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
    /// An entity tag has characters that a header cannot carry.
    #[error("the entity tag of {name:?} has characters other than letters and digits")]
    BadTag {
        /// Name of the export.
        name: String,
    },
    /// There is nowhere to listen.
    #[error("there is no address to listen on; name at least one")]
    NoListeners,
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system reports.
        source: std::io::Error,
    },
    /// A given token is not fit to be one.
    #[error("the token needs {shortest} to {longest} letters, digits, or any of - . _ ~")]
    BadToken {
        /// Least length in characters.
        shortest: usize,
        /// Greatest length in characters.
        longest: usize,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    NoRandomness,
    /// A certificate or its key is of no use.
    #[error("{what}")]
    BadCertificate {
        /// What is wrong.
        what: &'static str,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

use std::path::PathBuf;

use thiserror::Error;

/// Why a server cannot be set up, or ends.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The number of queues is out of bounds.
    #[error("a device has 1 to {most} queues, not {asked}")]
    Queues {
        /// Queues asked for.
        asked: u16,
        /// Queues possible.
        most: u16,
    },
    /// The socket cannot be listened on.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// Path of the socket.
        path: PathBuf,
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

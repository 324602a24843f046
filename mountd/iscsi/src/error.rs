use thiserror::Error;

/// Why a server cannot be set up.
///
/// Trouble with one connection is never an error of the server: it is logged and that connection
/// ends.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ServeError {
    /// There is nothing to serve.
    #[error("there is no disk to serve; name at least one")]
    NoUnits,
    /// More logical units than a target has numbers for.
    #[error("{count} disks are more than the {limit} that a target can have")]
    TooManyUnits {
        /// Disks given.
        count: usize,
        /// Disks allowed.
        limit: usize,
    },
    /// A name is not one of iSCSI.
    #[error(
        "{name:?} is no iSCSI name; write iqn.YYYY-MM.DOMAIN:NAME, eui.HEX or naa.HEX in lower case"
    )]
    Name {
        /// The name.
        name: String,
    },
    /// A secret of CHAP is too short to protect anything, or too long to be understood.
    #[error("the CHAP secret of {user} has {length} bytes; it needs 12 to 255")]
    Secret {
        /// Whose secret.
        user: String,
        /// Bytes found.
        length: usize,
    },
    /// Both directions of CHAP use one secret, so that one side could reflect the other.
    #[error("both directions of CHAP have the same secret; give the target one of its own")]
    SameSecret,
    /// There is nowhere to listen.
    #[error("there is no address to listen on; name at least one")]
    NoListeners,
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: std::net::SocketAddr,
        /// What the system reports.
        source: std::io::Error,
    },
}

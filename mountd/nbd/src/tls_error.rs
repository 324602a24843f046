use thiserror::Error;

/// Why credentials cannot be used.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TlsError {
    /// Neither a certificate nor keys.
    #[error("encryption needs a certificate or a file of pre-shared keys")]
    NoCredentials,
    /// Clients are asked for certificates by a server that has none.
    #[error("clients can be asked for certificates only by a server that has one")]
    NoCertificate,
    /// A line of a key file is wrong.
    #[error(
        "line {line} of the file of pre-shared keys: {problem}; \
        write USER:KEY with 32 hexadecimal digits or more, or let psktool write it"
    )]
    KeyFile {
        /// The line, counted from 1; 0 for the whole file.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The certificate or its key.
    #[error("the certificate and its key cannot be used; both must be PEM, and of RSA or ECDSA")]
    Certificate {
        /// What the library reports.
        source: s2n_tls::error::Error,
    },
    /// The authorities of clients.
    #[error("the authorities of the clients' certificates cannot be used; they must be PEM")]
    Authorities {
        /// What the library reports.
        source: s2n_tls::error::Error,
    },
    /// Anything else.
    #[error("encryption cannot be set up")]
    SetUp {
        /// What the library reports.
        source: s2n_tls::error::Error,
    },
}

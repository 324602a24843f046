use thiserror::Error;

/// Why bytes are not a message of the protocol.
///
/// After a bad magic or an oversized length the stream cannot be followed any more, and the
/// connection must end; after the other errors the rest of the message is known to be skipped.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// The message ends before its fields do.
    #[error("{what} is cut short")]
    Truncated {
        /// The field that is missing.
        what: &'static str,
    },
    /// The message goes on after its last field.
    #[error("{what} has {extra} bytes too many")]
    Trailing {
        /// The message.
        what: &'static str,
        /// Bytes left over.
        extra: usize,
    },
    /// The peer speaks something else, or the stream lost its place.
    #[error("{what} starts with {found:#x}, which is not the NBD protocol")]
    Magic {
        /// The message.
        what: &'static str,
        /// The number found.
        found: u64,
    },
    /// A length is beyond what is accepted.
    #[error("{what} of {length} is over the limit of {limit}")]
    TooLong {
        /// What the length measures.
        what: &'static str,
        /// The length found.
        length: u64,
        /// The limit, in the same unit.
        limit: u64,
    },
    /// A string has more than [`limits::STRING`](crate::limits::STRING) bytes.
    #[error("{what} has {length} bytes, over the limit of {}", crate::limits::STRING)]
    StringTooLong {
        /// The field.
        what: &'static str,
        /// Bytes found.
        length: usize,
    },
    /// A string is not UTF-8.
    #[error("{what} is not UTF-8")]
    NotUtf8 {
        /// The field.
        what: &'static str,
    },
    /// A field has a value that the specification forbids.
    #[error("{what} is invalid")]
    Invalid {
        /// The field and what is wrong with it.
        what: &'static str,
    },
}

impl WireError {
    /// Whether the place in the stream is lost, so that only closing the connection is left.
    pub fn is_fatal(&self) -> bool {
        matches!(self, Self::Magic { .. } | Self::TooLong { .. })
    }
}

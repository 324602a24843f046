use thiserror::Error;

/// Why bytes are not a message of the protocol.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum WireError {
    /// A length is beyond what is accepted; the place in the stream is lost.
    #[error("{what} of {length} is over the limit of {limit}")]
    TooLong {
        /// What the length measures.
        what: &'static str,
        /// The length found.
        length: u64,
        /// The limit, in the same unit.
        limit: u64,
    },
    /// A message that a peer of this role never sends, or one that is not known.
    #[error("a PDU with opcode {opcode:#04x} has no place here")]
    Opcode {
        /// The opcode.
        opcode: u8,
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
        matches!(self, Self::TooLong { .. })
    }
}

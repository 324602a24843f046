//! The largest sizes that are accepted from the wire.

/// Bytes of all additional header segments of a PDU: an extended command of the longest kind
/// (260 bytes) and a bidirectional length have room.
pub const AHS: usize = 512;

/// Bytes of text in one negotiation sequence, over all its PDUs. The longest legitimate one is a
/// login with two binary values of 1024 bytes in hexadecimal.
pub const TEXT: usize = 64 << 10;

/// Keys in one negotiation sequence.
pub const KEYS: usize = 128;

/// Bytes of a key's name ("Text Format").
pub const KEY: usize = 63;

/// Bytes of a binary value, after decoding ("binary-value": a CHAP challenge or response).
pub const BINARY: usize = 1024;

/// Bytes of an iSCSI name ("iSCSI Name Encoding").
pub const NAME: usize = 223;

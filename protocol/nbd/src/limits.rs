//! The largest sizes that are accepted from the wire.

/// Data of one option, in bytes. The largest legitimate one is a list of metadata queries.
pub const OPTION_DATA: u32 = 64 << 10;

/// Data of one reply to an option, in bytes.
pub const OPTION_REPLY_DATA: u32 = 64 << 10;

/// Bytes of a string: an export name, a description, a metadata query ("Conventions").
pub const STRING: u32 = 4096;

/// Metadata queries in one option.
pub const QUERIES: u32 = 256;

/// Information types in one `NBD_OPT_INFO` or `NBD_OPT_GO`.
pub const INFO_TYPES: u16 = 256;

/// Payload of one request or of the content of one read, in bytes ("Block size constraints").
pub const PAYLOAD: u32 = 32 << 20;

/// Payload of one reply chunk, in bytes: the content of the longest read and its offset.
pub const CHUNK: u32 = PAYLOAD + 8;

/// Descriptors in one block status chunk.
pub const STATUS_EXTENTS: usize = 128 << 10;

/// Metadata contexts that one block status request can be narrowed to.
pub const STATUS_IDS: usize = 256;

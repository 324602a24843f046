//! iSCSI protocol bytes: no sockets, no files.
//!
//! The PDUs of [RFC 7143][spec] as types, for the target's and the initiator's side alike, the
//! text keys of login, and what both sides agree on with them. Section names in the docs are those
//! of the RFC.
//!
//! ```text
//! +------------------+-----+---------------+----------------+-----+-------------+
//! | header, 48 bytes | AHS | header digest | data segment   | pad | data digest |
//! +------------------+-----+---------------+----------------+-----+-------------+
//!   Request/Response   ^     digest()        text::decode,         digest()
//!   Lengths -----------+---------------------^   or bytes of SCSI
//! ```
//!
//! A header says how long what follows is ([`Lengths`]); data never passes through the types here,
//! so that it can be read to where it belongs.
//!
//! # Invariants
//!
//! * Everything is big-endian, but for digests. Decoders never panic, whatever the bytes.
//! * A length found on the wire is compared with its limit ([`limits`]) before anything of that
//!   size is allocated or awaited.
//! * Unknown codes survive decoding as `Other(code)`: whether they are an error is for the session
//!   to decide.
//!
//! [spec]: https://www.rfc-editor.org/rfc/rfc7143

mod bhs;
mod binary;
mod digest;
mod error;
mod negotiation;
mod request;
mod response;
mod serial;

pub mod limits;
pub mod text;

pub use bhs::{Lengths, padding};
pub use binary::{decode_binary, encode_binary};
pub use digest::{Digest, digest, digest_more, digest_parts};
pub use error::WireError;
pub use negotiation::{Negotiation, Parameters};
pub use request::{
    DataOut, LoginRequest, LogoutReason, LogoutRequest, NopOut, Request, ScsiCommand, Stage,
    TaskAttribute, TaskFunction, TaskRequest, TextRequest,
};
pub use response::{
    AsyncEvent, DataIn, LoginResponse, LoginStatus, Numbers, ReadyToTransfer, RejectReason,
    Residual, Response, ScsiResponse, TaskAnswer,
};
pub use serial::Serial;

/// Bytes of a basic header segment.
pub const HEADER: usize = 48;

/// A tag that refers to nothing.
pub const NO_TAG: u32 = u32::MAX;

/// The TCP port registered for iSCSI.
pub const DEFAULT_PORT: u16 = 3260;

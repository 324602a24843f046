//! NBD protocol bytes: no sockets, no files.
//!
//! The messages of the [NBD protocol][spec] as types, with `decode` from bytes and `encode` to a
//! [`bytes::BufMut`], for the server's and the client's side alike. Section names in the docs
//! are those of the specification.
//!
//! ```text
//! handshake   server                                client
//!             Greeting              ------------>
//!                                   <------------   ClientFlags
//!                                   <------------   OptionHeader + OptionRequest
//!             OptionReplyHeader + OptionReply -->                                (repeated)
//! transmission                      <------------   Request (+ payload)
//!             SimpleReply | Chunk   ------------>                                (any order)
//! ```
//!
//! # Invariants
//!
//! * Everything is big-endian. Decoders never panic, whatever the bytes.
//! * A length found on the wire is compared with its limit ([`limits`]) before anything of that
//!   size is allocated or awaited: header decoders refuse oversized payloads, payload decoders
//!   only see slices that were already admitted.
//! * Unknown codes survive decoding as `Other(code)`: whether they are an error is for the
//!   session to decide.
//!
//! [spec]: https://github.com/NetworkBlockDevice/nbd/blob/master/doc/proto.md

mod chunk;
mod cursor;
mod errno;
mod error;
mod flags;
mod handshake;
mod option;
mod option_reply;
mod request;
mod status_filter;

pub mod limits;

pub use chunk::{Chunk, ChunkHeader, ChunkType, ReplyHeader, SimpleReply, StatusExtent};
pub use errno::Errno;
pub use error::WireError;
pub use flags::{
    AllocationFlags, ClientFlags, CommandFlags, HandshakeFlags, ReplyFlags, TransmissionFlags,
};
pub use handshake::{ExportNameReply, Greeting, OptionHeader, OptionReplyHeader};
pub use option::{InfoRequest, InfoType, MetaRequest, OptionCode, OptionRequest};
pub use option_reply::{BlockSizes, Info, OptionReply, ReplyCode};
pub use request::{Command, Request};
pub use status_filter::StatusFilter;

/// The metadata context that tells holes and zeroes from data ("Metadata contexts").
pub const BASE_ALLOCATION: &str = "base:allocation";

/// The namespace of the changed-block bitmaps that QEMU exports; the bitmap's name follows.
pub const QEMU_DIRTY_BITMAP: &str = "qemu:dirty-bitmap:";

/// The bit of a descriptor in a `qemu:dirty-bitmap:` context that marks a changed run.
pub const QEMU_STATE_DIRTY: u64 = 1;

/// The contexts that tell what changed since an earlier restore point; the point's name follows.
pub const CHANGED_SINCE: &str = "sluice:changed-since=";

/// The bit of a descriptor in a [`CHANGED_SINCE`] context that marks a changed run.
pub const STATE_CHANGED: u64 = 1;

/// The TCP port registered for NBD.
pub const DEFAULT_PORT: u16 = 10809;

/// How requests and replies are framed, as agreed during the handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Framing {
    /// Compact requests, simple replies only.
    #[default]
    Simple,
    /// Compact requests, structured replies where there is a payload
    /// (`NBD_OPT_STRUCTURED_REPLY`).
    Structured,
    /// Requests and replies with 64-bit lengths (`NBD_OPT_EXTENDED_HEADERS`).
    Extended,
}

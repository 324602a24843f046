//! NBD export server over any block device.
//!
//! A [`Server`] offers named [`Export`]s, each a [`BlockRead`] or a [`BlockWrite`], to any NBD
//! client: fixed newstyle negotiation, structured replies, block status, extended headers, several
//! connections per client, over TCP and Unix sockets, encrypted with certificates or pre-shared
//! keys where asked to.
//!
//! # Model
//!
//! ```text
//! accept -> handshake -> reader --spawn--> command -+
//!                          ^  \                     |  queue
//!                          |   +---- inline --------+---------> writer -> socket
//!                       permits <-------------------------------- (returned once written)
//! ```
//!
//! One task per connection reads requests, one writes replies; requests run side by side and are
//! answered in the order they finish. Each request holds permits, for its place and for its
//! bytes, from before it starts until its reply is on the wire, so a client that does not read
//! its replies stops being read from, and memory is bounded per connection by
//! [`Limits::bytes_in_flight`] and for all by [`Limits::total_bytes_in_flight`].
//!
//! An export is opened when the first client asks for it ([`OpenDevice`]) and dropped with its
//! last client.
//!
//! # Invariants
//!
//! * A connection's fate is its own: garbage, stalls and disconnects end nothing else.
//! * A reply is only begun once all its bytes are there, so an error is always reported as one.
//! * Content of writes is read into memory that the request was admitted for, and only then.
//! * What was written is flushed at the latest when its client has gone.
//! * Nothing on the wire makes the server allocate before it was checked against a limit.

mod carried;
mod command;
mod context;
mod device;
mod error;
mod export;
mod handshake;
mod limits;
mod listener;
mod negotiation;
mod read;
mod reply;
mod server;
mod session;
mod sparse;
mod tls;
mod tls_error;
mod write;

pub use carried::Carried;
pub use device::{Changes, Device, OpenDevice, Opened};
pub use error::ServeError;
pub use export::Export;
pub use limits::Limits;
pub use listener::Listener;
pub use server::{BoundServer, Server};
pub use sluice_door::Clients;
pub use sluice_nbd_wire::BlockSizes;
pub use tls::{Encryption, Tls, TlsBuilder};
pub use tls_error::TlsError;

#[cfg(doc)]
use sluice_block::{BlockRead, BlockWrite};

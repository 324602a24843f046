//! NBD export server over any block device.
//!
//! A [`Server`] offers named [`Export`]s, each a [`BlockRead`], to any NBD client: fixed newstyle
//! negotiation, structured replies, block status, extended headers, several connections per
//! client, over TCP and Unix sockets. Exports are read-only.
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
//! its replies stops being read from, and memory per connection is bounded by
//! [`Limits::bytes_in_flight`].
//!
//! # Invariants
//!
//! * A connection's fate is its own: garbage, stalls and disconnects end nothing else.
//! * A reply is only begun once all its bytes are there, so an error is always reported as one.
//! * Nothing on the wire makes the server allocate before it was checked against a limit.

mod buffer;
mod command;
mod error;
mod export;
mod handshake;
mod listener;
mod reply;
mod server;
mod session;
mod sparse;

pub use error::ServeError;
pub use export::{Export, Limits};
pub use listener::Listener;
pub use server::{BoundServer, Server};

#[cfg(doc)]
use sluice_block::BlockRead;

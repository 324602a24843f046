//! HTTP server of byte ranges over any block device.
//!
//! A [`Server`] offers named [`Export`]s, each a [`BlockRead`], as files of a fixed content to
//! any HTTP/1.1 client: whole, one range, or several; with validators, so that an interrupted
//! copy goes on; over TLS or plain TCP. Exports are read-only.
//!
//! # Model
//!
//! ```text
//! accept -> place? -> TLS -> hyper -> token? -> conditions -> ranges -> plan -> reads, 4 at a time
//!                                                                        |         |
//!                                                              extents --+         v
//!                                                        zeroes from one page -> body -> socket
//! ```
//!
//! A body is made while it is sent: a plan cuts the range into pieces, zeroes are sent without
//! reading them, and no more than four pieces of data are read ahead of the socket.
//!
//! # Invariants
//!
//! * Nothing is told to who does not know the token: not even whether a name exists.
//! * Bytes that could not be read are never made up: before the first one the answer is 500,
//!   after it the connection is cut, and its length tells the client.
//! * A connection's fate is its own: garbage, stalls and disconnects end nothing else.
//! * Nothing a client sends makes the server allocate beyond a limit, and no token is logged.

mod condition;
mod content;
mod error;
mod export;
mod index;
mod map;
mod path;
mod plan;
mod range;
mod server;
mod service;
mod stall;
mod tls;
mod token;

pub use error::ServeError;
pub use export::{Export, Limits};
pub use server::{BoundServer, Server};
pub use sluice_door::Clients;
pub use tls::{SelfSigned, Tls, self_signed};
pub use token::Token;

#[cfg(doc)]
use sluice_block::BlockRead;

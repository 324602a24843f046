//! An NBD server as a backup source, with its dirty bitmap.
//!
//! [`NbdSource`] is a [`BlockRead`] over an export of any NBD server, most of all of `qemu-nbd`,
//! `qemu-storage-daemon` and libvirt's backup jobs, whose dirty bitmaps say what changed since
//! the last backup ([`NbdSource::dirty_bitmap`]).
//!
//! # Model
//!
//! ```text
//! read_at --pieces--> slot 0..4 (connections, when the server allows several)
//!                        |  writer task: requests, in batches
//!                        |  reader task: replies in any order, matched by cookie
//! ```
//!
//! A connection that breaks or stops answering fails all its requests at once; each of them is
//! tried again on a fresh connection, a few times with growing pauses. A server that comes back
//! with another size is not the same disk: that is an error, never a retry.
//!
//! # Invariants
//!
//! * Content is only returned when the reply's chunks cover the request exactly.
//! * What a server says about holes is used only where it also promises zeroes.
//! * Nothing a server sends makes the client allocate beyond the limits of the wire crate.

mod bitmap;
mod connection;
mod error;
mod handshake;
mod pending;
mod source;
mod uri;

pub use error::NbdError;
pub use source::NbdSource;
pub use uri::{NbdUri, Target};

#[cfg(doc)]
use sluice_block::BlockRead;

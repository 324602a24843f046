//! iSCSI target over any block device.
//!
//! A [`Server`] offers the disks of a [`Target`], each a [`BlockRead`] or a [`BlockWrite`], to any
//! iSCSI initiator: discovery, CHAP in one direction or both, digests, immediate and unsolicited
//! data, many sessions over several portals, task management, reservations.
//!
//! # Model
//!
//! ```text
//! accept -> login -> reader --data--> transfer -+
//!                      |                        v       queue
//!                      +------- spawn/inline -> command --------> writer -> socket
//!                      ^  window (MaxCmdSN)                          |
//!                      +---------------------------------------------+ (a place is free again)
//! ```
//!
//! One task per session reads messages, one writes them; commands run side by side and are answered
//! in the order they finish. Data of the initiator is read straight into the buffer that the device
//! is given, and data for it goes from the device's buffer to the socket.
//!
//! # Invariants
//!
//! * A session's fate is its own: garbage, stalls and disconnects end nothing else.
//! * A session begins when nothing of the one whose place it takes goes on any more.
//! * Who has proven nothing (it has not logged in, or for discovery only) makes room for others,
//!   and is not given back what it sends.
//! * A command that task management has ended is never answered, and nothing of it happens after
//!   task management was answered.
//! * Nothing on the wire makes the target allocate before it was checked against a limit. Commands
//!   are bounded by the window, bytes by [`Limits::bytes_in_flight`]: data is only asked for when
//!   there is memory for it.
//! * No lock is held across an await but a unit's order and then its blocks, which commands take
//!   after their memory.

mod carried;
mod chap;
mod config;
mod conversation;
mod error;
mod execute;
mod link;
mod login;
mod management;
mod medium;
mod nexus;
mod outgoing;
mod perform;
mod ranges;
mod reservation;
mod server;
mod session;
mod target;
mod task;
mod transfer;
mod unit;
mod window;

pub use carried::Carried;
pub use config::{Access, Chap, Credentials, Limits, Lun, Target};
pub use error::ServeError;
pub use nexus::{Answered, Nexus};
pub use server::{BoundServer, Server};
pub use sluice_door::Clients;
pub use sluice_scsi::Identity;

#[cfg(doc)]
use sluice_block::{BlockRead, BlockWrite};

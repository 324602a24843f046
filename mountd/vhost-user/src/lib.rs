//! vhost-user block device over any block device.
//!
//! A [`Server`] is the back end of a virtio block device: a virtual machine monitor connects to
//! its Unix socket and shares the guest's memory, and requests pass through rings in that memory
//! without a copy through a socket. Devices are read-only or writable, with several queues.
//!
//! # Model
//!
//! ```text
//! VMM --socket--> vhost-user messages            (a thread per connection)
//! guest --kick--> ring -> request -> permit -> task on tokio -> used ring -> interrupt
//!                        (a thread pops)       read or write, 1 MiB at a time
//! ```
//!
//! # Invariants
//!
//! * Descriptors are the guest's: every address is checked on use, chains are bounded, and no
//!   length in them makes the back end allocate more than 1 MiB for a request.
//! * A request holds one of a fixed number of permits; without one no further request is popped.
//! * A ring is said to be stopped when none of its requests is under way any more.
//! * The socket's peer can end this process by taking away memory it shared: it is as trusted
//!   as whoever may open the socket.

mod backend;
mod config;
mod error;
pub mod guest;
mod perform;
mod request;
mod segments;
mod server;
mod socket;

pub use error::ServeError;
pub use perform::Disk;
pub use server::{BoundServer, Server};

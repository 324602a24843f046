//! Keeps mounts and exports: who asked for them, until when, and that they come back.
//!
//! ```text
//!   client ── control socket ──► Daemon ── start, stop ──► Runner   (given by the executable)
//!                                  │ │                       └─► Running: one mount, served
//!                       Table  ◄───┘ └───►  Store
//!     what is to be done, and when          one file for each mount
//! ```
//!
//! The room does not know what a mount is: its description is JSON that the [`Runner`] reads. A
//! mount that was started for the first time tells its *identity* (its address, the point it
//! shows), which is stored and given to every later start, so that what comes back after a
//! restart is found where it was.
//!
//! # Invariants
//!
//! * A mount is stored once it runs and before anybody is told so; it is forgotten once it has
//!   stopped. So a daemon that is killed at any moment comes back with what was promised.
//! * [`table`] only decides: it owns no clock, no file and no process.
//! * Secrets are never stored. Their names are, to tell what is missing after a restart.
//! * Everything from outside is bounded: the length of a request, the time to send it, the number
//!   of connections, the number of mounts.
//! * Only the daemon's own user and root are answered.

mod client;
mod control;
mod daemon;
mod http;
mod keeper;
pub mod metrics;
pub mod protocol;
mod runner;
mod store;
pub mod table;

pub use client::{Client, ClientError};
pub use control::Socket;
pub use daemon::{Asker, Config, Daemon, DaemonError};
pub use http::MetricsServer;
pub use runner::{Ended, Failure, Job, Runner, Running, Started};
pub use store::{Store, StoreError};

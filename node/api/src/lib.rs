//! The contract between server and nodes, and a client of the server.
//!
//! A node speaks first, always: it joins with a one-time token, tells what it can do, asks for
//! tasks and reports on them, over HTTPS. So it works from behind address translation, and the
//! server needs no way to it.
//!
//! ```text
//!   node                                   server
//!    │ POST /api/node/v1/join               │  join token used up, certificate returned
//!    │ POST /api/node/v1/certificate        │  certificate for a new key, before the old one ends
//!    │ POST /api/node/v1/hello              │  capabilities
//!    │ POST /api/node/v1/standing           │  the same, as often as it may have changed; answers
//!    │                                      │  whether to start again
//!    │ POST /api/node/v1/lease   ──────────►│  waits up to LEASE_WAIT for a task
//!    │ POST /api/node/v1/tasks/ID/report ──►│  progress, log, end; answers lease and cancel
//!    │ POST /api/node/v1/mounts             │  all mounts it has; answers what to do about them
//!    │ POST /api/node/v1/looks  ──────────►│  waits for a question about the files of a mount
//!    │ POST /api/node/v1/looks/ID           │  answers it
//! ```
//!
//! But for joining, a node shows a certificate that the server has made for its key. Nodes of
//! contract 1 show a token instead, until they have a certificate.
//!
//! Types only grow: a field that is added has a default, and one that is not known is ignored.

mod client;
mod contract;
mod identity;
mod inventory;
mod looks;
pub mod metrics;
mod mounts;
mod network;
mod pin;
mod plans;
mod retention;
mod snapshots;
mod standing;

pub use client::{Answer, Client, ClientError, Download};
pub use contract::{
    Ask, Finished, Hello, Join, JoinToken, Joined, Lease, LogEntry, OLDEST, Outcome, OutputOrder,
    Report, Reported, TaskSpec, VERSION, Work, mismatch,
};
pub use identity::{CertificateRequest, Certified, Identity, KeyRequest};
pub use inventory::{FoundDisk, InventoryOrder, InventoryReport, InventoryTrouble};
pub use looks::{
    FileEntry, FileKind, LARGEST_PIECE, Look, LookAnswer, LookOrder, MOST_ENTRIES, Unseen, escaped,
    unescaped,
};
pub use mounts::{
    FIRST_PROTOCOLS, Held, HeldState, MountOrder, MountOrders, MountReport, is_folder, overlay_of,
};
pub use network::Network;
pub use pin::{Fingerprint, fingerprint_of};
pub use plans::{CheckScript, CheckSsh, HookOrder, HookOrders, ScriptOrder, TestOrder};
pub use retention::{EVENTS, UntilOrder};
pub use snapshots::{ImportOrder, SnapshotOrder, SnapshotUse};
pub use standing::{Ability, Installed, NEEDED, Orders, STANDS};

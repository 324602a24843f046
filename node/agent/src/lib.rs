//! Runs the tasks of a server on this machine.
//!
//! ```text
//!   Agent ── lease ──► server          one loop for each slot
//!     │
//!     └─ Run ── starts ──► sluice --json ...   one process for each task
//!          │   ◄─ lines: progress, document ─┘
//!          └─ report every few seconds ──► server: is it still mine? shall it end?
//! ```
//!
//! # Invariants
//!
//! * A task is a process of the same executable: it can hang or crash alone, and be killed alone.
//! * *The pipe is the leash*: a process ends when its standard input does, so nothing runs on
//!   when the agent was killed.
//! * A node that has not been heard for the length of a lease has ended the task itself by then:
//!   the server gives it to another one afterwards, and two would do the same work.
//! * Secrets are variables of the process, in memory only.
//! * What goes where a project has said gets nothing that this machine is known by.
//! * A node that is to start again takes nothing new, and waits for what it runs ([`Ended`]).
//! * Mounts outlive their tasks: who keeps them is given by the executable ([`Mounts`]). What it
//!   has is told to the server every few seconds, and what the server wants otherwise is done.

mod abilities;
mod agent;
mod command;
mod credentials;
mod documents;
mod hooks;
mod identity;
mod looks;
mod metrics;
mod mounts;
mod process;
mod snapshots;
mod sources;
mod tenure;

pub use abilities::Abilities;
pub use agent::{Agent, Config, Ended};
pub use command::boot_words;
pub use credentials::Credentials;
pub use identity::variables as own_variables;
pub use metrics::{Metrics, tell};
pub use mounts::{Mounts, Refused};

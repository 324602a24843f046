//! REST API, access rules, scheduler loop and node dispatch.
//!
//! ```text
//!   people, scripts ── /api/v1 ──► auth ──► access ──► handler ──► catalog, audit
//!   nodes ── /api/node/v1 ──► lease, report ──► catalog
//!   nodes that wait ──► queue: who goes first ──► leases
//!   clock ──► ticker: what is due becomes tasks, leases that ran out are taken back
//! ```
//!
//! # Invariants
//!
//! * Whoever may not see a project is told that it is not there, by 404; whoever sees something
//!   and may not do something with it gets 403.
//! * A change, its audit entry and the tasks that follow from it are one transaction.
//! * Nothing lives in memory only, but the count of failed logins, requests under way, what
//!   policies say, and for how long nodes were silent: a server that is killed comes back where it
//!   was.
//! * There is no password that was not set by somebody: the first start prints a setup token, and
//!   nothing else works until it was used.

mod access;
mod account;
mod allowance;
mod api;
mod approvals;
mod auth;
mod authority;
mod certificate;
mod certificates;
mod complaint;
mod copies;
mod destinations;
mod dispatch;
mod docs;
mod documents;
mod events;
pub mod figures;
mod front_end;
mod hashing;
mod history;
mod hooks;
mod idempotency;
mod identity;
mod imports;
mod inventories;
mod leases;
mod ledger;
mod limiter;
mod looks;
mod maintenance;
mod metrics;
mod mounts;
mod node_configs;
mod notify;
mod passkeys;
mod patience;
mod placement;
mod places;
mod plans;
mod problem;
mod queue;
mod quota;
mod reporting;
mod reports;
mod restore_tests;
mod rules;
mod self_backup;
mod server;
mod snapshots;
mod state;
mod ticker;
mod tls;
mod totp;
mod upgrades;
mod validators;
mod verifications;
mod watchers;

pub use api::openapi;
pub use restore_tests::add_checks;
pub use self_backup::{CATALOG, INSTANCE, KEYS, restore_state};
pub use server::{Config, Server, ServerError};
pub use state::Local;

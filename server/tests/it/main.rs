//! The server over HTTPS, as clients see it.

mod access;
mod approvals;
mod hostile;
mod certificates;
mod lease;
mod ledger;
mod limits;
mod matrix;
mod metrics;
mod mounts;
mod notify;
mod plans;
mod node_configs;
mod requests;
mod retention;
mod support;
mod usage;

//! The server over HTTPS, as clients see it.

mod access;
mod approvals;
mod certificates;
mod copies;
mod hostile;
mod lease;
mod ledger;
mod limits;
mod matrix;
mod metrics;
mod mounts;
mod node_configs;
mod notify;
mod oidc;
mod plans;
mod requests;
mod resources;
mod retention;
mod schedules;
mod support;
mod usage;

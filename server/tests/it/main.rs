//! The server over HTTPS, as clients see it.

mod access;
mod approvals;
mod assign;
mod certificates;
mod copies;
mod hostile;
mod ldap;
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
mod reports;
mod requests;
mod resources;
mod retention;
mod schedules;
mod support;
mod usage;
mod visibility;

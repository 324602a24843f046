//! The server over HTTPS, as clients see it.

mod lease;
mod ledger;
mod limits;
mod matrix;
mod metrics;
mod mounts;
mod notify;
mod requests;
mod retention;
mod support;
mod usage;

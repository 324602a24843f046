//! The server over HTTPS, as clients see it.

mod access;
mod approvals;
mod hostile;
mod lease;
mod limits;
mod matrix;
mod mounts;
mod plans;
mod requests;
mod retention;
mod support;
mod usage;

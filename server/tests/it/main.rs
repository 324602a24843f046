//! The server over HTTPS, as clients see it.

mod lease;
mod matrix;
mod mounts;
mod requests;
mod support;

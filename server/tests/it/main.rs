//! The server over HTTPS, as clients see it.

mod certificates;
mod lease;
mod limits;
mod matrix;
mod mounts;
mod node_configs;
mod requests;
mod retention;
mod support;
mod usage;

//! Everything that needs no server: memory, file system, wrappers, probe, opening by URL.

mod arbiter;
mod conformance;
mod filesystem;
mod open;
mod probe;
mod wrap;

//! The catalog on both databases: every test runs on SQLite and on a real PostgreSQL.

mod access;
mod mounts;
mod points;
mod records;
mod snapshot;
mod support;
mod tasks;
mod usage;

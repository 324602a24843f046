//! The catalog on both databases: every test runs on SQLite and on a real PostgreSQL.

mod access;
mod answers;
mod approvals;
mod filters;
mod grants;
mod history;
mod leases;
mod mounts;
mod passkeys;
mod plans;
mod points;
mod providers;
mod races;
mod records;
mod snapshot;
mod support;
mod tasks;
mod usage;

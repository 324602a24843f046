//! The catalog on both databases: every test runs on SQLite and on a real PostgreSQL.

mod access;
mod answers;
mod approvals;
mod events;
mod filters;
mod grants;
mod history;
mod inventories;
mod leases;
mod mounts;
mod passkeys;
mod plans;
mod points;
mod proofs;
mod providers;
mod races;
mod records;
mod snapshot;
mod snapshots;
mod support;
mod tasks;
mod unreadable;
mod usage;

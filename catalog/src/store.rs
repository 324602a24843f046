//! What the database is asked beside records: access, nodes, policies, tasks, restore points.

mod access;
mod approvals;
pub(crate) mod certificates;
mod copies;
mod grants;
pub(crate) mod groups;
mod history;
mod mounts;
mod nodes;
mod notices;
mod overview;
pub(crate) mod passkeys;
mod pending;
mod plans;
mod points;
mod policies;
pub(crate) mod providers;
mod queue;
mod restore_tests;
mod secrets;
mod settings;
mod sources;
mod summed;
mod task_log;
mod tasks;
pub(crate) mod totp;
mod usage;

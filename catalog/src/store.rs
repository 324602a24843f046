//! What the database is asked beside records: access, nodes, policies, tasks, restore points.

mod access;
pub(crate) mod certificates;
mod mounts;
mod nodes;
mod points;
mod policies;
mod queue;
mod secrets;
mod settings;
mod sources;
mod task_log;
mod tasks;
mod usage;

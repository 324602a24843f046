//! What the database is asked beside records: access, nodes, policies, tasks, restore points.

mod access;
mod mounts;
mod nodes;
mod notices;
mod overview;
mod points;
mod policies;
mod queue;
mod secrets;
mod settings;
mod summed;
mod task_log;
mod tasks;
mod usage;

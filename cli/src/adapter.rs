//! Connects rooms that do not know each other: sources with the engine, and the repository with
//! the mount.

mod catalogue;
mod changed;
mod disk;
mod file_target;
pub(crate) mod overlay;
mod program;
mod qcow2_target;
pub(crate) mod source;
mod stdin;
mod written;

pub(crate) use catalogue::RepositoryCatalogue;
pub(crate) use file_target::{FileTarget, Opened, identity, is_device};
pub(crate) use qcow2_target::Qcow2Target;
pub(crate) use written::Written;

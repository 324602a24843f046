//! The engine against a repository in memory: one binary, one module a subject.

mod copy;
mod crash;
mod golden;
mod golden_disk;
mod model;
mod replicate;
mod replicate_kill;
mod restore;
mod support;

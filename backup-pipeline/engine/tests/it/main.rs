//! The engine against a repository in memory: one binary, one module a subject.

mod crash;
mod golden;
mod golden_disk;
mod keys;
mod model;
mod restore;
mod support;

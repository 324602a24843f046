//! The engine against a repository in memory: one binary, one module a subject.

mod crash;
mod destroy;
mod golden;
mod golden_disk;
mod holds;
mod keys;
mod model;
mod restore;
mod support;

//! The engine against a repository in memory: one binary, one module a subject.

mod bad_slots;
mod copy;
mod crash;
mod golden;
mod golden_disk;
mod heal;
mod keys;
mod lock;
mod model;
mod replicate;
mod restore;
mod scrub;
mod support;

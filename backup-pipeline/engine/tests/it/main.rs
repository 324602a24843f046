//! The engine against a repository in memory: one binary, one module a subject.

mod allowance;
mod bad_slots;
mod collect;
mod copy;
mod crash;
mod defragment;
mod destroy;
mod doctor;
mod extents;
mod golden;
mod golden_disk;
mod heal;
mod heal_compacted;
mod holds;
mod joint;
mod keys;
mod lock;
mod met;
mod model;
mod parent;
mod repair;
mod replicate;
mod replicate_kill;
mod restore;
mod scrub;
mod support;

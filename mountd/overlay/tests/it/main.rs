//! Overlays over disks in memory, on real files.

mod conformance;
mod crash;
mod freeze;
mod hydrate;
mod kill;
mod model;
mod moved;
mod support;

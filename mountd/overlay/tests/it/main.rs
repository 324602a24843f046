//! Overlays over disks in memory, on real files.

mod conformance;
mod crash;
mod freeze;
mod hydrate;
mod model;
mod moved;
mod support;

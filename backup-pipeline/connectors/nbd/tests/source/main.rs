//! The source against our own server, real servers (qemu-nbd, nbdkit) and broken ones.
//!
//! Debian packages needed: qemu-utils, nbdkit.

mod bitmaps;
mod reading;
mod support;
mod trouble;

//! The server against real clients (qemu, libnbd, nbdkit) and against hostile ones.
//!
//! Debian packages needed: qemu-utils, libnbd-bin, nbdkit, python3-libnbd, openssl.

mod clients;
mod contexts;
mod hostile;
mod lifecycle;
mod requests;
mod support;
mod tls;
mod writes;

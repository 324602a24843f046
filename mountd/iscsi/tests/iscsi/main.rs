//! The target against libiscsi's suite, a raw initiator, and hostile ones.
//!
//! Debian package needed: libiscsi-bin.

mod chap;
mod conformance;
mod hostile;
mod requests;
mod support;

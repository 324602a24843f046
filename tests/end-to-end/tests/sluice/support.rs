//! The harness.

pub mod binary;
pub mod disk;
pub mod loop_fs;
pub mod namespace;
#[path = "../../../lab/port.rs"]
pub mod port;
pub mod proxy;
pub mod repo;
pub mod run;
pub mod s3;
pub mod serve;
pub mod swift;
pub mod vhost;

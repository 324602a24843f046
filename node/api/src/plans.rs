//! What is said about restore tests and recovery plans.

use serde::{Deserialize, Serialize};

/// A restore point to boot.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TestOrder {
    /// The test's id at the server.
    pub id: String,
    /// The restore point, as `sluice boot-test` takes it, with `:IMAGE` for one image only.
    pub point: String,
    /// MiB of memory.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// `bios` or `uefi`.
    pub firmware: String,
    /// `virtio`, `scsi` or `sata`.
    pub disk: String,
    /// `virtio` or `e1000`.
    pub nic: String,
    /// Expressions that the console must show.
    pub console: Vec<String>,
    /// Ports that must answer, `PORT` or `PORT=EXPRESSION`.
    pub tcp: Vec<String>,
    /// Whether the guest agent must answer.
    pub guest_agent: bool,
    /// How long the guest has to answer, in seconds.
    pub timeout_seconds: u64,
}

/// A command to run.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ScriptOrder {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Exit codes that mean success.
    pub accept: Vec<i32>,
    /// It is ended after so long, in seconds.
    pub timeout_seconds: u64,
    /// Variables for it: `SLUICE_PLAN`, `SLUICE_PLAN_MODE`, ...
    pub variables: std::collections::BTreeMap<String, String>,
}

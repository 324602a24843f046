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

/// Commands around a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HookOrders {
    /// Before it.
    pub before: Vec<HookOrder>,
    /// After it, whatever became of it.
    pub after: Vec<HookOrder>,
    /// Variables for all of them: `SLUICE_INSTANCE`, `SLUICE_TASK`, ... No secrets.
    pub variables: std::collections::BTreeMap<String, String>,
    /// Programs, or folders of them, that may be run on the node.
    pub allowed: Vec<String>,
    /// File of the key with which guests are reached.
    pub ssh_key: String,
    /// File with the keys of guests.
    pub known_hosts: String,
}

/// A command around a backup.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HookOrder {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// On this guest, `USER@HOST[:PORT]`; on the node when it is empty.
    pub guest: String,
    /// It is ended after so long, in seconds.
    pub limit_seconds: u64,
    /// Exit codes that mean success; 0 when there are none.
    pub accept: Vec<i32>,
    /// Exit codes that mean success with a warning.
    pub warn: Vec<i32>,
    /// Whether the backup is made though this fails.
    pub go_on: bool,
}

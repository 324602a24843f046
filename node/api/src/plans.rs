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
    /// Commands of the node that must succeed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scripts: Vec<CheckScript>,
    /// Logins by SSH that must succeed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ssh: Vec<CheckSsh>,
    /// File of the key for them, on the node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub ssh_key: String,
    /// How long the guest has to answer, in seconds.
    pub timeout_seconds: u64,
    /// Guests that are booted together, in one network; then nothing but `subnet` is said beside.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guests: Vec<TestOrder>,
    /// Addresses of their network, such as `10.0.2.0/24`, which it is when nothing is said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subnet: String,
    /// Of such a guest: it is started when all of lower stages have answered.
    #[serde(skip_serializing_if = "is_first")]
    pub stage: u32,
    /// Of such a guest: its address in the network; the next that is free when nothing is said.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address: String,
}

fn is_first(stage: &u32) -> bool {
    *stage == 0
}

/// A command that tells whether a guest answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckScript {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Ports of the guest that it reaches.
    pub ports: Vec<u16>,
    /// Exit codes that say that the guest answers; 0 when there are none.
    pub accept: Vec<i32>,
    /// Exit codes that say that it never will.
    pub reject: Vec<i32>,
    /// It is ended after so long, in seconds, and run again; after a minute when it is 0.
    pub limit_seconds: u64,
}

/// A login by SSH that tells whether a guest answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckSsh {
    /// Who.
    pub user: String,
    /// The port; 22 when it is 0.
    pub port: u16,
    /// What is run there, without a shell of its own; nothing that matters when it is empty.
    pub command: Vec<String>,
}

impl TestOrder {
    /// How many checks there are. Without any, a login prompt is waited for.
    pub fn checks(&self) -> usize {
        let agent = usize::from(self.guest_agent);
        let all = self.console.len() + self.tcp.len() + self.scripts.len() + self.ssh.len();
        (all + agent).max(1)
    }
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

/// Commands around a backup or a snapshot.
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

/// A command around one.
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
    /// Whether the backup or snapshot is made though this fails.
    pub go_on: bool,
}

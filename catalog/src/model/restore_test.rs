use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::{CatalogError, Result};
use crate::found::Span;
use crate::id::{
    DestinationId, InstanceId, NodeId, PointId, PolicyId, ProjectId, RestoreTestId, TaskId,
};
use crate::model::policy::{Schedule, check_schedules};

/// How long a guest may have to answer at most, in seconds.
const LONGEST: u64 = 6 * 3600;
/// Things that one test waits for.
const MOST_CHECKS: usize = 16;
/// Bytes of an expression.
const LONGEST_PATTERN: usize = 512;

/// How a restore point is booted, and what tells that it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BootSpec {
    /// The only image that the guest gets; all without, and the first is booted.
    pub image: Option<String>,
    /// MiB of memory.
    pub memory_mib: u32,
    /// Processors.
    pub cpus: u32,
    /// What it boots with.
    pub firmware: BootFirmware,
    /// How it sees its disks.
    pub disk: BootDisk,
    /// How it sees its network card.
    pub nic: BootNic,
    /// What is waited for, all of it; a login prompt on the serial console when nothing is said.
    pub checks: Vec<BootCheck>,
    /// How long it has to answer, in seconds: 1 to 21600.
    pub timeout_seconds: u64,
}

impl Default for BootSpec {
    fn default() -> Self {
        Self {
            image: None,
            memory_mib: 1024,
            cpus: 1,
            firmware: BootFirmware::Bios,
            disk: BootDisk::Virtio,
            nic: BootNic::Virtio,
            checks: Vec::new(),
            timeout_seconds: 300,
        }
    }
}

/// What a guest boots with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BootFirmware {
    /// SeaBIOS.
    #[default]
    Bios,
    /// OVMF.
    Uefi,
}

/// How a guest sees its disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BootDisk {
    /// virtio-blk.
    #[default]
    Virtio,
    /// virtio-scsi.
    Scsi,
    /// AHCI, which every system knows.
    Sata,
}

/// How a guest sees its network card.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum BootNic {
    /// virtio-net.
    #[default]
    Virtio,
    /// Intel 82540EM, which most systems know.
    E1000,
}

/// Something that tells that a guest answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum BootCheck {
    /// Its serial console shows something.
    Console {
        /// A regular expression.
        pattern: String,
    },
    /// A port answers.
    Tcp {
        /// The port.
        port: u16,
        /// A regular expression for what it sends first.
        #[serde(default)]
        banner: Option<String>,
    },
    /// The guest agent answers.
    GuestAgent {},
    /// A command on the node says so. It finds the guest's ports as `SLUICE_GUEST_HOST` and
    /// `SLUICE_GUEST_PORT_n`, and is run again until it does.
    Script {
        /// The program and its arguments, without a shell. It must be one that the node's
        /// configuration allows.
        command: Vec<String>,
        /// Ports of the guest that it can reach.
        #[serde(default)]
        ports: BTreeSet<u16>,
        /// Exit codes that say that the guest answers; 0 when nothing is said.
        #[serde(default)]
        accept: BTreeSet<i32>,
        /// Exit codes that say that it never will: the test has failed then.
        #[serde(default)]
        reject: BTreeSet<i32>,
        /// It is ended after so long, in seconds, and run again.
        #[serde(default = "a_minute")]
        limit_seconds: u64,
    },
    /// Somebody can log in by SSH, with the key that the node's configuration names.
    Ssh {
        /// Who.
        user: String,
        /// The port.
        #[serde(default = "ssh_port")]
        port: u16,
        /// What is run there and must succeed; only the login counts when nothing is said.
        #[serde(default)]
        command: Vec<String>,
    },
}

fn a_minute() -> u64 {
    60
}

fn ssh_port() -> u16 {
    22
}

impl BootCheck {
    /// The regular expression in it.
    pub fn pattern(&self) -> Option<&str> {
        match self {
            Self::Console { pattern } => Some(pattern),
            Self::Tcp { banner, .. } => banner.as_deref(),
            Self::GuestAgent {} | Self::Script { .. } | Self::Ssh { .. } => None,
        }
    }

    /// Whether it runs commands, which the node must allow.
    pub fn runs_commands(&self) -> bool {
        matches!(self, Self::Script { .. } | Self::Ssh { .. })
    }

    /// The words of its command.
    pub fn command(&self) -> &[String] {
        match self {
            Self::Script { command, .. } | Self::Ssh { command, .. } => command,
            Self::Console { .. } | Self::Tcp { .. } | Self::GuestAgent {} => &[],
        }
    }

    /// The same.
    pub fn command_mut(&mut self) -> Option<&mut Vec<String>> {
        match self {
            Self::Script { command, .. } | Self::Ssh { command, .. } => Some(command),
            Self::Console { .. } | Self::Tcp { .. } | Self::GuestAgent {} => None,
        }
    }

    fn sense(&self) -> Result<()> {
        let bad = CatalogError::invalid;
        let long = self.pattern().is_some_and(|text| text.len() > LONGEST_PATTERN);
        let zero = match self {
            Self::Tcp { port, .. } | Self::Ssh { port, .. } => *port == 0,
            Self::Script { ports, .. } => ports.contains(&0) || ports.len() > MOST_CHECKS,
            Self::Console { .. } | Self::GuestAgent {} => false,
        };
        if long || zero {
            return Err(bad("a port is 1 to 65535, and an expression has 512 bytes at most"));
        }
        let words = self.command();
        let odd = |word: &String| word.contains('\0') || word.len() > 4096;
        if words.len() > 256 || words.iter().any(odd) {
            return Err(bad("a command has 256 words of 4096 bytes at most, and no zero byte"));
        }
        match self {
            Self::Script { command, .. }
                if !command.first().is_some_and(|p| p.starts_with('/')) =>
            {
                Err(bad("a script is a program with an absolute path"))
            }
            Self::Script { accept, reject, .. } if accept.intersection(reject).next().is_some() => {
                Err(bad("an exit code is accepted, or rejected"))
            }
            Self::Script { limit_seconds, .. } if !(1..=LONGEST).contains(limit_seconds) => {
                Err(bad("a script has 1 second to 6 hours"))
            }
            Self::Ssh { user, .. } if !is_user(user) => Err(bad("this is no name of a user")),
            _ => Ok(()),
        }
    }
}

/// Whether this is a name of a user that no option begins with.
fn is_user(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    (1..=64).contains(&text.len()) && !text.starts_with('-') && text.chars().all(fits)
}

impl BootSpec {
    /// Whether it makes sense by itself. Regular expressions are looked at by the server.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Invalid`] with what is wrong.
    pub fn sense(&self) -> Result<()> {
        let bad = CatalogError::invalid;
        if !(16..=1 << 20).contains(&self.memory_mib) || !(1..=64).contains(&self.cpus) {
            return Err(bad("a guest has 16 MiB to 1 TiB of memory and 1 to 64 processors"));
        }
        if !(1..=LONGEST).contains(&self.timeout_seconds) {
            return Err(bad("a guest has 1 second to 6 hours to answer"));
        }
        if self.checks.len() > MOST_CHECKS {
            return Err(bad("a test has 16 checks at most"));
        }
        self.checks.iter().try_for_each(BootCheck::sense)?;
        let odd = |c: char| c.is_control() || c == ':';
        if self.image.as_ref().is_some_and(|name| name.is_empty() || name.contains(odd)) {
            return Err(bad("this is no name of an image"));
        }
        Ok(())
    }
}

/// A part of a policy: tests of the newest restore points at one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TestRule {
    /// Its name within the policy.
    pub name: String,
    /// Where the restore points lie.
    pub destination: DestinationId,
    /// The node that boots them; without one, any that can.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// How.
    #[serde(default)]
    pub boot: BootSpec,
    /// When.
    pub schedules: Vec<Schedule>,
}

impl TestRule {
    pub(crate) fn sense(&self) -> Result<()> {
        crate::record::check_name("rule", &self.name)?;
        check_schedules(&self.schedules)?;
        self.boot.sense()
    }
}

/// How far a restore test is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TestState {
    /// Its task has not ended.
    Pending,
    /// The guest answered.
    Ok,
    /// The guest did not answer.
    Failed,
    /// It could not be done; the message says why.
    Undone,
    /// Somebody wanted it to end.
    Cancelled,
}

impl TestState {
    /// Every state.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Ok, Self::Failed, Self::Undone, Self::Cancelled];

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Undone => "undone",
            Self::Cancelled => "cancelled",
        }
    }

    /// The state of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// A restore test to add.
#[derive(Debug, Clone, PartialEq)]
pub struct NewTest {
    /// The project of the restore point.
    pub project: Option<ProjectId>,
    /// What was backed up.
    pub instance: InstanceId,
    /// The restore point.
    pub point: PointId,
    /// Where that lies.
    pub destination: DestinationId,
    /// The policy that wanted it.
    pub policy: Option<PolicyId>,
    /// How it is booted.
    pub spec: BootSpec,
}

/// A restore test.
#[derive(Debug, Clone, PartialEq)]
pub struct RestoreTest {
    /// Its id.
    pub id: RestoreTestId,
    /// What was asked for.
    pub new: NewTest,
    /// The task that does it.
    pub task: Option<TaskId>,
    /// How far it is.
    pub state: TestState,
    /// What the node told: timings, checks, what ran it. Null before.
    pub report: Value,
    /// Why it is in this state, in one line.
    pub message: String,
    /// Whether there is a screenshot.
    pub has_screenshot: bool,
    /// Grows with every change.
    pub revision: u64,
    /// When it was asked for, in milliseconds since 1970.
    pub created_ms: u64,
    /// When it was changed last, in milliseconds since 1970.
    pub updated_ms: u64,
}

/// What came of a test.
#[derive(Debug, Clone, PartialEq)]
pub struct TestOutcome {
    /// How it ended.
    pub state: TestState,
    /// What the node told.
    pub report: Value,
    /// Why it ended so, in one line.
    pub message: String,
    /// What the screen showed: PNG in base64, or nothing.
    pub screenshot: String,
    /// The end of what the serial console showed.
    pub console: String,
}

/// Which tests to list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TestFilter {
    /// Those in this state.
    pub state: Option<TestState>,
    /// Those of this instance.
    pub instance: Option<InstanceId>,
    /// Those of this project.
    pub project: Option<ProjectId>,
    /// Those that this policy wanted.
    pub policy: Option<PolicyId>,
    /// Those of restore points at this destination.
    pub destination: Option<DestinationId>,
    /// Those that were asked for within this time.
    pub added: Span,
    /// The oldest first.
    pub oldest_first: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_is_usual() {
        let spec: BootSpec = serde_json::from_str("{}").unwrap();
        assert_eq!((spec.memory_mib, spec.timeout_seconds), (1024, 300));
        assert!(spec.sense().is_ok());
        let bad = [
            r#"{"memory_mib": 1}"#,
            r#"{"cpus": 0}"#,
            r#"{"timeout_seconds": 0}"#,
            r#"{"image": "a:b"}"#,
            r#"{"checks": [{"kind": "tcp", "port": 0}]}"#,
            r#"{"checks": [{"kind": "script", "command": []}]}"#,
            r#"{"checks": [{"kind": "script", "command": ["true"]}]}"#,
            r#"{"checks": [{"kind": "script", "command": ["/t"], "ports": [0]}]}"#,
            r#"{"checks": [{"kind": "script", "command": ["/t"], "accept": [1], "reject": [1]}]}"#,
            r#"{"checks": [{"kind": "ssh", "user": "-oProxyCommand=x"}]}"#,
            r#"{"checks": [{"kind": "ssh", "user": "root", "port": 0}]}"#,
        ];
        for bad in bad {
            assert!(serde_json::from_str::<BootSpec>(bad).unwrap().sense().is_err(), "{bad}");
        }
    }
}

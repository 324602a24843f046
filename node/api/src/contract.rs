//! What is said.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::identity::Certified;
use crate::inventory::InventoryOrder;
use crate::mounts::MountOrder;
use crate::pin::Fingerprint;
use crate::plans::{HookOrders, ScriptOrder, TestOrder};
use crate::retention::UntilOrder;
use crate::snapshots::{ImportOrder, SnapshotOrder, SnapshotUse};
use crate::standing::{Ability, Installed};

/// The version of the contract. What nodes of contracts 1 and 2 say is still understood: the first
/// show a token, and before 3 they do not tell how they stand.
pub const VERSION: u32 = 3;
/// The oldest version that a server speaks.
pub const OLDEST: u32 = 1;

/// Why a server does not speak with a node of that contract, and who is to be upgraded; nothing
/// when it does. Nodes that do not say speak the first.
pub fn mismatch(contract: u32) -> Option<String> {
    let contract = contract.max(1);
    let old = match contract {
        OLDEST..=VERSION => return None,
        newer if newer > VERSION => "server",
        _ => "node",
    };
    Some(format!(
        "the node speaks version {contract} of the contract, the server {OLDEST} to {VERSION}: \
         upgrade the {old}"
    ))
}

/// A node asks to belong to the server.
#[derive(Clone, Serialize, Deserialize)]
pub struct Join {
    /// The one-time token.
    pub token: String,
    /// What the node is to be called.
    pub name: String,
    /// What it can do.
    pub hello: Hello,
    /// The request for a certificate as PEM; nodes of contract 1 send none and get a token.
    #[serde(default)]
    pub request: Option<String>,
}

/// It does now.
#[derive(Clone, Serialize, Deserialize)]
pub struct Joined {
    /// Its id.
    pub node: String,
    /// What it shows from now on, when it has not asked for a certificate.
    #[serde(default)]
    pub token: String,
    /// What it shows from now on.
    #[serde(default)]
    pub certified: Option<Certified>,
    /// Whether it is what it was before.
    #[serde(default)]
    pub again: bool,
}

/// What a node can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Hello {
    /// Version of its executable.
    pub version: String,
    /// Name of the machine.
    pub host: String,
    /// How many tasks it runs at a time.
    pub slots: u32,
    /// Kinds of tasks it can run.
    pub kinds: Vec<String>,
    /// What is missing for more, with the package that has it.
    pub missing: Vec<String>,
    /// Protocols of the mounts that it makes; those of the first nodes when there is no list.
    pub mounts: Vec<String>,
    /// The version of the contract that it speaks; see [`mismatch`].
    pub contract: u32,
    /// What works there and what does not; nodes before contract 3 do not say.
    pub abilities: Vec<Ability>,
    /// What was installed in the place of the executable that runs.
    pub installed: Option<Installed>,
}

/// A node asks for a task.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ask {
    /// Only one of these kinds; any that it can run when there is no list.
    pub kinds: Option<Vec<String>>,
}

/// A task that is the node's until its lease ends.
#[derive(Clone, Serialize, Deserialize)]
pub struct Lease {
    /// The task.
    pub task: String,
    /// The fence: every report names it.
    pub attempt: u32,
    /// The lease ends when the server has heard nothing for so long, in milliseconds.
    pub lease_ms: u64,
    /// How long the server kept the node waiting before it gave the task away, in milliseconds:
    /// the lease has begun no earlier than so long after the node asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waited_ms: Option<u64>,
    /// What to do.
    pub work: Work,
}

/// What to do, with what is needed for it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Work {
    /// What to do.
    pub spec: TaskSpec,
    /// Where the repository is.
    pub url: String,
    /// Variables for `sluice`: settings and secrets. They are not stored on the node, except the
    /// settings of a mount, which comes back by itself.
    pub environment: BTreeMap<String, String>,
    /// Which of the variables are secrets.
    #[serde(default)]
    pub secret_names: Vec<String>,
    /// Folders in which what is backed up must lie, with all links followed: in one of each list.
    #[serde(default)]
    pub folders: Vec<Vec<String>>,
    /// Programs whose output may be backed up: these, and what lies in these folders, with all
    /// links followed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<String>,
    /// Commands around a backup or a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<HookOrders>,
    /// Whether its process gets nothing that this machine is known by: it goes where somebody has
    /// said who may not say that of the machine.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub no_identity: bool,
    /// The destinations that it uses, by their ids, in one word: what such a process keeps to be
    /// quick is for tasks of the same. Servers of earlier releases do not say.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub destination: String,
}

impl Work {
    /// For a task that needs no repository; its spec is to be set.
    pub fn without_repository() -> Self {
        Self {
            spec: TaskSpec::Collect {},
            url: String::new(),
            environment: BTreeMap::new(),
            secret_names: Vec::new(),
            folders: Vec::new(),
            programs: Vec::new(),
            hooks: None,
            no_identity: false,
            destination: String::new(),
        }
    }
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work").field("spec", &self.spec).finish_non_exhaustive()
    }
}

/// A program whose output is an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputOrder {
    /// The image's name; the program's when there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The program and its arguments, without a shell.
    pub command: Vec<String>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum TaskSpec {
    /// See that the repository can be used; one that is not there is made.
    Init {},
    /// Make a restore point.
    Backup {
        /// What it is called in the repository.
        instance: String,
        /// Images as `sluice backup` takes them: `[NAME=]PATH`.
        #[serde(default)]
        images: Vec<String>,
        /// A folder whose image files are all taken.
        #[serde(default)]
        folder: Option<String>,
        /// Programs whose output is an image.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        outputs: Vec<OutputOrder>,
        /// The project, which restore points keep for `sluice stat`.
        #[serde(default)]
        project: Option<String>,
        /// The task, which restore points keep: it makes one, however often it is tried.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        task: Option<String>,
        /// Whether it was tried before.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        again: bool,
        /// How many bytes it may store, by a hard quota; more may be said while it runs.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        allowance: Option<u64>,
        /// Whether nothing is taken for granted: every byte of the source is read and compared.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        full: bool,
        /// Whether commands that policies have around it are left out; the server then orders none.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        no_hooks: bool,
        /// From which snapshot it is made; from the source as it stands without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        snapshot: Option<SnapshotUse>,
        /// In blocks of how many bytes images are stored that were not backed up before, and when
        /// nothing is taken for granted all of them; as before without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        block_size: Option<u32>,
    },
    /// Keep images as they are now, at their source.
    Snapshot {
        /// Where, and what it is called.
        snapshot: SnapshotOrder,
        /// Images as for a backup: `[NAME=]PATH`.
        #[serde(default)]
        images: Vec<String>,
        /// A folder whose image files are all taken.
        #[serde(default)]
        folder: Option<String>,
        /// Whether commands that policies have around it are left out; the server then orders none.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        no_hooks: bool,
    },
    /// Remove a snapshot. One that is not there is gone.
    Unsnapshot {
        /// Which.
        snapshot: SnapshotOrder,
    },
    /// Write a restore point's images to a file, device or folder.
    Restore {
        /// The restore point, as `sluice restore` takes it.
        point: String,
        /// Where to.
        target: String,
        /// `raw` or `qcow2`; told by the target's name when it is not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        format: Option<String>,
        /// Whether a file that is there, or a device, is written over.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        overwrite: bool,
    },
    /// Write a restore point's images to a new folder, for a new instance.
    Import {
        /// The restore point, as `sluice restore` takes it.
        point: String,
        /// Where.
        import: ImportOrder,
        /// `raw` or `qcow2`; raw when it is not said.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        format: Option<String>,
    },
    /// Remove what an import has made, whole or not.
    Unimport {
        /// Which.
        import: ImportOrder,
    },
    /// Check a restore point, those of an instance, or all.
    Verify {
        /// The restore point; all when there is none.
        #[serde(default)]
        point: Option<String>,
        /// The instance, when all of its restore points are checked and no others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<String>,
        /// The share of the blocks that is read, in percent, when it is not all data.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sample: Option<u32>,
        /// Whether all data is read.
        #[serde(default)]
        data: bool,
    },
    /// Remove restore points that nothing keeps.
    Prune {
        /// The instance; all when there is none.
        #[serde(default)]
        instance: Option<String>,
        /// How many to keep of each period: `last`, `hourly`, `daily`, ... With `until`, something
        /// of the name [`EVENTS`](crate::EVENTS), at which nodes stop that do not know `until`.
        keep: BTreeMap<String, u32>,
        /// What is kept because of events.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<UntilOrder>,
    },
    /// Free what no restore point needs.
    Collect {},
    /// Count what is stored for each instance.
    Stat {},
    /// Bring a replica up to date.
    Replicate {
        /// Where the replica is.
        to: String,
    },
    /// Copy the restore points of an instance that are not there yet; the repository is the one
    /// that they come to.
    Copy {
        /// What it is called in both repositories.
        instance: String,
        /// Where they come from; its variables begin with `SLUICE_DEST_`.
        #[serde(default)]
        from: String,
        /// What is kept of the copies, as for a prune; everything when it says nothing.
        #[serde(default)]
        keep: BTreeMap<String, u32>,
    },
    /// Show a restore point as disks, until it is unmounted or its lease is over.
    Mount {
        /// Which, and how.
        mount: MountOrder,
    },
    /// End a mount. One that is not there has ended.
    Unmount {
        /// Its id.
        mount: String,
    },
    /// Boot a restore point and see whether it answers.
    RestoreTest {
        /// Which, and how.
        test: TestOrder,
    },
    /// Run a command that a recovery plan has.
    Script {
        /// The command.
        script: ScriptOrder,
    },
    /// Make a restore point of what clients have written to a mount, which stays.
    Commit {
        /// Its id.
        mount: String,
    },
    /// Throw away what clients have written to a mount that has ended.
    Discard {
        /// Its id.
        mount: String,
    },
    /// List the disks in a place.
    Inventory {
        /// Which, and which of them.
        look: InventoryOrder,
    },
}

impl TaskSpec {
    /// Every kind's word.
    pub const KINDS: [&str; 20] = [
        "init",
        "backup",
        "snapshot",
        "unsnapshot",
        "restore",
        "import",
        "unimport",
        "verify",
        "prune",
        "collect",
        "stat",
        "replicate",
        "copy",
        "mount",
        "unmount",
        "restore-test",
        "script",
        "commit",
        "discard",
        "inventory",
    ];
    /// Those that are about mounts: short, and not to wait behind backups.
    pub const MOUNT_KINDS: [&str; 2] = ["mount", "unmount"];

    /// Its word.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Init {} => "init",
            Self::Backup { .. } => "backup",
            Self::Snapshot { .. } => "snapshot",
            Self::Unsnapshot { .. } => "unsnapshot",
            Self::Restore { .. } => "restore",
            Self::Import { .. } => "import",
            Self::Unimport { .. } => "unimport",
            Self::Verify { .. } => "verify",
            Self::Prune { .. } => "prune",
            Self::Collect {} => "collect",
            Self::Stat {} => "stat",
            Self::Replicate { .. } => "replicate",
            Self::Copy { .. } => "copy",
            Self::Mount { .. } => "mount",
            Self::Unmount { .. } => "unmount",
            Self::RestoreTest { .. } => "restore-test",
            Self::Script { .. } => "script",
            Self::Commit { .. } => "commit",
            Self::Discard { .. } => "discard",
            Self::Inventory { .. } => "inventory",
        }
    }
}

/// How far a task is. Sent every few seconds; the first sign that it is not heard ends the task.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// The fence.
    pub attempt: u32,
    /// A line of progress as `sluice --json` prints it.
    pub progress: Option<Value>,
    /// New lines of the log.
    pub log: Vec<LogEntry>,
    /// Set in the last report.
    pub finished: Option<Finished>,
}

/// A line of a task's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    /// `info`, `warning` or `error`.
    pub level: String,
    /// What it says.
    pub line: String,
}

/// How a task ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// How.
    pub outcome: Outcome,
    /// The document that the command printed last.
    #[serde(default)]
    pub document: Value,
    /// Why it failed, in one line.
    #[serde(default)]
    pub message: String,
    /// Whether trying again may help.
    #[serde(default)]
    pub retryable: bool,
}

/// How a task ended, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Done.
    Succeeded,
    /// Done with warnings.
    Warnings,
    /// Not done.
    Failed,
    /// Ended because the server wanted so.
    Cancelled,
}

/// What the server says to a report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reported {
    /// Whether the task is to end.
    pub cancel: bool,
    /// How many bytes a backup may store from now on, since it began, by a hard quota.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allowance: Option<u64>,
}

/// What somebody who lets a node join hands to it: where the server is, how to know it, and the
/// one-time token.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// `https://HOST:PORT`.
    pub server: String,
    /// The server's certificate.
    pub fingerprint: Fingerprint,
    /// The token.
    pub token: String,
}

impl std::fmt::Display for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{}#{}", self.server, self.fingerprint, self.token)
    }
}

impl std::str::FromStr for JoinToken {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.trim().split('#');
        let bad = "a join token is https://HOST:PORT#FINGERPRINT#TOKEN";
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(server), Some(print), Some(token), None) if !token.is_empty() => Ok(Self {
                server: server.to_owned(),
                fingerprint: print.parse().map_err(|_| bad)?,
                token: token.to_owned(),
            }),
            _ => Err(bad),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::retention::EVENTS;

    #[test]
    fn a_join_token_comes_back_from_text() {
        let fingerprint = Fingerprint([7; 32]);
        let server = "https://192.0.2.7:9390".to_owned();
        let token = JoinToken { server, fingerprint, token: "abc".into() };
        assert!(token.to_string().parse::<JoinToken>() == Ok(token));
        for bad in ["", "https://x", "https://x#00#t", "a#b#c#d"] {
            assert!(bad.parse::<JoinToken>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_contract_that_is_not_spoken_says_which_side_is_old() {
        assert!([0, OLDEST, VERSION].iter().all(|&contract| mismatch(contract).is_none()));
        assert!(mismatch(VERSION + 1).is_some_and(|text| text.ends_with("upgrade the server")));
    }

    #[test]
    fn older_and_newer_speakers_understand_each_other() {
        let newer = r#"{"attempt": 2, "mood": "good"}"#;
        let report: Report = serde_json::from_str(newer).unwrap();
        assert_eq!(report, Report { attempt: 2, ..Report::default() });
        let spec: TaskSpec =
            serde_json::from_str(r#"{"kind": "backup", "instance": "a"}"#).unwrap();
        assert_eq!(spec.kind(), "backup");
        let all = [
            TaskSpec::Collect {},
            TaskSpec::Stat {},
            TaskSpec::Replicate { to: "/r".into() },
            TaskSpec::Copy { instance: "a".into(), from: "/r".into(), keep: BTreeMap::new() },
            TaskSpec::Verify { point: None, instance: None, sample: None, data: true },
            TaskSpec::Prune {
                instance: Some("a".into()),
                keep: BTreeMap::from([(EVENTS.to_owned(), 1)]),
                until: Some(UntilOrder {
                    all_ms: None,
                    points_ms: [("a@b".into(), Some(7))].into(),
                    instances_ms: [("a".into(), None)].into(),
                }),
            },
            TaskSpec::Mount { mount: MountOrder { id: "m".into(), ..MountOrder::default() } },
            TaskSpec::Unmount { mount: "m".into() },
            TaskSpec::RestoreTest { test: TestOrder { id: "t".into(), ..TestOrder::default() } },
            TaskSpec::Script { script: ScriptOrder::default() },
            TaskSpec::Commit { mount: "m".into() },
            TaskSpec::Discard { mount: "m".into() },
            TaskSpec::Inventory { look: InventoryOrder::default() },
            TaskSpec::Snapshot {
                snapshot: SnapshotOrder::default(),
                images: vec!["/a".into()],
                folder: None,
                no_hooks: true,
            },
            TaskSpec::Unsnapshot { snapshot: SnapshotOrder::default() },
            TaskSpec::Import { point: "a@k".into(), import: ImportOrder::default(), format: None },
            TaskSpec::Unimport { import: ImportOrder::default() },
        ];
        for spec in all {
            let json = serde_json::to_value(&spec).unwrap();
            assert_eq!(json["kind"], spec.kind());
            assert!(TaskSpec::KINDS.contains(&spec.kind()));
            assert_eq!(serde_json::from_value::<TaskSpec>(json).unwrap(), spec);
        }
    }
}

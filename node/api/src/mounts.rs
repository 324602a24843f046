//! What is said about mounted restore points.
//!
//! A task makes a mount and a task ends it. In between, and after a restart of either side, a node
//! tells every few seconds what it has, and the server answers what is to be otherwise: so neither
//! has to remember what it told the other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A restore point to show as disks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountOrder {
    /// The mount's id at the server.
    pub id: String,
    /// The restore point, as `sluice export` takes it.
    pub point: String,
    /// The only image that is shown; all without.
    pub image: Option<String>,
    /// `nbd`, `iscsi`, `http` or `fuse`.
    pub protocol: String,
    /// The name of its folder below the one that the node's administrator has named, for `fuse`.
    pub folder: Option<String>,
    /// Whether clients may write; what they write goes to an overlay on the node.
    pub writable: bool,
    /// Networks of the clients that may connect.
    pub clients: Vec<String>,
    /// Names of the iSCSI initiators that may connect; all without.
    pub initiators: Vec<String>,
    /// The user that initiators must prove to be; the secret is `SLUICE_CHAP_SECRET`.
    pub chap_user: Option<String>,
    /// It ends by itself after so long, in milliseconds.
    pub lease_ms: u64,
    /// What the node told of it when it was ready first: it comes back as that.
    pub place: Option<Value>,
}

/// Protocols of mounts of nodes that do not say which they speak.
pub const FIRST_PROTOCOLS: [&str; 2] = ["nbd", "iscsi"];

/// Whether a text can be the name of a mount's folder: one part of a path that leads nowhere else.
pub fn is_folder(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
    (1..=100).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(allowed)
}

/// The folder of what clients have written to a mount, in the state folder of its node.
///
/// # Errors
/// In words, when that is no id of a mount.
pub fn overlay_of(state: &Path, mount: &str) -> Result<PathBuf, String> {
    let shaped = mount.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if mount.is_empty() || !shaped {
        return Err(format!("{mount:?} is no id of a mount"));
    }
    Ok(state.join("overlays").join(mount))
}

/// All mounts that a node has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountReport {
    /// Each of them.
    pub held: Vec<Held>,
}

/// A mount that a node has.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Held {
    /// Its id at the server.
    pub mount: String,
    /// How it is.
    pub state: HeldState,
    /// Why it is so, in one line.
    pub message: String,
    /// What it told when it was ready first: addresses above all.
    pub place: Value,
    /// How much of its lease is left, in milliseconds.
    pub lease_ms: u64,
    /// Whether it waits for secrets that are gone since a restart.
    pub needs_secrets: bool,
}

/// How a mount is that a node has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeldState {
    /// Clients can use it.
    Running,
    /// It is on its way up or down, and says more soon.
    #[default]
    Moving,
    /// It does not serve.
    Failed,
}

/// What a node is to do about the mounts it told of.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountOrders {
    /// To be ended.
    pub release: Vec<String>,
    /// Their leases are so long from now on, in milliseconds.
    pub renew: BTreeMap<String, u64>,
    /// Their secrets, by the names of variables.
    pub supply: BTreeMap<String, BTreeMap<String, String>>,
}

impl std::fmt::Debug for MountOrders {
    /// Secrets are not shown.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let supplied: Vec<_> = self.supply.keys().collect();
        f.debug_struct("MountOrders")
            .field("release", &self.release)
            .field("renew", &self.renew)
            .field("supply", &supplied)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let secrets = BTreeMap::from([("SLUICE_PASSPHRASE".to_owned(), "horse".to_owned())]);
        let supply = BTreeMap::from([("m1".to_owned(), secrets)]);
        let orders = MountOrders { supply, ..MountOrders::default() };
        let shown = format!("{orders:?}");
        assert!(shown.contains("m1") && !shown.contains("horse"), "{shown}");
    }

    #[test]
    fn what_is_written_lies_below_the_state_folder() {
        let folder = overlay_of(Path::new("/s"), "0193-a").unwrap();
        assert_eq!(folder, Path::new("/s/overlays/0193-a"));
        assert!(["", "..", "a/b"].iter().all(|bad| overlay_of(Path::new("/s"), bad).is_err()));
    }

    #[test]
    fn a_folder_is_one_name_that_leads_nowhere_else() {
        assert!(["web-1", "a.b_c", "0193-a"].iter().all(|name| is_folder(name)));
        let long = "x".repeat(101);
        for bad in ["", ".", "..", ".hidden", "a/b", "/a", "a b", "a\0", "é", &long] {
            assert!(!is_folder(bad), "{bad:?}");
        }
    }

    #[test]
    fn what_a_newer_speaker_adds_is_ignored() {
        let text = r#"{"held": [{"mount": "m", "state": "running", "mood": "good"}], "more": 1}"#;
        let report: MountReport = serde_json::from_str(text).unwrap();
        assert_eq!((report.held[0].state, &*report.held[0].mount), (HeldState::Running, "m"));
        assert_eq!(serde_json::from_str::<MountOrders>("{}").unwrap(), MountOrders::default());
    }
}

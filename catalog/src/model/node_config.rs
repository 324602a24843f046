use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::kind;
use crate::error::{CatalogError, Result};
use crate::id::{DestinationId, NodeConfigId};
use crate::model::hook::is_guest;
use crate::model::serves::Serves;

/// The most threads of a task.
const MOST_THREADS: u32 = 1024;
/// Minutes of a day.
const DAY: u32 = 24 * 60;

/// What nodes may do, and how much of it: one for many nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NodeConfig {
    /// For people.
    pub description: String,
    /// How many tasks a node runs at a time at most, however many it asks for.
    pub slots: Option<u32>,
    /// How many of a kind at a time.
    pub slots_by_kind: BTreeMap<String, u32>,
    /// How many threads a task of a kind has to compute with; as many as processors when it is not
    /// said.
    pub threads_by_kind: BTreeMap<String, u32>,
    /// The destinations that nodes may use; all when there is no list.
    pub destinations: Option<Vec<DestinationId>>,
    /// Folders in which projects may name sources by themselves. `{project}` is a project's name.
    /// Elsewhere, only somebody with a role in the system may name one.
    pub source_paths: BTreeSet<String>,
    /// The only folders in which there are sources at all, whoever names them; any when there is
    /// no list.
    pub only_paths: Option<BTreeSet<String>>,
    /// Programs, or folders of them, that rules may run around backups; none by itself.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub commands: BTreeSet<String>,
    /// How rules reach guests to run commands there; not at all when nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_ssh: Option<GuestSsh>,
    /// Folders for snapshots of image files: one on each file system with images, which must
    /// share blocks between files. Sources must not lie in them. No snapshots without one.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub snapshot_folders: BTreeSet<String>,
    /// Folders in which restore points become image files of new instances; `{project}` is a
    /// project's name, and the first that fits is taken. No imports without one.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub import_folders: BTreeSet<String>,
    /// How fast tasks may send, each of them.
    pub bandwidth: Bandwidth,
    /// Folder for what tasks keep beside a repository while they run, and between runs.
    pub staging: Option<String>,
    /// The instances that its nodes back up, and no others; without it those that no other
    /// configuration names.
    #[serde(skip_serializing_if = "Serves::is_nothing")]
    pub serves: Serves,
}

/// How nodes reach guests by SSH.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GuestSsh {
    /// File of the private key, on the node.
    pub key_file: String,
    /// File with the keys of the guests, on the node; no other guest is believed.
    pub known_hosts: String,
    /// Guests that may be named, `USER@HOST` or `USER@HOST:PORT`; `{instance}` and `{project}`
    /// stand for names.
    pub guests: BTreeSet<String>,
}

/// How fast tasks may send, in bytes for each second.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Bandwidth {
    /// Always; without it, as fast as it goes. Of several limits the smallest counts.
    pub limit: Option<u64>,
    /// By the time of day on the node, `HH:MM-HH:MM`; an end before the beginning is past
    /// midnight.
    pub windows: BTreeMap<String, u64>,
}

/// The minutes of a window, `HH:MM-HH:MM`.
fn window(text: &str) -> Option<(u32, u32)> {
    let minute = |text: &str| {
        let (hour, minute) = text.split_once(':')?;
        let two =
            |digits: &str| match digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit()) {
                true => digits.parse::<u32>().ok(),
                false => None,
            };
        let at = two(hour)? * 60 + two(minute).filter(|minute| *minute < 60)?;
        Some(at).filter(|at| *at <= DAY)
    };
    let (from, to) = text.split_once('-')?;
    Some((minute(from)?, minute(to)?)).filter(|(from, to)| from != to)
}

/// Whether this is a folder without a way out of it.
pub(crate) fn is_folder(path: &str) -> bool {
    path.starts_with('/')
        && path.len() <= 4096
        && !path.contains('\0')
        && !path.split('/').any(|part| part == ".." || part == ".")
}

impl NodeConfig {
    fn sense(&self) -> Result<()> {
        let no = |text: String| Err(CatalogError::invalid(text));
        let mut folders = self.source_paths.iter().chain(self.only_paths.iter().flatten());
        if let Some(odd) = folders.find(|path| !is_folder(path)) {
            return no(format!("{odd}: a folder has an absolute path without . and .."));
        }
        if let Some(odd) = self.staging.iter().find(|path| !is_folder(path)) {
            return no(format!("{odd}: a staging folder has an absolute path"));
        }
        let mut folders = self.snapshot_folders.iter().chain(&self.import_folders);
        if let Some(odd) = folders.find(|path| !is_folder(path)) {
            return no(format!("{odd}: a folder for snapshots or imports has an absolute path"));
        }
        if let Some(odd) = self.commands.iter().find(|path| !is_folder(path)) {
            return no(format!("{odd}: a program has an absolute path without . and .."));
        }
        if let Some(ssh) = &self.guest_ssh {
            let mut files = [&ssh.key_file, &ssh.known_hosts].into_iter();
            if let Some(odd) = files.find(|path| !is_folder(path) || path.contains([' ', '%'])) {
                return no(format!("{odd}: a file has an absolute path without spaces"));
            }
            if let Some(odd) = ssh.guests.iter().find(|guest| !is_guest(guest)) {
                return no(format!("{odd}: a guest is USER@HOST or USER@HOST:PORT"));
            }
        }
        if self.slots == Some(0) {
            return no("a node runs one task at a time at least: drain it to run none".into());
        }
        let threads = self.threads_by_kind.iter();
        let mut odd = threads.filter(|(_, many)| !(1..=MOST_THREADS).contains(*many));
        if let Some((kind, _)) = odd.next() {
            return no(format!("{kind}: a task has 1 to {MOST_THREADS} threads"));
        }
        let windows = &self.bandwidth.windows;
        if let Some(odd) = windows.keys().find(|text| window(text).is_none()) {
            return no(format!("{odd}: a window is HH:MM-HH:MM"));
        }
        self.serves.sense()?;
        if self.bandwidth.limit == Some(0) || windows.values().any(|limit| *limit == 0) {
            return no("a limit is one byte for each second at least".into());
        }
        Ok(())
    }

    /// The folders in which a project may name sources.
    pub fn folders_of(&self, project: &str) -> Vec<String> {
        // A name that is a way out is no folder's.
        let fits = !project.contains('/') && ![".", ".."].contains(&project);
        let own = |path: &&String| fits || !path.contains("{project}");
        let paths = self.source_paths.iter().filter(own);
        paths.map(|path| path.replace("{project}", project)).collect()
    }
}

/// Whether a path is a folder or lies in it, by its text: links are looked at on the node.
pub fn lies_in(path: &str, folder: &str) -> bool {
    fn parts(text: &str) -> impl Iterator<Item = &str> {
        text.split('/').filter(|part| !part.is_empty() && *part != ".")
    }
    let mut begins = parts(path);
    parts(folder).all(|part| begins.next() == Some(part)) && !parts(path).any(|part| part == "..")
}

kind!(NodeConfig, NodeConfigId, "node_configs", "node configuration", shared: false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_makes_sense_or_is_refused() {
        let fits = |text: &str| serde_json::from_str::<NodeConfig>(text).unwrap().sense().is_ok();
        assert!(fits(r#"{}"#));
        assert!(fits(r#"{"source_paths": ["/srv/{project}"], "staging": "/var/tmp"}"#));
        assert!(fits(r#"{"bandwidth": {"limit": 5, "windows": {"22:00-06:00": 9}}}"#));
        for bad in [
            r#"{"source_paths": ["srv"]}"#,
            r#"{"source_paths": ["/srv/../etc"]}"#,
            r#"{"only_paths": ["./x"]}"#,
            r#"{"slots": 0}"#,
            r#"{"threads_by_kind": {"backup": 0}}"#,
            r#"{"bandwidth": {"windows": {"8-18": 9}}}"#,
            r#"{"bandwidth": {"windows": {"08:00-08:00": 9}}}"#,
            r#"{"bandwidth": {"windows": {"08:00-24:01": 9}}}"#,
            r#"{"bandwidth": {"limit": 0}}"#,
        ] {
            assert!(!fits(bad), "{bad}");
        }
    }

    #[test]
    fn folders_hold_what_lies_in_them_and_nothing_beside() {
        for (path, folder, inside) in [
            ("/srv/shop/a.raw", "/srv/shop", true),
            ("/srv//shop/./a.raw", "/srv/shop/", true),
            ("/srv/shop", "/srv/shop", true),
            ("/srv/shop2/a.raw", "/srv/shop", false),
            ("/srv/shop/../bank/a.raw", "/srv/shop", false),
            ("/srv", "/srv/shop", false),
            ("/anything", "/", true),
        ] {
            assert_eq!(lies_in(path, folder), inside, "{path} in {folder}");
        }
    }

    #[test]
    fn a_project_has_its_own_folders() {
        let paths = ["/srv/{project}", "/pool"].map(str::to_owned).into();
        let config = NodeConfig { source_paths: paths, ..NodeConfig::default() };
        assert_eq!(config.folders_of("shop"), ["/pool", "/srv/shop"]);
        assert_eq!(config.folders_of(".."), ["/pool"]);
        assert_eq!(config.folders_of("a/b"), ["/pool"]);
    }
}

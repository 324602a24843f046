//! Places that are looked through for instances: a folder of disk images, or of devices.
//!
//! ```text
//!   folder ── names, less except, so many levels deep ──► files or devices
//!          └─ per file, or per folder ──► instances, named by `naming`, with tags and a cluster
//! ```
//!
//! An inventory belongs to the project in which its instances are made.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::kind;
use super::node_config::is_folder;
use crate::error::{CatalogError, Result};
use crate::id::{InstanceId, InventoryId, NodeId, TaskId};
use crate::model::instance::{BlockSize, Source};
use crate::model::policy::{Schedule, check_schedules};

/// The most patterns of one kind: each file is compared with each.
const MOST_PATTERNS: usize = 100;
/// The longest pattern, tag or cluster, in bytes.
const LONGEST: usize = 128;
/// The most levels of folders.
const DEEPEST: u32 = 16;
/// What a name may be made of.
const PARTS: [&str; 4] = ["{name}", "{file}", "{folder}", "{path}"];

/// A place that a node looks through for instances.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Inventory {
    /// For people.
    #[serde(default)]
    pub description: String,
    /// What is looked through.
    pub look: Look,
    /// The node that looks, and backs up what is found; without one any node may, and all must see
    /// the same there.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// What instances are called. `{name}` is the file's name without its extension, or the
    /// folder's, `{file}` the same with the extension, `{folder}` the name of the folder around
    /// it, and `{path}` the way to it from the place, with hyphens.
    #[serde(default = "own_name")]
    pub naming: String,
    /// Words by which policies find what is found here. Instances have them from their beginning
    /// on; afterwards they are theirs.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// The manager of what is found here, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
    /// The cluster of what is found here, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// In blocks of which size what is found here is stored, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<BlockSize>,
    /// It is not looked through by schedule while it is paused.
    #[serde(default)]
    pub paused: bool,
    /// When more than so much of what was there is gone at once, nothing is noted as gone until
    /// somebody agrees: perhaps a file system is not mounted. 100 notes it always.
    #[serde(default = "half")]
    pub most_gone_percent: u32,
    /// When it is looked through.
    #[serde(default)]
    pub schedules: Vec<Schedule>,
}

fn own_name() -> String {
    "{name}".to_owned()
}

fn half() -> u32 {
    50
}

/// What is looked through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Look {
    /// A folder of disk images. Links are not followed, and what begins with a dot is passed over.
    Files {
        /// Its path on the node.
        folder: String,
        /// Only files whose names match one of these patterns: `*` stands for anything, `?` for
        /// one character. Without any, those with the extension of an image.
        #[serde(default)]
        names: BTreeSet<String>,
        /// Not these: patterns of names, or of ways from the folder.
        #[serde(default)]
        except: BTreeSet<String>,
        /// How many levels of folders in it are looked through.
        #[serde(default)]
        depth: u32,
        /// What becomes an instance.
        #[serde(default)]
        per: Per,
    },
    /// Block devices in a folder.
    Devices {
        /// Its path on the node, such as `/dev/mapper`.
        folder: String,
        /// Only devices whose names match one of these patterns.
        names: BTreeSet<String>,
        /// Not these.
        #[serde(default)]
        except: BTreeSet<String>,
    },
}

/// What becomes an instance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Per {
    /// Each file.
    #[default]
    File,
    /// Each folder in the place that has files; they are its disks.
    Folder,
}

impl Look {
    /// The folder that is looked through.
    pub fn folder(&self) -> &str {
        match self {
            Self::Files { folder, .. } | Self::Devices { folder, .. } => folder,
        }
    }

    /// What becomes an instance.
    pub fn per(&self) -> Per {
        match self {
            Self::Files { per, .. } => *per,
            Self::Devices { .. } => Per::File,
        }
    }
}

impl Inventory {
    /// What an instance is called that was found at `place`, a path in the folder.
    pub fn name_of(&self, place: &str) -> String {
        let base = self.look.folder().trim_end_matches('/');
        let way = place.strip_prefix(base).unwrap_or(place).trim_matches('/');
        let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let around = place.trim_end_matches('/').rsplit_once('/').map_or("", |(around, _)| around);
        let stem = |name: &str| match (self.look.per(), name.rsplit_once('.')) {
            (Per::File, Some((stem, _))) if !stem.is_empty() => stem.to_owned(),
            _ => name.to_owned(),
        };
        let file = last(way);
        let values = [stem(&file), file, last(around), stem(way)];
        let mut name = self.naming.clone();
        for (part, value) in PARTS.iter().zip(values) {
            // What is put in is not looked at again: a file may be called {path}.
            let value = value.replace(['{', '}'], "-");
            name = name.replace(part, &value);
        }
        // Repositories take none of these.
        name.replace(['/', '@', ':'], "-").trim().to_owned()
    }

    fn sense(&self) -> Result<()> {
        let no = |text: &str| Err(CatalogError::invalid(text));
        if !is_folder(self.look.folder()) {
            return no("an inventory has a folder, by an absolute path without . and ..");
        }
        let lists = match &self.look {
            Look::Files { names, except, depth, per, .. } => {
                if *depth > DEEPEST {
                    return no("at most 16 levels of folders are looked through");
                }
                if *per == Per::Folder && *depth == 0 {
                    return no("per folder, depth is 1 at least");
                }
                [names, except]
            }
            Look::Devices { names, except, .. } => {
                if names.is_empty() {
                    return no(
                        "devices are named by patterns: all there are is more than is meant",
                    );
                }
                [names, except]
            }
        };
        let odd = |text: &String| text.is_empty() || text.len() > LONGEST || text.contains('\0');
        if lists.iter().any(|list| list.len() > MOST_PATTERNS || list.iter().any(odd)) {
            return no("an inventory has at most 100 patterns of a kind, each of 1 to 128 bytes");
        }
        if self.manager.iter().chain(&self.cluster).chain(&self.tags).any(odd) {
            return no("tags, clusters and managers have 1 to 128 bytes");
        }
        let rest = PARTS.iter().fold(self.naming.clone(), |rest, part| rest.replace(part, ""));
        if rest == self.naming || rest.contains(['{', '}', '/', '@', ':']) || odd(&self.naming) {
            return no("naming has {name}, {file}, {folder} or {path}, and no / @ or :");
        }
        if self.most_gone_percent > 100 {
            return no("most_gone_percent is 0 to 100");
        }
        check_schedules(&self.schedules)?;
        let names: BTreeSet<_> = self.schedules.iter().map(|schedule| &schedule.name).collect();
        if names.len() < self.schedules.len() {
            return no("two schedules of an inventory have the same name");
        }
        Ok(())
    }
}

kind!(Inventory, InventoryId, "inventories", "inventory", shared: false);

/// An instance that an inventory has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The instance.
    pub instance: InstanceId,
    /// Which inventory has found it.
    pub inventory: InventoryId,
    /// Where: the path of the file, folder or device.
    pub place: String,
    /// The source that the inventory gave it. When it says another, somebody has changed it.
    pub source: Source,
    /// The same for one file under several names; nothing where that cannot be told.
    pub identity: String,
    /// The format of its disks.
    pub format: String,
    /// How large its disks are, as far as that can be told.
    pub size_bytes: u64,
    /// When it was seen to be gone, in milliseconds since 1970.
    pub gone_ms: Option<u64>,
}

/// What came of the last look that noted something.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Looked {
    /// The task that looked.
    #[schema(value_type = Option<String>)]
    pub task: Option<TaskId>,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// How many were there.
    pub there: u64,
    /// How many are gone, and were not noted as gone: too many at once, or perhaps not mounted.
    pub held: u64,
    /// What came of it, in one line.
    pub message: String,
    /// Where in the folder file systems were mounted.
    pub mounts: BTreeSet<String>,
    /// Where the file system of the folder was mounted.
    pub mounted_on: String,
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn files(more: Value) -> Inventory {
        let mut all = json!({"look": {"kind": "files", "folder": "/srv/images"}});
        for (key, value) in more.as_object().unwrap() {
            match value {
                Value::Object(fields) => {
                    all[key].as_object_mut().unwrap().extend(fields.clone());
                }
                other => all[key] = other.clone(),
            }
        }
        serde_json::from_value(all).unwrap()
    }

    #[test]
    fn names_are_made_of_where_something_lies() {
        for (naming, place, name) in [
            ("{name}", "/srv/images/web-1.qcow2", "web-1"),
            ("{file}", "/srv/images/web-1.qcow2", "web-1.qcow2"),
            ("{folder}-{name}", "/srv/images/shop/web.1.raw", "shop-web.1"),
            ("lab {path}", "/srv/images/shop/a@b:c.raw", "lab shop-a-b-c"),
            ("{name}", "/srv/images/{path}.raw", "-path-"),
        ] {
            let inventory = files(json!({"naming": naming}));
            assert!(inventory.sense().is_ok(), "{naming}");
            assert_eq!(inventory.name_of(place), name, "{naming} {place}");
        }
        let folders = files(json!({"look": {"per": "folder", "depth": 1}}));
        assert_eq!(folders.name_of("/srv/images/web.shop"), "web.shop");
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for odd in [
            json!({"naming": "web"}),
            json!({"naming": "{what}"}),
            json!({"naming": "{name}/x"}),
            json!({"look": {"folder": "images"}}),
            json!({"look": {"folder": "/srv/../etc"}}),
            json!({"look": {"depth": 17}}),
            json!({"look": {"per": "folder"}}),
            json!({"look": {"names": [""]}}),
            json!({"look": {"kind": "devices", "names": []}}),
            json!({"most_gone_percent": 101}),
            json!({"tags": [""]}),
            json!({"schedules": [{"name": "a", "when": {"kind": "manual"}},
                {"name": "a", "when": {"kind": "manual"}}]}),
        ] {
            assert!(files(odd.clone()).sense().is_err(), "{odd}");
        }
        let devices = json!({"kind": "devices", "folder": "/dev/mapper", "names": ["vm-*"]});
        let devices: Inventory = serde_json::from_value(json!({"look": devices})).unwrap();
        assert!(devices.sense().is_ok());
    }
}

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::kind;
use crate::error::{CatalogError, Result};
use crate::id::{InstanceId, NodeId};

/// What is protected: a set of disks that belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Instance {
    /// For people.
    #[serde(default)]
    pub description: String,
    /// Where its disks come from.
    pub source: Source,
    /// Words by which policies find it.
    #[serde(default)]
    pub tags: BTreeSet<String>,
    /// The node that reaches the source; without one, any node may try.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// What manages the clusters and hosts it runs on: a cloud, a hypervisor's management. Nodes
    /// are assigned by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manager: Option<String>,
    /// What it runs on: a cluster, a host, a storage. Limits and accounts go by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<String>,
    /// The machine it runs on, when that is known. Nodes are assigned by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Nothing becomes due for it while it is paused.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub paused: bool,
    /// Whether the source is still there. What is gone keeps its restore points.
    #[serde(default = "yes")]
    pub present: bool,
    /// In blocks of which size its images are stored, from their first backup at a destination on,
    /// or from the next full one there. As they are stored so far when it is not said, at first
    /// 128 KiB. Blocks of different sizes share nothing: a change stores everything once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_size: Option<BlockSize>,
}

fn yes() -> bool {
    true
}

/// In blocks of which size an image is stored. Small ones make cold random reads of mounts faster,
/// and the block map larger and compression weaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum BlockSize {
    /// The smallest.
    #[serde(rename = "16KiB")]
    Kib16,
    /// Twice that.
    #[serde(rename = "32KiB")]
    Kib32,
    /// Twice that.
    #[serde(rename = "64KiB")]
    Kib64,
    /// What images are stored in of which nobody has said it.
    #[serde(rename = "128KiB")]
    Kib128,
    /// Twice that.
    #[serde(rename = "256KiB")]
    Kib256,
    /// Twice that.
    #[serde(rename = "512KiB")]
    Kib512,
    /// The largest.
    #[serde(rename = "1MiB")]
    Mib1,
}

impl BlockSize {
    /// In bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Kib16 => 16 << 10,
            Self::Kib32 => 32 << 10,
            Self::Kib64 => 64 << 10,
            Self::Kib128 => 128 << 10,
            Self::Kib256 => 256 << 10,
            Self::Kib512 => 512 << 10,
            Self::Mib1 => 1 << 20,
        }
    }
}

/// Where the disks of an instance come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// Image files on a node.
    DiskFiles {
        /// One for each disk.
        images: Vec<SourceImage>,
    },
    /// A block device of a node.
    Device {
        /// Its path.
        path: String,
    },
    /// All image files in a folder of a node.
    Folder {
        /// Its path.
        path: String,
    },
    /// What a program on a node prints, such as the dump of a database. There is no restore point
    /// when it fails.
    Command {
        /// The program, by its path, and its arguments, without a shell. The node's configuration
        /// must allow it.
        command: Vec<String>,
        /// The image's name within restore points; the program's when there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<String>,
    },
}

/// The most words of a command.
const MOST_WORDS: usize = 256;
/// The longest word of one, in bytes.
const LONGEST_WORD: usize = 4096;

/// An image file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceImage {
    /// Its name within restore points; made from the path when there is none.
    #[serde(default)]
    pub name: Option<String>,
    /// Its path.
    pub path: String,
}

impl Instance {
    fn sense(&self) -> Result<()> {
        let absolute = |path: &str| path.starts_with('/') && !path.contains('\0');
        let fits = match &self.source {
            Source::DiskFiles { images } => {
                let named = |image: &SourceImage| {
                    image.name.as_deref().is_none_or(|n| !n.is_empty() && !n.contains('='))
                };
                !images.is_empty() && images.iter().all(|i| absolute(&i.path) && named(i))
            }
            Source::Device { path } | Source::Folder { path } => absolute(path),
            Source::Command { command, name } => {
                let word = |word: &String| word.len() <= LONGEST_WORD && !word.contains('\0');
                if command.len() > MOST_WORDS || !command.iter().all(word) {
                    let text = "a command has 256 words at most, of 4096 bytes and no zero byte";
                    return Err(CatalogError::invalid(text));
                }
                let named = name.as_deref().is_none_or(|name| {
                    !name.is_empty() && !name.contains(|c: char| c == '=' || c.is_whitespace())
                });
                named && command.first().is_some_and(|program| absolute(program))
            }
        };
        if !fits {
            return Err(CatalogError::invalid("a source has absolute paths, and at least one"));
        }
        if self.cluster.as_ref().is_some_and(|name| name.is_empty() || name.len() > 128) {
            return Err(CatalogError::invalid("a cluster has 1 to 128 bytes"));
        }
        if self.manager.as_ref().is_some_and(|name| name.is_empty() || name.len() > 128) {
            return Err(CatalogError::invalid("a manager has 1 to 128 bytes"));
        }
        if self.host.as_ref().is_some_and(|name| name.is_empty() || name.len() > 128) {
            return Err(CatalogError::invalid("a host has 1 to 128 bytes"));
        }
        if self.tags.iter().any(|tag| tag.is_empty() || tag.len() > 128) {
            return Err(CatalogError::invalid("a tag has 1 to 128 bytes"));
        }
        Ok(())
    }
}

kind!(Instance, InstanceId, "instances", "instance", shared: false, renames: false);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_size_is_one_of_the_repository_by_its_usual_word() {
        let read = |text: &str| serde_json::from_str::<BlockSize>(text).ok().map(BlockSize::bytes);
        let words = ["16KiB", "32KiB", "64KiB", "128KiB", "256KiB", "512KiB", "1MiB"];
        for (at, word) in words.into_iter().enumerate() {
            assert_eq!(read(&format!("\"{word}\"")), Some((16 << 10) << at), "{word}");
        }
        for odd in ["\"8KiB\"", "\"2MiB\"", "\"16kib\"", "\"1024KiB\"", "\"\"", "16384", "0"] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }

    #[test]
    fn a_source_says_what_kind_it_is() {
        let text = r#"{"source": {"kind": "disk-files", "images": [{"path": "/a.raw"}]}}"#;
        let instance: Instance = serde_json::from_str(text).unwrap();
        assert!(instance.present && instance.sense().is_ok());
        let text = r#"{"source": {"kind": "device", "path": "sda"}}"#;
        assert!(serde_json::from_str::<Instance>(text).unwrap().sense().is_err());
        for (command, fits) in [
            (r#"["/usr/bin/pg_dump", "--format=custom", "app"]"#, true),
            (r#"["pg_dump"]"#, false),
            ("[]", false),
            (r#"["/bin/echo", "\u0000"]"#, false),
        ] {
            let text = format!(r#"{{"source": {{"kind": "command", "command": {command}}}}}"#);
            let instance = serde_json::from_str::<Instance>(&text).unwrap();
            assert_eq!(instance.sense().is_ok(), fits, "{command}");
        }
        let text = r#"{"source": {"kind": "tape", "path": "/dev/st0"}}"#;
        assert!(serde_json::from_str::<Instance>(text).is_err());
    }
}

//! `overlay.json`: what an overlay is, replaced as a whole.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{OverlayError, Result, io_error};
use crate::layer::sync_folder;
use crate::{CELL, MAX_SIZE};

/// The version that this release writes and reads.
const VERSION: u32 = 1;
/// The number of the layer that holds a copy of the base.
pub(crate) const COPY: u32 = 0;
/// Descriptions are short; a longer file is something else.
const LONGEST: u64 = 1 << 20;

/// What an overlay lies over, in words of whoever made it. Nothing here looks into them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The repository's id.
    pub repository: String,
    /// The instance.
    pub instance: String,
    /// The restore point.
    pub point: String,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.instance, self.point)
    }
}

/// A disk of an overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// The image's name.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// What the image below holds, as a digest: a different one is a different base.
    pub root: String,
}

/// What an overlay is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Of this file and of the layers.
    pub version: u32,
    /// Random; logs carry it.
    pub id: String,
    /// What it lies over.
    pub base: Origin,
    /// What it lay over first; commits change `base`.
    pub first_base: Origin,
    /// Bytes of a cell.
    pub cell: u64,
    /// Bytes that written cells may take.
    pub limit: Option<u64>,
    /// The disks.
    pub disks: Vec<DiskInfo>,
    /// Numbers of the layers, the lowest first. Number 0 is a copy of the base.
    pub layers: Vec<u32>,
    /// Whether whoever has the base keeps it for this overlay.
    #[serde(default)]
    pub kept: bool,
    /// Where the copies of the bases lie, by disk, when they are not in the folder. Once layer 0
    /// is the only one, these files or devices are the disks.
    #[serde(default)]
    pub copy_to: Vec<PathBuf>,
}

impl Description {
    pub(crate) fn new(
        base: Origin,
        disks: Vec<DiskInfo>,
        limit: Option<u64>,
        id: [u8; 16],
    ) -> Self {
        let first_base = base.clone();
        let id = format!("{:032x}", u128::from_be_bytes(id));
        Self {
            version: VERSION,
            id,
            base,
            first_base,
            cell: CELL,
            limit,
            disks,
            layers: vec![1],
            kept: false,
            copy_to: vec![],
        }
    }

    /// Where the description of an overlay lies.
    pub(crate) fn path(folder: &Path) -> PathBuf {
        folder.join("overlay.json")
    }

    /// Reads the description of the overlay in a folder, without using the overlay.
    ///
    /// # Errors
    /// [`OverlayError::NotFound`], [`OverlayError::Version`], [`OverlayError::Description`].
    pub fn read(folder: &Path) -> Result<Self> {
        let path = Self::path(folder);
        let bad = |reason: String| OverlayError::Description { path: path.clone(), reason };
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(OverlayError::NotFound(folder.to_owned()));
            }
            other => other.map_err(|e| io_error("open", &path, e))?,
        };
        let length = file.metadata().map_err(|e| io_error("read", &path, e))?.len();
        if length > LONGEST {
            return Err(bad("it is too long".into()));
        }
        let value: serde_json::Value =
            serde_json::from_reader(file).map_err(|error| bad(error.to_string()))?;
        let version = value["version"].as_u64().and_then(|version| u32::try_from(version).ok());
        if let Some(version) = version.filter(|version| *version != VERSION) {
            return Err(OverlayError::Version { path: folder.to_owned(), version });
        }
        let read: Self = serde_json::from_value(value).map_err(|error| bad(error.to_string()))?;
        read.check().map_err(|reason| bad(reason.into()))?;
        Ok(read)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.id().is_none() {
            return Err("the id is no number of 32 hexadecimal digits");
        }
        if self.cell != CELL {
            return Err("cells have another size");
        }
        if self.disks.is_empty() || self.disks.iter().any(|disk| disk.size > MAX_SIZE) {
            return Err("a disk is too large, or there is none");
        }
        if !self.copy_to.is_empty() && self.copy_to.len() != self.disks.len() {
            return Err("there is not a copy for each disk");
        }
        if (self.layers.iter().all(|layer| *layer == COPY) && !self.is_local())
            || !self.layers.is_sorted_by(|one, next| one < next)
        {
            return Err("the layers are not in order");
        }
        Ok(())
    }

    /// How many of the layers are copies of the base: the lowest, or none.
    pub(crate) fn copies(&self) -> usize {
        usize::from(self.layers.first() == Some(&COPY) && self.layers.len() > 1)
    }

    /// Whether the disks are files or devices of this machine by now, which nothing lies under.
    pub fn is_local(&self) -> bool {
        self.layers == [COPY] && !self.copy_to.is_empty()
    }

    /// Where the data of a disk's layer lies, when that is not in the folder.
    pub(crate) fn outside(&self, disk: u32, layer: u32) -> Option<&Path> {
        let path = self.copy_to.get(disk as usize).filter(|_| layer == COPY);
        path.map(PathBuf::as_path)
    }

    /// The id as bytes; of one that was read or made there is one.
    pub fn id(&self) -> Option<[u8; 16]> {
        let number = u128::from_str_radix(&self.id, 16).ok().filter(|_| self.id.len() == 32);
        number.map(u128::to_be_bytes)
    }

    /// Puts the description in the place of the one before, durably.
    pub(crate) fn write(&self, folder: &Path) -> Result<()> {
        let (path, fresh) = (Self::path(folder), folder.join("overlay.json.new"));
        let made = || -> std::io::Result<()> {
            let mut text = serde_json::to_string_pretty(self)?;
            text.push('\n');
            let mut file = File::create(&fresh)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&fresh, &path)?;
            sync_folder(&path)
        };
        made().map_err(|e| io_error("write", &path, e))
    }
}

//! The folder of an overlay: who may use it, and which files count.

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::description::{COPY, Description};
use crate::error::{OverlayError, Result, io_error};
use crate::layer::{Layer, paths};
use crate::log::Header;
use crate::note::{Boot, Note};
use crate::notes::{self, Survival};

/// An overlay's folder that no other process uses.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// This start of the machine, where the system says.
    boot: Option<Boot>,
    _lock: File,
}

impl Folder {
    /// Takes the folder, which is made when it is not there.
    pub(crate) fn lock(path: &Path, create: bool) -> Result<Self> {
        if create {
            let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
            made.map_err(|e| io_error("make", path, e))?;
        }
        let mut options = File::options();
        options.read(true).write(true).create(create).truncate(false).mode(0o600);
        let lock = match options.open(path.join("lock")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(OverlayError::NotFound(path.to_owned()));
            }
            other => other.map_err(|e| io_error("open", path, e))?,
        };
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), boot: notes::this_boot(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OverlayError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(io_error("lock", path, error)),
        }
    }

    /// The same folder in another start of the machine.
    pub(crate) fn in_boot(self, boot: Option<Boot>) -> Self {
        Self { boot: boot.or(self.boot), ..self }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether there is nothing in it that we did not put there.
    pub(crate) fn is_fresh(&self) -> Result<bool> {
        let read = std::fs::read_dir(&self.path).map_err(|e| io_error("read", &self.path, e))?;
        let ours = |name: &str| ["lock", "overlay.json.new"].contains(&name) || is_layer(name);
        let mut names = read.flatten().map(|entry| entry.file_name());
        Ok(names.all(|name| name.to_str().is_some_and(ours)))
    }

    /// The headers of a layer, one for each disk.
    pub(crate) fn headers(description: &Description, layer: u32) -> Vec<Header> {
        let overlay = description.id().unwrap_or_default();
        let disks = description.disks.iter().zip(0..);
        disks
            .map(|(disk, number)| Header { overlay, disk: number, layer, size: disk.size })
            .collect()
    }

    /// Opens the layers of all disks, each the lowest first.
    pub(crate) fn open_layers(&self, description: &Description) -> Result<Vec<Vec<Layer>>> {
        let mut disks: Vec<Vec<Layer>> = description.disks.iter().map(|_| vec![]).collect();
        let notes = self.notes(description)?;
        for layer in &description.layers {
            for (disk, header) in disks.iter_mut().zip(Self::headers(description, *layer)) {
                let outside = description.outside(header.disk, header.layer);
                let notes = notes.get(&(header.disk, header.layer)).map_or(&[][..], Vec::as_slice);
                let boot = self.boot_for(header.layer);
                disk.push(Layer::open(&self.path, header, outside, boot, notes)?);
            }
        }
        Ok(disks)
    }

    /// The start of the machine, for layers that have notes. A copy of the base has none: what was
    /// not flushed of it is copied again, and where it is the disk, all of its cells count.
    fn boot_for(&self, layer: u32) -> Option<Boot> {
        self.boot.filter(|_| layer != COPY)
    }

    /// What a killed process noted of each disk's layers, when it can be relied on.
    fn notes(&self, description: &Description) -> Result<HashMap<(u32, u32), Vec<Note>>> {
        let failed = |error| io_error("read the notes in", &self.path, error);
        let mut noted = HashMap::new();
        let headers: Vec<Header> =
            description.layers.iter().flat_map(|l| Self::headers(description, *l)).collect();
        for header in &headers {
            let Some(boot) = self.boot_for(header.layer) else { continue };
            let notes = notes::found(&self.path, header, &boot).map_err(failed)?;
            if !notes.is_empty() {
                noted.insert((header.disk, header.layer), notes);
            }
        }
        let files: Vec<_> =
            noted.keys().map(|(disk, layer)| paths(&self.path, *disk, *layer).0).collect();
        let Survival::Lost(error) = notes::survivors(&files).map_err(failed)? else {
            return Ok(noted);
        };
        // The system tells of a failure once: the next time nobody would know.
        for header in &headers {
            notes::forget(&self.path, header).map_err(failed)?;
        }
        tracing::error!(
            overlay = %self.path.display(),
            "its process was killed, and what it wrote since the last flush is left out, because \
             it may not be whole: {error}. Start anew whoever uses the overlay, or check their \
             file systems"
        );
        Ok(HashMap::new())
    }

    /// Makes an empty layer for each disk.
    pub(crate) fn create_layer(&self, description: &Description, layer: u32) -> Result<Vec<Layer>> {
        let headers = Self::headers(description, layer).into_iter();
        let create = |header: Header| {
            let outside = description.outside(header.disk, header.layer);
            Layer::create(&self.path, header, outside, self.boot_for(layer))
        };
        headers.map(create).collect()
    }

    /// Removes files of layers that do not count. Failing costs room only.
    pub(crate) fn sweep(&self, description: &Description) {
        let counts = |name: &str| {
            let disks = 0..description.disks.len() as u32;
            disks.into_iter().any(|disk| {
                description.layers.iter().any(|layer| {
                    let (data, log) = paths(&self.path, disk, *layer);
                    let [one, other] = notes::paths(&self.path, disk, *layer);
                    let mut all = [data, log, one, other].into_iter();
                    all.any(|path| path.file_name().is_some_and(|n| n == name))
                })
            })
        };
        let Ok(read) = std::fs::read_dir(&self.path) else { return };
        for entry in read.flatten() {
            let name = entry.file_name();
            if let Some(name) = name.to_str()
                && is_layer(name)
                && !counts(name)
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(name, %error, "a file that is no longer needed stays");
            }
        }
    }

    /// Removes the overlay: first its description, so that half of it is none.
    pub(crate) fn remove(self) -> Result<()> {
        let path = Description::path(&self.path);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("remove", &path, error));
            }
            _ => {}
        }
        crate::layer::sync_folder(&path).map_err(|e| io_error("sync", &self.path, e))?;
        let read = std::fs::read_dir(&self.path).map_err(|e| io_error("read", &self.path, e))?;
        for entry in read.flatten() {
            let name = entry.file_name();
            let ours = ["overlay.json.new", "control.sock", "lock"];
            if name.to_str().is_some_and(|name| is_layer(name) || ours.contains(&name)) {
                let removed = std::fs::remove_file(entry.path());
                removed.map_err(|e| io_error("remove", &entry.path(), e))?;
            }
        }
        // Something else may lie in it; that is not ours to remove.
        let _ = std::fs::remove_dir(&self.path);
        Ok(())
    }
}

/// Whether a file's name is that of a layer's file, or of the local copy of a disk.
fn is_layer(name: &str) -> bool {
    name.starts_with("disk-")
        && [".data", ".log", ".log.new", ".base", ".copied"].iter().any(|end| name.ends_with(end))
}

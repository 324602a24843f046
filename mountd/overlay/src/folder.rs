//! The folder of an overlay: who may use it, and which files count.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::description::Description;
use crate::error::{OverlayError, Result, io_error};
use crate::layer::{Layer, paths};
use crate::log::Header;

/// An overlay's folder that no other process uses.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
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
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(OverlayError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => Err(io_error("lock", path, error)),
        }
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
        for layer in &description.layers {
            for (disk, header) in disks.iter_mut().zip(Self::headers(description, *layer)) {
                let outside = description.outside(header.disk, header.layer);
                disk.push(Layer::open(&self.path, header, outside)?);
            }
        }
        Ok(disks)
    }

    /// Makes an empty layer for each disk.
    pub(crate) fn create_layer(&self, description: &Description, layer: u32) -> Result<Vec<Layer>> {
        let headers = Self::headers(description, layer).into_iter();
        let create = |header: Header| {
            let outside = description.outside(header.disk, header.layer);
            Layer::create(&self.path, header, outside)
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
                    [data, log].iter().any(|path| path.file_name().is_some_and(|n| n == name))
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

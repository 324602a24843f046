//! Disk image files and block devices as backup sources.
//!
//! Raw images and block devices are read directly; holes are found by SEEK_HOLE and never read.
//! Every other format is read through `qemu-nbd` of the package qemu-utils, which streams on
//! demand and knows which clusters hold data: nothing is converted or staged. What a hostile
//! image could make QEMU do is checked before ([`inspect`]): an image names other files only as
//! plain paths, and only when its format was said, not guessed. QEMU then gets the whole chain
//! with the format of each file, so it probes nothing; extents of a VMDK descriptor are all that
//! it follows by itself.
//!
//! A raw disk is written by its guest. A guest that writes the header of another format to its
//! disk must not thereby choose files of the host for the backup, so a guessed format may not name
//! other files at all. Whoever may read in some folders only gets no file from elsewhere by an
//! image that names it ([`Within`]).
//!
//! Between the look and QEMU's own, a guest or whoever writes in a folder may have changed both
//! headers and names. So the files that were looked at are remembered for what they are, not for
//! their names: a process of QEMU can open these only, and no byte of it is used before it was
//! seen to have opened nothing else (`confine`).

mod confine;
mod error;
mod format;
pub mod inspect;
pub mod look;
mod qemu;
mod raw;
pub mod snapshot;
mod spot;
mod within;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sluice_block::BlockRead;

pub use error::DiskError;
pub use format::Format;
pub use within::Within;

/// An opened image.
pub struct DiskSource {
    /// Its bytes as the guest sees them.
    pub device: Arc<dyn BlockRead>,
    /// What it was opened as.
    pub format: Format,
    /// The files it consists of, the image itself first.
    pub files: Vec<PathBuf>,
}

impl std::fmt::Debug for DiskSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DiskSource({}, {:?})", self.format, self.files)
    }
}

/// Opens an image file or a block device. Without a format, the first bytes of a file tell it; a
/// block device is raw.
///
/// # Errors
/// [`DiskError`] says what to do.
pub async fn open(path: &Path, format: Option<Format>) -> Result<DiskSource, DiskError> {
    open_within(path, format, &Within::default()).await
}

/// The same, of an image of which each file must lie in some folders.
///
/// # Errors
/// [`DiskError`], and [`DiskError::Outside`] names the file that lies elsewhere.
pub async fn open_within(
    path: &Path,
    format: Option<Format>,
    within: &Within,
) -> Result<DiskSource, DiskError> {
    let (path, named, within) = (path.to_owned(), format, within.clone());
    let inspect = move || inspect::inspect_within(&path, named, &within);
    let inspected = tokio::task::spawn_blocking(inspect)
        .await
        .unwrap_or_else(|error| Err(DiskError::Task(error.to_string())))?;
    let (first, format) = inspected.chain.first().cloned().unwrap_or_default();
    let device: Arc<dyn BlockRead> = match format {
        Format::Raw => {
            let id = inspected.ids.first().copied().flatten();
            Arc::new(raw::RawDisk::open(&first, id)?)
        }
        _ => Arc::new(qemu::QemuDisk::open(&inspected).await?),
    };
    Ok(DiskSource { device, format, files: inspected.files })
}

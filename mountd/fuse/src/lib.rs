//! A FUSE file system that shows restore points as raw image files.
//!
//! ```text
//! DIR/INSTANCE/POINT/IMAGE.raw       one file an image, its size the image's
//! DIR/INSTANCE/POINT/metadata.json   what is known of the point
//! DIR/INSTANCE/latest -> POINT       the newest point
//! ```
//!
//! The room does not know the repository: it shows what a [`Catalogue`] tells.
//!
//! # Invariants
//!
//! * The threads that talk to the kernel never wait: every request that may touch the
//!   destination runs as a task and answers from there. A slow read delays no other.
//! * A read that gets no answer within [`MountOptions::read_timeout`] fails with EIO, so no
//!   process hangs for ever on a dead destination.
//! * Unmounting always works, also with files open: the mount point is detached at once; what
//!   is open goes on working until it is closed or the process ends.
//! * Everything is read-only: writes fail with EROFS. With [`MountOptions::writable`] images take
//!   writes within their size; there are still no other files than those of the catalogue.
//! * Names from the outside are escaped ([`file_name`]): no name can leave its folder.

mod mount;
mod mountinfo;
mod name;
mod serve;
mod tree;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluice_block::{BlockError, BlockRead, BlockWrite, ErrorKind};

pub use mount::{MountHandle, mount, unmount};
pub use name::file_name;

/// An image of a point, as a folder shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEntry {
    /// Its name; the file is called so with `.raw` behind.
    pub name: String,
    /// Size in bytes.
    pub size: u64,
    /// Bytes that are not known to be zero, shown as the space the file takes.
    pub data_bytes: u64,
}

/// A restore point, as a folder shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PointEntry {
    /// The instance it belongs to.
    pub instance: String,
    /// Name of its folder, unique within the instance.
    pub name: String,
    /// When the source was read, in ms since 1970.
    pub created_ms: u64,
    /// Its images.
    pub images: Vec<ImageEntry>,
    /// Content of `metadata.json`.
    pub metadata: Vec<u8>,
}

/// Tells which restore points there are, and opens their images.
#[async_trait]
pub trait Catalogue: Send + Sync + 'static {
    /// All points, in any order. Asked again from time to time.
    ///
    /// # Errors
    /// What the source reports. What was known before goes on being shown.
    async fn points(&self) -> Result<Vec<PointEntry>, BlockError>;

    /// Opens an image.
    ///
    /// # Errors
    /// What the source reports.
    async fn open(
        &self,
        instance: &str,
        point: &str,
        image: &str,
    ) -> Result<Arc<dyn BlockRead>, BlockError>;

    /// Opens an image for writing. What is written is read from then on through everything that
    /// [`open`](Self::open) returned for the image, and returns.
    ///
    /// # Errors
    /// What the source reports; [`ErrorKind::ReadOnly`] where nothing can be written.
    async fn open_writable(
        &self,
        instance: &str,
        point: &str,
        image: &str,
    ) -> Result<Arc<dyn BlockWrite>, BlockError> {
        let text = format!("{instance}/{point}/{image} cannot be written");
        Err(BlockError::new(ErrorKind::ReadOnly, text))
    }
}

/// How to mount.
#[derive(Debug, Clone)]
pub struct MountOptions {
    /// How long a read may wait for the destination before it fails with EIO.
    pub read_timeout: Duration,
    /// How old the list of points may grow before it is asked for again.
    pub refresh: Duration,
    /// Let other users read the files. Without root, `/etc/fuse.conf` must allow it.
    pub allow_other: bool,
    /// Images can be opened for writing, by the catalogue's leave.
    pub writable: bool,
    /// Threads that talk to the kernel.
    pub threads: usize,
    /// What the system's table of mounts shows as the source.
    pub source: String,
}

impl Default for MountOptions {
    fn default() -> Self {
        Self {
            read_timeout: Duration::from_secs(30),
            refresh: Duration::from_secs(10),
            allow_other: false,
            writable: false,
            threads: 2,
            source: "sluice".into(),
        }
    }
}

/// Why mounting or unmounting failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// This machine has no FUSE.
    #[error(
        "/dev/fuse is missing; load the kernel's fuse module, or give the container the device"
    )]
    NoFuse,
    /// The mount point cannot be used.
    #[error("cannot mount on {0}: {1}")]
    MountPoint(PathBuf, String),
    /// A mount whose process is gone still lies there.
    #[error("a dead mount lies on {0}; remove it with `fusermount3 -u {0}`")]
    Stale(PathBuf),
    /// The points could not be listed.
    #[error("cannot list the restore points")]
    Catalogue(#[source] BlockError),
    /// The kernel or fusermount3 refused.
    #[error("cannot mount on {0}")]
    Mount(PathBuf, #[source] std::io::Error),
    /// Unmounting was refused.
    #[error("cannot unmount {0}")]
    Unmount(PathBuf, #[source] std::io::Error),
}

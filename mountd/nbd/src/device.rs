//! What is behind an export.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use sluice_block::{BlockRead, BlockWrite, Result};

/// A disk that is served.
#[derive(Clone)]
pub enum Device {
    /// Writes fail with `EPERM`.
    ReadOnly(Arc<dyn BlockRead>),
    /// Writes are carried out.
    Writable(Arc<dyn BlockWrite>),
}

impl Device {
    pub(crate) fn reader(&self) -> &dyn BlockRead {
        match self {
            Self::ReadOnly(device) => &**device,
            Self::Writable(device) => &**device,
        }
    }

    pub(crate) fn writer(&self) -> Option<&dyn BlockWrite> {
        match self {
            Self::ReadOnly(_) => None,
            Self::Writable(device) => Some(&**device),
        }
    }
}

/// A disk with what is known about it.
#[derive(Clone)]
pub struct Opened {
    /// The disk.
    pub device: Device,
    /// Tells what changed on it; served as `sluice:changed-since=POINT` contexts.
    pub changes: Option<Arc<dyn Changes>>,
}

/// Opens the disk of an export when the first client asks for it. The disk is dropped when its last
/// client leaves, and opened anew for the next.
#[async_trait]
pub trait OpenDevice: Send + Sync {
    /// Opens the disk. Clients that come meanwhile wait for the same call.
    ///
    /// # Errors
    /// Whatever makes the disk unavailable; the client is told, and the next one tries again.
    async fn open(&self) -> Result<Opened>;
}

/// Tells which parts of a disk changed since earlier states of it, called points.
#[async_trait]
pub trait Changes: Send + Sync {
    /// The points that can be asked about, newest first.
    ///
    /// # Errors
    /// What looking for them meets.
    async fn points(&self) -> Result<Vec<String>>;

    /// The one name of the point that a client called `text`; `None` when there is no such point,
    /// or the disk cannot be compared with it.
    ///
    /// # Errors
    /// What looking for it meets.
    async fn find(&self, text: &str) -> Result<Option<String>>;

    /// The parts of the disk that changed since a point, given the name from
    /// [`find`](Self::find): ascending, not empty, apart from each other.
    ///
    /// # Errors
    /// What comparing meets.
    async fn since(&self, point: &str) -> Result<Vec<Range<u64>>>;
}

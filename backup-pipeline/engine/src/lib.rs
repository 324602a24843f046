//! The engine of backup and restore.
//!
//! ```text
//!  source ──extents──► leaves ──read──► segments ──pool: hash, compress, seal──► repository
//! ```
//!
//! A backup walks its source leaf by leaf (256 blocks, 32 MiB by default). Only runs with data
//! are read. Segments of 2 MiB travel between the stages; a semaphore counts their bytes, so
//! memory is bounded whatever the image's size. Leaves are independent: several are under way.
//!
//! The engine knows neither connectors nor exports: sources are [`BlockRead`] or
//! [`StreamSource`], targets are [`Target`].

mod backup;
mod buffers;
mod error;
mod leaf;
mod progress;
pub mod replicate;
mod restore;
mod stream;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use sluice_block::BlockRead;

pub use backup::{BackupOptions, BackupOutcome, backup};
pub use error::{EngineError, ErrorKind, Result};
pub use progress::{Phase, Progress, Snapshot};
pub use restore::{RestoreOptions, RestoreOutcome, Target, restore};

/// How the changes since the last point are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Read everything; compare a checksum of each region (a leaf) with the one kept from the last
    /// point, and look at single blocks only where it differs.
    Regions,
    /// Read everything and compare block by block.
    Rescan,
    /// Read only these bytes; the caller vouches that all else is as in the last point.
    /// Falls back to [`Regions`](Self::Regions) when there is no last point to build on.
    Changed(Vec<Range<u64>>),
}

/// Bytes that come in order and whose number is known only at the end.
#[async_trait]
pub trait StreamSource: Send {
    /// The next bytes, at most `most`; nothing at the end.
    ///
    /// # Errors
    /// What the source reports.
    async fn next(&mut self, most: usize) -> std::io::Result<Option<Bytes>>;
}

/// Where an image comes from.
pub enum Source {
    /// A device that can be read at any offset.
    Device(Arc<dyn BlockRead>, Change),
    /// A stream.
    Stream(Box<dyn StreamSource>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Device(device, change) => write!(f, "Device({}, {change:?})", device.size()),
            Self::Stream(_) => f.write_str("Stream"),
        }
    }
}

/// One image to back up.
#[derive(Debug)]
pub struct SourceImage {
    /// Its name in the restore point.
    pub name: String,
    /// Where it comes from, for people.
    pub description: String,
    /// The bytes.
    pub source: Source,
}

//! The repository as a catalogue for the mount.
//!
//! A point is pinned while one of its images is open, so that a collection keeps what it needs.
//! A pin is released when the last reader is gone, or by [`RepositoryCatalogue::close`] at the
//! end: the kernel may hold files longer than this process wants to live.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sluice_block::{BlockError, BlockRead, BlockWrite, ErrorKind, Extent};
use sluice_fuse::{Catalogue, ImageEntry, PointEntry};
use sluice_repository::{ImageReader, Pin, Repository, RestorePoint};
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

use super::written::{Watched, Written, writable};
use crate::output::{PointDocument, folder_name};
use crate::statistics::Registry;

/// How long releasing pins may take: those of a destination that is gone expire by themselves.
const RELEASE: Duration = Duration::from_secs(3);

/// What a mount shows of a repository.
#[derive(Debug)]
pub(crate) struct RepositoryCatalogue {
    repository: Repository,
    /// What was listed last, by instance and folder.
    known: Mutex<HashMap<(String, String), RestorePoint>>,
    pins: Arc<Pins>,
    statistics: Registry,
    /// Where writes go, if images can be written.
    written: Option<Arc<Written>>,
    /// The only point that is shown; all without.
    only: Option<RestorePoint>,
}

impl RepositoryCatalogue {
    /// A catalogue of `repository`, on the runtime of the caller, that counts what is read.
    pub(crate) fn new(
        repository: Repository,
        statistics: Registry,
        written: Option<Arc<Written>>,
        only: Option<RestorePoint>,
    ) -> Arc<Self> {
        statistics.watch_cache(&repository);
        let pins = Pins {
            runtime: Handle::current(),
            held: Mutex::default(),
            releases: TaskTracker::new(),
        };
        let pins = Arc::new(pins);
        Arc::new(Self { repository, known: Mutex::default(), pins, statistics, written, only })
    }

    /// The point in a folder, as it was listed last.
    fn point(&self, instance: &str, folder: &str) -> Result<RestorePoint, BlockError> {
        let place = (instance.to_owned(), folder.to_owned());
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner).get(&place).cloned();
        let text = || format!("there is no restore point {instance}/{folder}");
        known.ok_or_else(|| BlockError::new(ErrorKind::Io, text()))
    }

    /// Releases what is still pinned, and waits for it.
    pub(crate) async fn close(&self) {
        self.pins.release_all();
        self.pins.releases.close();
        let _ = tokio::time::timeout(RELEASE, self.pins.releases.wait()).await;
    }
}

#[async_trait]
impl Catalogue for RepositoryCatalogue {
    async fn points(&self) -> Result<Vec<PointEntry>, BlockError> {
        if let Some(point) = &self.only {
            let place = (point.instance.clone(), folder_name(point));
            *self.known.lock().unwrap_or_else(PoisonError::into_inner) =
                HashMap::from([(place, point.clone())]);
            return Ok(vec![entry(point)]);
        }
        let listing = self.repository.list_as_committed(None).await?;
        for damaged in &listing.damaged {
            tracing::warn!(error = %damaged.error, "a restore point is not shown");
        }
        let entries = listing.points.iter().map(entry).collect();
        let places = listing.points.into_iter().map(|point| {
            let place = (point.instance.clone(), folder_name(&point));
            (place, point)
        });
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = places.collect();
        Ok(entries)
    }

    async fn open(
        &self,
        instance: &str,
        point: &str,
        image: &str,
    ) -> Result<Arc<dyn BlockRead>, BlockError> {
        let point = self.point(instance, point)?;
        let name = format!("{point}:{image}");
        if let Some(written) = &self.written
            && let Some(disk) = written.open(&point, image, false).await?
        {
            return Ok(self.statistics.measured(&name, disk));
        }
        let reader = self.repository.image(&point, Some(image))?;
        let pin = self.repository.pin(&point, "mount").await?;
        let number = self.pins.hold(pin);
        let pinned = Arc::new(PinnedImage { reader, number, pins: self.pins.clone() });
        let shown: Arc<dyn BlockRead> = match &self.written {
            Some(written) => Arc::new(Watched::new(written.clone(), &point, image, pinned)),
            None => pinned,
        };
        Ok(self.statistics.measured(&name, shown))
    }

    async fn open_writable(
        &self,
        instance: &str,
        point: &str,
        image: &str,
    ) -> Result<Arc<dyn BlockWrite>, BlockError> {
        let point = self.point(instance, point)?;
        writable(self.written.as_ref(), &point, image).await
    }
}

fn entry(point: &RestorePoint) -> PointEntry {
    let images = point.images.iter().map(|image| ImageEntry {
        name: image.name.clone(),
        size: image.size,
        data_bytes: image.data_blocks.saturating_mul(u64::from(image.block_size)),
    });
    // A document of strings and numbers: it cannot fail to be written.
    let mut metadata = serde_json::to_vec_pretty(&PointDocument::from(point)).unwrap_or_default();
    metadata.push(b'\n');
    PointEntry {
        instance: point.instance.clone(),
        name: folder_name(point),
        created_ms: point.created_ms,
        images: images.collect(),
        metadata,
    }
}

/// Pins of open images.
#[derive(Debug)]
struct Pins {
    runtime: Handle,
    held: Mutex<Held>,
    releases: TaskTracker,
}

#[derive(Debug, Default)]
struct Held {
    last: u64,
    pins: HashMap<u64, Pin>,
}

impl Pins {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(&self, pin: Pin) -> u64 {
        let mut held = self.held();
        held.last += 1;
        let number = held.last;
        held.pins.insert(number, pin);
        number
    }

    /// Releases the pin of this number, unless it was released already.
    fn release(&self, number: u64) {
        // Called from the kernel's threads as well: they belong to no runtime.
        if let Some(pin) = self.held().pins.remove(&number) {
            self.releases.spawn_on(pin.release(), &self.runtime);
        }
    }

    fn release_all(&self) {
        let numbers: Vec<u64> = self.held().pins.keys().copied().collect();
        numbers.into_iter().for_each(|number| self.release(number));
    }
}

/// An open image whose point is pinned.
#[derive(Debug)]
struct PinnedImage {
    reader: ImageReader,
    number: u64,
    pins: Arc<Pins>,
}

impl Drop for PinnedImage {
    fn drop(&mut self) {
        self.pins.release(self.number);
    }
}

#[async_trait]
impl BlockRead for PinnedImage {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> sluice_block::Result<()> {
        self.reader.read_at(offset, buf).await
    }

    async fn extents(&self, offset: u64, length: u64) -> sluice_block::Result<Vec<Extent>> {
        self.reader.extents(offset, length).await
    }
}

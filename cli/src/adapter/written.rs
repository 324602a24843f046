//! What is written to the images of a mount: an overlay for each point, opened when it is needed.
//!
//! A point whose overlay is there is shown as it was written, also to those who only read. A reader
//! that opened an image before sees what is written from then on.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use async_trait::async_trait;
use sluice_block::{BlockError, BlockRead, BlockWrite, ErrorKind, Extent};
use sluice_overlay::control::Control;
use sluice_overlay::{Description, OverlayDisk};
use sluice_repository::{Repository, RestorePoint};
use tokio::task::JoinHandle;

use super::overlay::PointOverlay;
use crate::output::folder_name;

/// An image of a point: the point's id, and the image.
type Place = (String, String);

/// The overlays of a mount.
#[derive(Debug)]
pub(crate) struct Written {
    repository: Repository,
    folder: PathBuf,
    limit: Option<u64>,
    disks: Mutex<HashMap<Place, Arc<OverlayDisk>>>,
    /// Held while one is opened: there is one for each point.
    open: tokio::sync::Mutex<Vec<(Arc<PointOverlay>, JoinHandle<()>)>>,
}

impl Written {
    /// Overlays below a folder, each with a limit of its own.
    pub(crate) fn new(repository: Repository, folder: PathBuf, limit: Option<u64>) -> Arc<Self> {
        let (disks, open) = (Mutex::default(), tokio::sync::Mutex::default());
        Arc::new(Self { repository, folder, limit, disks, open })
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Place, Arc<OverlayDisk>>> {
        self.disks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self, place: &Place) -> Option<Arc<OverlayDisk>> {
        self.known().get(place).cloned()
    }

    /// The disk of an image that can be written; with `create`, also when nothing was written to
    /// its point yet.
    pub(crate) async fn open(
        &self,
        point: &RestorePoint,
        image: &str,
        create: bool,
    ) -> Result<Option<Arc<OverlayDisk>>, BlockError> {
        let place = (point.id.to_string(), image.to_owned());
        if let Some(disk) = self.disk(&place) {
            return Ok(Some(disk));
        }
        let mut open = self.open.lock().await;
        // Named as exports do it: what was written to one is there in the other.
        let folder = self.folder.join(format!("{}-{}", point.instance, point.id));
        if self.disk(&place).is_none() && (create || Description::read(&folder).is_ok()) {
            let opened = self.open_over(point, folder).await;
            open.push(opened.map_err(|error| {
                let cause = error.into_boxed_dyn_error();
                BlockError::caused(ErrorKind::Io, "the overlay cannot be opened", cause)
            })?);
        }
        Ok(self.disk(&place))
    }

    async fn open_over(
        &self,
        point: &RestorePoint,
        folder: PathBuf,
    ) -> anyhow::Result<(Arc<PointOverlay>, JoinHandle<()>)> {
        let names: Vec<String> = point.images.iter().map(|image| image.name.clone()).collect();
        let opened = PointOverlay::over(&self.repository, &folder, point, &names, self.limit);
        let overlay = opened.await?;
        let bound = Control::bind(&folder);
        let bound = bound.with_context(|| format!("cannot make a socket in {}", folder.display()));
        let bound = match bound {
            Ok(bound) => bound,
            Err(error) => {
                overlay.close().await?;
                return Err(error);
            }
        };
        let control = tokio::spawn(bound.serve(overlay.clone()));
        let disks = names.into_iter().zip(overlay.overlay.disks());
        let id = point.id.to_string();
        self.known().extend(disks.map(|(name, disk)| ((id.clone(), name), disk)));
        tracing::info!(point = %folder_name(point), "what is written goes to {}", folder.display());
        Ok((overlay, control))
    }

    /// Makes everything durable, once nobody writes any more.
    pub(crate) async fn close(&self) -> anyhow::Result<()> {
        let mut outcome = Ok(());
        for (overlay, control) in self.open.lock().await.drain(..) {
            control.abort();
            let _ = control.await;
            outcome = outcome.and(overlay.close().await);
        }
        outcome
    }
}

/// An image that is read, from what was written to it as soon as there is something.
pub(crate) struct Watched {
    written: Arc<Written>,
    place: Place,
    below: Arc<dyn BlockRead>,
}

impl Watched {
    pub(crate) fn new(
        written: Arc<Written>,
        point: &RestorePoint,
        image: &str,
        below: Arc<dyn BlockRead>,
    ) -> Self {
        Self { written, place: (point.id.to_string(), image.to_owned()), below }
    }
}

#[async_trait]
impl BlockRead for Watched {
    fn size(&self) -> u64 {
        self.below.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> sluice_block::Result<()> {
        match self.written.disk(&self.place) {
            Some(disk) => disk.read_at(offset, buf).await,
            None => self.below.read_at(offset, buf).await,
        }
    }

    async fn extents(&self, offset: u64, length: u64) -> sluice_block::Result<Vec<Extent>> {
        match self.written.disk(&self.place) {
            Some(disk) => disk.extents(offset, length).await,
            None => self.below.extents(offset, length).await,
        }
    }
}

/// The disk of an image, for those who write.
pub(crate) async fn writable(
    written: Option<&Arc<Written>>,
    point: &RestorePoint,
    image: &str,
) -> Result<Arc<dyn BlockWrite>, BlockError> {
    let refused = || BlockError::new(ErrorKind::ReadOnly, format!("{point} cannot be written"));
    let opened = written.ok_or_else(refused)?.open(point, image, true).await?;
    opened.map(|disk| disk as Arc<dyn BlockWrite>).ok_or_else(refused)
}

//! Restore points as exports: which ones, how they open, and what changed on them.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use async_trait::async_trait;
use jiff::tz::TimeZone;
use sluice_block::{
    BlockError, BlockRead, ErrorKind as BlockKind, Extent, Piece, Result as BlockResult,
};
use sluice_nbd::{Changes, Device, Export, OpenDevice, Opened};
use sluice_repository::{
    ErrorKind, ImageReader, Pin, PointSpec, Repository, RepositoryError, RestorePoint,
};
use tokio_util::task::TaskTracker;

use crate::args::NbdArgs;
use crate::context::Context;
use crate::error::advise;
use crate::output::warn;
use crate::statistics::Registry;

/// One image to export.
pub(super) struct One {
    pub(super) point: Arc<RestorePoint>,
    pub(super) image: String,
}

/// The images to export, at least one.
pub(super) struct Chosen {
    pub(super) images: Vec<One>,
    /// What the arguments meant, one by one.
    pub(super) meant: Vec<String>,
    /// Whether the images of one point were asked for, so that their names are enough.
    single: bool,
    /// Whether somebody asked for these very points. They stay pinned; of all the others, those
    /// that clients have open.
    named: bool,
    zone: TimeZone,
}

/// Finds what the arguments name.
pub(super) async fn choose(
    context: &Context,
    repository: &Repository,
    args: &NbdArgs,
) -> Result<Chosen> {
    let (mut images, mut meant) = (Vec::new(), Vec::with_capacity(args.points.len()));
    for text in &args.points {
        let (point, image) = context.point(repository, text).await?;
        let (names, point) = (Context::image_names(&point, image.as_deref())?, Arc::new(point));
        meant.push(point.to_string());
        images.extend(names.into_iter().map(|image| One { point: Arc::clone(&point), image }));
    }
    if args.all {
        let listing = repository.list_as_committed(None).await?;
        for one in &listing.damaged {
            warn(&one.error);
        }
        for point in listing.points.into_iter().map(Arc::new) {
            let names = point.images.iter().map(|image| image.name.clone());
            images.extend(names.map(|image| One { point: Arc::clone(&point), image }));
        }
        if images.is_empty() {
            let none = "there is no restore point to export";
            return Err(advise("not-found", none, "`sluice backup` makes one"));
        }
    }
    let (single, zone) = (args.points.len() == 1, context.zone.clone());
    Ok(Chosen { images, meant, single, named: !args.all, zone })
}

/// Pins the points that were named: they are there as long as the server is.
pub(super) async fn pin(repository: &Repository, chosen: &Chosen) -> Result<Vec<Pin>> {
    let mut pins = Vec::new();
    let mut last = None;
    for one in chosen.images.iter().filter(|_| chosen.named) {
        let this = (one.point.chain, one.point.id);
        if last != Some(this) {
            pins.push(repository.pin(&one.point, "export").await?);
            last = Some(this);
        }
    }
    Ok(pins)
}

/// The exports, which are opened when somebody asks for them. `called` is the name of the only one.
pub(super) fn exports(
    context: &Context,
    repository: &Repository,
    chosen: &Chosen,
    called: Option<&str>,
    late_pins: &TaskTracker,
) -> Vec<Export> {
    context.statistics.watch_cache(repository);
    let export = |one: &One| {
        let full = format!("{}:{}", one.point, one.image);
        let name = match called {
            Some(called) => called.to_owned(),
            None if chosen.single => one.image.clone(),
            None => full.clone(),
        };
        // It shows in the figures though nobody has asked for it yet.
        context.statistics.announce(&name);
        let source = PointDevice {
            statistics: context.statistics.clone(),
            called: name.clone(),
            repository: repository.clone(),
            point: Arc::clone(&one.point),
            image: one.image.clone(),
            zone: chosen.zone.clone(),
            late_pins: (!chosen.named).then(|| late_pins.clone()),
        };
        Export::lazy(name, Arc::new(source)).with_description(full)
    };
    chosen.images.iter().map(export).collect()
}

/// An image of a restore point.
#[derive(Clone)]
struct PointDevice {
    statistics: Registry,
    called: String,
    repository: Repository,
    point: Arc<RestorePoint>,
    image: String,
    zone: TimeZone,
    /// Where pins are released, when the point is pinned only while it is open.
    late_pins: Option<TaskTracker>,
}

#[async_trait]
impl OpenDevice for PointDevice {
    async fn open(&self) -> BlockResult<Opened> {
        let pin = match &self.late_pins {
            Some(tasks) => {
                let pin = self.repository.pin(&self.point, "export").await;
                Some((pin.map_err(blocked)?, tasks.clone()))
            }
            None => None,
        };
        let reader = self.repository.image(&self.point, Some(&self.image)).map_err(blocked)?;
        let changes = PointChanges { newer: reader.clone(), of: self.clone() };
        let device = Pinned { reader, pin: Mutex::new(pin) };
        let device = self.statistics.measured(&self.called, Arc::new(device));
        let device = Device::ReadOnly(device);
        Ok(Opened { device, changes: Some(Arc::new(changes)) })
    }
}

/// An image that is open, with the pin that is released when it is not any more.
struct Pinned {
    reader: ImageReader,
    pin: Mutex<Option<(Pin, TaskTracker)>>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let pin = self.pin.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // Without a runtime the process is at its end, and the pin expires.
        if let (Some((pin, tasks)), Ok(runtime)) = (pin, tokio::runtime::Handle::try_current()) {
            tasks.spawn_on(pin.release(), &runtime);
        }
    }
}

#[async_trait]
impl BlockRead for Pinned {
    fn size(&self) -> u64 {
        self.reader.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> BlockResult<()> {
        self.reader.read_at(offset, buf).await
    }

    fn read_cached(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.reader.read_cached(offset, buf)
    }

    fn read_shared(&self, offset: u64, length: u64) -> Option<Vec<Piece>> {
        self.reader.read_shared(offset, length)
    }

    async fn extents(&self, offset: u64, length: u64) -> BlockResult<Vec<Extent>> {
        self.reader.extents(offset, length).await
    }
}

/// What changed on an image since other points of its chain.
struct PointChanges {
    of: PointDevice,
    newer: ImageReader,
}

impl PointChanges {
    /// Whether the image can be compared with the one in `other`.
    fn fits(&self, other: &RestorePoint) -> bool {
        let block_size = self.newer.block_size();
        let image = other.images.iter().find(|image| image.name == self.of.image);
        other.chain == self.of.point.chain
            && image.is_some_and(|image| image.block_size == block_size)
    }

    /// The point of this chain that a client called `text`: as in `sluice show`, or what stands
    /// behind the `@` there.
    async fn point(&self, text: &str) -> BlockResult<Option<RestorePoint>> {
        let full = match text.contains('@') {
            true => text.to_owned(),
            false => format!("{}@{text}", self.of.point.instance),
        };
        let Ok(spec) = PointSpec::parse(&full, &self.of.zone) else { return Ok(None) };
        match self.of.repository.resolve(&spec).await {
            Ok(point) if self.fits(&point) => Ok(Some(point)),
            Ok(_) => Ok(None),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::Ambiguous => Ok(None),
                _ => Err(blocked(error)),
            },
        }
    }
}

#[async_trait]
impl Changes for PointChanges {
    async fn points(&self) -> BlockResult<Vec<String>> {
        let instance = Some(self.of.point.instance.as_str());
        let listing = self.of.repository.list_as_committed(instance).await.map_err(blocked)?;
        let others = listing.points.iter().rev().filter(|other| other.id != self.of.point.id);
        Ok(others.filter(|other| self.fits(other)).map(|other| other.id.to_string()).collect())
    }

    async fn find(&self, text: &str) -> BlockResult<Option<String>> {
        Ok(self.point(text).await?.map(|point| point.id.to_string()))
    }

    async fn since(&self, point: &str) -> BlockResult<Vec<Range<u64>>> {
        let gone = || BlockError::new(BlockKind::Unavailable, format!("{point} is gone"));
        let older = self.point(point).await?.ok_or_else(gone)?;
        // So that no collection takes away what is compared.
        let pin = self.of.repository.pin(&older, "export").await.map_err(blocked)?;
        let compared = match self.of.repository.image(&older, Some(&self.of.image)) {
            Ok(older) => self.newer.changed_since(&older).await,
            Err(error) => Err(error),
        };
        pin.release().await;
        compared.map_err(blocked)
    }
}

/// A failure of the repository as one of a disk.
fn blocked(error: RepositoryError) -> BlockError {
    let kind = match error.kind() {
        ErrorKind::Damaged => BlockKind::Damaged,
        ErrorKind::Destination(_) | ErrorKind::NotFound => BlockKind::Unavailable,
        _ => BlockKind::Io,
    };
    BlockError::caused(kind, "the restore point cannot be used", error)
}

//! The overlay as a whole: opening, status, and what all its disks share.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use rand::RngCore;
use sluice_block::{BlockError, BlockRead, ErrorKind};

use crate::description::{Description, DiskInfo, Origin};
use crate::disk::OverlayDisk;
use crate::error::{OverlayError, Result, io_error};
use crate::folder::Folder;
use crate::hydrate::{Hydration, hydration};
use crate::lane::Lane;
use crate::layer::{Layer, sync_folder};
use crate::map::{CHUNK, Entry, State};
use crate::note::Boot;
use crate::space::Space;
use crate::view::View;
use crate::{CELL, MAX_SIZE};

/// Bytes moved at a time when layers are merged.
const STEP: u64 = 1 << 20;

/// What an overlay lies over: a disk, and how it is known.
pub struct Base {
    /// Its name, size and digest.
    pub info: DiskInfo,
    /// Its bytes.
    pub device: Arc<dyn BlockRead>,
}

/// How to open an overlay.
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenOptions {
    /// Make it when it is not there.
    pub create: bool,
    /// Bytes that written cells may take from now on; what was said before when `None`.
    pub limit: Option<u64>,
    /// What tells this start of the machine from others; what the system says when `None`.
    pub boot: Option<Boot>,
}

/// What there is to say of an overlay in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Status {
    /// Bytes of written cells, of all layers.
    pub written: u64,
    /// Bytes of cells that were made zero.
    pub zero: u64,
    /// Bytes that written cells may take.
    pub limit: Option<u64>,
    /// Number of layers; more than one while a commit runs, or after one that failed.
    pub layers: usize,
    /// How much of the base has been copied, once that was begun.
    pub hydration: Option<Hydration>,
    /// The disks are files or devices of this machine, and nothing else is read or written.
    pub local: bool,
    /// A view of it is frozen.
    pub frozen: bool,
    /// A sync has failed: nothing can be written any more.
    pub failed: bool,
}

/// Writable disks over disks that cannot be written, in a folder.
pub struct Overlay {
    pub(crate) folder: Folder,
    pub(crate) description: Mutex<Description>,
    /// Held shared while something is being written, and alone to exchange layers, so that every
    /// write is wholly before or wholly after that. Only threads that may block take it, and take
    /// it before `views`.
    pub(crate) writing: RwLock<()>,
    /// The disks as they are now. Held for an instant only: whoever reads looks here, on threads
    /// that must not block.
    pub(crate) views: RwLock<Vec<Arc<View>>>,
    /// Where each disk's data is written.
    pub(crate) lanes: Box<[Arc<Lane>]>,
    pub(crate) space: Space,
    pub(crate) frozen: AtomicBool,
    /// Held by whoever puts something into the copies of the bases.
    pub(crate) copying: Mutex<()>,
    /// Held by whoever copies the bases; whoever wants it as well waits for them.
    pub(crate) hydrating: Arc<tokio::sync::Mutex<()>>,
    /// Most bytes a second of that, as was said last; none for as many as there are.
    pub(crate) rate: AtomicU64,
    failed: AtomicBool,
}

impl Overlay {
    /// Opens the overlay in a folder, or makes one. Blocks: it reads the logs.
    ///
    /// # Errors
    /// [`OverlayError::InUse`]; [`OverlayError::NotFound`] or [`OverlayError::NotEmpty`], by the
    /// options; [`OverlayError::OtherBase`] when it lies over something else; or what is found to
    /// be damaged.
    pub fn open(
        path: &Path,
        origin: &Origin,
        bases: Vec<Base>,
        options: OpenOptions,
    ) -> Result<Arc<Self>> {
        let folder = Folder::lock(path, options.create)?.in_boot(options.boot);
        let (infos, devices): (Vec<_>, Vec<_>) =
            bases.into_iter().map(|base| (base.info, base.device)).unzip();
        let mut description = match Description::read(path) {
            Err(OverlayError::NotFound(_)) if options.create => {
                create(&folder, origin, infos.clone(), options.limit)?
            }
            other => other?,
        };
        check_base(path, &description, origin, &infos)?;
        if let Some(limit) = options.limit.filter(|limit| description.limit != Some(*limit)) {
            description.limit = Some(limit);
            description.write(path)?;
        }
        let mut disks = folder.open_layers(&description)?;
        let copies = description.copies();
        if description.layers.len() > copies + 1 {
            for layers in &mut disks {
                let uppers = layers.split_off(copies + 1);
                uppers.iter().try_for_each(|upper| merge(&layers[copies], upper))?;
                layers[copies].flush()?;
            }
            description.layers.truncate(copies + 1);
            description.write(path)?;
        }
        folder.sweep(&description);
        if description.is_local() {
            disks.iter().flatten().for_each(Layer::take_all_for_written);
            description.limit = None;
        }
        let written = disks.iter().flat_map(|layers| &layers[copies..]);
        let used = written.map(|layer| layer.counts().0).sum();
        let most = description.limit.map_or(u64::MAX, |limit| limit / CELL);
        let views = disks.into_iter().zip(devices).zip(&description.disks);
        let views = views.map(|((layers, base), info)| {
            let layers = layers.into_iter().map(Arc::new).collect();
            Arc::new(View { size: info.size, layers, copied: copies > 0, base })
        });
        Ok(Arc::new(Self {
            writing: RwLock::new(()),
            lanes: description.disks.iter().map(|_| Arc::default()).collect(),
            views: RwLock::new(views.collect()),
            space: Space::new(used, most),
            folder,
            description: Mutex::new(description),
            frozen: AtomicBool::new(false),
            copying: Mutex::new(()),
            hydrating: Arc::default(),
            rate: AtomicU64::new(0),
            failed: AtomicBool::new(false),
        }))
    }

    /// The disks, in the order of the description.
    pub fn disks(self: &Arc<Self>) -> Vec<Arc<OverlayDisk>> {
        let sizes: Vec<u64> = self.views.read().iter().map(|view| view.size).collect();
        let disks = sizes.into_iter().enumerate();
        disks.map(|(index, size)| Arc::new(OverlayDisk::new(self.clone(), index, size))).collect()
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// What it is, now.
    pub fn description(&self) -> Description {
        self.description.lock().clone()
    }

    /// Notes whether whoever has the base keeps it for this overlay, right after opening it.
    ///
    /// # Errors
    /// What the system reports.
    pub fn set_kept(&self, kept: bool) -> Result<()> {
        let mut description = self.description.lock();
        if description.kept == kept {
            return Ok(());
        }
        let next = Description { kept, ..description.clone() };
        next.write(self.path())?;
        *description = next;
        Ok(())
    }

    /// How it is.
    pub fn status(&self) -> Status {
        let (limit, local) = {
            let description = self.description.lock();
            (description.limit, description.is_local())
        };
        let views = self.views.read();
        let zero: u64 =
            views.iter().flat_map(|view| view.written()).map(|layer| layer.counts().1).sum();
        Status {
            written: self.space.used() * CELL,
            zero: zero * CELL,
            limit,
            layers: views.first().map_or(0, |view| view.written().len()),
            hydration: hydration(&views),
            local,
            frozen: self.frozen.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// Makes everything durable that was written to any disk. Blocks.
    ///
    /// # Errors
    /// What the system reports. Nothing can be written afterwards.
    pub fn flush(&self) -> Result<(), BlockError> {
        let views = self.views.read().clone();
        views.iter().try_for_each(|view| self.flush_layers(&view.layers))
    }

    /// Makes layers durable. Blocks.
    pub(crate) fn flush_layers(&self, layers: &[Arc<Layer>]) -> Result<(), BlockError> {
        self.healthy()?;
        for layer in layers {
            if let Err(error) = layer.flush() {
                self.failed.store(true, Ordering::Release);
                layers.iter().for_each(|layer| layer.disown_notes());
                tracing::error!(
                    overlay = %self.path().display(),
                    "what was written since the last flush may be lost; nothing more is written"
                );
                return Err(error.into());
            }
        }
        Ok(())
    }

    /// Fails once a sync has failed: the system may have dropped what it could not write, and
    /// would call the next sync a success.
    pub(crate) fn healthy(&self) -> Result<(), BlockError> {
        if self.failed.load(Ordering::Acquire) {
            let text = "the overlay's disk has failed; end the export, see to the disk, and begin \
                        the export again";
            return Err(BlockError::new(ErrorKind::Io, text));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Overlay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Overlay").field("path", &self.path()).finish_non_exhaustive()
    }
}

/// An overlay that is about to be thrown away: nobody else can use it any more.
#[derive(Debug)]
pub struct Discard {
    folder: Folder,
    description: Option<Description>,
}

impl Discard {
    /// Takes the overlay in a folder. It is as it was until [`finish`](Self::finish).
    ///
    /// # Errors
    /// [`OverlayError::InUse`], [`OverlayError::NotFound`], or what the system reports.
    pub fn begin(path: &Path) -> Result<Self> {
        let folder = Folder::lock(path, false)?;
        let description = match Description::read(path) {
            // One that cannot be read can be thrown away.
            Err(OverlayError::Description { .. } | OverlayError::Version { .. }) => None,
            other => Some(other?),
        };
        Ok(Self { folder, description })
    }

    /// What it is, as far as it can be read.
    pub fn description(&self) -> Option<&Description> {
        self.description.as_ref()
    }

    /// Throws it away, with all that was written to it.
    ///
    /// # Errors
    /// What the system reports.
    pub fn finish(self) -> Result<()> {
        self.folder.remove()
    }
}

/// Whether a process uses the overlay in a folder now.
pub fn is_in_use(path: &Path) -> bool {
    matches!(Folder::lock(path, false), Err(OverlayError::InUse(_)))
}

fn create(
    folder: &Folder,
    origin: &Origin,
    disks: Vec<DiskInfo>,
    limit: Option<u64>,
) -> Result<Description> {
    let path = folder.path();
    if !folder.is_fresh()? {
        return Err(OverlayError::NotEmpty(path.to_owned()));
    }
    if let Some(disk) = disks.iter().find(|disk| disk.size > MAX_SIZE) {
        let reason = format!("{} is larger than {} TiB", disk.name, MAX_SIZE >> 40);
        return Err(OverlayError::Description { path: path.to_owned(), reason });
    }
    let mut id = [0; 16];
    rand::rng().fill_bytes(&mut id);
    let description = Description::new(origin.clone(), disks, limit, id);
    folder.create_layer(&description, 1)?;
    description.write(path)?;
    sync_folder(path).map_err(|e| io_error("sync", path, e))?;
    Ok(description)
}

fn check_base(
    path: &Path,
    description: &Description,
    origin: &Origin,
    infos: &[DiskInfo],
) -> Result<()> {
    if description.base == *origin && description.disks == infos {
        return Ok(());
    }
    let show = |origin: &Origin, disks: &[DiskInfo]| {
        let names: Vec<_> = disks.iter().map(|disk| disk.name.as_str()).collect();
        format!("{}@{} ({})", origin.instance, origin.point, names.join(", "))
    };
    Err(OverlayError::OtherBase {
        path: path.to_owned(),
        found: show(&description.base, &description.disks),
        wanted: show(origin, infos),
    })
}

/// Puts an upper layer's content into a lower one; to be flushed. The upper one goes on saying the
/// same until it no longer counts, so this can be cut off anywhere.
pub(crate) fn merge(lower: &Layer, upper: &Layer) -> Result<()> {
    let unbounded = Space::unbounded();
    for entry in upper.entries() {
        let cells = match entry {
            Entry::Run { start, count, .. } => start..start + count,
            Entry::Bits { chunk, .. } => chunk * CHUNK..(chunk + 1) * CHUNK,
        };
        let mut cell = cells.start;
        while cell < cells.end {
            let (state, end) = upper.run(cell, cells.end.min(cell + STEP / CELL));
            let moved = match state {
                State::Below => Ok(()),
                State::Zero => lower.zero_cells(cell..end, &unbounded),
                State::Written => {
                    let stop = (end * CELL).min(upper.size());
                    let mut bytes = vec![0; (stop - cell * CELL) as usize];
                    upper
                        .read(cell * CELL, &mut bytes)
                        .and_then(|()| lower.write_cells(cell * CELL, &bytes, &unbounded))
                }
            };
            moved.map_err(|e| io_error("merge", upper.path(), e))?;
            cell = end;
        }
    }
    Ok(())
}

//! Freezing: a view of one moment that stays while clients go on writing.
//!
//! ```text
//!            freeze                    rebase
//!  layer 1 ────────► layer 2 (top)  ────────►  layer 2 (top)
//!  base              layer 1 (frozen)          base, which holds what layer 1 held
//!                    base
//! ```

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use sluice_block::BlockRead;

use crate::MOST_LAYERS;
use crate::description::{Description, DiskInfo, Origin};
use crate::error::{OverlayError, Result};
use crate::overlay::{Base, Overlay, merge};
use crate::view::View;

/// An overlay as it was at one moment. Dropping it lets the overlay be as it is.
#[derive(Debug)]
pub struct Frozen {
    overlay: Arc<Overlay>,
    description: Description,
    disks: Vec<FrozenDisk>,
}

/// A disk as it was at one moment.
#[derive(Clone)]
pub struct FrozenDisk {
    /// Which it is.
    pub info: DiskInfo,
    /// Its bytes at that moment.
    pub device: Arc<dyn BlockRead>,
    /// The bytes that may differ from what lies under the overlay, ascending.
    pub changed: Vec<Range<u64>>,
}

impl std::fmt::Debug for FrozenDisk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrozenDisk").field("info", &self.info).finish_non_exhaustive()
    }
}

impl Overlay {
    /// Keeps the disks as they are now, all of one moment. Every write that was answered before
    /// the call is in it, and none that is begun after it. Blocks, and so do writes for an instant.
    ///
    /// # Errors
    /// [`OverlayError::Frozen`], [`OverlayError::TooManyLayers`], or what the system reports.
    pub fn freeze(self: &Arc<Self>) -> Result<Frozen> {
        if self.frozen.swap(true, Ordering::AcqRel) {
            return Err(OverlayError::Frozen);
        }
        let frozen = self.freeze_now();
        if frozen.is_err() {
            self.frozen.store(false, Ordering::Release);
        }
        frozen
    }

    fn freeze_now(self: &Arc<Self>) -> Result<Frozen> {
        self.healthy().map_err(OverlayError::Failed)?;
        let before = self.description();
        if before.is_local() {
            return Err(OverlayError::Local(before.copy_to));
        }
        if before.layers.len() >= MOST_LAYERS {
            return Err(OverlayError::TooManyLayers);
        }
        let next = before.layers.last().map_or(1, |last| last + 1);
        // Empty, and known as a layer: harmless if the process dies here.
        let fresh = self.folder.create_layer(&before, next)?;
        let mut description = before.clone();
        description.layers.push(next);
        description.write(self.path())?;
        *self.description.lock() = description;
        let frozen: Vec<Arc<View>> = {
            let _alone = self.writing.write();
            let mut views = self.views.write();
            let frozen = views.clone();
            for (view, layer) in views.iter_mut().zip(fresh) {
                let mut layers = view.layers.clone();
                layers.push(Arc::new(layer));
                *view = Arc::new(View { layers, ..(**view).clone() });
            }
            frozen
        };
        for view in &frozen {
            self.flush_layers(&view.layers).map_err(OverlayError::Failed)?;
        }
        let disks = frozen.into_iter().zip(&before.disks);
        let disks = disks.map(|(view, info)| FrozenDisk {
            info: info.clone(),
            changed: view.changed(),
            device: view,
        });
        Ok(Frozen { overlay: self.clone(), disks: disks.collect(), description: before })
    }
}

impl Frozen {
    /// The overlay as it was described at that moment.
    pub fn description(&self) -> &Description {
        &self.description
    }

    /// The disks.
    pub fn disks(&self) -> &[FrozenDisk] {
        &self.disks
    }

    /// Puts `bases` under the overlay and drops the layers they make superfluous. They must read
    /// exactly as the disks of this moment: as `built_on` with what changed since. `kept` as for
    /// [`Overlay::set_kept`]. Blocks.
    ///
    /// # Errors
    /// [`OverlayError::BuiltOnOther`] when `built_on` is not what lay below at this moment,
    /// [`OverlayError::OtherBase`] when the disks are others; or what the system reports. The
    /// overlay is then as it was.
    pub fn rebase(
        self,
        built_on: &Origin,
        origin: &Origin,
        bases: Vec<Base>,
        kept: bool,
    ) -> Result<()> {
        let overlay = &self.overlay;
        // What changed since another base says nothing of what that one lacks.
        if *built_on != self.description.base {
            return Err(OverlayError::BuiltOnOther {
                path: overlay.path().to_owned(),
                found: self.description.base.to_string(),
                built_on: built_on.to_string(),
            });
        }
        let like = |(base, disk): (&Base, &FrozenDisk)| {
            (&base.info.name, base.info.size) == (&disk.info.name, disk.info.size)
                && base.device.size() == disk.info.size
        };
        if bases.len() != self.disks.len() || !bases.iter().zip(&self.disks).all(like) {
            return Err(OverlayError::OtherBase {
                path: overlay.path().to_owned(),
                found: self.description.base.point.clone(),
                wanted: origin.point.clone(),
            });
        }
        let (all, copies) = (self.description.layers.len(), self.description.copies());
        // Nothing that was read of the old base is put into a copy from here on.
        let _alone = overlay.copying.lock();
        let views = overlay.views.read().clone();
        if copies > 0 {
            // The frozen layers count until the description says otherwise, and hide this.
            for view in &views {
                let (copy, frozen) = (&view.layers[0], &view.layers[1..all]);
                frozen.iter().try_for_each(|layer| merge(copy, layer))?;
                copy.flush()?;
            }
        }
        let mut description = overlay.description();
        description.layers.drain(copies..all);
        (description.base, description.kept) = (origin.clone(), kept);
        description.disks = bases.iter().map(|base| base.info.clone()).collect();
        // From here on the new base counts, also for whoever opens the overlay next.
        description.write(overlay.path())?;
        *overlay.description.lock() = description.clone();
        let mut held = 0;
        {
            let _alone = overlay.writing.write();
            let mut views = overlay.views.write();
            for (view, base) in views.iter_mut().zip(bases) {
                let mut layers = view.layers.clone();
                held += layers.drain(copies..all).map(|layer| layer.counts().0).sum::<u64>();
                *view = Arc::new(View { layers, base: base.device, ..(**view).clone() });
            }
        }
        overlay.space.give(held);
        overlay.folder.sweep(&description);
        Ok(())
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.overlay.frozen.store(false, Ordering::Release);
    }
}

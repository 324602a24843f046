//! Hydrating: copying the base into a layer of its own, below all that was written.
//!
//! The base does not change, so a copy of a cell is as good as the cell, and is read instead of it
//! from the moment it is there. How far the copy has come is what the layer's map says, so a copy
//! that was cut off goes on from its last flush. It is no part of the overlay's limit, nor of what
//! a commit reads; after one, what was committed is put into the copy.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sluice_block::BlockError;
use tokio::sync::OwnedMutexGuard;

use crate::CELL;
use crate::description::COPY;
use crate::error::{OverlayError, Result};
use crate::map::State;
use crate::overlay::Overlay;
use crate::space::Space;
use crate::view::{View, blocking};

/// Bytes copied at a time: what a base fetches in one go, several times over.
const STEP: u64 = 4 << 20;
/// Bytes after which the copy is made durable: what is lost at most when it is cut off.
const FLUSH: u64 = 256 << 20;
/// Time after which it is, however slow it is.
const FLUSH_AFTER: Duration = Duration::from_secs(10);

/// How far the copy of the base has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Hydration {
    /// Bytes of the disks that need the base no more.
    pub done: u64,
    /// Bytes of the disks.
    pub total: u64,
}

/// How far the copies of disks have come, where there are copies.
pub(crate) fn hydration(views: &[Arc<View>]) -> Option<Hydration> {
    let copies: Vec<_> = views.iter().filter(|view| view.copied).collect();
    let done = |view: &Arc<View>| {
        let (written, zero) = view.layers[0].counts();
        ((written + zero) * CELL).min(view.size)
    };
    let total = copies.iter().map(|view| view.size).sum();
    let done = copies.iter().map(|view| done(view)).sum();
    (!copies.is_empty()).then_some(Hydration { done, total })
}

impl Overlay {
    /// Copies what lies under the disks into the overlay's folder, at most `rate` bytes a second.
    /// Clients go on reading and writing. It goes on where it was left, and nothing is lost when
    /// the future is dropped. Afterwards the base is not read any more.
    ///
    /// One copies at a time. Called while somebody else does, it waits for them, and goes on where
    /// they stop; the `rate` that was said last holds for whoever copies.
    ///
    /// # Errors
    /// [`OverlayError::CopiedElsewhere`] when the copy was begun with another place;
    /// [`OverlayError::Frozen`] when it is begun while a commit runs; what the base or the system
    /// reports. It can be called again.
    pub async fn hydrate(self: &Arc<Self>, rate: Option<u64>) -> Result<()> {
        let _hydrating = self.hydrate_alone(&[], rate).await?;
        let overlay = self.clone();
        blocking(move || overlay.begin_copy(&[])).await.map_err(OverlayError::Failed)??;
        self.copy_all().await
    }

    /// Waits until nobody else copies, unless they copy to another place.
    pub(crate) async fn hydrate_alone(
        &self,
        to: &[PathBuf],
        rate: Option<u64>,
    ) -> Result<OwnedMutexGuard<()>> {
        // What cannot be is said now, and not after hours.
        self.is_begun(to)?;
        self.rate.store(rate.unwrap_or(0), Ordering::Relaxed);
        Ok(Arc::clone(&self.hydrating).lock_owned().await)
    }

    pub(crate) async fn copy_all(self: &Arc<Self>) -> Result<()> {
        let count = self.views.read().len();
        for index in 0..count {
            self.copy_disk(index).await?;
        }
        Ok(())
    }

    /// Whether a copy to these places was begun.
    fn is_begun(&self, to: &[PathBuf]) -> Result<bool> {
        let description = self.description();
        match description.copies() > 0 || description.is_local() {
            true if description.copy_to != to => {
                Err(OverlayError::CopiedElsewhere(description.copy_to))
            }
            begun => Ok(begun),
        }
    }

    /// Makes the layer for the copy, if it is not there; its data outside where `to` says.
    pub(crate) fn begin_copy(&self, to: &[PathBuf]) -> Result<()> {
        if self.is_begun(to)? {
            return Ok(());
        }
        // A frozen view counts layers; none may come in below it.
        if self.frozen.swap(true, Ordering::AcqRel) {
            return Err(OverlayError::Frozen);
        }
        let begun = self.begin_copy_alone(to);
        self.frozen.store(false, Ordering::Release);
        begun
    }

    fn begin_copy_alone(&self, to: &[PathBuf]) -> Result<()> {
        let mut description = self.description();
        description.copy_to = to.to_vec();
        let copies = self.folder.create_layer(&description, COPY)?;
        description.layers.insert(0, COPY);
        description.write(self.path())?;
        *self.description.lock() = description;
        let _alone = self.writing.write();
        let mut views = self.views.write();
        for (view, copy) in views.iter_mut().zip(copies) {
            let mut layers = view.layers.clone();
            layers.insert(0, Arc::new(copy));
            *view = Arc::new(View { layers, copied: true, ..(**view).clone() });
        }
        Ok(())
    }

    async fn copy_disk(self: &Arc<Self>, index: usize) -> Result<()> {
        let view = || Arc::clone(&self.views.read()[index]);
        let size = view().size;
        let (mut at, mut unflushed, mut flushed) = (0, 0, Instant::now());
        while at < size {
            let started = Instant::now();
            let view = view();
            let last = size.div_ceil(CELL);
            let (state, end) = view.layers[0].run(at / CELL, last);
            let end = (end * CELL).min(size);
            if state != State::Below {
                at = end;
                continue;
            }
            let part = at..end.min(at + STEP);
            let moved = self.copy_part(index, &view, part.clone()).await;
            let Some(moved) = moved.map_err(OverlayError::Failed)? else { continue };
            (at, unflushed) = (part.end, unflushed + moved);
            if unflushed >= FLUSH || flushed.elapsed() >= FLUSH_AFTER {
                self.flush_copy(&view).await?;
                (unflushed, flushed) = (0, Instant::now());
            }
            let rate = self.rate.load(Ordering::Relaxed);
            if rate > 0 {
                let due = Duration::from_secs_f64(moved as f64 / rate as f64);
                tokio::time::sleep(due.saturating_sub(started.elapsed())).await;
            }
        }
        self.flush_copy(&view()).await
    }

    async fn flush_copy(self: &Arc<Self>, view: &Arc<View>) -> Result<()> {
        let (overlay, copy) = (self.clone(), view.layers[0].clone());
        let flushed = blocking(move || overlay.flush_layers(&[copy])).await;
        flushed.and_then(|flushed| flushed).map_err(OverlayError::Failed)
    }

    /// Copies a part of a disk's base, of which nothing is there yet. Returns how much was read, or
    /// nothing when the base was exchanged meanwhile, or something came to be there.
    async fn copy_part(
        self: &Arc<Self>,
        index: usize,
        view: &Arc<View>,
        part: Range<u64>,
    ) -> Result<Option<u64>, BlockError> {
        let mut found: Vec<(Range<u64>, Option<Vec<u8>>)> = Vec::new();
        let (mut at, mut moved) = (part.start, 0);
        while at < part.end {
            let extents = view.base.extents(at, part.end - at).await?;
            let hole = extents.first().filter(|first| first.kind.reads_zero());
            let whole = hole.map(|hole| match hole.end() {
                end if end >= part.end => part.end,
                end => end / CELL * CELL,
            });
            if let Some(end) = whole.filter(|end| *end > at) {
                found.push((at..end, None));
                at = end;
                continue;
            }
            // Up to the next hole, or past a cell that begins with one.
            let end = extents.iter().take_while(|extent| !extent.kind.reads_zero()).last();
            let end = end.map_or(at + CELL, |last| last.end().next_multiple_of(CELL));
            let end = end.min(part.end);
            let mut bytes = vec![0; (end - at) as usize];
            view.base.read_at(at, &mut bytes).await?;
            moved += end - at;
            found.push((at..end, Some(bytes)));
            at = end;
        }
        let (overlay, view) = (self.clone(), view.clone());
        let put = blocking(move || {
            let _alone = overlay.copying.lock();
            if !Arc::ptr_eq(&overlay.views.read()[index].base, &view.base) {
                return Ok(false);
            }
            // The copy may be the disk by now, and hold what was written to it: a read of the base
            // can take as long as it likes.
            let cells = part.start / CELL..part.end.div_ceil(CELL);
            if view.layers[0].run(cells.start, cells.end) != (State::Below, cells.end) {
                return Ok(false);
            }
            put(&view, found).map(|()| true)
        });
        let put = put.await?.map_err(|e| BlockError::io("cannot copy what lies below", e))?;
        Ok(put.then_some(moved))
    }
}

/// Puts parts of the base into the copy.
fn put(view: &View, parts: Vec<(Range<u64>, Option<Vec<u8>>)>) -> std::io::Result<()> {
    let (copy, unbounded) = (&view.layers[0], Space::unbounded());
    for (range, bytes) in parts {
        match bytes {
            Some(bytes) => copy.write_cells(range.start, &bytes, &unbounded)?,
            None => {
                copy.zero_cells(range.start / CELL..range.end.div_ceil(CELL), &unbounded)?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use sluice_block::{BlockRead, Extent, MemoryDisk};
    use tokio::sync::Semaphore;

    use super::*;
    use crate::{Base, DiskInfo, OpenOptions, Origin};

    /// A base whose reads wait at a gate.
    struct Gated {
        disk: MemoryDisk,
        came: Semaphore,
        gate: Semaphore,
    }

    #[async_trait]
    impl BlockRead for Gated {
        fn size(&self) -> u64 {
            self.disk.size()
        }

        async fn read_at(&self, offset: u64, buf: &mut [u8]) -> sluice_block::Result<()> {
            self.came.add_permits(1);
            self.gate.acquire().await.unwrap().forget();
            self.disk.read_at(offset, buf).await
        }

        async fn extents(&self, offset: u64, length: u64) -> sluice_block::Result<Vec<Extent>> {
            self.disk.extents(offset, length).await
        }
    }

    /// Where the copy holds something by the time a read of the base comes back, that may be the
    /// disk's newest data.
    #[tokio::test]
    async fn a_read_that_comes_late_is_not_put_over_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let disk = MemoryDisk::from_bytes(&[1; 4 * CELL as usize]);
        let (came, gate) = (Semaphore::new(0), Semaphore::new(0));
        let base = Arc::new(Gated { disk, came, gate });
        let info = DiskInfo { name: "vda".into(), size: base.size(), root: "first".into() };
        let [repository, instance, point] = ["r", "vm", "p"].map(str::to_owned);
        let origin = Origin { repository, instance, point };
        let options = OpenOptions { create: true, ..OpenOptions::default() };
        let bases = vec![Base { info, device: base.clone() }];
        let overlay = Overlay::open(folder.path(), &origin, bases, options).unwrap();
        overlay.begin_copy(&[]).unwrap();
        let view = overlay.views.read()[0].clone();
        for cell in [1, 3] {
            let (reading, seen) = (overlay.clone(), view.clone());
            let part = 0..(4 - cell) * CELL;
            let late = tokio::spawn(async move { reading.copy_part(0, &seen, part).await });
            base.came.acquire().await.unwrap().forget();
            if cell == 1 {
                view.layers[0].write_cells(CELL, &[2; CELL as usize], &Space::unbounded()).unwrap();
            }
            base.gate.add_permits(1);
            let moved = late.await.unwrap().unwrap();
            assert_eq!(moved, (cell == 3).then_some(CELL));
        }
        let mut bytes = vec![0; 2 * CELL as usize];
        view.layers[0].read(0, &mut bytes).unwrap();
        assert_eq!((bytes[0], bytes[CELL as usize]), (1, 2));
    }
}

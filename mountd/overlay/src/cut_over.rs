//! Moving disks to files or devices of this machine, while they are in use.
//!
//! The copy of the base (`hydrate.rs`) then has its data at a place of the caller's choice, and
//! what is zero is made zero there. When it is complete, what was written is put into it, layer by
//! layer as after commits, until little is left; that is put into it while writes wait. From then
//! on the copy is the only layer: it takes the writes, and its data is the disk.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::CELL;
use crate::description::COPY;
use crate::error::{OverlayError, Result, io_error};
use crate::overlay::{Base, Overlay, merge};
use crate::view::{View, blocking};

/// Bytes that may be put into the copy while writes wait.
const LITTLE: u64 = 16 << 20;
/// Rounds before that. Clients that write faster than this disk takes it wait the longer then.
const ROUNDS: usize = 8;

impl Overlay {
    /// Copies the disks to `to`, a file or device for each, at most `rate` bytes of the base a
    /// second; in the end they are the disks. Clients go on reading and writing. It goes on where
    /// it was left, also after a crash, and nothing is lost when the future is dropped. Called
    /// while a copy is under way it waits for that one, as [`hydrate`](Self::hydrate) does.
    ///
    /// # Errors
    /// [`OverlayError::TargetNotEmpty`]; [`OverlayError::CopiedElsewhere`] when the copy was begun
    /// with another place; [`OverlayError::Frozen`] while a commit runs; what the base or the
    /// system reports. It can be called again.
    pub async fn move_to(self: &Arc<Self>, to: Vec<PathBuf>, rate: Option<u64>) -> Result<()> {
        let hydrating = self.hydrate_alone(&to, rate).await?;
        let overlay = self.clone();
        let begun = blocking(move || {
            let description = overlay.description();
            if description.copies() == 0 && !description.is_local() {
                to.iter().try_for_each(|path| must_be_free(path))?;
            }
            overlay.begin_copy(&to)
        });
        begun.await.map_err(OverlayError::Failed)??;
        if self.description().is_local() {
            return Ok(());
        }
        self.copy_all().await?;
        let overlay = self.clone();
        let cut = blocking(move || {
            // Until this is done, also when nobody waits for it any more.
            let _hydrating = hydrating;
            overlay.cut_over()
        });
        cut.await.map_err(OverlayError::Failed)?
    }

    fn cut_over(self: &Arc<Self>) -> Result<()> {
        for _ in 0..ROUNDS {
            if self.space.used() * CELL <= LITTLE {
                break;
            }
            // What a commit does, without another base.
            let frozen = self.freeze()?;
            let description = frozen.description().clone();
            let views = self.views.read().clone();
            let bases = views.iter().zip(&description.disks);
            let bases = bases
                .map(|(view, info)| Base { info: info.clone(), device: Arc::clone(&view.base) });
            let bases = bases.collect();
            let base = &description.base;
            frozen.rebase(base, base, bases, description.kept)?;
        }
        if self.frozen.swap(true, Ordering::AcqRel) {
            return Err(OverlayError::Frozen);
        }
        let done = self.cut_over_alone();
        self.frozen.store(false, Ordering::Release);
        done
    }

    /// The last step. Up to the new description the layers above count, and hide what is put into
    /// the copy.
    fn cut_over_alone(&self) -> Result<()> {
        let _alone = self.copying.lock();
        self.healthy().map_err(OverlayError::Failed)?;
        // Writes wait from here on. Whoever reads goes on: nothing here is done under `views` that
        // takes long.
        let _waiting = self.writing.write();
        let views = self.views.read().clone();
        for view in &views {
            let (copy, uppers) = (&view.layers[0], &view.layers[1..]);
            uppers.iter().try_for_each(|upper| merge(copy, upper))?;
        }
        for view in &views {
            self.flush_layers(&view.layers[..1]).map_err(OverlayError::Failed)?;
        }
        let mut description = self.description();
        description.layers = vec![COPY];
        description.write(self.path())?;
        *self.description.lock() = description.clone();
        let held = self.space.used();
        for view in self.views.write().iter_mut() {
            let layers = vec![Arc::clone(&view.layers[0])];
            self.space.force(layers[0].counts().0);
            *view = Arc::new(View { layers, copied: false, ..(**view).clone() });
        }
        self.space.give(held);
        self.space.unbind();
        self.folder.sweep(&description);
        Ok(())
    }
}

/// Nothing is overwritten that somebody may need: a file is new or empty. A device is what its
/// owner says it is.
fn must_be_free(path: &Path) -> Result<()> {
    match std::fs::metadata(path) {
        Ok(there) if there.is_file() && there.len() > 0 => {
            Err(OverlayError::TargetNotEmpty(path.to_owned()))
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // So that its name is durable before the description speaks of it.
            let made = File::create_new(path).and_then(|file| file.sync_all());
            made.and_then(|()| crate::layer::sync_folder(path))
                .map_err(|e| io_error("make", path, e))
        }
        Err(error) => Err(io_error("look at", path, error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use sluice_block::{BlockRead as _, BlockWrite as _, MemoryDisk};

    use super::*;
    use crate::{DiskInfo, OpenOptions, Origin};

    /// What the last step holds while it merges and syncs keeps writes out, and nobody else.
    #[tokio::test]
    async fn disks_are_read_while_writes_wait() {
        let folder = tempfile::tempdir().unwrap();
        let device = Arc::new(MemoryDisk::from_bytes(&[1; 8192]));
        let info = DiskInfo { name: "vda".into(), size: 8192, root: "first".into() };
        let [repository, instance, point] = ["r", "vm", "p"].map(str::to_owned);
        let origin = Origin { repository, instance, point };
        let options = OpenOptions { create: true, ..OpenOptions::default() };
        let bases = vec![Base { info, device }];
        let overlay = Overlay::open(folder.path(), &origin, bases, options).unwrap();
        let disk = overlay.disks().remove(0);
        disk.write_at(0, &[2; 4096]).await.unwrap();
        let (holds, held) = mpsc::sync_channel(1);
        let (ends, end) = mpsc::sync_channel::<()>(1);
        let holding = overlay.clone();
        let cutting = std::thread::spawn(move || {
            let _waiting = holding.writing.write();
            holds.send(()).unwrap();
            end.recv().unwrap();
        });
        held.recv().unwrap();
        let writing = disk.clone();
        let written = tokio::spawn(async move { writing.write_at(0, &[3; 4096]).await });
        tokio::task::yield_now().await;
        let mut bytes = [0; 8192];
        disk.read_at(0, &mut bytes).await.unwrap();
        assert_eq!((bytes[0], bytes[4096]), (2, 1));
        assert_eq!(overlay.status().written, CELL);
        assert!(!written.is_finished());
        ends.send(()).unwrap();
        cutting.join().unwrap();
        written.await.unwrap().unwrap();
        disk.read_at(0, &mut bytes).await.unwrap();
        assert_eq!(bytes[0], 3);
    }
}

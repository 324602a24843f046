//! Exports that can be written: what clients write goes to an overlay.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use sluice_block::BlockWrite;
use sluice_overlay::control::Control;
use sluice_repository::{Repository, RestorePoint};
use tokio::task::JoinHandle;

use crate::adapter::overlay::{PointOverlay, folder, targets};
use crate::args::WritableArgs;
use crate::context::Context;
use crate::output::note;

/// An overlay that is served, and the socket by which others ask for commits.
pub(crate) struct Writable {
    overlay: Arc<PointOverlay>,
    control: JoinHandle<()>,
    hydration: Option<JoinHandle<()>>,
}

impl Writable {
    /// Opens the overlay that the arguments ask for, if they do.
    pub(crate) async fn open(
        context: &Context,
        args: &WritableArgs,
        repository: &Repository,
        point: &RestorePoint,
        names: &[String],
    ) -> Result<Option<Self>> {
        if !args.writable {
            return Ok(None);
        }
        let dir = match &args.overlay {
            Some(dir) => std::path::absolute(dir)?,
            None => folder()?.join(default_name(point, names)),
        };
        let limit = args.overlay_limit;
        let overlay = PointOverlay::over(repository, &dir, point, names, limit).await?;
        let bound = Control::bind(&dir);
        let bound = bound.with_context(|| format!("cannot make a socket in {}", dir.display()))?;
        let control = tokio::spawn(bound.serve(overlay.clone()));
        if !context.global.quiet && !context.global.json {
            let dir = dir.display();
            note(format_args!("what is written goes to {dir}, and is there the next time"));
            note(format_args!("  sluice overlay commit {dir}"));
        }
        let to = targets(args.hydrate_to.as_deref(), &overlay.overlay.description());
        let to = match to {
            Ok(to) => to,
            Err(error) => {
                overlay.close().await?;
                return Err(error);
            }
        };
        let hydration = (args.hydrate || !to.is_empty()).then(|| {
            let (overlay, rate) = (overlay.clone(), args.hydrate_limit);
            tokio::spawn(async move {
                match overlay.hydrate(rate, to, |_| ()).await {
                    Ok(_) => tracing::info!("the overlay needs the repository no more"),
                    Err(error) => tracing::warn!("{error:#}"),
                }
            })
        });
        Ok(Some(Self { overlay, control, hydration }))
    }

    /// The disks, in the order of the names, and counted under them.
    pub(crate) fn disks(&self, context: &Context, names: &[String]) -> Vec<Arc<dyn BlockWrite>> {
        let disks = names.iter().zip(self.overlay.overlay.disks());
        disks.map(|(name, disk)| context.statistics.measured_writes(name, disk)).collect()
    }

    /// Stays while the overlay does, whatever is committed.
    pub(crate) fn id(&self) -> String {
        self.overlay.overlay.description().id
    }

    /// The folder.
    pub(crate) fn path(&self) -> &std::path::Path {
        self.overlay.overlay.path()
    }

    /// Ends it once nobody writes any more; everything written is durable then.
    pub(crate) async fn close(self) -> Result<()> {
        if let Some(hydration) = self.hydration {
            hydration.abort();
            let _ = hydration.await;
        }
        self.control.abort();
        let _ = self.control.await;
        self.overlay.close().await
    }
}

/// A folder's name for a point, or for one image of several.
fn default_name(point: &RestorePoint, names: &[String]) -> String {
    let base = format!("{}-{}", point.instance, point.id);
    match names {
        [only] if point.images.len() > 1 => format!("{base}-{only}"),
        _ => base,
    }
}

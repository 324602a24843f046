//! What an overlay lies over is kept in the repository for as long as there is the overlay.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::Value;
use sluice_destination::ErrorKind as Unwritable;
use sluice_overlay::{Description, Discard, Overlay};
use sluice_repository::{ErrorKind, OverlayId, Repository, RepositoryError, RestorePoint};

use super::point_under;
use crate::command::who;
use crate::context::Context;

/// The number by which the repository knows an overlay.
pub(super) fn number(description: &Description) -> OverlayId {
    // One that was opened has one.
    OverlayId(description.id().unwrap_or_default())
}

/// Keeps a point for an overlay, also while nobody uses it. Whether that was possible: where
/// nothing can be written, or there is no room, somebody else must see to it.
pub(super) async fn keep(
    repository: &Repository,
    point: &RestorePoint,
    number: OverlayId,
) -> Result<bool> {
    let kept = repository.set_overlay(point, number, true, &who()).await;
    let impossible = |error: &RepositoryError| {
        let kinds = [Unwritable::ReadOnly, Unwritable::AccessDenied, Unwritable::NoSpace];
        kinds.iter().any(|kind| error.kind() == ErrorKind::Destination(*kind))
    };
    match kept {
        Err(error) if impossible(&error) => {
            tracing::warn!(
                "{point} is kept only while it is exported, not between two runs: {error}"
            );
            Ok(false)
        }
        other => other.map(|()| true).with_context(|| format!("keeping {point} for an overlay")),
    }
}

/// Keeps the point for the overlay that was just opened over it. One that was committed, and cut
/// off before the point below was let go of, lets go of it now.
pub(super) async fn keep_under(
    repository: &Repository,
    point: &RestorePoint,
    overlay: &Arc<Overlay>,
) -> Result<()> {
    let number = number(&overlay.description());
    let kept = keep(repository, point, number).await?;
    let opened = overlay.clone();
    tokio::task::spawn_blocking(move || opened.set_kept(kept)).await??;
    let metadata = point.metadata.as_deref().unwrap_or_default();
    let metadata: Value = serde_json::from_str(metadata).unwrap_or_default();
    let came = &metadata["sluice.overlay"];
    if came["overlay"] != overlay.description().id.as_str() {
        return Ok(());
    }
    let Some(before) = came["base"].as_str().and_then(|text| text.split_once('@')) else {
        return Ok(());
    };
    let listing = repository.list(Some(before.0)).await?;
    let before = listing.points.iter().find(|point| point.id.to_string() == before.1);
    match before {
        Some(before) => let_go(repository, before, number).await,
        None => Ok(()),
    }
}

/// Does not keep a point for an overlay any more.
pub(super) async fn let_go(
    repository: &Repository,
    point: &RestorePoint,
    number: OverlayId,
) -> Result<()> {
    let done = repository.set_overlay(point, number, false, &who()).await;
    done.with_context(|| format!("letting go of {point}"))
}

/// Throws an overlay away. The repository does not keep its point any more, unless it is not to be
/// told.
pub(crate) async fn discard(context: &Context, dir: &Path, tell: bool) -> Result<()> {
    let overlay = Discard::begin(dir)?;
    let Some(description) = overlay.description().filter(|one| tell && one.kept).cloned() else {
        return Ok(overlay.finish()?);
    };
    let repository = context.open().await.context("nothing was discarded")?;
    match point_under(&repository, &description).await {
        Ok(point) => let_go(&repository, &point, number(&description)).await?,
        // Without its point it is worth nothing, and nobody has to be told.
        Err(error) if is_gone(&error) => {}
        Err(error) => return Err(error.context("nothing was discarded")),
    }
    Ok(overlay.finish()?)
}

fn is_gone(error: &anyhow::Error) -> bool {
    let repository = error.chain().find_map(|cause| cause.downcast_ref::<RepositoryError>());
    repository.is_some_and(|error| error.kind() == ErrorKind::NotFound)
}

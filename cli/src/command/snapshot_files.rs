//! Snapshots of image files on a node: made and removed for tasks of a server.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sluice_connector_disk::Within;
use sluice_connector_disk::snapshot::{self, Snapshot, SnapshotError};

use crate::adapter::source;
use crate::args::{SnapshotFilesCommand, SnapshotPlaceArgs};
use crate::context::Context;
use crate::error::{Exit, advise};
use crate::output::{self, note};

/// Does it.
pub(crate) async fn run(context: &Context, command: SnapshotFilesCommand) -> Result<Exit> {
    let done = tokio::task::spawn_blocking(move || match command {
        SnapshotFilesCommand::Make { place, within, images } => {
            make(&place, &within.unwrap_or_default(), &images)
        }
        SnapshotFilesCommand::Remove { place, seen } => remove(&place, &seen),
    });
    let (document, text) = done.await.context("the snapshot was interrupted")??;
    if context.global.json {
        output::json(&document)?;
    } else if !context.global.quiet {
        note(text);
    }
    Ok(Exit::Done)
}

fn make(place: &SnapshotPlaceArgs, within: &Within, images: &[String]) -> Result<(Value, String)> {
    let images = images.iter().map(|text| source::file(text)).collect::<Result<Vec<_>>>()?;
    let images: Vec<(String, PathBuf)> = images;
    let made = snapshot::make(&place.name, &place.folders, &images, within).map_err(told)?;
    let Snapshot { folder, made_ms, images } = made;
    let text = format!("{} images kept in {}", images.len(), folder.display());
    let mut listed = Vec::with_capacity(images.len());
    for image in images {
        // Whoever is told of it must be able to name it.
        let path = image.path.to_str().context("a file name is not UTF-8")?;
        listed.push(json!({"name": image.name, "path": path, "bytes": image.bytes}));
    }
    Ok((json!({"snapshot": place.name, "made_ms": made_ms, "images": listed}), text))
}

fn remove(place: &SnapshotPlaceArgs, seen: &[PathBuf]) -> Result<(Value, String)> {
    let found = snapshot::remove(&place.name, &place.folders, seen).map_err(told)?;
    let text = if found { "removed" } else { "it was gone already" };
    Ok((json!({"snapshot": place.name, "removed": found}), text.to_owned()))
}

/// What stays as it is until somebody changes something is not tried again.
fn told(error: SnapshotError) -> anyhow::Error {
    if !error.is_refusal() {
        return error.into();
    }
    let text = match &error {
        SnapshotError::Image(_, why) => format!("{error}: {why}"),
        _ => error.to_string(),
    };
    let help = "snapshot_folders of the node's configuration says where snapshots lie; \
                docs/operations.md says of what they can be made";
    advise("usage", text, help)
}

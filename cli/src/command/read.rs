use std::io::Write;

use anyhow::{Context as _, Result};
use serde_json::json;
use sluice_block::{BlockRead, check_range};
use sluice_repository::ImageReader;

use crate::args::{CatArgs, DiffArgs};
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::output::{self, StdoutError, bytes, note, table};

/// Bytes read at a time: one is written while the next is read.
const PIECE: u64 = 4 << 20;

/// Writes an image's bytes to stdout.
pub(crate) async fn cat(context: &Context, args: &CatArgs) -> Result<Exit> {
    let repository = context.open().await?;
    let (point, image) = context.point(&repository, &args.point).await?;
    let reader = repository.image(&point, image.as_deref())?;
    let length = args.length.unwrap_or(reader.size().saturating_sub(args.offset));
    check_range(reader.size(), args.offset, length)
        .map_err(|error| usage_error(format!("{error}; see `sluice show {}`", args.point)))?;
    let pin = repository.pin(&point, "cat").await?;
    let result = copy(&reader, args.offset, length).await;
    pin.release().await;
    result.with_context(|| format!("reading {}", args.point))?;
    Ok(Exit::Done)
}

async fn copy(reader: &ImageReader, offset: u64, length: u64) -> Result<()> {
    let mut at = offset;
    let end = offset + length;
    let (mut written, mut next) = (Vec::new(), Vec::new());
    loop {
        next.resize(PIECE.min(end - at) as usize, 0);
        let write =
            tokio::task::spawn_blocking(move || output::print_bytes(&written).map(|()| written));
        let read = reader.read_at(at, &mut next).await;
        let spare = write.await.context("writing was interrupted")??;
        read?;
        at += next.len() as u64;
        written = std::mem::replace(&mut next, spare);
        if written.is_empty() {
            std::io::stdout().lock().flush().map_err(StdoutError::from)?;
            return Ok(());
        }
    }
}

/// Lists what changed from one point to another.
pub(crate) async fn diff(context: &Context, args: &DiffArgs) -> Result<Exit> {
    let repository = context.open().await?;
    let (older, older_image) = context.point(&repository, &args.from).await?;
    let (newer, newer_image) = context.point(&repository, &args.to).await?;
    // An image named on one side is meant on the other as well.
    let older_name = older_image.as_deref().or(newer_image.as_deref());
    let newer_name = newer_image.as_deref().or(older_image.as_deref());
    let older = repository.image(&older, older_name)?;
    let newer = repository.image(&newer, newer_name)?;
    let changed = newer.changed_since(&older).await?;
    if context.global.json {
        let extents: Vec<_> = changed
            .iter()
            .map(|range| json!({"offset": range.start, "length": range.end - range.start}))
            .collect();
        output::json(&extents)?;
        return Ok(Exit::Done);
    }
    let rows: Vec<Vec<String>> = changed
        .iter()
        .map(|range| vec![range.start.to_string(), (range.end - range.start).to_string()])
        .collect();
    if !rows.is_empty() {
        output::print(&table(&[">OFFSET", ">LENGTH"], rows))?;
    }
    let total: u64 = changed.iter().map(|range| range.end - range.start).sum();
    if !context.global.quiet {
        let extents = output::count(changed.len() as u64, "extent");
        note(format_args!("{} changed in {extents}", bytes(total)));
        if older.size() != newer.size() {
            note(format_args!("the size changed from {} to {} bytes", older.size(), newer.size()));
        }
    }
    Ok(Exit::Done)
}

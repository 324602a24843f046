//! Overlays: looked at, committed, thrown away.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sluice_engine::Progress;
use sluice_overlay::control::{Request, ask};
use sluice_overlay::{Description, is_in_use};

use crate::adapter::overlay::{PointOverlay, folder};
use crate::args::{OverlayCommand, OverlayCommitArgs};
use crate::context::Context;
use crate::error::{Exit, advise};
use crate::output::progress::{Shower, Shown};
use crate::output::{self, PointDocument, bytes, note};

/// Runs a command about overlays.
pub(crate) async fn run(context: &Context, command: OverlayCommand) -> Result<Exit> {
    match command {
        OverlayCommand::List(args) => list(context, args.dir).await,
        OverlayCommand::Show(args) => show(context, &args.dir).await,
        OverlayCommand::Commit(args) => commit(context, args).await,
        OverlayCommand::Discard(args) => discard(context, &args.dir),
    }
}

/// What can be known of an overlay without its repository.
async fn document(dir: &Path) -> Result<Value> {
    let description = Description::read(dir)?;
    let in_use = is_in_use(dir);
    let mut document = json!({
        "folder": dir,
        "in_use": in_use,
        "base": format!("{}@{}", description.base.instance, description.base.point),
        "allocated": allocated(dir)?,
        "overlay": description,
    });
    if in_use && let Ok(Ok(status)) = ask(dir, &Request::Status, drop).await {
        document["status"] = status;
    }
    Ok(document)
}

/// Bytes that the files of a folder take.
fn allocated(dir: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let entries =
        std::fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))?;
    Ok(entries.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.blocks() * 512).sum())
}

async fn list(context: &Context, dir: Option<PathBuf>) -> Result<Exit> {
    let parent = dir.map_or_else(folder, Ok)?;
    let mut found = Vec::new();
    match std::fs::read_dir(&parent) {
        Ok(entries) => {
            let mut dirs: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
            dirs.sort();
            for dir in dirs {
                match document(&dir).await {
                    Ok(document) => found.push(document),
                    Err(error) => tracing::debug!("{} is no overlay: {error:#}", dir.display()),
                }
            }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => {
            return Err(error).with_context(|| format!("cannot read {}", parent.display()));
        }
    }
    if context.global.json {
        output::json(&json!({ "overlays": found }))?;
        return Ok(Exit::Done);
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = found.iter().map(|one| {
        let used = if one["in_use"] == true { "in use" } else { "" };
        let size = bytes(one["allocated"].as_u64().unwrap_or(0));
        vec![text(&one["folder"]), text(&one["base"]), size, used.to_owned()]
    });
    output::print(&output::table(&["FOLDER", "OVER", ">SIZE", ""], rows.collect()))?;
    Ok(Exit::Done)
}

async fn show(context: &Context, dir: &Path) -> Result<Exit> {
    let document = document(dir).await?;
    if context.global.json {
        output::json(&document)?;
        return Ok(Exit::Done);
    }
    let description = Description::read(dir)?;
    let limit = description.limit.map_or("none".into(), bytes);
    let mut rows = vec![
        ("over", document["base"].as_str().unwrap_or_default().to_owned()),
        ("in use", if document["in_use"] == true { "yes" } else { "no" }.to_owned()),
        ("takes", bytes(document["allocated"].as_u64().unwrap_or(0))),
        ("limit", limit),
    ];
    for disk in &description.disks {
        rows.push(("disk", format!("{} ({})", disk.name, bytes(disk.size))));
    }
    if let Some(written) = document["status"]["written"].as_u64() {
        rows.push(("written", bytes(written)));
    }
    output::print(&output::fields(rows))?;
    Ok(Exit::Done)
}

fn discard(context: &Context, dir: &Path) -> Result<Exit> {
    sluice_overlay::discard(dir)?;
    if context.global.json {
        output::json(&json!({ "discarded": dir }))?;
    } else if !context.global.quiet {
        note(format_args!("{} is gone, with what was written to it", dir.display()));
    }
    Ok(Exit::Done)
}

async fn commit(context: &Context, args: OverlayCommitArgs) -> Result<Exit> {
    let request = Request::Commit { instance: args.instance.clone() };
    let point = if is_in_use(&args.dir) {
        let quiet = context.global.quiet || context.global.no_progress;
        let asked = ask(&args.dir, &request, |progress| tell(context, quiet, &progress)).await;
        let context = || format!("the process that uses {} does not answer", args.dir.display());
        asked.with_context(context)?.map_err(|failed| told(&failed))?
    } else {
        let repository = context.open().await?;
        let overlay = PointOverlay::existing(context, &repository, &args.dir).await?;
        let progress = Progress::new();
        let shower = Shower::start(&context.global, Arc::clone(&progress), Shown::Backup);
        let done = overlay.commit(args.instance, progress).await;
        drop(shower);
        let closed = overlay.close().await;
        let point = done?;
        closed?;
        json!(PointDocument::from(&point))
    };
    if context.global.json {
        output::json_line(&json!({ "type": "summary", "point": point }))?;
        return Ok(Exit::Done);
    }
    let name = point["point"].as_str().unwrap_or_default();
    output::print(&format!("{name}\n"))?;
    if !context.global.quiet {
        let figure = |name: &str| bytes(point["stats"][name].as_u64().unwrap_or(0));
        let (read, new) = (figure("read_bytes"), figure("new_bytes"));
        note(format_args!("read {read}, new {new}; the overlay lies over {name} now"));
    }
    Ok(Exit::Done)
}

/// Shows how far the process that commits has come.
fn tell(context: &Context, quiet: bool, progress: &Value) {
    if context.global.json && !context.global.no_progress {
        let mut line = progress.clone();
        line["type"] = "progress".into();
        drop(output::json_line(&line));
    } else if !quiet && !context.global.json {
        let figure = |name: &str| bytes(progress[name].as_u64().unwrap_or(0));
        note(format_args!("{} of {} done", figure("done"), figure("total")));
    }
}

/// The failure of another process as our own.
fn told(failed: &Value) -> anyhow::Error {
    let text = |name: &str| failed[name].as_str().map(str::to_owned);
    let kind = match text("kind").as_deref() {
        Some("damaged") => "damaged",
        Some("usage") => "usage",
        Some("conflict") => "conflict",
        _ => "overlay",
    };
    let message = text("message").unwrap_or_else(|| "the commit failed".into());
    let help = text("help").unwrap_or_else(|| "the export's own messages tell more".into());
    advise(kind, message, help)
}

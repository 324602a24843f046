//! Overlays: looked at, committed, thrown away.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sluice_engine::Progress;
use sluice_overlay::control::{Request, ask};
use sluice_overlay::{Description, is_in_use};

use crate::adapter::overlay::{self, PointOverlay, folder};
use crate::args::{OverlayCommand, OverlayCommitArgs, OverlayDiscardArgs, OverlayHydrateArgs};
use crate::context::Context;
use crate::error::{Exit, advise};
use crate::interrupt;
use crate::output::progress::{Shower, Shown};
use crate::output::{self, PointDocument, bytes, note, seconds};

/// How often a copy says how far it has come.
const LINE: Duration = Duration::from_secs(2);

/// Runs a command about overlays.
pub(crate) async fn run(context: &Context, command: OverlayCommand) -> Result<Exit> {
    match command {
        OverlayCommand::List(args) => list(context, args.dir).await,
        OverlayCommand::Show(args) => show(context, &args.dir).await,
        OverlayCommand::Commit(args) => commit(context, args).await,
        OverlayCommand::Hydrate(args) => hydrate(context, &args).await,
        OverlayCommand::Discard(args) => discard(context, &args).await,
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
        let kept = if one["overlay"]["kept"] == true { "yes" } else { "no" };
        let size = bytes(one["allocated"].as_u64().unwrap_or(0));
        vec![text(&one["folder"]), text(&one["base"]), kept.to_owned(), size, used.to_owned()]
    });
    output::print(&output::table(&["FOLDER", "OVER", "KEPT", ">SIZE", ""], rows.collect()))?;
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
        ("kept", if description.kept { "for this overlay" } else { "no" }.to_owned()),
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
    for path in &description.copy_to {
        let what = if description.is_local() { "is now" } else { "goes to" };
        rows.push((what, path.display().to_string()));
    }
    if let Some(done) = document["status"]["hydration"]["done"].as_u64() {
        rows.push(("copied", bytes(done)));
    }
    output::print(&output::fields(rows))?;
    Ok(Exit::Done)
}

async fn discard(context: &Context, args: &OverlayDiscardArgs) -> Result<Exit> {
    let dir = &args.dir;
    overlay::discard(context, dir, !args.local).await?;
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
        let overlay = PointOverlay::existing(&repository, &args.dir).await?;
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

/// Copies what lies below, here or by the process that uses the overlay.
async fn hydrate(context: &Context, args: &OverlayHydrateArgs) -> Result<Exit> {
    let silent = context.global.no_progress || (context.global.quiet && !context.global.json);
    let mut meter = CopyMeter::new(context.global.json);
    let mut tell = move |come: &Value| {
        if !silent {
            meter.tell(come);
        }
    };
    let to = overlay::targets(args.to.as_deref(), &Description::read(&args.dir)?)?;
    let done = if is_in_use(&args.dir) {
        let request = Request::Hydrate { rate: args.limit, to: to.clone() };
        let asked = ask(&args.dir, &request, |come| tell(&come)).await;
        let context = || format!("the process that uses {} does not answer", args.dir.display());
        asked.with_context(context)?.map_err(|failed| told(&failed))?
    } else {
        let stop = interrupt::watch("stopping; the same command goes on with the copy")?;
        let repository = context.open().await?;
        let overlay = PointOverlay::existing(&repository, &args.dir).await?;
        let copied = tokio::select! {
            copied = overlay.hydrate(args.limit, to.clone(), |come| tell(&json!(come))) => copied,
            () = stop.cancelled() => {
                Err(advise("cancelled", "the copy is not complete", "run the command again"))
            }
        };
        overlay.close().await?;
        json!(copied?)
    };
    if context.global.json {
        output::json_line(&json!({ "type": "summary", "hydration": done, "to": to }))?;
    } else if let (false, Some(first)) = (context.global.quiet, to.first()) {
        let first = first.display();
        note(format_args!("{first} is the disk now; neither overlay nor repository is read"));
    } else if !context.global.quiet {
        let dir = args.dir.display();
        note(format_args!("{dir} holds all of its disks; the repository is not read any more"));
    }
    Ok(Exit::Done)
}

/// Tells how far a copy has come, how fast, and how long it will take.
struct CopyMeter {
    json: bool,
    first: Option<(Instant, u64)>,
    last: Option<Instant>,
}

impl CopyMeter {
    fn new(json: bool) -> Self {
        Self { json, first: None, last: None }
    }

    fn tell(&mut self, come: &Value) {
        let figure = |name: &str| come[name].as_u64().unwrap_or(0);
        let (now, done, total) = (Instant::now(), figure("done"), figure("total"));
        let (began, before) = *self.first.get_or_insert((now, done));
        if self.last.is_some_and(|last| now - last < LINE) {
            return;
        }
        self.last = Some(now);
        let rate = (done - before.min(done)) as f64 / (now - began).as_secs_f64().max(0.001);
        let left = (rate >= 1.0).then(|| (total - done.min(total)) as f64 / rate);
        if self.json {
            drop(output::json_line(&json!({
                "type": "progress",
                "done": done,
                "total": total,
                "rate": rate as u64,
                "eta_seconds": left.map(|left| left as u64),
            })));
            return;
        }
        let left = left.map(|left| Duration::from_secs_f64(left.min(1e9)));
        let left = left.map_or("?".into(), seconds);
        let (done, total, rate) = (bytes(done), bytes(total), bytes(rate as u64));
        note(format_args!("{done} of {total}, {rate}/s, {left} left"));
    }
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

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use serde_json::json;
use sluice_block::BlockRead;
use sluice_engine::{Progress, RestoreOptions, RestoreOutcome, Target, restore};
use sluice_repository::{ImageReader, Repository, RestorePoint};
use tokio_util::sync::CancellationToken;

use crate::adapter::{FileTarget, Opened, Qcow2Target, identity, is_device};
use crate::args::{RestoreArgs, TargetFormat};
use crate::context::Context;
use crate::error::{Exit, advise, usage_error};
use crate::interrupt;
use crate::output::progress::{Shower, Shown};
use crate::output::{self, bytes, note, seconds};

/// One image and where it goes.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) image: String,
    pub(super) path: PathBuf,
}

/// Writes images of a restore point to files or devices.
pub(crate) async fn run(context: &Context, args: &RestoreArgs) -> Result<Exit> {
    if args.resume && args.format() == TargetFormat::Qcow2 {
        return Err(usage_error("--resume works with raw targets only"));
    }
    let repository = context.open().await?;
    let (point, image) = context.point(&repository, &args.point).await?;
    let jobs = plan(args, &point, image.as_deref())?;
    let cancel = interrupt::watch("stopping (again to stop at once)")?;
    let pin = repository.pin(&point, "restore").await?;
    let mut documents = Vec::new();
    let mut result = Ok(());
    for job in &jobs {
        match Box::pin(one(context, args, &repository, &point, job, &cancel)).await {
            Ok(document) => documents.push(document),
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    pin.release().await;
    result?;
    if context.global.json {
        let point = point.to_string();
        output::json_line(&json!({"type": "summary", "point": point, "images": documents}))?;
    }
    Ok(Exit::Done)
}

/// Which image goes where.
fn plan(args: &RestoreArgs, point: &RestorePoint, image: Option<&str>) -> Result<Vec<Job>> {
    let place = args.place();
    let folder = place.is_dir() || place.as_os_str().to_string_lossy().ends_with('/');
    if !folder {
        let image = match (image, point.images.len()) {
            (None, 2..) => {
                let names: Vec<_> = point.images.iter().map(|i| format!(":{}", i.name)).collect();
                return Err(advise(
                    "ambiguous",
                    format!("{point} has several images: {}", names.join(" ")),
                    format!("add one of them to the point, or name a folder: {}/", place.display()),
                ));
            }
            _ => point.image(image)?.name.clone(),
        };
        return Ok(vec![Job { image, path: place }]);
    }
    std::fs::create_dir_all(&place)
        .with_context(|| format!("cannot create folder {}", place.display()))?;
    let ending = match args.format() {
        TargetFormat::Raw => "raw",
        TargetFormat::Qcow2 => "qcow2",
    };
    let names = Context::image_names(point, image)?;
    let job = |image: String| Job { path: place.join(format!("{image}.{ending}")), image };
    Ok(names.into_iter().map(job).collect())
}

/// Writes one image.
pub(super) async fn one(
    context: &Context,
    args: &RestoreArgs,
    repository: &Repository,
    point: &RestorePoint,
    job: &Job,
    cancel: &CancellationToken,
) -> Result<serde_json::Value> {
    let image = repository.image(point, Some(&job.image))?;
    let opened = open(context, args, &image, &job.path)?;
    let progress = Progress::new();
    let shower = Shower::start(&context.global, progress.clone(), Shown::Plain);
    let started = Instant::now();
    let pool = repository.pool();
    let (target, options) = (opened.target, opened.options);
    let done = restore(&image, pool, target, options, progress, cancel.clone()).await;
    drop(shower);
    let outcome: RestoreOutcome = match done {
        Ok(outcome) => outcome,
        Err(error) => {
            if args.format() == TargetFormat::Qcow2 {
                // Without its header it is no image, and nothing can go on with it.
                let _ = std::fs::remove_file(&job.path);
            }
            return Err(error).with_context(|| format!("restoring to {}", job.path.display()));
        }
    };
    if !context.global.quiet && !context.global.json {
        let elapsed = started.elapsed();
        let rate = (outcome.written as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
        output::print(&format!(
            "{}: {} of {}:{} in {} ({} of data, {}/s)\n",
            job.path.display(),
            bytes(image.size()),
            point,
            job.image,
            seconds(elapsed),
            bytes(outcome.written),
            bytes(rate)
        ))?;
        if outcome.resumed > 0 {
            note(format_args!("{} of it were there already", bytes(outcome.resumed)));
        }
    }
    Ok(json!({
        "image": job.image,
        "target": job.path,
        "size": image.size(),
        "written_bytes": outcome.written,
        "resumed_bytes": outcome.resumed,
        "duration_ms": started.elapsed().as_millis() as u64,
    }))
}

/// An open target, with the journal that lets a restore go on after an interruption.
struct OpenTarget {
    target: Arc<dyn Target>,
    options: RestoreOptions,
}

fn open(
    context: &Context,
    args: &RestoreArgs,
    image: &ImageReader,
    path: &Path,
) -> Result<OpenTarget> {
    let (size, device) = (image.size(), is_device(path));
    let journal = journal(context, path, device);
    let mut options = RestoreOptions { journal, target: identity(path).unwrap_or_default() };
    let interrupted = options.goes_on(image);
    let exists = path.symlink_metadata().is_ok();
    if args.format() == TargetFormat::Qcow2 {
        if device {
            return Err(usage_error("a device is restored to as --format raw"));
        }
        refuse_existing(args, path, exists)?;
        let target = Qcow2Target::create(path, size, args.overwrite)?;
        return Ok(OpenTarget { target: Arc::new(target), options: RestoreOptions::default() });
    }
    // On a file of its own, the same command goes on; what a device holds, only its owner knows.
    let again = interrupted && exists && !args.overwrite && (!device || args.resume);
    let opened = match (again, exists) {
        (true, _) => Opened::Again,
        (false, false) => Opened::New,
        (false, true) => {
            if args.resume && !args.overwrite {
                return Err(advise(
                    "target",
                    format!("{} holds no interrupted restore of this image", path.display()),
                    "leave out --resume, and add --overwrite to write over it",
                ));
            }
            refuse_existing(args, path, exists)?;
            Opened::Over
        }
    };
    let journal = options.journal.as_deref().filter(|_| opened != Opened::Again);
    let prepare = || journal.map_or(Ok(()), prepare_journal);
    let target = FileTarget::open(path, size, opened, prepare)?;
    options.target = identity(path).unwrap_or_default();
    Ok(OpenTarget { target: Arc::new(target), options })
}

fn refuse_existing(args: &RestoreArgs, path: &Path, exists: bool) -> Result<()> {
    if !exists || args.overwrite {
        return Ok(());
    }
    let help = "add --overwrite to write over it";
    Err(advise("target", format!("{} exists already", path.display()), help))
}

/// Where to remember what is done: beside a file, in the cache for a device.
fn journal(context: &Context, path: &Path, device: bool) -> Option<PathBuf> {
    if !device {
        let mut name = path.file_name()?.to_owned();
        name.push(".sluice-restore");
        return Some(path.with_file_name(name));
    }
    let name: String = (path.to_string_lossy().chars())
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    Some(context.cache_dir()?.join("restore").join(name))
}

/// Makes way for a new journal: an old one would tell of another target.
fn prepare_journal(journal: &Path) -> Result<()> {
    let context = || format!("cannot write the journal {}", journal.display());
    if let Some(folder) = journal.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::create_dir_all(folder).with_context(context)?;
    }
    match std::fs::remove_file(journal) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(context)
        }
        _ => Ok(()),
    }
}

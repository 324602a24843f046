//! Overlays over restore points: opened, committed as new points, and served to those who ask.

mod keep;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use sluice_block::BlockRead as _;
use sluice_engine::{BackupOptions, Change, Progress, Source, SourceImage, backup};
use sluice_overlay::control::{Handler, Request, Teller};
use sluice_overlay::{
    Base, Description, DiskInfo, Frozen, Hydration, OpenOptions, Origin, Overlay, OverlayError,
};
use sluice_repository::{Pin, PointSpec, Repository, RestorePoint, check_name};
use tokio_util::sync::CancellationToken;

use crate::error::{Report, advise, usage_error};
use crate::output::PointDocument;

pub(crate) use keep::discard;
use keep::{keep, keep_under, let_go, number};

/// How often somebody who waits for a commit is told how far it is.
const TELL: std::time::Duration = std::time::Duration::from_millis(500);

/// An overlay over images of a restore point, in use by this process.
#[derive(Debug)]
pub(crate) struct PointOverlay {
    pub(crate) overlay: Arc<Overlay>,
    repository: Repository,
    /// Held by whoever commits, until `under` says what came of it.
    committing: tokio::sync::Mutex<()>,
    /// The point it lies over now; pinned, for a collection keeps what is pinned.
    under: Mutex<Under>,
}

#[derive(Debug)]
struct Under {
    point: RestorePoint,
    pin: Option<Pin>,
}

/// The folder for what is to be kept on this machine.
pub(crate) fn folder() -> Result<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let state = set("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".local/state")));
    let state = state.ok_or_else(|| usage_error("where should the overlay be? Give --overlay"))?;
    Ok(state.join("sluice/overlays"))
}

/// Where the disks of an overlay go, each to a file or device of its own; nothing for its folder.
pub(crate) fn targets(to: Option<&Path>, description: &Description) -> Result<Vec<PathBuf>> {
    let Some(to) = to else { return Ok(vec![]) };
    let to = std::path::absolute(to)?;
    match description.disks.as_slice() {
        [_] if !to.is_dir() => Ok(vec![to]),
        disks if to.is_dir() => {
            Ok(disks.iter().map(|disk| to.join(format!("{}.raw", disk.name))).collect())
        }
        disks => Err(usage_error(format!(
            "the overlay has {} disks; name a folder for them that is there",
            disks.len()
        ))),
    }
}

fn origin(repository: &Repository, point: &RestorePoint) -> Origin {
    Origin {
        repository: repository.descriptor().id.clone(),
        instance: point.instance.clone(),
        point: point.id.to_string(),
    }
}

fn bases(repository: &Repository, point: &RestorePoint, names: &[String]) -> Result<Vec<Base>> {
    let base = |name: &String| {
        let record = point.image(Some(name))?;
        let (size, root) = (record.size, record.root.to_string());
        let device = Arc::new(repository.image(point, Some(name))?);
        Ok(Base { info: DiskInfo { name: name.clone(), size, root }, device })
    };
    names.iter().map(base).collect()
}

/// The point that the overlay described lies over.
async fn point_under(repository: &Repository, description: &Description) -> Result<RestorePoint> {
    let base = &description.base;
    if base.repository != repository.descriptor().id {
        return Err(advise(
            "overlay-base",
            "the overlay lies over a point of another repository",
            "give --repo as it was when the overlay was made",
        ));
    }
    let name = format!("{}@{}", base.instance, base.point);
    let spec = PointSpec::parse(&name, &TimeZone::UTC)?;
    let found = repository.resolve(&spec).await;
    found.with_context(|| format!("looking for {name}, over which the overlay lies"))
}

impl PointOverlay {
    /// Opens the overlay in a folder over images of a point, or makes it. One that was committed
    /// since lies over the point that came of it.
    pub(crate) async fn over(
        repository: &Repository,
        folder: &Path,
        point: &RestorePoint,
        names: &[String],
        limit: Option<u64>,
    ) -> Result<Arc<Self>> {
        let asked = origin(repository, point);
        let point = match Description::read(folder) {
            Ok(description) if description.first_base == asked && description.base != asked => {
                point_under(repository, &description).await?
            }
            _ => point.clone(),
        };
        let options = OpenOptions { create: true, limit, ..OpenOptions::default() };
        Self::open_over(repository, folder, point, names, options).await
    }

    /// Opens an overlay that is there.
    pub(crate) async fn existing(repository: &Repository, folder: &Path) -> Result<Arc<Self>> {
        let description = Description::read(folder)?;
        let point = point_under(repository, &description).await?;
        let names: Vec<String> = description.disks.iter().map(|disk| disk.name.clone()).collect();
        Self::open_over(repository, folder, point, &names, OpenOptions::default()).await
    }

    async fn open_over(
        repository: &Repository,
        folder: &Path,
        point: RestorePoint,
        names: &[String],
        options: OpenOptions,
    ) -> Result<Arc<Self>> {
        let pin = repository.pin(&point, "overlay").await?;
        let (bases, origin) = (bases(repository, &point, names)?, origin(repository, &point));
        let folder = folder.to_owned();
        let opened =
            tokio::task::spawn_blocking(move || Overlay::open(&folder, &origin, bases, options));
        let overlay = match opened.await? {
            Ok(overlay) => overlay,
            Err(error) => {
                pin.release().await;
                return Err(error.into());
            }
        };
        if let Err(error) = keep_under(repository, &point, &overlay).await {
            pin.release().await;
            return Err(error);
        }
        let under = Mutex::new(Under { point, pin: Some(pin) });
        let (repository, committing) = (repository.clone(), tokio::sync::Mutex::default());
        Ok(Arc::new(Self { overlay, repository, committing, under }))
    }

    /// The point it lies over now.
    pub(crate) fn point(&self) -> RestorePoint {
        self.under.lock().unwrap_or_else(PoisonError::into_inner).point.clone()
    }

    /// Makes everything durable, and lets go of the point.
    pub(crate) async fn close(&self) -> Result<()> {
        let overlay = self.overlay.clone();
        let flushed = tokio::task::spawn_blocking(move || overlay.flush()).await?;
        let pin = self.under.lock().unwrap_or_else(PoisonError::into_inner).pin.take();
        if let Some(pin) = pin {
            pin.release().await;
        }
        Ok(flushed?)
    }

    /// Makes a restore point of what the disks hold now, and puts it under the overlay. Clients go
    /// on writing meanwhile.
    pub(crate) async fn commit(
        &self,
        instance: Option<String>,
        progress: Arc<Progress>,
    ) -> Result<RestorePoint> {
        if let Some(instance) = &instance {
            check_name("instance", instance).map_err(|e| usage_error(e.to_string()))?;
        }
        // The overlay thaws before `under` says what it lies over: nobody may freeze it in between.
        let Ok(_alone) = self.committing.try_lock() else {
            return Err(OverlayError::Frozen.into());
        };
        let overlay = self.overlay.clone();
        let frozen = tokio::task::spawn_blocking(move || overlay.freeze()).await??;
        // Only now: what is frozen is what changed since this point, and since no other.
        let base = self.point();
        let (under, known) = (&frozen.description().base, origin(&self.repository, &base));
        if *under != known {
            return Err(advise(
                "conflict",
                format!("the overlay lies over {under}, and not over {known}"),
                "end its export and begin it again; nothing that was written is lost",
            ));
        }
        let instance = instance.unwrap_or_else(|| base.instance.clone());
        let images = self.images(&base, &frozen)?;
        let options = BackupOptions {
            metadata: Some(metadata(&base, frozen.description())),
            parent: Some(base.clone()),
            ..BackupOptions::default()
        };
        let cancel = CancellationToken::new();
        let run = backup(&self.repository, &instance, images, options, progress, cancel);
        let done = Box::pin(run).await.context("the overlay was not committed; it is as it was")?;
        let point = done.point;
        if let Err(error) = self.rebase(frozen, &base, &point).await {
            // The point is there, and the overlay still lies over the old one: both are whole.
            tracing::warn!("the overlay keeps what was committed as {point}: {error:#}");
        }
        Ok(point)
    }

    /// The images of the new point: those the overlay covers as they were frozen, and the others
    /// as they are in the base.
    fn images(&self, base: &RestorePoint, frozen: &Frozen) -> Result<Vec<SourceImage>> {
        let description = format!("overlay {} over {base}", frozen.description().id);
        let image = |record: &sluice_repository::ImageRecord| {
            let disk = frozen.disks().iter().find(|disk| disk.info.name == record.name);
            let source = match disk {
                Some(disk) => {
                    let changed = Change::Changed(disk.changed.clone());
                    Source::Device(disk.device.clone(), changed)
                }
                None => {
                    let reader = self.repository.image(base, Some(&record.name))?;
                    Source::Device(Arc::new(reader), Change::Changed(vec![]))
                }
            };
            let (name, description) = (record.name.clone(), description.clone());
            Ok(SourceImage { name, description, source })
        };
        base.images.iter().map(image).collect()
    }

    /// Puts a point under the overlay that was made of what is frozen and the point `base`.
    async fn rebase(
        &self,
        frozen: Frozen,
        base: &RestorePoint,
        point: &RestorePoint,
    ) -> Result<()> {
        let pin = self.repository.pin(point, "overlay").await?;
        let disks = frozen.description().disks.iter();
        let names: Vec<String> = disks.map(|disk| disk.name.clone()).collect();
        let bases = bases(&self.repository, point, &names)?;
        let (built_on, origin) = (origin(&self.repository, base), origin(&self.repository, point));
        let number = number(frozen.description());
        // Kept before anything lies over it, and the old one for as long as anything may.
        let kept = keep(&self.repository, point, number).await?;
        let rebased = move || frozen.rebase(&built_on, &origin, bases, kept);
        let rebased = tokio::task::spawn_blocking(rebased).await?;
        let (old, none) = if rebased.is_ok() {
            let mut under = self.under.lock().unwrap_or_else(PoisonError::into_inner);
            let old = std::mem::replace(&mut under.point, point.clone());
            (under.pin.replace(pin), old)
        } else {
            (Some(pin), point.clone())
        };
        if let Some(old) = old {
            old.release().await;
        }
        if let Err(error) = let_go(&self.repository, &none, number).await {
            tracing::warn!("{none} stays kept: {error:#}");
        }
        Ok(rebased?)
    }
}

impl PointOverlay {
    /// Copies the base into the overlay's folder, or all of the disks to files that then are the
    /// disks. `tell` is called from time to time with how far it has come.
    pub(crate) async fn hydrate(
        &self,
        rate: Option<u64>,
        to: Vec<PathBuf>,
        mut tell: impl FnMut(Hydration) + Send,
    ) -> Result<Hydration> {
        let copying = async {
            match to.is_empty() {
                true => self.overlay.hydrate(rate).await,
                false => self.overlay.move_to(to, rate).await,
            }
        };
        tokio::pin!(copying);
        let mut beat = tokio::time::interval(TELL);
        loop {
            tokio::select! {
                done = &mut copying => {
                    done.context("the copy is not complete; the same command goes on with it")?;
                    break;
                }
                _ = beat.tick() => {
                    if let Some(come) = self.overlay.status().hydration {
                        tell(come);
                    }
                }
            }
        }
        let total = self.overlay.disks().iter().map(|disk| disk.size()).sum();
        let moved = self.overlay.status().local.then_some(Hydration { done: total, total });
        moved.or(self.overlay.status().hydration).context("there is no copy after it was made")
    }
}

/// A failure as a document.
fn failed(error: &anyhow::Error) -> Value {
    let report = Report::of(error);
    let line = report.line();
    json!({"kind": report.kind, "message": line, "help": report.help})
}

/// The base's metadata, and where the new point comes from.
fn metadata(base: &RestorePoint, overlay: &Description) -> String {
    let first = &overlay.first_base;
    let from = json!({
        "overlay": overlay.id,
        "base": base.to_string(),
        "first_base": format!("{}@{}", first.instance, first.point),
    });
    let kept = base.metadata.as_deref().and_then(|text| serde_json::from_str(text).ok());
    let mut document = match kept {
        Some(Value::Object(fields)) => fields,
        Some(other) => [("metadata".to_owned(), other)].into_iter().collect(),
        None => serde_json::Map::new(),
    };
    document.insert("sluice.overlay".into(), from);
    Value::Object(document).to_string()
}

#[async_trait]
impl Handler for PointOverlay {
    async fn handle(&self, request: Request, teller: Teller) -> Result<Value, Value> {
        match request {
            Request::Status => Ok(json!(self.overlay.status())),
            Request::Commit { instance } => {
                let progress = Progress::new();
                let watched = progress.clone();
                let telling = async move {
                    loop {
                        tokio::time::sleep(TELL).await;
                        teller.tell(json!(watched.snapshot()));
                    }
                };
                let done = tokio::select! {
                    done = self.commit(instance, progress) => done,
                    () = telling => unreachable!("tells until it is dropped"),
                };
                done.map(|point| json!(PointDocument::from(&point))).map_err(|e| failed(&e))
            }
            Request::Hydrate { rate, to } => {
                let done = self.hydrate(rate, to, |come| teller.tell(json!(come))).await;
                done.map(|come| json!(come)).map_err(|error| failed(&error))
            }
        }
    }
}

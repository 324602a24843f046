//! What every command has: the options for all of them, and the way to the repository.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use jiff::tz::TimeZone;
use sluice_destination::url::{OpenOptions, Opened, open};
use sluice_destination::wrap::RetryPolicy;
use sluice_repository::replicate::throttle::{Schedule, Window};
use sluice_repository::replicate::{Throttle, Throttled};
use sluice_repository::{Clock, PointSpec, Repository, RestorePoint, Settings, Unlock};

use crate::args::{Global, RateWindow, value};
use crate::cost;
use crate::error::{advise, usage_error};
use crate::output;
use crate::secret;
use crate::statistics::Registry;

/// How long a command that is done waits for damage it met to be recorded.
const SETTLE: Duration = Duration::from_secs(60);

/// What stands before the variables of the other one of two destinations.
const OTHER: &str = "SLUICE_DEST_";

/// The options for every command, and what they lead to.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) global: Global,
    /// The zone in which people read and write times.
    pub(crate) zone: TimeZone,
    /// Tells the time.
    pub(crate) clock: Clock,
    /// Counts what exports do.
    pub(crate) statistics: Registry,
    /// What was opened, for what is to be done at the end.
    opened: Mutex<Vec<Repository>>,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        let (zone, clock) = (TimeZone::system(), Clock::system());
        let (statistics, opened) = (Registry::default(), Mutex::default());
        Self { global, zone, clock, statistics, opened }
    }

    /// The repository's place, as given.
    pub(crate) fn repo(&self) -> Result<&str> {
        self.global
            .repo
            .as_deref()
            .filter(|repo| !repo.is_empty())
            .ok_or_else(|| usage_error("which repository? Give --repo DEST, or set SLUICE_REPO"))
    }

    /// Opens the repository's destination.
    pub(crate) async fn destination(&self, create: bool) -> Result<Opened> {
        self.destination_at(self.repo()?, create).await
    }

    /// Opens another destination in the same way.
    pub(crate) async fn destination_at(&self, url: &str, create: bool) -> Result<Opened> {
        self.opened(url, create, None).await
    }

    /// Opens the other one of two destinations. Where any variable begins with `SLUICE_DEST_`, its
    /// settings are in those, and not in the usual ones.
    pub(crate) async fn other_destination_at(&self, url: &str, create: bool) -> Result<Opened> {
        const PASSPHRASES: [&str; 2] = ["SLUICE_DEST_PASSPHRASE", "SLUICE_DEST_PASSPHRASE_FILE"];
        let own = std::env::vars_os().any(|(name, _)| {
            let name = name.to_string_lossy();
            name.starts_with(OTHER) && !PASSPHRASES.contains(&&*name)
        });
        self.opened(url, create, own.then_some(OTHER)).await
    }

    async fn opened(
        &self,
        url: &str,
        create: bool,
        variables: Option<&'static str>,
    ) -> Result<Opened> {
        let retry = RetryPolicy::within(self.global.retry_for);
        let options = OpenOptions { create, retry, variables, ..OpenOptions::default() };
        let mut opened = open(url, &options).await?;
        if let Some(throttle) = self.throttle() {
            let progress = Arc::default();
            opened.destination = Arc::new(Throttled::new(opened.destination, throttle, progress));
        }
        cost::watch(opened.destination.location(), Arc::clone(&opened.counters));
        Ok(opened)
    }

    /// How fast destinations may be written and read; nothing when as fast as it goes.
    fn throttle(&self) -> Option<Arc<Throttle>> {
        let rates = self.global.bandwidth.as_ref()?;
        let window = |one: &RateWindow| Window { from: one.from, to: one.to, rate: one.rate };
        let windows = rates.windows.iter().map(window).collect();
        let schedule = Schedule { limit: rates.limit, windows };
        Some(Arc::new(Throttle::new(schedule, self.clock.clone(), self.zone.clone())))
    }

    /// What the repository may use of this machine.
    pub(crate) fn settings(&self, threads: usize) -> Settings {
        let threads = if threads == 0 { self.global.threads } else { threads };
        let heartbeat = self.global.heartbeat;
        let mut settings =
            Settings { cache_dir: self.cache_dir(), threads, heartbeat, ..Settings::default() };
        if let Some(bytes) = self.global.cache_memory {
            settings.chunk_cache_bytes = bytes;
        }
        settings
    }

    /// The folder for what can be lost.
    pub(crate) fn cache_dir(&self) -> Option<PathBuf> {
        let set = |name: &str| {
            std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
        };
        self.global
            .cache_dir
            .clone()
            .or_else(|| set("XDG_CACHE_HOME").map(|folder| folder.join("sluice")))
            .or_else(|| set("HOME").map(|home| home.join(".cache/sluice")))
    }

    /// Opens the repository with one thread for each core.
    pub(crate) async fn open(&self) -> Result<Repository> {
        self.open_with(0).await
    }

    /// Opens the repository.
    pub(crate) async fn open_with(&self, threads: usize) -> Result<Repository> {
        Ok(self.open_with_key(threads).await?.0)
    }

    /// Opens the repository, and says with what.
    pub(crate) async fn open_with_key(&self, threads: usize) -> Result<(Repository, Unlock)> {
        let destination = self.destination(false).await?.destination;
        let unlock = self.unlock(&*destination).await?;
        let (settings, clock) = (self.settings(threads), self.clock.clone());
        let opened =
            Repository::open(Arc::clone(&destination), clock, unlock.clone(), settings).await?;
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).push(opened.clone());
        Ok((opened, unlock))
    }

    /// Lets damage that was met be recorded, and says so. Takes no longer than [`SETTLE`]: the
    /// command is done.
    pub(crate) async fn settle(&self) {
        let opened =
            std::mem::take(&mut *self.opened.lock().unwrap_or_else(PoisonError::into_inner));
        let settled = async {
            for repository in opened {
                let recorded = repository.settle_damage_met().await;
                if recorded.bad > 0 && !self.global.json {
                    output::tell_recorded(recorded.bad);
                }
            }
        };
        if tokio::time::timeout(SETTLE, settled).await.is_err() {
            tracing::warn!("damage that was met is not recorded yet; `sluice verify` does it");
        }
    }

    /// How to unlock the repository; asks for a passphrase only when one is needed.
    pub(crate) async fn unlock(
        &self,
        destination: &dyn sluice_destination::Destination,
    ) -> Result<Unlock> {
        if let Some(path) = &self.global.recovery_key_file {
            return Ok(Unlock::Recovery(secret::recovery_key(path)?));
        }
        // Also tells "no repository here" before anybody types a passphrase.
        let descriptor = Repository::peek(destination).await?;
        if descriptor.encryption == "open" {
            return if secret::is_given() {
                Err(secret::not_needed(destination))
            } else {
                Ok(Unlock::Open)
            };
        }
        Ok(Unlock::Passphrase(secret::passphrase()?))
    }

    /// Reads a point's name as people write it.
    pub(crate) fn spec(&self, text: &str) -> Result<PointSpec> {
        let text = output::undo_folder_name(text);
        PointSpec::parse(&text, &self.zone).map_err(|error| usage_error(error.to_string()))
    }

    /// Reads a date or a time as people write it, in ms since 1970. A date is its beginning.
    pub(crate) fn moment(&self, text: &str) -> Result<u64> {
        value::moment_in(text, &self.zone).map_err(usage_error)
    }

    /// The point that `text` names, with the image it names.
    pub(crate) async fn point(
        &self,
        repository: &Repository,
        text: &str,
    ) -> Result<(RestorePoint, Option<String>)> {
        let spec = self.spec(text)?;
        let point =
            repository.resolve(&spec).await.with_context(|| format!("looking for {text}"))?;
        Ok((point, spec.image))
    }

    /// The images that `text` names: one, or all of its point.
    pub(crate) fn image_names(point: &RestorePoint, image: Option<&str>) -> Result<Vec<String>> {
        if image.is_some() {
            return Ok(vec![point.image(image)?.name.clone()]);
        }
        if point.images.is_empty() {
            return Err(advise("not-found", format!("{point} has no images"), "choose another"));
        }
        Ok(point.images.iter().map(|image| image.name.clone()).collect())
    }
}

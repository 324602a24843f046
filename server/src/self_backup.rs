//! Backups of the control plane itself: a snapshot of the catalog and the keys beside it, as one
//! restore point of a destination, by `sluice` as a process.
//!
//! With that restore point and the destination's key a lost server comes back:
//! `sluice server restore`. The snapshot holds the key of all secrets, so a destination without
//! encryption is refused.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sluice_catalog::{Catalog, Destination, DestinationId, Tx};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::api::policies::EVERYTHING;
use crate::destinations;
use crate::problem::{Problem, Result};
use crate::server::{ServerError, write_private};
use crate::state::Shared;

/// What restore points of control planes are called. No instance of a server is: those have the
/// name of a project before a dot.
pub const INSTANCE: &str = "control-plane";
/// The image that is the snapshot of the catalog, a SQLite file.
pub const CATALOG: &str = "catalog";
/// The image that is a JSON object of files of the server's folder, by name.
pub const KEYS: &str = "keys";
/// The files of the folder that are backed up, if they are there.
const FILES: [&str; 4] = ["secrets.key", "certificate.pem", "key.pem", "local-passphrase"];
/// How often is looked whether a backup is due.
const LOOK: Duration = Duration::from_secs(5);
/// The settings: what is wanted, and what became of it.
const WANTED: &str = "self-backup";
const STATE: &str = "self-backup-state";
/// The secret without which a repository is not encrypted.
const PASSPHRASE: &str = "SLUICE_PASSPHRASE";

/// Where the control plane is backed up, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SelfBackup {
    /// Where to; it must be encrypted.
    pub(crate) destination: DestinationId,
    /// How often, in seconds: a minute to a week.
    #[serde(default = "daily")]
    pub(crate) every_seconds: u64,
    /// How many are kept: at least one.
    #[serde(default = "a_month")]
    pub(crate) keep: u32,
}

fn daily() -> u64 {
    86_400
}

fn a_month() -> u32 {
    30
}

/// What became of the last backup of the control plane.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct SelfBackupState {
    /// When the last one began, in milliseconds since 1970.
    pub(crate) begun_ms: u64,
    /// When the last good one was done, in milliseconds since 1970.
    pub(crate) good_ms: Option<u64>,
    /// The restore point of the last good one.
    pub(crate) point: Option<String>,
    /// Why the last one failed, if it did.
    pub(crate) failure: Option<String>,
}

impl SelfBackup {
    pub(crate) fn check(&self) -> Result<()> {
        if !(60..=7 * 86_400).contains(&self.every_seconds) || self.keep == 0 {
            let text = "every_seconds is a minute to a week, and keep at least 1";
            return Err(Problem::invalid(text));
        }
        Ok(())
    }

    pub(crate) async fn load(tx: &mut Tx) -> Result<Option<Self>> {
        let text = tx.setting(WANTED).await?;
        // What was stored was read from a document.
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    pub(crate) async fn store(&self, tx: &mut Tx) -> Result<()> {
        Ok(tx.set_setting(WANTED, &json!(self).to_string()).await?)
    }
}

impl SelfBackupState {
    pub(crate) async fn load(tx: &mut Tx) -> Result<Self> {
        let text = tx.setting(STATE).await?.unwrap_or_default();
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }

    async fn store(&self, tx: &mut Tx) -> Result<()> {
        Ok(tx.set_setting(STATE, &json!(self).to_string()).await?)
    }

    /// Makes the next one due at once.
    pub(crate) async fn hurry(tx: &mut Tx) -> Result<()> {
        Self { begun_ms: 0, ..Self::load(tx).await? }.store(tx).await
    }
}

/// Looks until `shutdown` is cancelled. Of several servers on one database one is faster.
pub(crate) async fn run(shared: Shared, shutdown: CancellationToken) {
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        let Ok(Some(wanted)) = due(&shared).await else { continue };
        let done = tokio::select! {
            () = shutdown.cancelled() => Err("the server was stopped".to_owned()),
            done = back_up(&shared, &wanted) => done,
        };
        if let Err(why) = &done {
            tracing::error!("the control plane was not backed up: {why}");
        }
        if let Err(problem) = note(&shared, done).await {
            tracing::error!("cannot note what became of a backup: {}", problem.detail);
        }
    }
}

/// What is due now, which this server has taken on.
async fn due(shared: &Shared) -> Result<Option<SelfBackup>> {
    let now = shared.now();
    let is_due = |wanted: &SelfBackup, state: &SelfBackupState| {
        // A clock that was set back makes it due as well.
        now < state.begun_ms || now - state.begun_ms >= wanted.every_seconds * 1000
    };
    let mut tx = shared.catalog.read().await?;
    let Some(wanted) = SelfBackup::load(&mut tx).await? else { return Ok(None) };
    let state = SelfBackupState::load(&mut tx).await?;
    drop(tx);
    if !is_due(&wanted, &state) {
        return Ok(None);
    }
    let mut tx = shared.catalog.begin().await?;
    tx.decide_alone().await?;
    let state = SelfBackupState::load(&mut tx).await?;
    if !is_due(&wanted, &state) {
        return Ok(None);
    }
    SelfBackupState { begun_ms: now, ..state }.store(&mut tx).await?;
    tx.commit().await?;
    Ok(Some(wanted))
}

async fn note(shared: &Shared, done: Result<String, String>) -> Result<()> {
    let mut tx = shared.catalog.begin().await?;
    let mut state = SelfBackupState::load(&mut tx).await?;
    match done {
        Ok(point) => {
            state.good_ms = Some(shared.now());
            state.point = Some(point);
            state.failure = None;
        }
        Err(why) => state.failure = Some(why),
    }
    state.store(&mut tx).await?;
    Ok(tx.commit().await?)
}

/// A folder for what is backed up, which goes with what is in it.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Makes one; returns the restore point.
async fn back_up(shared: &Shared, wanted: &SelfBackup) -> Result<String, String> {
    let said = |problem: Problem| problem.detail;
    let (url, environment) = place(shared, wanted.destination).await.map_err(said)?;
    if !environment.contains_key(PASSPHRASE) {
        let text = "its destination has no passphrase, and the keys would be read by anybody";
        return Err(text.to_owned());
    }
    let folder = Folder(shared.folder.join("self-backup"));
    let _ = std::fs::remove_dir_all(&folder.0);
    let failed = |error: std::io::Error| format!("cannot write to the server's folder: {error}");
    std::fs::create_dir(&folder.0).map_err(failed)?;
    let (catalog, keys) = (folder.0.join("catalog.sqlite"), folder.0.join("keys.json"));
    write_private(&catalog.with_extension("place"), "").map_err(|error| error.to_string())?;
    shared.catalog.snapshot(&catalog).await.map_err(|error| error.to_string())?;
    let files: BTreeMap<&str, String> = FILES
        .into_iter()
        .filter_map(|name| Some((name, std::fs::read_to_string(shared.folder.join(name)).ok()?)))
        .collect();
    write_private(&keys, &json!(files).to_string()).map_err(|error| error.to_string())?;
    let image = |name: &str, path: &Path| format!("{name}={}", path.display());
    let words = ["backup".into(), "--".into(), INSTANCE.into(), image(CATALOG, &catalog)];
    let words = [&words[..], &[image(KEYS, &keys)]].concat();
    let told = sluice(shared, &url, &environment, &words).await?;
    let keep = wanted.keep.to_string();
    let prune = ["prune", "--keep-last", &keep, "--", INSTANCE].map(str::to_owned);
    if let Err(why) = sluice(shared, &url, &environment, &prune).await {
        tracing::warn!("old backups of the control plane were not removed: {why}");
    }
    let point = told["point"]["point"].as_str().map(str::to_owned);
    point.ok_or_else(|| "it says nothing of a restore point".to_owned())
}

/// The repository and what opens it.
async fn place(shared: &Shared, id: DestinationId) -> Result<(String, BTreeMap<String, String>)> {
    let mut tx = shared.catalog.read().await?;
    destinations::check_own(&mut tx, id).await?;
    let destination = tx.get::<Destination>(id, &EVERYTHING).await?.body;
    let mut environment = destination.environment;
    for (name, secret) in tx.secrets(&shared.sealer, &id.to_string()).await? {
        environment.insert(name, secret.to_string());
    }
    Ok((destination.url, environment))
}

/// Runs this executable to its end, on a leash; returns the last document it printed.
async fn sluice(
    shared: &Shared,
    url: &str,
    environment: &BTreeMap<String, String>,
    words: &[String],
) -> Result<Value, String> {
    // Also when another executable was installed in its place.
    let mut command = Command::new("/proc/self/exe");
    command.args(["--json", "--no-progress", "--repo", url]).args(words).env_clear();
    for name in ["PATH", "HOME", "TZ", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"] {
        command.envs(std::env::var_os(name).map(|value| (name, value)));
    }
    command.envs(environment).env("SLUICE_LEASH", "1").current_dir(&shared.folder);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.process_group(0).kill_on_drop(true).spawn().map_err(|e| e.to_string())?;
    let leash = child.stdin.take();
    let output = child.wait_with_output().await.map_err(|error| error.to_string())?;
    drop(leash);
    let text = String::from_utf8_lossy(&output.stdout);
    let documents = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let document = documents.map_while(|one| one.ok()).last().unwrap_or_default();
    match output.status.code() {
        Some(0 | 3) => Ok(document),
        _ => Err(document["error"]["message"]
            .as_str()
            .map_or_else(|| format!("sluice ended with {}", output.status), str::to_owned)),
    }
}

/// Puts back the folder of a lost server: its files, and its database from a snapshot. The folder
/// must hold no server, and a database that is named must be empty.
///
/// # Errors
/// [`ServerError`] with what is in the way.
pub async fn restore_state(
    state: &Path,
    database: Option<&str>,
    files: &BTreeMap<String, String>,
    snapshot: &Path,
) -> Result<(), ServerError> {
    let taken = ["secrets.key", "catalog.sqlite"].iter().find(|name| state.join(name).exists());
    if let Some(name) = taken {
        let text = format!("{} holds a server already", state.display());
        return Err(ServerError::new(text, format!("there is a file {name}")));
    }
    if let Some(odd) = files.keys().find(|name| !FILES.contains(&name.as_str())) {
        let text = "this is no backup of a control plane";
        return Err(ServerError::new(text, format!("it has a file {odd:?}")));
    }
    let own = format!("sqlite:{}", state.join("catalog.sqlite").display());
    let failed = |error| ServerError::new("cannot bring the database back", error);
    let catalog = Catalog::open(database.unwrap_or(&own)).await.map_err(failed)?;
    catalog.restore(snapshot).await.map_err(failed)?;
    catalog.close().await;
    for (name, text) in files {
        write_private(&state.join(name), text)?;
    }
    if database.is_none() {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        let made = std::fs::set_permissions(state.join("catalog.sqlite"), mode);
        made.map_err(|error| ServerError::new("cannot protect the database", error))?;
    }
    Ok(())
}

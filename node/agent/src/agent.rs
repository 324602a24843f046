//! Asking for tasks, and reporting on them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use sluice_node_api::{
    Ask, Client, ClientError, Finished, Hello, Lease, LogEntry, Outcome, Report, Reported, TaskSpec,
};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::abilities::Abilities;
use crate::command::{Step, steps};
use crate::credentials::Credentials;
use crate::documents;
use crate::hooks;
use crate::identity;
use crate::looks;
use crate::metrics::Metrics;
use crate::mounts::Mounts;
use crate::process::{Event, Process, Said};
use crate::snapshots;
use crate::sources;
use crate::tenure::Tenure;

/// How often a task is reported on, unless its lease is shorter.
const REPORT: Duration = Duration::from_secs(2);
/// How long to wait before a server that does not answer is asked again.
pub(crate) const PAUSE: Duration = Duration::from_secs(2);
/// The same when it refuses this node.
const SHUT_OUT: Duration = Duration::from_secs(5);
/// How long the end of a task is told to a server that does not answer.
const INSIST: Duration = Duration::from_secs(15 * 60);
/// How long a process may take to end when it is asked to.
const ENDING: Duration = Duration::from_secs(20);
/// What a server answers that takes no report of that size.
const TOO_LARGE: u16 = 413;
/// Lines of the log in one report.
const LINES: usize = 500;
/// Bytes of them: what a report may have is bounded, and it has other things to say.
const LOG_BYTES: usize = 256 << 10;

/// How a node works.
#[derive(Clone)]
pub struct Config {
    /// The executable `sluice`.
    pub executable: PathBuf,
    /// Where its processes run.
    pub folder: PathBuf,
    /// What it can do; it runs as many tasks at a time as there are slots.
    pub hello: Hello,
    /// The only folders of which anything is backed up, whatever the server says; any without.
    pub folders: Option<Vec<String>>,
    /// The only programs, or folders of them, that rules may run, whatever the server says; any
    /// that it allows without.
    pub commands: Option<Vec<String>>,
    /// Keeps mounts, where this node has any.
    pub mounts: Option<Arc<dyn Mounts>>,
    /// Keeps what the node shows, where that is to be renewed.
    pub credentials: Option<Arc<dyn Credentials>>,
    /// Tells how the node stands, where that may change.
    pub abilities: Option<Arc<dyn Abilities>>,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// A node of a server.
#[derive(Debug)]
pub struct Agent {
    pub(crate) client: Client,
    pub(crate) config: Config,
    /// Held while something is said of mounts: what is said later is of a later state.
    pub(crate) telling: Mutex<()>,
    metrics: Arc<Metrics>,
}

/// Why a node ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was stopped.
    Stopped,
    /// Its server wants it to start again: nothing runs any more.
    Restart,
}

/// Whether a task's end is still wanted.
pub(crate) enum Stop {
    Cancelled,
    Lost,
    Shutdown,
}

impl Stop {
    /// How long what runs may take to end: a task that is another node's has no time.
    pub(crate) fn patience(&self, lease: &Tenure) -> Duration {
        match self {
            Self::Lost => lease.patience(),
            Self::Cancelled | Self::Shutdown => ENDING,
        }
    }
}

/// The task was not renewed in time.
pub(crate) fn unheard(lease: &Tenure) -> Stop {
    tracing::warn!(task = %lease.task, "the server was not heard for too long");
    Stop::Lost
}

impl Agent {
    /// A node that shows with `client` who it is.
    pub fn new(client: Client, config: Config) -> Self {
        let metrics = Arc::new(Metrics::default());
        metrics.has_slots(config.hello.slots);
        Self { client, config, telling: Mutex::default(), metrics }
    }

    /// What it counts.
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Runs tasks until `shutdown` is cancelled, which stops those under way; or until the server
    /// wants this node to start again, which waits for them.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the server does not know this node.
    pub async fn run(self, shutdown: CancellationToken) -> Result<Ended, ClientError> {
        identity::remove_unused(&self.config.folder, identity::UNUSED);
        self.run_what_is_left().await;
        let told = tokio::select! {
            () = shutdown.cancelled() => return Ok(Ended::Stopped),
            told = self.introduce() => told,
        };
        told?;
        let agent = Arc::new(self);
        let (leaving, rest) = (CancellationToken::new(), shutdown.child_token());
        let (mut slots, mut beside) = (JoinSet::new(), JoinSet::new());
        // What it can do may change while it runs: the server knows, and gives it nothing else.
        let (mounting, others): (Vec<_>, Vec<_>) = TaskSpec::KINDS
            .map(str::to_owned)
            .into_iter()
            .partition(|kind| TaskSpec::MOUNT_KINDS.contains(&kind.as_str()));
        let both = (&leaving, &shutdown);
        for _ in 0..agent.config.hello.slots.max(1) {
            slots.spawn(Arc::clone(&agent).pull(others.clone(), both.0.clone(), both.1.clone()));
        }
        if let Some(mounts) = agent.config.mounts.clone() {
            slots.spawn(Arc::clone(&agent).pull(mounting, both.0.clone(), both.1.clone()));
            let desk = Arc::<looks::Desk>::default();
            for _ in 0..looks::WAITS {
                let (agent, mounts) = (Arc::clone(&agent), Arc::clone(&mounts));
                beside.spawn(agent.answer_looks(Arc::clone(&desk), mounts, rest.clone()));
            }
            beside.spawn(Arc::clone(&agent).keep_in_step(mounts, rest.clone()));
        }
        if let Some(credentials) = agent.config.credentials.clone() {
            beside.spawn(Arc::clone(&agent).keep_certified(credentials, rest.clone()));
        }
        if let Some(abilities) = agent.config.abilities.clone() {
            beside.spawn(Arc::clone(&agent).keep_told(abilities, leaving.clone(), rest.clone()));
        }
        while slots.join_next().await.is_some() {}
        rest.cancel();
        while beside.join_next().await.is_some() {}
        let restart = leaving.is_cancelled() && !shutdown.is_cancelled();
        Ok(if restart { Ended::Restart } else { Ended::Stopped })
    }

    /// Tells what this node can do. The server takes back what it ran before.
    async fn introduce(&self) -> Result<(), ClientError> {
        loop {
            match self.client.post::<Value>("/api/node/v1/hello", &self.config.hello).await {
                Ok(_) => return Ok(()),
                Err(error) if error.status().is_some_and(|status| status < 500) => {
                    return Err(error);
                }
                Err(error) => {
                    tracing::warn!("the server cannot be told what this node can do: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// One slot: one task of these kinds after the other, until it is `leaving`.
    async fn pull(
        self: Arc<Self>,
        kinds: Vec<String>,
        leaving: CancellationToken,
        shutdown: CancellationToken,
    ) {
        let ask = Ask { kinds: Some(kinds) };
        loop {
            let asked = Instant::now();
            let answered = tokio::select! {
                () = shutdown.cancelled() => return,
                () = leaving.cancelled() => return,
                answer = self.client.post::<Option<Lease>>("/api/node/v1/lease", &ask) => answer,
            };
            match answered {
                Ok(Some(lease)) => {
                    Box::pin(self.perform(Tenure::new(lease, asked), &shutdown)).await;
                }
                // The server has waited already.
                Ok(None) => {}
                Err(error) => {
                    self.metrics.unanswered();
                    tracing::warn!("no task can be asked for: {error}");
                    let pause = if is_shut_out(&error) { SHUT_OUT } else { PAUSE };
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = leaving.cancelled() => return,
                        () = tokio::time::sleep(pause) => {}
                    }
                }
            }
        }
    }

    /// Does a task and tells the server what came of it.
    async fn perform(&self, lease: Tenure, shutdown: &CancellationToken) {
        tracing::info!(task = %lease.task, kind = lease.work.spec.kind(), "begins");
        let mut run = self.metrics.begins(lease.work.spec.kind());
        let encrypted = lease
            .work
            .environment
            .keys()
            .any(|name| name == "SLUICE_PASSPHRASE" || name == "SLUICE_PASSPHRASE_FILE");
        let mut lines = Vec::new();
        if let Some(mounts) = self.config.mounts.clone()
            && TaskSpec::MOUNT_KINDS.contains(&lease.work.spec.kind())
        {
            let finished = self.perform_mount(&lease, mounts, shutdown).await;
            run.ended(outcome(finished.as_ref()));
            let _telling = self.telling.lock().await;
            return self.conclude(&lease, finished, lines).await;
        }
        let allowed = sources::check(&lease.work, &self.config.folders, &self.config.commands);
        let within = sources::lists(&lease.work.folders, &self.config.folders);
        let steps =
            allowed.and_then(|()| steps(&lease.work.spec, &within, encrypted, &self.config.folder));
        let mut finished = match steps {
            Ok(steps) => match snapshots::fresh(&lease.work.spec) {
                Some(order) => {
                    let what = (order, encrypted);
                    self.perform_on_snapshot(&lease, what, &mut lines, shutdown).await
                }
                None if hooks::surrounds(&lease.work) => {
                    self.perform_around(&lease, steps, &mut lines, shutdown).await
                }
                None => self.perform_steps(&lease, steps, &mut lines, shutdown).await,
            },
            Err(message) => Some(failed(message, false)),
        };
        run.ended(outcome(finished.as_ref()));
        if let Some(finished) = &mut finished {
            let document = std::mem::take(&mut finished.document);
            finished.document = documents::told(lease.work.spec.kind(), document);
        }
        self.conclude(&lease, finished, lines).await;
    }

    /// Tells the server the end of a task; nobody waits for that of a task that was lost.
    async fn conclude(&self, lease: &Tenure, finished: Option<Finished>, lines: Vec<LogEntry>) {
        let Some(finished) = finished else { return };
        tracing::info!(task = %lease.task, outcome = ?finished.outcome, "ended");
        let mut report = Report {
            attempt: lease.attempt,
            log: lines,
            finished: Some(finished),
            ..Report::default()
        };
        let mut shortened = false;
        let begun = Instant::now();
        while begun.elapsed() < INSIST {
            match self.report(lease, &report).await {
                Ok(_) => return,
                Err(error) if error.status() == Some(TOO_LARGE) && !shortened => {
                    tracing::warn!(task = %lease.task, "its result is too large to be told");
                    shortened = true;
                    report.log.clear();
                    report.finished = Some(too_large());
                }
                Err(error) if error.status().is_some_and(|status| status < 500) => {
                    tracing::warn!(task = %lease.task, "the end was not wanted: {error}");
                    return;
                }
                Err(_) => tokio::time::sleep(PAUSE).await,
            }
        }
    }

    pub(crate) async fn perform_steps(
        &self,
        lease: &Tenure,
        steps: Vec<Step>,
        lines: &mut Vec<LogEntry>,
        shutdown: &CancellationToken,
    ) -> Option<Finished> {
        let mut last = nothing_to_do();
        let own_variables = match identity::variables(&lease.work, &self.config.folder) {
            Ok(variables) => variables,
            Err(message) => return Some(failed(message, true)),
        };
        for step in steps {
            let mut words = Vec::new();
            if !lease.work.url.is_empty() {
                words.extend(["--repo".to_owned(), lease.work.url.clone()]);
            }
            words.extend(step.words);
            let config = &self.config;
            let environment = &lease.work.environment;
            let place = (&*config.executable, &*config.folder);
            let started = Process::start_as(place, &words, environment, &own_variables);
            let mut process = match started {
                Ok(process) => process,
                Err(message) => return Some(failed(message, true)),
            };
            let mut own = Vec::new();
            let status = match self.watch(lease, &mut process, &mut own, shutdown).await {
                Ok(status) => status,
                Err(stop) => {
                    process.stop(stop.patience(lease)).await;
                    lines.append(&mut own);
                    return match stop {
                        Stop::Cancelled => Some(cancelled()),
                        Stop::Shutdown => Some(failed("the node was stopped".into(), true)),
                        Stop::Lost => None,
                    };
                }
            };
            last = process.finished(status).await;
            let done = last.outcome != Outcome::Failed;
            // That a probe fails is no news.
            if done || !step.probe {
                lines.append(&mut own);
            }
            if done == step.probe {
                break;
            }
        }
        Some(last)
    }

    /// Listens to a process and reports, until it ends or is to be ended.
    pub(crate) async fn watch(
        &self,
        lease: &Tenure,
        process: &mut Process,
        lines: &mut Vec<LogEntry>,
        shutdown: &CancellationToken,
    ) -> Result<Option<std::process::ExitStatus>, Stop> {
        let mut ticks = tokio::time::interval(beat(lease));
        let (mut progress, mut allowance) = (None, None);
        loop {
            tokio::select! {
                event = process.next() => match event {
                    Event::Said(Said::Progress(value)) => progress = Some(value),
                    Event::Said(Said::Log(entry)) => keep(lines, entry),
                    Event::Ended(status) => return Ok(status),
                },
                () = shutdown.cancelled() => return Err(Stop::Shutdown),
                () = lease.ends() => return Err(unheard(lease)),
                _ = ticks.tick() => {
                    let told = self.tell(lease, &mut progress, lines).await?;
                    if let Some(bytes) = told.filter(|_| told != allowance) {
                        process.allow(bytes).await;
                        allowance = told;
                    }
                }
            }
        }
    }

    /// Reports that a task is under way, and hears whether it still is this node's, and what a
    /// backup may store.
    pub(crate) async fn tell(
        &self,
        lease: &Tenure,
        progress: &mut Option<Value>,
        lines: &mut Vec<LogEntry>,
    ) -> Result<Option<u64>, Stop> {
        let report = Report {
            attempt: lease.attempt,
            progress: progress.take(),
            log: std::mem::take(lines),
            finished: None,
        };
        let answered = tokio::select! {
            answered = self.report(lease, &report) => answered,
            () = lease.ends() => return Err(unheard(lease)),
        };
        match answered {
            Ok(Reported { cancel: true, .. }) => return Err(Stop::Cancelled),
            Ok(Reported { allowance, .. }) => return Ok(allowance),
            Err(error) if error.status() == Some(409) => {
                tracing::warn!(task = %lease.task, "another node has it now");
                return Err(Stop::Lost);
            }
            Err(error) if is_shut_out(&error) => {
                tracing::warn!(task = %lease.task, "it is ended: {error}");
                return Err(Stop::Lost);
            }
            // Told again, they would end the lease.
            Err(error) if error.status() == Some(TOO_LARGE) => {
                let line = "lines of this log were too large to be told".to_owned();
                *lines = vec![LogEntry { level: "warning".into(), line }];
            }
            // What was not heard is told again.
            Err(_) => *lines = report.log,
        }
        Ok(None)
    }

    pub(crate) async fn report(
        &self,
        lease: &Tenure,
        report: &Report,
    ) -> Result<Reported, ClientError> {
        let path = format!("/api/node/v1/tasks/{}/report", lease.task);
        // A report that hangs must not hide that the lease is over.
        let patience = Duration::from_millis(lease.lease_ms / 2);
        let asked = Instant::now();
        let sent = self.client.post(&path, report);
        let answered = tokio::time::timeout(patience, sent).await.unwrap_or_else(|elapsed| {
            let server = self.client.server().to_owned();
            Err(ClientError::Unreachable { server, source: elapsed.into() })
        });
        if answered.is_ok() {
            lease.renewed(asked);
        }
        answered
    }
}

/// How a task ended, in a word.
fn outcome(finished: Option<&Finished>) -> &'static str {
    match finished.map(|finished| finished.outcome) {
        Some(Outcome::Succeeded) => "succeeded",
        Some(Outcome::Warnings) => "warnings",
        Some(Outcome::Failed) => "failed",
        Some(Outcome::Cancelled) => "cancelled",
        None => "lost",
    }
}

/// Whether the server has ended this node's access.
fn is_shut_out(error: &ClientError) -> bool {
    ["node-disabled", "node-unknown"].contains(&error.code())
}

/// How often a task is reported on.
pub(crate) fn beat(lease: &Tenure) -> Duration {
    REPORT.min(Duration::from_millis(lease.lease_ms) / 4).max(Duration::from_millis(10))
}

/// Keeps the newest lines while nobody listens.
pub(crate) fn keep(lines: &mut Vec<LogEntry>, entry: LogEntry) {
    lines.push(entry);
    let (mut many, mut bytes) = (0, 0);
    let fits = |entry: &&LogEntry| {
        many += 1;
        bytes += entry.line.len();
        many <= LINES && bytes <= LOG_BYTES
    };
    let kept = lines.iter().rev().take_while(fits).count();
    lines.drain(..lines.len() - kept);
}

fn nothing_to_do() -> Finished {
    let message = "there was nothing to do".to_owned();
    Finished { outcome: Outcome::Succeeded, document: Value::Null, message, retryable: false }
}

/// What a server is told that takes no more.
fn too_large() -> Finished {
    failed("what it did is done, but its result is too large to be told".to_owned(), false)
}

pub(crate) fn failed(message: String, retryable: bool) -> Finished {
    Finished { outcome: Outcome::Failed, document: Value::Null, message, retryable }
}

pub(crate) fn cancelled() -> Finished {
    let message = "it was cancelled".to_owned();
    Finished { outcome: Outcome::Cancelled, document: Value::Null, message, retryable: false }
}

#[cfg(test)]
mod tests;

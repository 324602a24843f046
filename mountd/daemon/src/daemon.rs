//! The one task that owns table and store, and does what they call for.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::Rng as _;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::keeper::{self, Event, Keeper, What};
use crate::metrics::Mounted;
use crate::protocol::{Answer, Request, Shown};
use crate::runner::{Ended, Failure, Job, Runner};
use crate::store::{Store, StoreError};
use crate::table::{Action, End, Entry, MAX_MOUNTS, Record, State, Stop, Table};

/// Requests that may wait for the daemon: as many as there are connections, and the metrics.
const ASKS: usize = 80;
/// Events that may wait: start and end of each mount, so that no keeper has to.
const EVENTS: usize = 2 * MAX_MOUNTS;
/// The longest sleep: the system's clock may be set meanwhile, and the folder may be removed.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);
/// How long a mount may take to tell its statistics.
const PATIENCE: Duration = Duration::from_secs(2);
/// A daemon that was started for one mount waits so long for it, and for the next.
const IDLE: Duration = Duration::from_secs(10);
/// Characters of an id, and those it is made of: none that look alike.
const ID_LENGTH: usize = 6;
const ID_ALPHABET: &[u8] = b"23456789abcdefghjkmnpqrstuvwxyz";

/// How a daemon runs.
#[derive(Clone)]
pub struct Config {
    /// Tells the time, in ms since 1970.
    pub clock: Arc<dyn Fn() -> u64 + Send + Sync>,
    /// End when there is nothing to do any more.
    pub until_idle: bool,
}

impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config").field("until_idle", &self.until_idle).finish_non_exhaustive()
    }
}

/// Why a daemon cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DaemonError {
    /// The state folder cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A way to ask the daemon from within its process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Asker(mpsc::Sender<Ask>);

#[derive(Debug)]
enum Ask {
    Request(Request, oneshot::Sender<Answer>),
    Metrics(oneshot::Sender<(Vec<Mounted>, u64)>),
}

impl Asker {
    /// The answer to a request, however long that takes.
    pub async fn ask(&self, request: Request) -> Answer {
        let (answer, answered) = oneshot::channel();
        let ending = || Answer::Failure(Failure::new("ending", "mountd is ending"));
        match self.0.send(Ask::Request(request, answer)).await {
            Ok(()) => answered.await.unwrap_or_else(|_| ending()),
            Err(_) => ending(),
        }
    }

    /// All mounts with their statistics, and the time; nothing once the daemon is over.
    pub(crate) async fn mounted(&self) -> Option<(Vec<Mounted>, u64)> {
        let (answer, answered) = oneshot::channel();
        self.0.send(Ask::Metrics(answer)).await.ok()?;
        answered.await.ok()
    }
}

/// A daemon.
pub struct Daemon {
    store: Store,
    runner: Arc<dyn Runner>,
    config: Config,
    table: Table,
    /// Mounts that are started for the first time.
    pending: HashMap<String, Pending>,
    keepers: HashMap<String, Keeper>,
    secrets: HashMap<String, BTreeMap<String, String>>,
    /// Who waits for the end of a mount.
    stops: HashMap<String, Vec<oneshot::Sender<Answer>>>,
    asks: mpsc::Receiver<Ask>,
    asker: Asker,
    events: mpsc::Receiver<Event>,
    event_sender: mpsc::Sender<Event>,
    idle_since: Instant,
}

impl std::fmt::Debug for Daemon {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Daemon").field("store", &self.store).finish_non_exhaustive()
    }
}

/// A mount that is started for the first time.
struct Pending {
    spec: Value,
    lease_ms: Option<u64>,
    /// What it told another daemon.
    identity: Option<Value>,
    answer: oneshot::Sender<Answer>,
}

impl Daemon {
    /// A daemon that comes back with what is stored.
    ///
    /// # Errors
    /// [`DaemonError::Store`].
    pub fn new(store: Store, runner: Arc<dyn Runner>, config: Config) -> Result<Self, DaemonError> {
        let table = Table::recovered(store.load()?);
        let (ask_sender, asks) = mpsc::channel(ASKS);
        let (event_sender, events) = mpsc::channel(EVENTS);
        Ok(Self {
            store,
            runner,
            config,
            table,
            pending: HashMap::new(),
            keepers: HashMap::new(),
            secrets: HashMap::new(),
            stops: HashMap::new(),
            asks,
            asker: Asker(ask_sender),
            events,
            event_sender,
            idle_since: Instant::now(),
        })
    }

    /// A way to ask it while it runs.
    pub fn asker(&self) -> Asker {
        self.asker.clone()
    }

    /// Mounts that were stored and are to come back.
    pub fn recovered(&self) -> usize {
        self.table.len()
    }

    /// Keeps the mounts until `stop`, then ends them in good order. What is stored stays, and
    /// comes back with the next daemon.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let now = self.now();
            for action in self.table.due(now) {
                self.act(action).await;
            }
            if self.is_over() {
                break;
            }
            let due = self.table.next_due().map(|at| at.saturating_sub(self.now()));
            let sleep = due.map_or(LONGEST_SLEEP, Duration::from_millis).min(LONGEST_SLEEP);
            tokio::select! {
                () = stop.cancelled() => break,
                Some(event) = self.events.recv() => self.happened(event),
                Some(ask) = self.asks.recv() => self.asked(ask).await,
                () = tokio::time::sleep(sleep) => {}
            }
        }
        self.shut_down().await;
    }

    fn now(&self) -> u64 {
        (self.config.clock)()
    }

    /// Whether there is no reason to go on.
    fn is_over(&mut self) -> bool {
        if !self.store.is_there() {
            tracing::warn!("the state folder is gone; mountd ends");
            return true;
        }
        if !self.table.is_empty() || !self.pending.is_empty() {
            self.idle_since = Instant::now();
        }
        self.config.until_idle && self.idle_since.elapsed() >= IDLE
    }

    async fn act(&mut self, action: Action) {
        match action {
            Action::Start(id) => {
                let Some(entry) = self.table.get(&id) else { return };
                let record = &entry.record;
                let job = Job {
                    id: id.clone(),
                    spec: record.spec.clone(),
                    identity: Some(record.identity.clone()),
                    secrets: self.secrets.get(&id).cloned().unwrap_or_default(),
                    secret_names: record.secret_names.iter().cloned().collect(),
                };
                self.start(job);
            }
            Action::Stop(id) => {
                tracing::info!(id, "the lease is over");
                self.tell_to_stop(&id);
            }
            Action::Forget(record) => {
                tracing::info!(id = record.id, "the lease is over");
                self.runner.clean(&record.id, &record.spec).await;
                self.forget(&record.id);
            }
        }
    }

    fn start(&mut self, job: Job) {
        let id = job.id.clone();
        let keeper = keeper::keep(self.runner.clone(), job, self.event_sender.clone());
        self.keepers.insert(id, keeper);
    }

    fn tell_to_stop(&self, id: &str) {
        // One that has ended meanwhile says so by itself.
        if let Some(keeper) = self.keepers.get(id) {
            keeper.stop();
        }
    }

    /// Forgets a mount of which nothing runs.
    fn forget(&mut self, id: &str) {
        self.secrets.remove(id);
        if let Err(error) = self.store.remove(id) {
            // It would come back with the next daemon: unwanted, but visible.
            tracing::error!(id, "a mount cannot be forgotten: {}", told(&error));
        }
        for waiting in self.stops.remove(id).into_iter().flatten() {
            let _ = waiting.send(Answer::Mounts(vec![]));
        }
    }

    fn happened(&mut self, event: Event) {
        let Event { id, what } = event;
        match what {
            What::Started(identity) => match self.pending.remove(&id) {
                Some(pending) => self.promise(&id, pending, identity),
                None => {
                    self.table.started(&id);
                    self.moved(&id, identity);
                }
            },
            What::Ended(ended) => {
                self.keepers.remove(&id);
                if let Some(pending) = self.pending.remove(&id) {
                    self.secrets.remove(&id);
                    let ended = ended.err().unwrap_or_else(|| Failure::new("ended", "it ended"));
                    let _ = pending.answer.send(Answer::Failure(ended));
                    return;
                }
                self.ended(&id, ended);
            }
        }
    }

    /// Stores a mount that runs, and then tells so.
    fn promise(&mut self, id: &str, pending: Pending, identity: Value) {
        let now = self.now();
        let secrets = self.secrets.get(id);
        let record = Record {
            id: id.to_owned(),
            spec: pending.spec,
            identity: match pending.identity {
                Some(before) if !has_moved(&before, &identity) => before,
                _ => identity,
            },
            created_ms: now,
            lease_end_ms: pending.lease_ms.map(|lease| now.saturating_add(lease)),
            secret_names: secrets.into_iter().flat_map(|all| all.keys().cloned()).collect(),
        };
        if let Err(error) = self.store.save(&record) {
            self.tell_to_stop(id);
            let _ = pending.answer.send(Answer::Failure(Failure::new("state", told(&error))));
            return;
        }
        self.table.insert_running(record);
        let shown = self.table.get(id).map(shown);
        let _ = pending.answer.send(Answer::Mounts(shown.into_iter().collect()));
    }

    /// A mount that came back may have another address: what was stored of it says so then.
    fn moved(&mut self, id: &str, identity: Value) {
        let Some(record) = self.table.get(id).map(|entry| entry.record.clone()) else { return };
        if !has_moved(&record.identity, &identity) {
            return;
        }
        tracing::warn!(id, "its former address was taken, and it has another");
        let record = Record { identity, ..record };
        if let Err(error) = self.store.save(&record) {
            tracing::warn!(id, "its address cannot be stored: {}", told(&error));
        }
        self.table.identify(id, record.identity);
    }

    fn ended(&mut self, id: &str, ended: Result<Ended, Failure>) {
        let end = match ended {
            Ok(Ended::Finished) => End::Finished,
            Ok(Ended::Broken(reason)) => End::Failed(reason),
            Err(failure) => {
                let hopeless = failure.hopeless;
                let help = failure.help.map(|help| format!("; {help}")).unwrap_or_default();
                let reason = failure.message + &help;
                if hopeless { End::Hopeless(reason) } else { End::Failed(reason) }
            }
        };
        if let End::Failed(reason) | End::Hopeless(reason) = &end {
            tracing::warn!(id, reason, "a mount does not serve");
        }
        if self.table.ended(id, end, self.now()).is_some() {
            self.forget(id);
        }
    }

    async fn asked(&mut self, ask: Ask) {
        let (request, answer) = match ask {
            Ask::Request(request, answer) => (request, answer),
            Ask::Metrics(answer) => {
                let (all, now) = (self.all(), self.now());
                tokio::spawn(async move {
                    let _ = answer.send((gather(all).await, now));
                });
                return;
            }
        };
        match request {
            Request::Mount { spec, secrets, lease_ms, identity } => {
                self.mount(Pending { spec, lease_ms, identity, answer }, secrets);
            }
            Request::List => {
                let all = self.all();
                tokio::spawn(async move {
                    let mounts = gather(all).await.into_iter().map(|mount| mount.shown);
                    let _ = answer.send(Answer::Mounts(mounts.collect()));
                });
            }
            Request::Renew { id, lease_ms } => {
                let _ = answer.send(self.renew(&id, lease_ms));
            }
            Request::Supply { id, secrets } => {
                let _ = answer.send(self.supply(&id, secrets));
            }
            Request::Stop { id } => self.stop(id, answer).await,
        }
    }

    fn mount(&mut self, pending: Pending, secrets: BTreeMap<String, String>) {
        if self.table.len() + self.pending.len() >= MAX_MOUNTS {
            let text = format!("there are {MAX_MOUNTS} mounts already");
            let full = Failure::new("full", text).with_help("unmount some first");
            let _ = pending.answer.send(Answer::Failure(full));
            return;
        }
        let id = self.new_id();
        let job = Job {
            id: id.clone(),
            spec: pending.spec.clone(),
            identity: pending.identity.clone(),
            secrets: secrets.clone(),
            secret_names: secrets.keys().cloned().collect(),
        };
        self.secrets.insert(id.clone(), secrets);
        self.pending.insert(id, pending);
        self.start(job);
    }

    fn new_id(&self) -> String {
        let mut random = rand::rng();
        loop {
            let mut letter = || char::from(ID_ALPHABET[random.random_range(0..ID_ALPHABET.len())]);
            let id: String = (0..ID_LENGTH).map(|_| letter()).collect();
            if self.table.get(&id).is_none() && !self.pending.contains_key(&id) {
                return id;
            }
        }
    }

    fn renew(&mut self, id: &str, lease_ms: Option<u64>) -> Answer {
        let end = lease_ms.map(|lease| self.now().saturating_add(lease));
        let before = self.table.get(id).and_then(|entry| entry.record.lease_end_ms);
        let Some(record) = self.table.renew(id, end) else { return unknown(id) };
        if let Err(error) = self.store.save(record) {
            self.table.renew(id, before);
            return Answer::Failure(Failure::new("state", told(&error)));
        }
        Answer::Mounts(self.table.get(id).map(shown).into_iter().collect())
    }

    fn supply(&mut self, id: &str, secrets: BTreeMap<String, String>) -> Answer {
        if !self.table.retry(id) {
            return unknown(id);
        }
        self.secrets.insert(id.to_owned(), secrets);
        Answer::Mounts(self.table.get(id).map(shown).into_iter().collect())
    }

    async fn stop(&mut self, id: String, answer: oneshot::Sender<Answer>) {
        match self.table.stop(&id) {
            Stop::Unknown => {
                let _ = answer.send(unknown(&id));
            }
            Stop::Tell => {
                self.stops.entry(id.clone()).or_default().push(answer);
                self.tell_to_stop(&id);
            }
            Stop::Forget(record) => {
                self.runner.clean(&record.id, &record.spec).await;
                self.stops.entry(id.clone()).or_default().push(answer);
                self.forget(&id);
            }
        }
    }

    /// All mounts, and whom to ask for their statistics.
    fn all(&self) -> Vec<(Mounted, Option<Keeper>)> {
        let entries = self.table.entries().map(|entry| {
            let kind = self.runner.kind(&entry.record.spec);
            let keeper = (entry.state == State::Running)
                .then(|| self.keepers.get(&entry.record.id).cloned())
                .flatten();
            (Mounted { shown: shown(entry), kind }, keeper)
        });
        entries.collect()
    }

    async fn shut_down(mut self) {
        self.asks.close();
        for keeper in self.keepers.values() {
            keeper.stop();
        }
        while !self.keepers.is_empty() {
            let Some(event) = self.events.recv().await else { break };
            if let What::Ended(_) = event.what {
                self.keepers.remove(&event.id);
                // Who asked for this end is told of it, and it is not stored any more.
                if self.stops.contains_key(&event.id) {
                    self.forget(&event.id);
                }
            }
        }
    }
}

/// Asks all mounts for their statistics at the same time.
async fn gather(all: Vec<(Mounted, Option<Keeper>)>) -> Vec<Mounted> {
    let asked: Vec<_> = all
        .into_iter()
        .map(|(mount, keeper)| {
            let (answer, answered) = oneshot::channel();
            let asked = keeper.is_some_and(|keeper| keeper.ask(answer));
            (mount, asked.then_some(answered))
        })
        .collect();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let mut gathered = Vec::with_capacity(asked.len());
    for (mut mount, answered) in asked {
        if let Some(answered) = answered {
            let told = tokio::time::timeout_at(deadline, answered).await;
            mount.shown.statistics = told.ok().and_then(Result::ok).flatten();
        }
        gathered.push(mount);
    }
    gathered
}

fn shown(entry: &Entry) -> Shown {
    let record = &entry.record;
    Shown {
        id: record.id.clone(),
        spec: record.spec.clone(),
        identity: record.identity.clone(),
        created_ms: record.created_ms,
        lease_end_ms: record.lease_end_ms,
        state: entry.state.clone(),
        secret_names: record.secret_names.iter().cloned().collect(),
        statistics: None,
    }
}

fn unknown(id: &str) -> Answer {
    let failure = Failure::new("not-found", format!("there is no mount {id}"));
    Answer::Failure(failure.with_help("`sluice mounts` lists them"))
}

/// An error with its cause, on one line.
fn told(error: &StoreError) -> String {
    let source = std::error::Error::source(error).map(|source| format!(": {source}"));
    format!("{error}{}", source.unwrap_or_default())
}

/// Whether something that tells its address is now at another one.
fn has_moved(before: &Value, now: &Value) -> bool {
    ["uri", "listen"].iter().any(|name| !now[name].is_null() && before[name] != now[name])
}

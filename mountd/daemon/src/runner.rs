//! What the executable gives: how a mount is started and stopped.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A mount to start.
#[derive(Clone)]
pub struct Job {
    /// Its name.
    pub id: String,
    /// What it is, as the client described it.
    pub spec: Value,
    /// What the first start returned; nothing at the first.
    pub identity: Option<Value>,
    /// Names and values of secrets; empty after a restart of the daemon.
    pub secrets: BTreeMap<String, String>,
    /// Names of the secrets it was first started with.
    pub secret_names: Vec<String>,
}

impl std::fmt::Debug for Job {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Job").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why something failed, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// A word for programs.
    pub kind: String,
    /// What happened, on one line.
    pub message: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// Whether trying again would not help.
    #[serde(default)]
    pub hopeless: bool,
}

impl Failure {
    /// A failure that may pass by itself.
    pub fn new(kind: impl Into<String>, message: impl Into<String>) -> Self {
        Self { kind: kind.into(), message: message.into(), help: None, hopeless: false }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_help(self, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..self }
    }
}

/// A mount that was started.
pub struct Started {
    /// What must be the same at the next start. Only that of the first start is kept.
    pub identity: Value,
    /// The mount.
    pub running: Box<dyn Running>,
}

impl std::fmt::Debug for Started {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Started").field("identity", &self.identity).finish_non_exhaustive()
    }
}

/// How a mount ended by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// Somebody unmounted it.
    Finished,
    /// It broke.
    Broken(String),
}

/// Starts mounts.
#[async_trait]
pub trait Runner: Send + Sync + 'static {
    /// Starts a mount and returns once it can be used. Dropping the future gives up.
    ///
    /// # Errors
    /// What the mount reports.
    async fn start(&self, job: &Job) -> Result<Started, Failure>;

    /// What sort of mount this is, in a word, for metrics.
    fn kind(&self, spec: &Value) -> String;

    /// Removes what a mount of which nothing runs has left behind.
    async fn clean(&self, id: &str, spec: &Value);
}

/// A mount that runs. Dropping it ends it, perhaps not in good order.
#[async_trait]
pub trait Running: Send {
    /// Returns once it has ended by itself. May be cancelled.
    async fn wait(&mut self) -> Ended;

    /// Ends it in good order, and returns once nothing of it runs any more.
    async fn stop(&mut self);

    /// What it has done so far, if it answers.
    async fn statistics(&mut self) -> Option<crate::metrics::Statistics>;
}

//! Mounts of this node: made and ended by tasks, and kept in step with what the server wants.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use sluice_node_api::{
    Finished, Held, LookAnswer, LookOrder, MountOrder, MountOrders, MountReport, Outcome, TaskSpec,
    Work,
};
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, Stop, beat, cancelled, failed, unheard};
use crate::process::is_for_tasks;
use crate::tenure::Tenure;

/// How often the server is told which mounts there are.
const STEP: Duration = Duration::from_secs(3);

/// Why a mount cannot be made or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// In one line.
    pub message: String,
    /// Whether trying again may help.
    pub retryable: bool,
}

/// Keeps mounts. They come back by themselves when this process is started again, and end by
/// themselves when their leases are over, also while there is no server.
#[async_trait]
pub trait Mounts: Send + Sync {
    /// Makes a mount, and returns what is to be known of it: addresses above all. One that is
    /// there already is the one that is wanted.
    ///
    /// # Errors
    /// [`Refused`]
    async fn mount(&self, order: &MountOrder, work: &Work) -> Result<Value, Refused>;

    /// Ends a mount, and returns once nothing of it is left.
    ///
    /// # Errors
    /// [`Refused`]
    async fn unmount(&self, id: &str) -> Result<(), Refused>;

    /// All mounts; nothing when that cannot be told now.
    async fn held(&self) -> Option<Vec<Held>>;

    /// Lets the lease of a mount end so many milliseconds from now.
    async fn renew(&self, id: &str, lease_ms: u64);

    /// Gives a mount its secrets.
    async fn supply(&self, id: &str, secrets: BTreeMap<String, String>);

    /// Looks at the files of a mount. Nothing outside of the mount is ever told.
    async fn look(&self, order: &LookOrder) -> LookAnswer;
}

impl Agent {
    /// Makes or ends a mount, and reports meanwhile.
    pub(crate) async fn perform_mount(
        &self,
        lease: &Tenure,
        mounts: Arc<dyn Mounts>,
        shutdown: &CancellationToken,
    ) -> Option<Finished> {
        let work = &lease.work;
        let doing = async {
            match &work.spec {
                TaskSpec::Mount { mount } => {
                    check_variables(work.environment.keys())?;
                    mounts.mount(mount, work).await
                }
                TaskSpec::Unmount { mount } => {
                    mounts.unmount(mount).await.map(|()| json!({ "unmounted": mount }))
                }
                other => Err(Refused {
                    message: format!("{} is about no mount", other.kind()),
                    retryable: false,
                }),
            }
        };
        let mut doing = std::pin::pin!(doing);
        let mut ticks = tokio::time::interval(beat(lease));
        let (mut nothing, mut lines) = (None, Vec::new());
        loop {
            tokio::select! {
                done = &mut doing => return Some(match done {
                    Ok(document) => succeeded(document),
                    Err(refused) => failed(refused.message, refused.retryable),
                }),
                () = shutdown.cancelled() => {
                    return Some(failed("the node was stopped".into(), true));
                }
                () = lease.ends() => {
                    unheard(lease);
                    return None;
                }
                _ = ticks.tick() => {
                    match self.tell(lease, &mut nothing, &mut lines).await {
                        Ok(_) => {}
                        Err(Stop::Cancelled) => return Some(cancelled()),
                        Err(Stop::Lost | Stop::Shutdown) => return None,
                    }
                }
            }
        }
    }

    /// Tells the server which mounts there are and does what it wants, until `shutdown`.
    pub(crate) async fn keep_in_step(
        self: Arc<Self>,
        mounts: Arc<dyn Mounts>,
        shutdown: CancellationToken,
    ) {
        let mut steps = tokio::time::interval(STEP);
        steps.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = steps.tick() => {}
            }
            let Some(orders) = self.compare(&*mounts).await else { continue };
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = obey(&*mounts, orders) => {}
            }
        }
    }

    /// What is to be otherwise.
    async fn compare(&self, mounts: &dyn Mounts) -> Option<MountOrders> {
        let _telling = self.telling.lock().await;
        let report = MountReport { held: mounts.held().await? };
        let answered = self.client.post("/api/node/v1/mounts", &report).await;
        // A server of an earlier release knows no mounts, and one that is away says more later.
        answered.inspect_err(|error| tracing::debug!("mounts were not compared: {error}")).ok()
    }
}

async fn obey(mounts: &dyn Mounts, orders: MountOrders) {
    for (id, lease_ms) in orders.renew {
        mounts.renew(&id, lease_ms).await;
    }
    for (id, secrets) in orders.supply {
        match check_variables(secrets.keys()) {
            Ok(()) => mounts.supply(&id, secrets).await,
            Err(refused) => tracing::warn!(mount = %id, "{}", refused.message),
        }
    }
    for id in orders.release {
        tracing::info!(mount = %id, "the server does not want it any more");
        if let Err(refused) = mounts.unmount(&id).await {
            tracing::warn!(mount = %id, "it cannot be ended: {}", refused.message);
        }
    }
}

/// Refuses variables that change what is run.
fn check_variables<'a>(mut names: impl Iterator<Item = &'a String>) -> Result<(), Refused> {
    match names.find(|name| !is_for_tasks(name)) {
        Some(name) => {
            let message = format!("{name} is no variable for a mount");
            Err(Refused { message, retryable: false })
        }
        None => Ok(()),
    }
}

fn succeeded(document: Value) -> Finished {
    let (outcome, message) = (Outcome::Succeeded, String::new());
    Finished { outcome, document, message, retryable: false }
}

//! Mounts of a node: the daemon of `mountd` in this process, which starts them as processes of
//! this executable, as `sluice mountd` does.

mod look;
mod words;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use serde_json::Value;
use sluice_mountd::protocol::{Answer, Request, Shown};
use sluice_mountd::table::State;
use sluice_mountd::{Asker, Config, Daemon, Failure, Store};
use sluice_node::{Mounts, Refused};
use sluice_node_api::{Held, HeldState, LookAnswer, LookOrder, MountOrder, Unseen, Work};
use sluice_repository::Clock;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::command::mountd::Processes;

pub(super) use words::Place;
use words::{SERVER_ID, described};

/// What may pass by itself, by the word of a failure.
const PASSING: [&str; 4] = ["unreachable", "busy", "local", "full"];

/// Keeps the mounts of a node. Cheap to clone.
#[derive(Clone)]
pub(super) struct Keeper {
    asker: Asker,
    clock: Clock,
    /// Where mounts are.
    place: Arc<Place>,
    /// One mount is made or ended at a time, so that none is made twice.
    turn: Arc<Mutex<()>>,
}

/// Starts the daemon of a node's mounts, which comes back with what was mounted. It ends with
/// `stop`; what it has comes back with the next.
pub(super) fn start(
    place: Place,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<(Keeper, JoinHandle<()>)> {
    let folder = place.state.join("mounts");
    let store = Store::open(&folder)?;
    let runner = Arc::new(Processes::of_others(&folder)?);
    let ticking = clock.clone();
    let config = Config { clock: Arc::new(move || ticking.now_ms()), until_idle: false };
    let daemon = Daemon::new(store, runner, config)?;
    let (asker, turn) = (daemon.asker(), Arc::default());
    let running = tokio::spawn(daemon.run(stop.clone()));
    let (clock, place) = (clock.clone(), Arc::new(place));
    Ok((Keeper { asker, clock, place, turn }, running))
}

fn refused(failure: Failure) -> Refused {
    let retryable = !failure.hopeless && PASSING.contains(&failure.kind.as_str());
    Refused { message: failure.message, retryable }
}

/// The id at the server.
fn server_id(mount: &Shown) -> &str {
    mount.spec[SERVER_ID].as_str().unwrap_or_default()
}

/// A mount as the server is told of it.
fn told(mount: Shown, now: u64) -> Held {
    let (state, message) = match &mount.state {
        State::Running => (HeldState::Running, ""),
        State::Starting { .. } | State::Stopping => (HeldState::Moving, ""),
        State::Waiting { reason, .. } if reason.is_empty() => (HeldState::Moving, ""),
        State::Waiting { reason, .. } | State::Failed { reason } => {
            (HeldState::Failed, reason.as_str())
        }
    };
    let hopeless = matches!(mount.state, State::Failed { .. });
    Held {
        mount: server_id(&mount).to_owned(),
        state,
        message: message.to_owned(),
        lease_ms: mount.lease_end_ms.map_or(u64::MAX, |end| end.saturating_sub(now)),
        needs_secrets: hopeless && !mount.secret_names.is_empty(),
        place: mount.identity,
    }
}

impl Keeper {
    async fn ask(&self, request: Request) -> Result<Vec<Shown>, Refused> {
        match self.asker.ask(request).await {
            Answer::Mounts(mounts) => Ok(mounts),
            Answer::Failure(failure) => Err(refused(failure)),
        }
    }

    async fn find(&self, id: &str) -> Result<Option<Shown>, Refused> {
        let all = self.ask(Request::List).await?;
        Ok(all.into_iter().find(|mount| server_id(mount) == id))
    }

    async fn make(self, order: MountOrder, work: Work) -> Result<Value, Refused> {
        let _turn = self.turn.lock().await;
        if let Some(mount) = self.find(&order.id).await? {
            return Ok(mount.identity);
        }
        let (spec, secrets) = described(&order, &work, &self.place)?;
        if let Some(dir) = spec["dir"].as_str() {
            words::make_folder(Path::new(dir))?;
        }
        let (lease_ms, identity) = (Some(order.lease_ms), order.place);
        let dir = spec["dir"].as_str().map(ToOwned::to_owned);
        let made = self.ask(Request::Mount { spec, secrets, lease_ms, identity }).await;
        if let (Err(_), Some(dir)) = (&made, dir) {
            let _ = std::fs::remove_dir(dir);
        }
        Ok(made?.into_iter().next().map(|mount| mount.identity).unwrap_or_default())
    }

    async fn end(self, id: String) -> Result<(), Refused> {
        let _turn = self.turn.lock().await;
        let Some(mount) = self.find(&id).await? else { return Ok(()) };
        self.ask(Request::Stop { id: mount.id }).await.map(drop)
    }
}

/// Goes on though nobody waits for it any more: half of it would be seen as nothing.
async fn to_its_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, Refused>> + Send + 'static,
) -> Result<T, Refused> {
    tokio::spawn(work).await.unwrap_or_else(|error| {
        Err(Refused { message: format!("it did not end well: {error}"), retryable: true })
    })
}

#[async_trait]
impl Mounts for Keeper {
    async fn mount(&self, order: &MountOrder, work: &Work) -> Result<Value, Refused> {
        to_its_end(self.clone().make(order.clone(), work.clone())).await
    }

    async fn unmount(&self, id: &str) -> Result<(), Refused> {
        to_its_end(self.clone().end(id.to_owned())).await
    }

    async fn held(&self) -> Option<Vec<Held>> {
        let all = self.ask(Request::List).await.ok()?;
        let now = self.clock.now_ms();
        Some(all.into_iter().map(|mount| told(mount, now)).collect())
    }

    async fn renew(&self, id: &str, lease_ms: u64) {
        if let Ok(Some(mount)) = self.find(id).await {
            let _ = self.ask(Request::Renew { id: mount.id, lease_ms: Some(lease_ms) }).await;
        }
    }

    async fn supply(&self, id: &str, secrets: BTreeMap<String, String>) {
        if let Ok(Some(mount)) = self.find(id).await {
            let _ = self.ask(Request::Supply { id: mount.id, secrets }).await;
        }
    }

    async fn look(&self, order: &LookOrder) -> LookAnswer {
        let no = |why, message: &str| look::refused((why, message.to_owned()));
        let Ok(Some(mount)) = self.find(&order.mount).await else {
            return no(Unseen::NotMounted, "the node does not have this mount now");
        };
        let Some(folder) = mount.spec["dir"].as_str().map(PathBuf::from) else {
            return no(Unseen::Unfit, "only mounts by fuse have files");
        };
        // What it is read from may be slow.
        let order = order.clone();
        let looked = tokio::task::spawn_blocking(move || look::at(&folder, &order)).await;
        looked.unwrap_or_else(|_| no(Unseen::Failed, "it cannot be read"))
    }
}

//! Mounts of a node: the daemon of `mountd` in this process, which starts them as processes of
//! this executable, as `sluice mountd` does.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use async_trait::async_trait;
use serde_json::Value;
use sluice_mountd::protocol::{Answer, Request, Shown};
use sluice_mountd::table::State;
use sluice_mountd::{Asker, Config, Daemon, Failure, Store};
use sluice_node::{Mounts, Refused};
use sluice_node_api::{Held, HeldState, MountOrder, Work, overlay_of};
use sluice_repository::Clock;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::command::detach::Spec;
use crate::command::mountd::Processes;

/// The field of a stored mount that has its id at the server.
const SERVER_ID: &str = "server_id";
/// What a mount gets of this process's environment, as tasks do.
const INHERITED: [&str; 5] = ["HOME", "TZ", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR"];
/// What may pass by itself, by the word of a failure.
const PASSING: [&str; 4] = ["unreachable", "busy", "local", "full"];

/// Keeps the mounts of a node. Cheap to clone.
#[derive(Clone)]
pub(super) struct Keeper {
    asker: Asker,
    clock: Clock,
    /// Where exports listen.
    address: IpAddr,
    /// The state folder, in which lies what clients write.
    state: PathBuf,
    /// One mount is made or ended at a time, so that none is made twice.
    turn: Arc<Mutex<()>>,
}

/// Starts the daemon of a node's mounts, which comes back with what was mounted. It ends with
/// `stop`; what it has comes back with the next.
pub(super) fn start(
    state: &Path,
    address: IpAddr,
    clock: &Clock,
    stop: &CancellationToken,
) -> Result<(Keeper, JoinHandle<()>)> {
    let folder = state.join("mounts");
    let store = Store::open(&folder)?;
    let runner = Arc::new(Processes::of_others(&folder)?);
    let ticking = clock.clone();
    let config = Config { clock: Arc::new(move || ticking.now_ms()), until_idle: false };
    let daemon = Daemon::new(store, runner, config)?;
    let (asker, turn) = (daemon.asker(), Arc::default());
    let running = tokio::spawn(daemon.run(stop.clone()));
    let (clock, state) = (clock.clone(), state.to_owned());
    Ok((Keeper { asker, clock, address, state, turn }, running))
}

fn refused(failure: Failure) -> Refused {
    let retryable = !failure.hopeless && PASSING.contains(&failure.kind.as_str());
    Refused { message: failure.message, retryable }
}

/// The id at the server.
fn server_id(mount: &Shown) -> &str {
    mount.spec[SERVER_ID].as_str().unwrap_or_default()
}

/// The command line of an export. Values that begin with a dash are values.
fn words(
    order: &MountOrder,
    url: &str,
    address: IpAddr,
    state: &Path,
) -> Result<Vec<String>, Refused> {
    if !["nbd", "iscsi"].contains(&order.protocol.as_str()) {
        let message = format!("this node does not speak {}", order.protocol);
        return Err(Refused { message, retryable: false });
    }
    let listen = std::net::SocketAddr::new(address, 0);
    let mut words =
        ["sluice", "--repo", url, "export", &order.protocol].map(str::to_owned).to_vec();
    words.push(format!("--listen={listen}"));
    words.extend(order.clients.iter().map(|network| format!("--allow={network}")));
    words.extend(order.initiators.iter().map(|name| format!("--initiator={name}")));
    words.extend(order.chap_user.iter().map(|user| format!("--chap-user={user}")));
    if order.writable {
        let no = |message| Refused { message, retryable: false };
        let folder = overlay_of(state, &order.id).map_err(no)?;
        words.push("--writable".to_owned());
        words.push(format!("--overlay={}", folder.display()));
    }
    let image = order.image.iter().map(|image| format!(":{image}"));
    words.extend(["--".to_owned(), order.point.clone() + &image.collect::<String>()]);
    Ok(words)
}

/// What is stored of a mount, and its secrets, which are not.
fn described(
    order: &MountOrder,
    work: &Work,
    address: IpAddr,
    state: &Path,
) -> Result<(Value, BTreeMap<String, String>), Refused> {
    let is_secret = |name: &String| work.secret_names.contains(name);
    let all = work.environment.clone().into_iter();
    let (secrets, mut environment): (BTreeMap<_, _>, BTreeMap<_, _>) =
        all.partition(|(name, _)| is_secret(name));
    for name in INHERITED {
        let own = std::env::var(name).ok().map(|value| (name.to_owned(), value));
        environment.extend(own);
    }
    let spec = Spec {
        kind: order.protocol.clone(),
        argv: words(order, &work.url, address, state)?,
        folder: PathBuf::from("/"),
        environment,
        dir: None,
    };
    let odd = |error: serde_json::Error| Refused { message: error.to_string(), retryable: false };
    let mut spec = serde_json::to_value(spec).map_err(odd)?;
    spec[SERVER_ID] = Value::from(order.id.clone());
    Ok((spec, secrets))
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
        let (spec, secrets) = described(&order, &work, self.address, &self.state)?;
        let (lease_ms, identity) = (Some(order.lease_ms), order.place);
        let made = self.ask(Request::Mount { spec, secrets, lease_ms, identity }).await?;
        Ok(made.into_iter().next().map(|mount| mount.identity).unwrap_or_default())
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
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use sluice_node_api::TaskSpec;

    use super::*;
    use crate::args::{Cli, Command, ExportProtocol};

    fn order(protocol: &str) -> MountOrder {
        MountOrder {
            id: "m1".into(),
            point: "shop.web@k3".into(),
            image: Some("root".into()),
            protocol: protocol.into(),
            clients: vec!["192.0.2.0/24".into(), "2001:db8::/32".into()],
            ..MountOrder::default()
        }
    }

    #[test]
    fn what_a_server_orders_is_an_export_that_can_be_typed() {
        let address = "192.0.2.7".parse().unwrap();
        let mut wanted = order("iscsi");
        wanted.initiators = vec!["iqn.2026-01.test:host-1".into()];
        wanted.chap_user = Some("-odd".into());
        let typed = words(&wanted, "/backup", address, Path::new("/s")).unwrap();
        let Command::Export(export) = Cli::try_parse_from(typed).unwrap().command else { panic!() };
        let ExportProtocol::Iscsi(args) = export.protocol else { panic!() };
        assert_eq!(args.point, "shop.web@k3:root");
        assert_eq!(args.listen, ["192.0.2.7:0".parse().unwrap()]);
        assert_eq!((args.allow.len(), &*args.initiator[0]), (2, "iqn.2026-01.test:host-1"));
        assert_eq!(args.chap_user.as_deref(), Some("-odd"));
        let typed = words(&order("nbd"), "/backup", address, Path::new("/s")).unwrap();
        assert!(Cli::try_parse_from(typed).is_ok());
        let mut writable = order("iscsi");
        writable.writable = true;
        let typed = words(&writable, "/backup", address, Path::new("/s")).unwrap();
        let Command::Export(export) = Cli::try_parse_from(typed).unwrap().command else { panic!() };
        let ExportProtocol::Iscsi(args) = export.protocol else { panic!() };
        assert_eq!(args.writable.overlay.as_deref(), Some(Path::new("/s/overlays/m1")));
        assert!(words(&order("telepathy"), "/backup", address, Path::new("/s")).is_err());
    }

    #[test]
    fn secrets_are_neither_stored_nor_typed() {
        let environment = [("AWS_REGION", "eu"), ("SLUICE_PASSPHRASE", "horse")];
        let work = Work {
            spec: TaskSpec::Mount { mount: order("nbd") },
            url: "/backup".into(),
            environment: environment.map(|(name, value)| (name.into(), value.into())).into(),
            secret_names: vec!["SLUICE_PASSPHRASE".into()],
            hooks: None,
            folders: vec![],
        };
        let address = "127.0.0.1".parse().unwrap();
        let (spec, secrets) = described(&order("nbd"), &work, address, Path::new("/s")).unwrap();
        assert!(!spec.to_string().contains("horse"), "{spec}");
        assert_eq!(
            (&spec["environment"]["AWS_REGION"], &spec[SERVER_ID]),
            (&"eu".into(), &"m1".into())
        );
        assert_eq!(secrets["SLUICE_PASSPHRASE"], "horse");
        let stored: Spec = serde_json::from_value(spec).unwrap();
        assert_eq!(stored.kind, "nbd");
    }
}

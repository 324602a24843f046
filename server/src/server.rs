//! Starting, listening, ending in good order.

use std::collections::BTreeMap;
use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sluice_catalog::{Catalog, Destination, Node, Sealer, token_hash};
use sluice_node_api::metrics as node_metrics;
use sluice_node_api::{Identity, KeyRequest};
use sluice_repository::Clock;
use sluice_webauthn::{NoRelyingParty, RelyingParty};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use zeroize::Zeroizing;

use crate::api::policies::init_task;
use crate::certificates::certify;
use crate::identity::oidc;
use crate::limiter::Limiter;
use crate::looks::{self, Looks};
use crate::metrics::{self, Metrics};
use crate::passkeys::NoPasskeys;
use crate::patience::Timely;
use crate::places::{Place, Places};
use crate::problem::Problem;
use crate::queue::Held;
use crate::reports::Reports;
use crate::state::{Inner, Local, Shared, new_token};
use crate::tls::Tls;
use crate::watchers::Watchers;
use crate::{api, authority, events, history, notify, queue, self_backup, ticker, tls};

/// The setting that holds the hash of the setup token until it is used.
pub(crate) const SETUP: &str = "setup-token";
/// How long a client may take to shake hands or to send its headers.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long answers may take once the server is to end.
const GRACE: Duration = Duration::from_secs(5);
/// Pause after a failed accept: running out of file descriptors must not burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How a server works.
#[derive(Debug, Clone)]
pub struct Config {
    /// A folder of its own: key file, certificate, and the database when there is no URL.
    pub state: PathBuf,
    /// `sqlite:PATH` or `postgres://...`; a file in the folder when there is none.
    pub database: Option<String>,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Names and addresses for the certificate, the first of which nodes are told.
    pub names: Vec<String>,
    /// `https://HOST` or `https://HOST:PORT`, as browsers reach it: passkeys are made for that
    /// host, and there are none without.
    pub public_url: Option<String>,
    /// How long a node may go without a word before its tasks are given to others.
    pub lease: Duration,
    /// How long the certificates of nodes are good; they are renewed at two thirds of it.
    pub certificates: Duration,
    /// Whether a setup token that was made before, and is lost, is replaced.
    pub new_setup_token: bool,
}

/// Why a server cannot start.
#[derive(Debug)]
pub struct ServerError {
    context: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl ServerError {
    pub(crate) fn new(
        context: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { context: context.into(), source: source.into() }
    }
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.context)
    }
}

impl std::error::Error for ServerError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

/// A server whose socket is open.
pub struct Server {
    shared: Shared,
    tls: Tls,
    socket: TcpListener,
    setup: Setup,
    /// Where metrics are read.
    readers: Option<TcpListener>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("url", &self.shared.url).finish_non_exhaustive()
    }
}

/// Writes a file that only its owner can read, at once or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> Result<(), ServerError> {
    let failed =
        |error: std::io::Error| ServerError::new(format!("cannot write {}", path.display()), error);
    let new = path.with_extension("new");
    let mut options = OpenOptions::new();
    let mut file =
        options.write(true).create(true).truncate(true).mode(0o600).open(&new).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    std::fs::rename(&new, path).map_err(failed)
}

/// The URL of the database in the state folder, whose file only its owner can read; what SQLite
/// puts beside it takes after it.
fn private_database(state: &Path) -> Result<String, ServerError> {
    let path = state.join("catalog.sqlite");
    let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&path);
    file.map_err(|error| ServerError::new(format!("cannot open {}", path.display()), error))?;
    Ok(format!("sqlite:{}", path.display()))
}

impl Server {
    /// Opens database and socket. At the first start, a setup token is made; its text is in the
    /// file `setup-token` of the state folder until it is used.
    ///
    /// # Errors
    /// [`ServerError`] with what is in the way.
    pub async fn open(config: Config) -> Result<Self, ServerError> {
        let state = &config.state;
        let party = relying_party(config.public_url.as_deref())?;
        DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(|error| {
            ServerError::new(format!("cannot make the folder {}", state.display()), error)
        })?;
        let sealer = Sealer::from_file(&state.join("secrets.key"))
            .map_err(|error| ServerError::new("cannot use the key of the secrets", error))?;
        let database = match config.database {
            Some(database) => database,
            None => private_database(state)?,
        };
        let failed = |error| ServerError::new("cannot use the database", error);
        let catalog = Catalog::open(&database).await.map_err(failed)?;
        let authority = authority::load(&catalog, &sealer, config.certificates).await?;
        let authority = Arc::new(authority);
        let tls = tls::load(state, config.names.clone(), &authority)?;
        let socket = TcpListener::bind(config.listen).await.map_err(|error| {
            ServerError::new(format!("cannot listen on {}", config.listen), error)
        })?;
        let port = socket.local_addr().map_or(config.listen.port(), |address| address.port());
        let host = config.names.first().cloned().unwrap_or_else(|| "localhost".to_owned());
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let clock = Clock::system();
        let lease_ms = u64::try_from(config.lease.as_millis()).unwrap_or(u64::MAX);
        let setup = setup_token(&catalog, state, config.new_setup_token).await?;
        let shared = Shared(Arc::new(Inner {
            catalog,
            sealer,
            clock,
            work: Notify::new(),
            waiters: Mutex::new(Vec::new()),
            held: Held::default(),
            reports: Reports::default(),
            limiter: Mutex::new(Limiter::default()),
            watchers: Watchers::default(),
            looks: Looks::default(),
            providers: oidc::Memory::default(),
            fingerprint: tls.fingerprint,
            authority,
            party,
            url: format!("https://{host}:{port}"),
            lease_ms,
            folder: config.state.clone(),
            certificate_end_ms: tls.end_ms,
            metrics: Metrics::default(),
        }));
        Ok(Self { shared, tls, socket, setup, readers: None })
    }

    /// Also answers `GET http://ADDRESS/metrics`, to everybody who reaches that address.
    ///
    /// # Errors
    /// [`ServerError`] when it cannot listen there.
    pub async fn with_metrics(mut self, address: SocketAddr) -> Result<Self, ServerError> {
        let readers = node_metrics::bind(address).await;
        let failed = |error| ServerError::new(format!("cannot listen on {address}"), error);
        self.readers = Some(readers.map_err(failed)?);
        Ok(self)
    }

    /// Where it tells metrics, if it does.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.readers.as_ref()?.local_addr().ok()
    }

    /// How to reach it.
    pub fn local(&self) -> Local {
        Local { url: self.shared.url.clone(), fingerprint: self.tls.fingerprint }
    }

    /// The setup token, while nobody has used it.
    pub fn setup_token(&self) -> Option<&str> {
        match &self.setup {
            Setup::Here(token) => Some(token),
            Setup::Done | Setup::Elsewhere => None,
        }
    }

    /// Whether nobody has used the setup token yet, and another server has made it.
    pub fn is_set_up_elsewhere(&self) -> bool {
        self.setup == Setup::Elsewhere
    }

    /// Lets a node of this name join without a token, for a server and a node in one process.
    /// Returns what the node shows, which is new each time.
    ///
    /// # Errors
    /// [`ServerError`] when the database does not answer.
    pub async fn local_node(&self, name: &str) -> Result<Identity, ServerError> {
        let failed = |error| ServerError::new("cannot register the local node", error);
        let refused = |why: Problem| ServerError::new("cannot register the local node", why.detail);
        let asked = KeyRequest::new(name)
            .map_err(|why| ServerError::new("cannot register the local node", why))?;
        let now = self.shared.now();
        let mut tx = self.shared.catalog.begin().await.map_err(failed)?;
        let record = match tx.find::<Node>(None, name).await.map_err(failed)? {
            Some(node) => node,
            None => {
                let hash = token_hash(&new_token("node"));
                tx.add_node(name, Node::default(), &hash, now).await.map_err(failed)?
            }
        };
        tx.end_certificates(record.id).await.map_err(failed)?;
        let certified = certify(&self.shared, &mut tx, &record, &asked.request, now);
        let (certified, _) = certified.await.map_err(refused)?;
        tx.commit().await.map_err(failed)?;
        Ok(asked.with(certified))
    }

    /// Sees to a destination of this name at `url`, encrypted with a new passphrase, which is
    /// also written to `passphrase_file`: without it, the backups cannot be read once the
    /// server's state is lost.
    ///
    /// # Errors
    /// [`ServerError`] when the database does not answer, or the file cannot be written.
    pub async fn local_destination(
        &self,
        name: &str,
        url: &str,
        passphrase_file: &Path,
    ) -> Result<(), ServerError> {
        let failed = |error| ServerError::new("cannot make the first destination", error);
        let now = self.shared.now();
        let mut tx = self.shared.catalog.begin().await.map_err(failed)?;
        if tx.find::<Destination>(None, name).await.map_err(failed)?.is_some() {
            return Ok(());
        }
        let passphrase = Zeroizing::new(new_token("passphrase"));
        write_private(passphrase_file, &format!("{}\n", *passphrase))?;
        let body = Destination {
            description: "made by `sluice up`".to_owned(),
            url: url.to_owned(),
            environment: BTreeMap::new(),
            maintenance: Vec::new(),
            visible_to: None,
        };
        let record = tx.insert(None, name, body, now).await.map_err(failed)?;
        tx.trust_destination(record.id, true).await.map_err(failed)?;
        let secrets = [("SLUICE_PASSPHRASE".to_owned(), passphrase)].into();
        let owner = record.id.to_string();
        tx.set_secrets(&self.shared.sealer, &owner, &secrets).await.map_err(failed)?;
        tx.add_task(&init_task(&record), now).await.map_err(failed)?;
        tx.commit().await.map_err(failed)
    }

    /// Serves until `shutdown` is cancelled.
    pub async fn serve(self, shutdown: CancellationToken) {
        let ticker = tokio::spawn(ticker::run(self.shared.clone(), shutdown.clone()));
        let queue = tokio::spawn(queue::run(self.shared.clone(), shutdown.clone()));
        let telling = tokio::spawn(notify::run(self.shared.clone(), shutdown.clone()));
        let own = tokio::spawn(self_backup::run(self.shared.clone(), shutdown.clone()));
        let history = tokio::spawn(history::run(self.shared.clone(), shutdown.clone()));
        let looking = tokio::spawn(looks::run(self.shared.clone(), shutdown.clone()));
        let events = tokio::spawn(events::run(self.shared.clone(), shutdown.clone()));
        let service = api::service(self.shared.clone());
        let told = metrics::tell(self.shared.clone());
        let readers = self.readers.map(|socket| tokio::spawn(node_metrics::serve(socket, told)));
        let places = Places::default();
        let mut sessions = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(_) = sessions.join_next() => continue,
                accepted = self.socket.accept() => accepted,
            };
            let Ok((stream, peer)) = accepted else {
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            };
            let place = match places.take(peer) {
                Ok(place) => place,
                Err(full) => {
                    tracing::warn!(%peer, "connection closed: {full}");
                    continue;
                }
            };
            let (tls, service) = (self.tls.clone(), service.clone());
            let (shared, shutdown) = (self.shared.clone(), shutdown.clone());
            sessions.spawn(session(shared, stream, (peer, place), tls, service, shutdown));
        }
        drop(self.socket);
        if let Some(readers) = readers {
            readers.abort();
        }
        let _ =
            tokio::time::timeout(GRACE, async { while sessions.join_next().await.is_some() {} })
                .await;
        sessions.shutdown().await;
        let _ = tokio::join!(ticker, queue, own, history, telling, looking, events);
        self.shared.catalog.close().await;
    }
}

async fn session(
    shared: Shared,
    stream: TcpStream,
    (peer, place): (SocketAddr, Place),
    tls: Tls,
    service: Router,
    shutdown: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let shaken = tokio::time::timeout(PATIENCE, tls.acceptor.accept(stream)).await;
    let Ok(Ok(stream)) = shaken else { return };
    let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
    let shown = shared.authority.judge(chain, shared.now());
    if shown.is_some() {
        place.stranger().is_known();
    }
    let (stranger, late) = (place.stranger(), CancellationToken::new());
    let slow = late.clone();
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        request.extensions_mut().insert(stranger.clone());
        if let Some(shown) = &shown {
            request.extensions_mut().insert(shown.clone());
        }
        let (mut service, late) = (service.clone(), late.clone());
        async move {
            use tower_service::Service as _;
            service.call(request.map(|body| Body::new(Timely::new(body, late)))).await
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(PATIENCE);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = slow.cancelled() => Ok(()),
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(GRACE, connection).await.unwrap_or(Ok(()))
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, "connection closed: {error}");
    }
}

/// For whom passkeys are made. A URL with an address is right for all but these.
fn relying_party(
    public_url: Option<&str>,
) -> Result<Result<RelyingParty, NoPasskeys>, ServerError> {
    match public_url.map(RelyingParty::of_url) {
        None => Ok(Err(NoPasskeys::NoUrl)),
        Some(Ok(party)) => Ok(Ok(party)),
        Some(Err(NoRelyingParty::Address)) => Ok(Err(NoPasskeys::Address)),
        Some(Err(shape)) => Err(ServerError::new("cannot use the public URL", shape)),
    }
}

/// The setup token of a database without users, as this server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Setup {
    /// There are users.
    Done,
    /// It waits to be used, and is in the file of the state folder.
    Here(String),
    /// Another server of the same database has made it.
    Elsewhere,
}

/// The setup token: made at the first start of the first server, and never replaced unless that is
/// asked for. Of several servers that start at once, one makes it.
async fn setup_token(catalog: &Catalog, state: &Path, anew: bool) -> Result<Setup, ServerError> {
    let failed = |error| ServerError::new("cannot use the database", error);
    let file = state.join("setup-token");
    let mut tx = catalog.begin().await.map_err(failed)?;
    tx.decide_alone().await.map_err(failed)?;
    if tx.count_users().await.map_err(failed)? > 0 {
        let _ = std::fs::remove_file(&file);
        return Ok(Setup::Done);
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default().trim().to_owned();
    match tx.setting(SETUP).await.map_err(failed)? {
        Some(known) if !kept.is_empty() && known == token_hash(&kept) => {
            return Ok(Setup::Here(kept));
        }
        Some(_) if !anew => return Ok(Setup::Elsewhere),
        _ => {}
    }
    let token = new_token("setup");
    write_private(&file, &format!("{token}\n"))?;
    tx.set_setting(SETUP, &token_hash(&token)).await.map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    Ok(Setup::Here(token))
}

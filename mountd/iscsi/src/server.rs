//! Accepting connections, and ending in good order.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use sluice_door::{Clients, Entrance, Ticket};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::ServeError;
use crate::config::{Limits, Target};
use crate::link::LinkError;
use crate::login::LoginError;
use crate::session::{self, Ends, SessionError};
use crate::target::Shared;

/// A target, ready to be served.
pub struct Server {
    pub(crate) shared: Arc<Shared>,
    pub(crate) limits: Limits,
    clients: Option<Clients>,
}

impl Server {
    /// A server of one target.
    ///
    /// # Errors
    /// [`ServeError`] when the target cannot be what it is said to be.
    pub fn new(target: Target, limits: Limits) -> Result<Self, ServeError> {
        Ok(Self { shared: Arc::new(Shared::new(target)?), limits, clients: None })
    }

    /// The same server for initiators with these addresses only: others are hung up on.
    #[must_use]
    pub fn only_for(mut self, clients: Clients) -> Self {
        self.clients = Some(clients);
        self
    }

    /// Opens the sockets, one for each portal. Initiators can connect from here on, and are
    /// answered once [`BoundServer::serve`] runs.
    ///
    /// # Errors
    /// [`ServeError::NoListeners`], [`ServeError::Listen`].
    pub async fn bind(self, portals: &[SocketAddr]) -> Result<BoundServer, ServeError> {
        if portals.is_empty() {
            return Err(ServeError::NoListeners);
        }
        let (mut sockets, mut addresses) = (vec![], vec![]);
        for portal in portals {
            let failed = |source| ServeError::Listen { address: *portal, source };
            let socket = TcpListener::bind(portal).await.map_err(failed)?;
            let address = socket.local_addr().map_err(failed)?;
            sockets.push(socket);
            addresses.push(address);
        }
        let (addresses, clients) = (addresses.into(), self.clients);
        Ok(BoundServer { shared: self.shared, limits: self.limits, clients, sockets, addresses })
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Server");
        debug.field("target", &self.shared.name).field("limits", &self.limits).finish()
    }
}

/// A server whose sockets are open.
pub struct BoundServer {
    shared: Arc<Shared>,
    limits: Limits,
    clients: Option<Clients>,
    sockets: Vec<TcpListener>,
    addresses: Arc<[SocketAddr]>,
}

impl BoundServer {
    /// Where the server listens, in the order asked for, with the real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `shutdown` is cancelled. Then initiators are told, nothing new is accepted, and
    /// commands under way get [`Limits::shutdown_grace`] to finish.
    pub async fn serve(self, shutdown: CancellationToken) {
        let entrance = Entrance::new(self.limits.places(), self.clients, shutdown.clone());
        let serving = Arc::new(Serving {
            shared: self.shared,
            limits: self.limits,
            listening: self.addresses,
            shutdown,
        });
        let session =
            move |(stream, peer), ticket| session(Arc::clone(&serving), stream, peer, ticket);
        entrance.serve(self.sockets, session).await;
    }
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// What all connections share.
struct Serving {
    shared: Arc<Shared>,
    limits: Limits,
    listening: Arc<[SocketAddr]>,
    shutdown: CancellationToken,
}

impl Serving {
    /// Waits until the shutdown has taken too long.
    async fn overdue(&self) -> SessionError {
        self.shutdown.cancelled().await;
        tokio::time::sleep(self.limits.shutdown_grace).await;
        SessionError::Overdue(self.limits.shutdown_grace)
    }
}

/// Serves a connection to its end.
async fn session(serving: Arc<Serving>, stream: TcpStream, peer: SocketAddr, ticket: Ticket) {
    let Ok(local) = stream.local_addr() else { return };
    let ends = Ends { peer: peer.ip(), local, listening: Arc::clone(&serving.listening) };
    let (limits, shutdown) = (serving.limits.clone(), serving.shutdown.clone());
    let shared = Arc::clone(&serving.shared);
    let session = session::serve(shared, limits, ends, &ticket, stream.into_split(), shutdown);
    let ended = tokio::select! {
        ended = session => ended,
        overdue = serving.overdue() => Err(overdue),
    };
    log_end(peer, ended);
}

/// How a session ended: an initiator that drops the connection is everyday, one that talks nonsense
/// or lets the server wait is worth a line, a crash is ours.
fn log_end(peer: SocketAddr, ended: Result<(), SessionError>) {
    match ended {
        Ok(()) => tracing::debug!(%peer, "session ended"),
        Err(error @ SessionError::Crashed(_)) => tracing::error!(%peer, "{error}"),
        // Whoever goes on guessing must not fill the log, too.
        Err(error @ SessionError::Login(LoginError::Throttled { .. })) => {
            tracing::debug!(%peer, "connection closed: {error}");
        }
        Err(error) if is_hangup(&error) => tracing::debug!(%peer, "initiator vanished: {error}"),
        Err(error) => tracing::warn!(%peer, "connection closed: {error}"),
    }
}

fn is_hangup(error: &SessionError) -> bool {
    let (SessionError::Io(error)
    | SessionError::Link(LinkError::Io(error))
    | SessionError::Login(LoginError::Link(LinkError::Io(error)))) = error
    else {
        return false;
    };
    sluice_door::is_hangup(error)
}

//! Accepting connections, and ending in good order.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use sluice_door::Door;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::export::Exports;
use crate::listener::{Accepted, Bound};
use crate::session::{self, SessionError, Shared};
use crate::{Encryption, Export, Limits, Listener, ServeError};

/// Pause after a failed accept: running out of file descriptors must not burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tells whether clients with this address may connect.
pub type Clients = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// Exports, ready to be served.
pub struct Server {
    exports: Exports,
    encryption: Encryption,
    limits: Limits,
    clients: Option<Clients>,
}

impl Server {
    /// A server of `exports`; the first one is the default export.
    ///
    /// # Errors
    /// [`ServeError::NoExports`], [`ServeError::DuplicateName`], [`ServeError::TooLong`],
    /// [`ServeError::BlockSizes`].
    pub fn new(exports: Vec<Export>, limits: Limits) -> Result<Self, ServeError> {
        let (exports, encryption) = (Exports::new(exports)?, Encryption::Off);
        Ok(Self { exports, encryption, limits, clients: None })
    }

    /// The same server with encryption; there is none otherwise.
    #[must_use]
    pub fn with_encryption(mut self, encryption: Encryption) -> Self {
        self.encryption = encryption;
        self
    }

    /// The same server for these clients only: others are hung up on. It says nothing of those
    /// that come over a Unix socket.
    #[must_use]
    pub fn only_for(mut self, clients: Clients) -> Self {
        self.clients = Some(clients);
        self
    }

    /// Opens the sockets. Clients can connect from here on, and are answered once
    /// [`BoundServer::serve`] runs.
    ///
    /// # Errors
    /// [`ServeError::NoListeners`], [`ServeError::Listen`], [`ServeError::InUse`],
    /// [`ServeError::NotASocket`].
    pub async fn bind(self, listeners: &[Listener]) -> Result<BoundServer, ServeError> {
        if listeners.is_empty() {
            return Err(ServeError::NoListeners);
        }
        let (mut sockets, mut addresses) = (vec![], vec![]);
        for listener in listeners {
            let (socket, address) = Bound::open(listener).await?;
            sockets.push(socket);
            addresses.push(address);
        }
        Ok(BoundServer { server: self, sockets, addresses })
    }

    /// Binds and serves until `shutdown` is cancelled.
    ///
    /// # Errors
    /// As [`bind`](Self::bind).
    pub async fn serve(
        self,
        listeners: &[Listener],
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        self.bind(listeners).await?.serve(shutdown).await;
        Ok(())
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("exports", &self.exports.iter().collect::<Vec<_>>())
            .field("encryption", &self.encryption)
            .field("limits", &self.limits)
            .finish()
    }
}

/// A server whose sockets are open.
pub struct BoundServer {
    server: Server,
    sockets: Vec<Bound>,
    addresses: Vec<Listener>,
}

impl BoundServer {
    /// Where the server listens, in the order asked for, with the real ports.
    pub fn addresses(&self) -> &[Listener] {
        &self.addresses
    }

    /// The first TCP address.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.addresses.iter().find_map(|address| match address {
            Listener::Tcp(address) => Some(*address),
            Listener::Unix(_) => None,
        })
    }

    /// Serves until `shutdown` is cancelled. Then nothing new is accepted, requests under way
    /// get [`Limits::shutdown_grace`] to finish, and sockets are removed.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Server { exports, encryption, limits, clients } = self.server;
        let door = Door::new(limits.places());
        let shared = Arc::new(Shared::new(exports, encryption, limits, shutdown));
        let mut acceptors = JoinSet::new();
        for (socket, address) in self.sockets.into_iter().zip(self.addresses) {
            tracing::info!(%address, "serving NBD");
            let clients = clients.clone();
            acceptors.spawn(accept(Arc::clone(&shared), Arc::clone(&door), clients, socket));
        }
        while let Some(ended) = acceptors.join_next().await {
            if let Err(error) = ended {
                tracing::error!("a listener crashed: {error}");
            }
        }
    }
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Waits until the shutdown has taken too long.
async fn overdue(shared: &Shared) -> SessionError {
    shared.shutdown.cancelled().await;
    tokio::time::sleep(shared.limits.shutdown_grace).await;
    SessionError::Overdue(shared.limits.shutdown_grace)
}

/// Accepts on one socket until shutdown, then waits for the connections made through it.
async fn accept(shared: Arc<Shared>, door: Arc<Door>, clients: Option<Clients>, socket: Bound) {
    let mut sessions = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shared.shutdown.cancelled() => break,
            Some(ended) = sessions.join_next() => {
                log_crash(ended);
                continue;
            }
            accepted = socket.accept() => accepted,
        };
        let started = accepted.map(|accepted| match accepted {
            Accepted::Tcp(_, peer)
                if clients.as_ref().is_some_and(|may| !may(peer.ip().to_canonical())) =>
            {
                tracing::warn!(%peer, "connection closed: this client may not connect");
            }
            Accepted::Tcp(stream, peer) => {
                let (input, output) = stream.into_split();
                start(&shared, &door, &mut sessions, Some(peer), input, output);
            }
            Accepted::Unix(stream) => {
                let (input, output) = stream.into_split();
                start(&shared, &door, &mut sessions, None, input, output);
            }
        });
        if let Err(error) = started {
            // The client left before it was accepted: nothing to wait for.
            if error.kind() == io::ErrorKind::ConnectionAborted {
                continue;
            }
            tracing::warn!("cannot accept a connection: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
    // Closes the socket and removes its file, so that new clients are refused at once.
    drop(socket);
    while let Some(ended) = sessions.join_next().await {
        log_crash(ended);
    }
}

/// Serves a connection in a task of its own, or closes it when there are too many.
fn start<R, W>(
    shared: &Arc<Shared>,
    door: &Arc<Door>,
    sessions: &mut JoinSet<()>,
    peer: Option<SocketAddr>,
    input: R,
    output: W,
) where
    R: AsyncRead + Unpin + Send + 'static,
    W: AsyncWrite + Unpin + Send + 'static,
{
    let name = peer.map_or_else(|| "unix".to_owned(), |peer| peer.to_string());
    let ticket = match door.enter(peer.map(|peer| peer.ip())) {
        Ok(ticket) => ticket,
        Err(full) => {
            tracing::warn!(peer = name, "connection closed: {full}");
            return;
        }
    };
    let shared = Arc::clone(shared);
    sessions.spawn(async move {
        tracing::debug!(peer = name, "client connected");
        let ended = tokio::select! {
            ended = session::serve(&shared, &ticket, input, output) => ended,
            overdue = overdue(&shared) => Err(overdue),
        };
        log_end(&name, ended);
        drop(ticket);
    });
}

/// How a session ended: a client that drops the connection is everyday, one that talks nonsense
/// or lets the server wait is worth a line, a crash is ours.
fn log_end(peer: &str, ended: Result<(), SessionError>) {
    match ended {
        Ok(()) => tracing::debug!(peer, "client disconnected"),
        Err(error @ SessionError::Crashed(_)) => tracing::error!(peer, "{error}"),
        Err(error) if is_hangup(&error) => tracing::debug!(peer, "client vanished: {error}"),
        Err(error) => tracing::warn!(peer, "connection closed: {error}"),
    }
}

fn is_hangup(error: &SessionError) -> bool {
    use crate::handshake::HandshakeError;
    let (SessionError::Io(error) | SessionError::Handshake(HandshakeError::Io(error))) = error
    else {
        return false;
    };
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
    )
}

fn log_crash(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!("a connection crashed: {error}");
    }
}

//! Accepting connections, and ending in good order.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::FutureExt;
use sluice_door::{Clients, Entrance, Ticket};
use tokio_util::sync::CancellationToken;

use crate::export::Exports;
use crate::listener::{Accepted, Bound};
use crate::session::{self, SessionError, Shared};
use crate::{Encryption, Export, Limits, Listener, ServeError};

/// Exports, ready to be served.
pub struct Server {
    pub(crate) exports: Exports,
    pub(crate) encryption: Encryption,
    pub(crate) limits: Limits,
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
        for address in &self.addresses {
            tracing::info!(%address, "serving NBD");
        }
        let entrance = Entrance::new(limits.places(), clients, shutdown.clone());
        let shared = Arc::new(Shared::new(exports, encryption, limits, shutdown));
        let session = move |stream, ticket| session(Arc::clone(&shared), stream, ticket);
        entrance.serve(self.sockets, session).await;
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

/// Serves a connection to its end.
async fn session(shared: Arc<Shared>, stream: Accepted, ticket: Ticket) {
    let (name, serve) = match stream {
        Accepted::Tcp(stream, peer) => {
            let (input, output) = stream.into_split();
            (peer.to_string(), session::serve(&shared, &ticket, input, output).boxed())
        }
        Accepted::Unix(stream) => {
            let (input, output) = stream.into_split();
            ("unix".to_owned(), session::serve(&shared, &ticket, input, output).boxed())
        }
    };
    tracing::debug!(peer = name, "client connected");
    let ended = tokio::select! {
        ended = serve => ended,
        overdue = overdue(&shared) => Err(overdue),
    };
    log_end(&name, ended);
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
    sluice_door::is_hangup(error)
}

//! Accepting connections, and ending in good order.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use data_encoding::HEXLOWER;
use http::StatusCode;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use sluice_door::{Clients, Entrance, Guard, Ticket};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::export::Exports;
use crate::service::Site;
use crate::stall::Watched;
use crate::{Export, Limits, ServeError, Tls, Token};

/// Bytes that the head of a request may have, and that wait for the socket.
const BUFFER: usize = 32 << 10;
/// Header lines of a request.
const MOST_HEADERS: usize = 64;

/// Exports, ready to be served.
pub struct Server {
    site: Site,
    tls: Option<Tls>,
    limits: Limits,
    clients: Option<Clients>,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("site", &self.site)
            .field("tls", &self.tls)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// A server of `exports` for those who know `token`; without `tls`, everybody on the way can
    /// read along.
    ///
    /// # Errors
    /// [`ServeError::NoExports`], [`ServeError::DuplicateName`], [`ServeError::BadTag`],
    /// [`ServeError::NoRandomness`].
    pub fn new(
        exports: Vec<Export>,
        token: Token,
        tls: Option<Tls>,
        limits: Limits,
    ) -> Result<Self, ServeError> {
        let mut boundary = [0; 16];
        aws_lc_rs::rand::fill(&mut boundary).map_err(|_| ServeError::NoRandomness)?;
        let site = Site {
            exports: Exports::new(exports)?,
            token,
            guard: Guard::default(),
            boundary: HEXLOWER.encode(&boundary),
        };
        Ok(Self { site, tls, limits, clients: None })
    }

    /// Lets in only those of whom `clients` says so; others are gone before a byte is read.
    #[must_use]
    pub fn only_for(mut self, clients: Clients) -> Self {
        self.clients = Some(clients);
        self
    }

    /// Opens the sockets. Clients can connect from here on, and are answered once
    /// [`BoundServer::serve`] runs.
    ///
    /// # Errors
    /// [`ServeError::NoListeners`], [`ServeError::Listen`].
    pub async fn bind(self, addresses: &[SocketAddr]) -> Result<BoundServer, ServeError> {
        if addresses.is_empty() {
            return Err(ServeError::NoListeners);
        }
        let (mut sockets, mut real) = (vec![], vec![]);
        for address in addresses {
            let failed = |source| ServeError::Listen { address: *address, source };
            let socket = TcpListener::bind(address).await.map_err(failed)?;
            real.push(socket.local_addr().map_err(failed)?);
            sockets.push(socket);
        }
        Ok(BoundServer { server: self, sockets, addresses: real })
    }
}

/// A server whose sockets are open.
#[derive(Debug)]
pub struct BoundServer {
    server: Server,
    sockets: Vec<TcpListener>,
    addresses: Vec<SocketAddr>,
}

impl BoundServer {
    /// Where the server listens, in the order asked for, with the real ports.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until `shutdown` is cancelled. Then nothing new is accepted, and answers under way
    /// get [`Limits::shutdown_grace`] to finish.
    pub async fn serve(self, shutdown: CancellationToken) {
        let Server { site, tls, limits, clients } = self.server;
        for address in &self.addresses {
            tracing::info!(%address, "serving HTTP");
        }
        let entrance = Entrance::new(limits.places(), clients, shutdown.clone());
        let tls = tls.map(|tls| tls.acceptor());
        let shared = Arc::new(Shared { site, tls, limits, shutdown });
        let session =
            move |(stream, peer), ticket| session(Arc::clone(&shared), ticket, stream, peer);
        entrance.serve(self.sockets, session).await;
    }
}

/// What all connections of a server share.
struct Shared {
    site: Site,
    tls: Option<TlsAcceptor>,
    limits: Limits,
    shutdown: CancellationToken,
}

/// Serves one connection to its end.
async fn session(shared: Arc<Shared>, ticket: Ticket, stream: TcpStream, peer: SocketAddr) {
    let shared = &*shared;
    let stream = Watched::new(stream, shared.limits.stall_timeout);
    let Some(tls) = &shared.tls else {
        return converse(shared, &ticket, stream, peer).await;
    };
    let limit = shared.limits.header_timeout;
    let shaken = tokio::select! {
        () = shared.shutdown.cancelled() => return,
        () = ticket.crowded_out() => return log_crowded_out(peer),
        shaken = tokio::time::timeout(limit, tls.accept(stream)) => shaken,
    };
    match shaken {
        Ok(Ok(stream)) => Box::pin(converse(shared, &ticket, stream, peer)).await,
        Ok(Err(error)) => tracing::debug!(%peer, "TLS handshake failed: {error}"),
        Err(_) => tracing::warn!(%peer, "connection closed: the TLS handshake took too long"),
    }
}

async fn converse<S>(shared: &Shared, ticket: &Ticket, stream: S, peer: SocketAddr)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(|request| async move {
        let answer = shared.site.answer(peer.ip(), &request).await;
        let status = answer.status();
        // Everything else is said to those who know the token.
        if ![StatusCode::UNAUTHORIZED, StatusCode::TOO_MANY_REQUESTS].contains(&status)
            && status != StatusCode::METHOD_NOT_ALLOWED
        {
            ticket.known();
        }
        // Without the path: it may hold the token.
        tracing::debug!(%peer, method = %request.method(), status = status.as_u16(), "answered");
        Ok::<_, Infallible>(answer)
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.header_timeout)
        .max_headers(MOST_HEADERS)
        .max_buf_size(BUFFER);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = ticket.crowded_out() => return log_crowded_out(peer),
        () = shared.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let grace = shared.limits.shutdown_grace;
            match tokio::time::timeout(grace, connection).await {
                Ok(ended) => ended,
                Err(_) => {
                    tracing::warn!(%peer, "connection cut: its answer took too long to shut down");
                    return;
                }
            }
        }
    };
    match ended {
        Ok(()) => tracing::debug!(%peer, "client disconnected"),
        Err(error) if error.is_user() => tracing::warn!(%peer, "answer cut off"),
        Err(error) => tracing::debug!(%peer, "connection closed: {error}"),
    }
}

fn log_crowded_out(peer: SocketAddr) {
    tracing::warn!(%peer, "connection closed: it had not shown the token, and others came");
}

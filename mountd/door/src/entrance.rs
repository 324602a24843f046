//! The way in: connections are accepted, counted, and served each in a task of its own, until a
//! shutdown; then those that are inside are waited for.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{Door, Places, Ticket};

/// Pause after a failed accept: running out of file descriptors must not burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Tells whether clients with this address may connect.
pub type Clients = Arc<dyn Fn(IpAddr) -> bool + Send + Sync>;

/// A socket that listens. Dropped when nothing more is accepted, so that clients are refused then.
pub trait Portal: Send + Sync + 'static {
    /// A connection.
    type Stream: Send;

    /// The next connection, and where it comes from, if that is known. May be cancelled without
    /// losing one.
    fn accept(&self)
    -> impl Future<Output = io::Result<(Self::Stream, Option<SocketAddr>)>> + Send;
}

impl Portal for TcpListener {
    type Stream = (TcpStream, SocketAddr);

    async fn accept(&self) -> io::Result<(Self::Stream, Option<SocketAddr>)> {
        let (stream, peer) = self.accept().await?;
        // Fails for a client that has already left, which its session will notice.
        if let Err(error) = tune(&stream) {
            tracing::debug!(%peer, "cannot tune the connection: {error}");
        }
        Ok(((stream, peer), Some(peer)))
    }
}

/// The way in to a server, however many sockets it listens on.
pub struct Entrance {
    door: Arc<Door>,
    clients: Option<Clients>,
    shutdown: CancellationToken,
}

impl Entrance {
    /// The way to so many places; for these clients only, if any are named. It says nothing of
    /// those whose address is not known.
    pub fn new(places: Places, clients: Option<Clients>, shutdown: CancellationToken) -> Self {
        Self { door: Door::new(places), clients, shutdown }
    }

    /// Accepts at all portals until the shutdown, then waits for the sessions. It is for them to
    /// notice the shutdown and come to an end.
    pub async fn serve<P, F, S>(self, portals: Vec<P>, session: F)
    where
        P: Portal,
        F: Fn(P::Stream, Ticket) -> S + Send + Sync + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let (entrance, session) = (Arc::new(self), Arc::new(session));
        let mut acceptors = JoinSet::new();
        for portal in portals {
            let (entrance, session) = (Arc::clone(&entrance), Arc::clone(&session));
            acceptors.spawn(async move { entrance.accept(portal, &*session).await });
        }
        while let Some(ended) = acceptors.join_next().await {
            log_crash("a listener", ended);
        }
    }

    async fn accept<P, F, S>(&self, portal: P, session: &F)
    where
        P: Portal,
        F: Fn(P::Stream, Ticket) -> S,
        S: Future<Output = ()> + Send + 'static,
    {
        let mut sessions = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => break,
                Some(ended) = sessions.join_next() => {
                    log_crash("a connection", ended);
                    continue;
                }
                accepted = portal.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match self.let_in(peer) {
                    Ok(ticket) => drop(sessions.spawn(session(stream, ticket))),
                    Err(why) => {
                        let peer = peer.map_or("unix".to_owned(), |peer| peer.to_string());
                        tracing::warn!(peer, "connection closed: {why}");
                    }
                },
                // The client left before it was accepted: nothing to wait for.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!("cannot accept a connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        // Before the wait, so that new clients are refused at once.
        drop(portal);
        while let Some(ended) = sessions.join_next().await {
            log_crash("a connection", ended);
        }
    }

    fn let_in(&self, peer: Option<SocketAddr>) -> Result<Ticket, String> {
        let address = peer.map(|peer| peer.ip().to_canonical());
        if let (Some(may), Some(address)) = (&self.clients, address)
            && !may(address)
        {
            return Err("clients of this address may not connect".to_owned());
        }
        self.door.enter(address).map_err(|full| full.to_string())
    }
}

impl std::fmt::Debug for Entrance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entrance").field("door", &self.door).finish_non_exhaustive()
    }
}

/// Whether this is what remains of a connection whose other end has gone, which is everyday.
pub fn is_hangup(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::NotConnected
    )
}

fn log_crash(what: &str, ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        tracing::error!("{what} crashed: {error}");
    }
}

/// Prepares an accepted connection: answers leave at once, and a peer that vanished without a
/// word is noticed although clients of disks may be idle for days.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const PLACES: Places = Places { all: 2, per_address: 2, strangers: 2 };

    /// Serves sessions that greet, and end when their client does.
    async fn begin(
        clients: Option<Clients>,
        shutdown: &CancellationToken,
    ) -> (SocketAddr, tokio::task::JoinHandle<()>) {
        let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        let entrance = Entrance::new(PLACES, clients, shutdown.clone());
        let session = |(mut stream, _): (TcpStream, SocketAddr), ticket: Ticket| async move {
            ticket.known();
            stream.write_all(b"hello").await.unwrap();
            let _ = stream.read(&mut [0]).await;
            assert!(!ticket.is_crowded_out());
        };
        (address, tokio::spawn(entrance.serve(vec![socket], session)))
    }

    async fn greeted(address: SocketAddr) -> Option<TcpStream> {
        let mut stream = TcpStream::connect(address).await.unwrap();
        let mut said = [0; 5];
        stream.read_exact(&mut said).await.ok().map(|_| stream)
    }

    #[tokio::test]
    async fn a_shutdown_lets_nobody_in_and_waits_for_who_is_there() {
        let shutdown = CancellationToken::new();
        let (address, served) = begin(None, &shutdown).await;
        let inside = greeted(address).await.unwrap();
        shutdown.cancel();
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        assert!(!served.is_finished());
        drop(inside);
        served.await.unwrap();
    }

    #[tokio::test]
    async fn who_may_not_connect_is_hung_up_on_and_so_are_too_many() {
        let shutdown = CancellationToken::new();
        let (address, _served) = begin(Some(Arc::new(|ip| !ip.is_loopback())), &shutdown).await;
        assert!(greeted(address).await.is_none());
        let (address, _served) = begin(Some(Arc::new(|ip| ip.is_loopback())), &shutdown).await;
        let (one, _other) = (greeted(address).await, greeted(address).await.unwrap());
        assert!(one.is_some() && greeted(address).await.is_none());
        drop(one);
        // Its session ends when it notices.
        while greeted(address).await.is_none() {
            tokio::task::yield_now().await;
        }
    }
}

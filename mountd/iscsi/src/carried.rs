//! Connections that somebody else carries: their bytes come and go through anything that can be
//! read and written, such as a pipe or memory, and no socket is opened.

use std::error::Error;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use sluice_door::Door;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::config::Limits;
use crate::server::Server;
use crate::session::{self, Ends};
use crate::target::Shared;

/// A target whose connections are carried.
pub struct Carried {
    pub(crate) shared: Arc<Shared>,
    limits: Limits,
    door: Arc<Door>,
    shutdown: CancellationToken,
}

impl Carried {
    /// The target of `server` until `shutdown` is cancelled; which clients it is for is up to who
    /// carries their connections.
    pub fn new(server: Server, shutdown: CancellationToken) -> Self {
        let Server { shared, limits, .. } = server;
        let door = Door::new(limits.places());
        Self { shared, limits, door, shutdown }
    }

    /// Serves one connection to its end. `peer` is whom it comes from, `local` the address that the
    /// initiator is told when it asks for portals.
    ///
    /// # Errors
    /// Why it ended, when that was not the initiator's goodbye.
    pub async fn serve<R, W>(
        &self,
        peer: SocketAddr,
        local: SocketAddr,
        streams: (R, W),
    ) -> Result<(), Box<dyn Error + Send + Sync>>
    where
        R: AsyncRead + Unpin + Send,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let ticket = self.door.enter(Some(peer.ip())).map_err(|full| full.to_string())?;
        let ends = Ends { peer: peer.ip(), local, listening: Arc::new([local]) };
        let (shared, limits) = (Arc::clone(&self.shared), self.limits.clone());
        let shutdown = self.shutdown.clone();
        Ok(session::serve(shared, limits, ends, &ticket, streams, shutdown).await?)
    }

    /// Sessions at this moment.
    pub fn sessions(&self) -> usize {
        self.shared.all().len()
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").field("target", &self.shared.name).finish_non_exhaustive()
    }
}

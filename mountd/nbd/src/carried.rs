//! Connections that somebody else carries: their bytes come and go through anything that can be
//! read and written, such as a pipe or memory, and no socket is opened.

use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use sluice_door::Door;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::server::Server;
use crate::session::{self, Shared};

/// Exports whose connections are carried.
pub struct Carried {
    shared: Shared,
    door: Arc<Door>,
}

impl Carried {
    /// The exports of `server` until `shutdown` is cancelled; which clients they are for is up to
    /// who carries their connections.
    pub fn new(server: Server, shutdown: CancellationToken) -> Self {
        let Server { exports, encryption, limits, .. } = server;
        let door = Door::new(limits.places());
        Self { shared: Shared::new(exports, encryption, limits, shutdown), door }
    }

    /// Serves one connection to its end; `peer` is whom it comes from, where that is known.
    ///
    /// # Errors
    /// Why it ended, when that was not the client's goodbye.
    pub async fn serve<R, W>(
        &self,
        peer: Option<IpAddr>,
        input: R,
        output: W,
    ) -> Result<(), Box<dyn Error + Send + Sync>>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let ticket = self.door.enter(peer).map_err(|full| full.to_string())?;
        Ok(session::serve(&self.shared, &ticket, input, output).await?)
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Export, Limits};
    use sluice_block::MemoryDisk;
    use sluice_nbd_wire::{Greeting, OptionCode, OptionHeader, OptionReplyHeader, ReplyCode};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_client_is_served_without_a_socket() {
        let export = Export::new("disk", Arc::new(MemoryDisk::new(4096)));
        let server = Server::new(vec![export], Limits::default()).unwrap();
        let server = Carried::new(server, CancellationToken::new());
        let (mut client, served) = tokio::io::duplex(64);
        let (input, output) = tokio::io::split(served);
        let talk = async {
            let mut said = vec![0, 0, 0, 3];
            OptionHeader { code: OptionCode::Abort, length: 0 }.encode(&mut said);
            client.write_all(&said).await.unwrap();
            let mut heard = Vec::new();
            client.read_to_end(&mut heard).await.unwrap();
            heard
        };
        let (ended, heard) = tokio::join!(server.serve(None, input, output), talk);
        ended.unwrap();
        Greeting::decode(&heard).unwrap();
        let reply = OptionReplyHeader::decode(&heard[Greeting::LEN..]).unwrap();
        assert_eq!((reply.option, reply.reply), (OptionCode::Abort, ReplyCode::Ack));
    }
}

//! The control socket.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::daemon::{Asker, Daemon};
use crate::protocol::{Answer, LONGEST_REQUEST, Request};
use crate::runner::Failure;

/// Connections served at a time; further ones wait. People have one, programs a few.
const CONNECTIONS: usize = 64;
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// How long a client may take to send a request. It may connect early and ask late, but not hold
/// a place for ever.
const SEND: Duration = Duration::from_secs(30);
/// How long the request of a client that is refused is waited for.
const UNREAD: Duration = Duration::from_secs(1);
/// How long a client may take to fetch an answer.
const FETCH: Duration = Duration::from_secs(30);
/// After a failure to accept, which is lack of descriptors as a rule.
const PAUSE: Duration = Duration::from_millis(100);

/// A bound control socket. Its file is removed when it is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
    identity: (u64, u64),
}

impl Socket {
    /// Binds the socket, for this user alone. The caller holds the state folder, so that a file
    /// that is there already belongs to nobody, unless somebody answers there.
    ///
    /// # Errors
    /// What the system reports.
    pub fn bind(path: &Path) -> io::Result<Self> {
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => {
                return Err(io::Error::new(io::ErrorKind::AddrInUse, "somebody answers there"));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path)?;
            }
            Err(_) => {}
        }
        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        // The file takes over the socket's mode, so there is no moment in which others can connect.
        rustix::fs::fchmod(&socket, Mode::from_raw_mode(0o600))?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
        let metadata = fs::symlink_metadata(path)?;
        let identity = (metadata.dev(), metadata.ino());
        rustix::net::listen(&socket, BACKLOG)?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok(Self { listener, path: path.to_owned(), identity })
    }

    /// Answers clients until `stop`. The file is gone when the task has ended: a process that does
    /// not wait for that can leave it behind.
    pub fn serve(self, daemon: &Daemon, stop: CancellationToken) -> JoinHandle<()> {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let asker = daemon.asker();
        tokio::spawn(async move {
            loop {
                let next = async {
                    let place = places.clone().acquire_owned().await;
                    (place, self.listener.accept().await)
                };
                let next = tokio::select! {
                    () = stop.cancelled() => return,
                    next = next => next,
                };
                match next {
                    (Err(_), _) => return,
                    (Ok(place), Ok((stream, _))) => {
                        let asker = asker.clone();
                        tokio::spawn(async move {
                            if let Err(error) = converse(stream, &asker).await {
                                tracing::debug!("a control connection ended: {error}");
                            }
                            drop(place);
                        });
                    }
                    (Ok(_), Err(error)) => {
                        tracing::warn!("cannot accept a control connection: {error}");
                        tokio::time::sleep(PAUSE).await;
                    }
                }
            }
        })
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        let ours = fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours {
            let _ = fs::remove_file(&self.path);
        }
    }
}

async fn converse(stream: UnixStream, asker: &Asker) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    let own = rustix::process::geteuid().as_raw();
    let (mut read, mut write) = stream.into_split();
    if peer != own && peer != 0 {
        tracing::warn!(peer, "a control connection of another user is refused");
        let text = format!("user {peer} may not ask the mountd of user {own}");
        answer(&mut write, &Answer::Failure(Failure::new("access-denied", text))).await?;
        write.shutdown().await?;
        // Closed with its request unread, the client would see that instead of the answer.
        let mut request = (&mut read).take(LONGEST_REQUEST as u64);
        let mut nowhere = tokio::io::sink();
        let unread = tokio::io::copy(&mut request, &mut nowhere);
        return tokio::time::timeout(UNREAD, unread).await?.map(drop);
    }
    let mut read = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        // One byte more than is allowed tells that there are more.
        let mut limited = (&mut read).take(LONGEST_REQUEST as u64 + 1);
        tokio::time::timeout(SEND, limited.read_until(b'\n', &mut line)).await??;
        if line.is_empty() {
            return Ok(());
        }
        match Request::decode(&line) {
            Ok(request) => {
                tracing::debug!(?request, "asked");
                answer(&mut write, &asker.ask(request).await).await?;
            }
            // What follows cannot be told from the rest of this.
            Err(failure) => return answer(&mut write, &Answer::Failure(failure)).await,
        }
    }
}

async fn answer(write: &mut (impl AsyncWriteExt + Unpin), answer: &Answer) -> io::Result<()> {
    tokio::time::timeout(FETCH, write.write_all(&answer.encode())).await?
}

//! Addresses to listen on.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream as StdUnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sluice_door::Portal;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::ServeError;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// Only the owner may connect.
const SOCKET_MODE: u32 = 0o600;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listener {
    /// A TCP address; port 0 picks a free one.
    Tcp(SocketAddr),
    /// A Unix socket of this path, created with mode 0600 and removed at the end.
    Unix(PathBuf),
}

impl std::fmt::Display for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// A socket that listens.
pub(crate) enum Bound {
    Tcp(TcpListener),
    Unix { socket: UnixListener, _file: SocketFile },
}

impl Bound {
    pub(crate) async fn open(listener: &Listener) -> Result<(Self, Listener), ServeError> {
        let failed = |source| ServeError::Listen { address: listener.to_string(), source };
        match listener {
            Listener::Tcp(address) => {
                let socket = TcpListener::bind(address).await.map_err(failed)?;
                let address = socket.local_addr().map_err(failed)?;
                Ok((Self::Tcp(socket), Listener::Tcp(address)))
            }
            Listener::Unix(path) => {
                make_room(path)?;
                let (socket, file) = open_unix(path).map_err(failed)?;
                Ok((Self::Unix { socket, _file: file }, listener.clone()))
            }
        }
    }
}

impl Portal for Bound {
    type Stream = Accepted;

    async fn accept(&self) -> io::Result<(Accepted, Option<SocketAddr>)> {
        match self {
            Self::Tcp(socket) => {
                let ((stream, peer), known) = Portal::accept(socket).await?;
                Ok((Accepted::Tcp(stream, peer), known))
            }
            Self::Unix { socket, .. } => Ok((Accepted::Unix(socket.accept().await?.0), None)),
        }
    }
}

/// A connection of either kind.
pub(crate) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

/// Removes a socket file that nobody listens on any more.
fn make_room(path: &Path) -> Result<(), ServeError> {
    let failed = |source| ServeError::Listen { address: path.display().to_string(), source };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(ServeError::NotASocket { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    match StdUnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(path = %path.display(), "removing the socket of a server that is gone");
            std::fs::remove_file(path).map_err(failed)
        }
        Ok(_) => Err(ServeError::InUse { path: path.to_owned() }),
        Err(error) => Err(failed(error)),
    }
}

fn open_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // The file takes over the mode that the socket has when it is bound, so there is no moment
    // in which others could connect.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(SOCKET_MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let file = SocketFile::new(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((UnixListener::from_std(StdUnixListener::from(socket))?, file))
}

/// The file of a Unix socket; removed when dropped, unless another took its place.
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(Self { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.identity);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), "cannot remove the socket: {error}");
        }
    }
}

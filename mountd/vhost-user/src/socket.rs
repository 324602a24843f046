//! The socket: for its owner only, and gone with the server.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::ServeError;

/// Only the owner may connect: the peer shares memory with this process.
const MODE: u32 = 0o600;
/// One monitor at a time; others wait.
const BACKLOG: i32 = 4;

/// The file of a socket; removed when dropped, unless another took its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
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

/// Listens at a path; a socket that nobody listens on any more makes room.
pub(crate) fn open(path: &Path) -> Result<(UnixListener, SocketFile), ServeError> {
    make_room(path)?;
    listen(path).map_err(|source| ServeError::Listen { path: path.to_owned(), source })
}

fn make_room(path: &Path) -> Result<(), ServeError> {
    let failed = |source| ServeError::Listen { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => {}
        Ok(_) => return Err(ServeError::NotASocket { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Ok(_) => Err(ServeError::InUse { path: path.to_owned() }),
        Err(error) => Err(failed(error)),
    }
}

fn listen(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file takes over the mode that the socket has when it is bound, so there is no moment
    // in which others could connect.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(MODE))?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    let metadata = std::fs::symlink_metadata(path)?;
    let identity = (metadata.dev(), metadata.ino());
    let file = SocketFile { path: path.to_owned(), identity };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(MODE))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((UnixListener::from(socket), file))
}

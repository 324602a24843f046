//! Monitors come and go, one at a time.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use vhost::vhost_user::Listener;
use vhost_user_backend::VhostUserDaemon;
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};

use crate::ServeError;
use crate::backend::Backend;
use crate::perform::{Disk, IDENTITY};
use crate::socket::{self, SocketFile};

/// Pause after a failed accept: running out of file descriptors must not burn a core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Queues of a device: one for each processor of a large guest.
const MOST_QUEUES: u16 = 64;

/// A device, ready to be served.
#[derive(Debug)]
pub struct Server {
    disk: Disk,
    identity: [u8; IDENTITY],
    queues: u16,
}

impl Server {
    /// A device over `disk`. The guest sees the first 20 bytes of `identity` as serial number.
    ///
    /// # Errors
    /// [`ServeError::Queues`].
    pub fn new(disk: Disk, identity: &str, queues: u16) -> Result<Self, ServeError> {
        if !(1..=MOST_QUEUES).contains(&queues) {
            return Err(ServeError::Queues { asked: queues, most: MOST_QUEUES });
        }
        let mut bytes = [0; IDENTITY];
        bytes.iter_mut().zip(identity.bytes()).for_each(|(to, from)| *to = from);
        Ok(Self { disk, identity: bytes, queues })
    }

    /// Opens the socket, for this user only. A monitor can connect from here on.
    ///
    /// # Errors
    /// [`ServeError::Listen`], [`ServeError::InUse`], [`ServeError::NotASocket`].
    pub fn bind(self, path: &Path) -> Result<BoundServer, ServeError> {
        let failed = |source| ServeError::Listen { path: path.to_owned(), source };
        let (socket, file) = socket::open(path)?;
        // The daemon accepts, and blocks for it; by this one it is woken.
        let watched = socket.try_clone().map_err(failed)?;
        let listener = Listener::from(socket);
        Ok(BoundServer { server: self, listener, watched, file, path: path.to_owned() })
    }
}

/// A server whose socket is open.
pub struct BoundServer {
    server: Server,
    listener: Listener,
    watched: std::os::unix::net::UnixListener,
    file: SocketFile,
    path: PathBuf,
}

impl BoundServer {
    /// Serves one monitor after another until `shutdown` is cancelled; the socket is removed then.
    ///
    /// # Errors
    /// [`ServeError::Listen`] when the socket can no longer be used.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), ServeError> {
        let Self { server, mut listener, watched, file, path } = self;
        // Ends a wait for the next monitor; those that connect later are refused.
        let waker = tokio::spawn({
            let shutdown = shutdown.clone();
            async move {
                shutdown.cancelled().await;
                rustix::net::shutdown(&watched, rustix::net::Shutdown::Both)
            }
        });
        while !shutdown.is_cancelled() {
            listener = session(&server, listener, &shutdown)
                .await
                .map_err(|source| ServeError::Listen { path: path.clone(), source })?;
        }
        drop(file);
        waker.abort();
        Ok(())
    }
}

impl fmt::Debug for BoundServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BoundServer").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Serves one monitor; the listener comes back.
async fn session(
    server: &Server,
    mut listener: Listener,
    shutdown: &CancellationToken,
) -> std::io::Result<Listener> {
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let disk = server.disk.clone();
    let backend =
        Backend::new(disk, server.identity, server.queues, memory.clone(), Handle::current());
    // Accepting, waiting and ending block: their threads join others.
    let started = tokio::task::spawn_blocking(move || {
        let made = VhostUserDaemon::new("vhost-user".to_owned(), backend, memory);
        let started = made.and_then(|mut daemon| daemon.start(&mut listener).map(|()| daemon));
        (started, listener)
    });
    let (started, listener) = started.await.map_err(std::io::Error::other)?;
    let mut daemon = match started {
        Ok(daemon) => daemon,
        Err(_) if shutdown.is_cancelled() => return Ok(listener),
        Err(error) => {
            tracing::warn!("a monitor could not be served: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
            return Ok(listener);
        }
    };
    tracing::info!("a monitor connected");
    let handle = daemon.shutdown_handle();
    let mut ended = tokio::task::spawn_blocking(move || {
        let ended = daemon.wait().map_err(|error| error.to_string());
        drop(daemon);
        ended
    });
    let ended = tokio::select! {
        ended = &mut ended => ended,
        () = shutdown.cancelled() => {
            if let Some(handle) = handle {
                handle.shutdown();
            }
            ended.await
        }
    };
    match ended.map_err(std::io::Error::other)? {
        Ok(()) => tracing::info!("the monitor left"),
        Err(error) => tracing::info!("the monitor left: {error}"),
    }
    Ok(listener)
}

//! Mounting and unmounting.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fuser::{BackgroundSession, Config, MountOption, Session, SessionACL};
use rustix::mount::UnmountFlags;
use tokio::runtime::Handle;

use crate::serve::Served;
use crate::{Catalogue, MountError, MountOptions};

/// The kernel's read-ahead for a mount, in KiB: measured to nearly double a sequential read
/// against the default of 128.
const READ_AHEAD_KIB: &str = "4096";
/// How long unmounting waits for the kernel to let go of files that are still open.
const GRACE: Duration = Duration::from_secs(2);

/// A mounted file system. Dropping it unmounts.
#[derive(Debug)]
pub struct MountHandle {
    dir: PathBuf,
    session: Option<BackgroundSession>,
}

/// Mounts on `dir`, an empty folder, what `catalogue` tells.
///
/// # Errors
/// [`MountError`] says what to do.
pub async fn mount(
    catalogue: Arc<dyn Catalogue>,
    dir: &Path,
    options: MountOptions,
) -> Result<MountHandle, MountError> {
    let dir = check(dir)?;
    let points = catalogue.points().await.map_err(MountError::Catalogue)?;
    let mut config = Config::default();
    config.mount_options = vec![
        MountOption::RO,
        MountOption::NoAtime,
        MountOption::NoSuid,
        MountOption::NoDev,
        MountOption::DefaultPermissions,
        MountOption::FSName(options.source.replace(',', "_")),
        MountOption::Subtype("sluice".into()),
    ];
    config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
    config.n_threads = Some(options.threads.max(1));
    config.clone_fd = options.threads > 1;
    let served = Served::new(catalogue, &points, options, Handle::current());
    let place = dir.clone();
    let mounted = tokio::task::spawn_blocking(move || {
        let session = Session::new(served, &place, &config)?.spawn()?;
        tune_read_ahead(&place);
        Ok(session)
    });
    let session = mounted
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|error| MountError::Mount(dir.clone(), error))?;
    Ok(MountHandle { dir, session: Some(session) })
}

/// Checks that `dir` can be mounted on, and returns its full path.
fn check(dir: &Path) -> Result<PathBuf, MountError> {
    if !Path::new("/dev/fuse").exists() {
        return Err(MountError::NoFuse);
    }
    let unusable = |what: &str| MountError::MountPoint(dir.to_owned(), what.to_owned());
    let full = match std::fs::canonicalize(dir) {
        Ok(full) => full,
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            return Err(MountError::Stale(dir.to_owned()));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(unusable("there is no such folder; create it first"));
        }
        Err(error) => return Err(unusable(&error.to_string())),
    };
    match std::fs::read_dir(&full) {
        Ok(mut items) => match items.next() {
            None => Ok(full),
            Some(_) => Err(unusable("the folder is not empty")),
        },
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => Err(MountError::Stale(full)),
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(unusable("it is not a folder"))
        }
        Err(error) => Err(unusable(&error.to_string())),
    }
}

/// Raises the kernel's read-ahead, which FUSE itself cannot. Needs root; without, reads are
/// slower and nothing else.
fn tune_read_ahead(dir: &Path) {
    use std::os::unix::fs::MetadataExt;
    let Ok(meta) = std::fs::metadata(dir) else { return };
    let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    let file = format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb");
    if let Err(error) = std::fs::write(&file, READ_AHEAD_KIB) {
        tracing::debug!(%error, file, "the kernel's read-ahead stays as it is");
    }
}

/// Detaches what is mounted on `dir`. Files that are open stay readable for as long as the
/// process that serves them lives.
///
/// # Errors
/// [`MountError::Unmount`] when nothing of ours is mounted there, or the system refuses.
pub fn unmount(dir: &Path) -> Result<(), MountError> {
    let refused = |error| MountError::Unmount(dir.to_owned(), error);
    match rustix::mount::unmount(dir, UnmountFlags::DETACH) {
        Ok(()) => return Ok(()),
        Err(rustix::io::Errno::PERM) => {}
        Err(rustix::io::Errno::INVAL) => {
            return Err(refused(io::Error::other("nothing is mounted there")));
        }
        Err(error) => return Err(refused(error.into())),
    }
    // Without root, the helper of the fuse3 package may.
    let helper = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(dir).output();
    match helper {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(refused(io::Error::other(text)))
        }
        Err(error) => {
            let text = format!("fusermount3 cannot be run ({error}); install the package fuse3");
            Err(refused(io::Error::other(text)))
        }
    }
}

impl MountHandle {
    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the file system has ended: unmounted from outside, and nothing open any more.
    pub fn has_ended(&self) -> bool {
        self.session.as_ref().is_none_or(|session| session.guard.is_finished())
    }

    /// Returns once the file system was unmounted from outside.
    pub async fn ended(&self) {
        while !self.has_ended() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Unmounts. Always works: the mount point is free at once, and files that are still open are
    /// waited for only briefly.
    ///
    /// # Errors
    /// [`MountError::Unmount`].
    pub async fn unmount(mut self) -> Result<(), MountError> {
        let Some(session) = self.session.take() else { return Ok(()) };
        if session.guard.is_finished() {
            return Ok(());
        }
        let dir = self.dir.clone();
        let detached = tokio::task::spawn_blocking(move || unmount(&dir)).await;
        let begun = Instant::now();
        while !session.guard.is_finished() && begun.elapsed() < GRACE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if session.guard.is_finished() {
            drop(session);
        } else {
            // Someone holds a file open. The session ends with them, or with this process;
            // dropping it here would wait.
            std::mem::forget(session);
        }
        detached.unwrap_or_else(|error| {
            Err(MountError::Unmount(self.dir.clone(), io::Error::other(error)))
        })
    }
}

impl Drop for MountHandle {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && !session.guard.is_finished()
        {
            if let Err(error) = unmount(&self.dir) {
                tracing::warn!(%error, "a mount stays behind");
            }
            std::mem::forget(session);
        }
    }
}

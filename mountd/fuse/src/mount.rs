//! Mounting and unmounting.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, Session, SessionACL};
use rustix::mount::UnmountFlags;
use sluice_block::{BlockError, ErrorKind};
use tokio::runtime::Handle;

use crate::mountinfo::{self, Mounted};
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
    /// Tells this mount from others that come to lie on the same folder.
    device: Option<String>,
    session: Option<JoinHandle<io::Result<()>>>,
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
    let points = tokio::time::timeout(options.read_timeout, catalogue.points());
    let late = |_| Err(BlockError::new(ErrorKind::Unavailable, "no answer in time"));
    let points = points.await.unwrap_or_else(late).map_err(MountError::Catalogue)?;
    let mut config = Config::default();
    config.mount_options = vec![
        if options.writable { MountOption::RW } else { MountOption::RO },
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
        let session = Session::new(served, &place, &config)?;
        let device = mountinfo::top(&place)?.map(|mounted| mounted.device);
        if let Some(device) = &device {
            tune_read_ahead(device);
        }
        // The session lives in its thread alone: when the last file is closed, everything of it
        // goes, also when nobody waited for that.
        let thread = std::thread::Builder::new().name("fuse".into());
        Ok((device, thread.spawn(move || session.run())?))
    });
    let (device, session) = mounted
        .await
        .unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|error| MountError::Mount(dir.clone(), error))?;
    Ok(MountHandle { dir, device, session: Some(session) })
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
fn tune_read_ahead(device: &str) {
    let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(error) = std::fs::write(&file, READ_AHEAD_KIB) {
        tracing::debug!(%error, file, "the kernel's read-ahead stays as it is");
    }
}

/// Detaches what is mounted on `dir`. Files that are open stay readable for as long as the
/// process that serves them lives.
///
/// # Errors
/// [`MountError::Unmount`] when no FUSE file system is mounted there, or the system refuses.
pub fn unmount(dir: &Path) -> Result<(), MountError> {
    let refused = |error| MountError::Unmount(dir.to_owned(), error);
    let place = full_path(dir).map_err(refused)?;
    // Root could detach anything; a mistyped folder must not cost a disk.
    match mountinfo::top(&place).map_err(refused)? {
        Some(mounted) if mounted.is_fuse() => detach(&place),
        Some(_) => Err(refused(io::Error::other("what is mounted there is not a FUSE mount"))),
        None => Err(refused(io::Error::other("nothing is mounted there"))),
    }
}

/// The path as the kernel writes it, also of a mount whose process is gone.
fn full_path(dir: &Path) -> io::Result<PathBuf> {
    std::fs::canonicalize(dir).or_else(|error| {
        let (Some(parent), Some(name)) = (dir.parent(), dir.file_name()) else {
            return Err(error);
        };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        Ok(std::fs::canonicalize(parent)?.join(name))
    })
}

/// Detaches whatever lies on `dir`.
fn detach(dir: &Path) -> Result<(), MountError> {
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

/// Detaches the mount of `device` from `dir`. When it is gone already, what others have mounted
/// there since stays.
fn detach_own(dir: &Path, device: Option<&str>) -> Result<(), MountError> {
    let refused = |error| MountError::Unmount(dir.to_owned(), error);
    let mounts = mountinfo::on(dir).map_err(refused)?;
    let own = |mounted: &Mounted| Some(mounted.device.as_str()) == device;
    match mounts.iter().rposition(own) {
        Some(at) if at + 1 == mounts.len() => detach(dir),
        Some(_) => Err(refused(io::Error::other("something else is mounted on top of it"))),
        None => Ok(()),
    }
}

impl MountHandle {
    /// Where it is mounted.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the file system has ended: unmounted from outside, and nothing open any more.
    pub fn has_ended(&self) -> bool {
        self.session.as_ref().is_none_or(JoinHandle::is_finished)
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
        if session.is_finished() {
            return Ok(());
        }
        let (dir, device) = (self.dir.clone(), self.device.clone());
        let detached = tokio::task::spawn_blocking(move || detach_own(&dir, device.as_deref()));
        let detached = detached.await;
        // Whoever holds a file open keeps the session; it ends with them, or with this process.
        let begun = Instant::now();
        while !session.is_finished() && begun.elapsed() < GRACE {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        detached.unwrap_or_else(|error| {
            Err(MountError::Unmount(self.dir.clone(), io::Error::other(error)))
        })
    }
}

impl Drop for MountHandle {
    fn drop(&mut self) {
        if let Some(session) = self.session.take()
            && !session.is_finished()
            && let Err(error) = detach_own(&self.dir, self.device.as_deref())
        {
            tracing::warn!(%error, "a mount stays behind");
        }
    }
}

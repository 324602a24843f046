//! Files being written, under names that no key can have.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where files are written before they get their name. A key's segment cannot start with a dot.
pub(super) const FOLDER: &str = ".tmp";

/// No put takes this long; what is older was left behind by a crash.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// A complete, durable file without a final name; removed when dropped.
pub(super) struct Temporary {
    path: PathBuf,
}

impl Temporary {
    /// Writes `body` to a new file below `folder` and waits until it is on the medium.
    pub(super) fn write(folder: &Path, body: &[u8]) -> io::Result<Self> {
        let path = folder.join(format!("{:032x}", rand::random::<u128>()));
        let mut file = File::create_new(&path)?;
        let temporary = Self { path };
        file.write_all(body)?;
        file.sync_all()?;
        Ok(temporary)
    }

    /// The file's present name.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file its final name unless that is taken; returns whether it got it.
    ///
    /// NFS may repeat a link whose answer was lost and then report that the name is taken, or
    /// anything else: the link count tells whether the name is ours.
    pub(super) fn link(&self, target: &Path) -> io::Result<bool> {
        match fs::hard_link(&self.path, target) {
            Ok(()) => Ok(true),
            Err(_) if fs::metadata(&self.path).is_ok_and(|meta| meta.nlink() == 2) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // After a rename there is nothing to remove; a file that stays is removed when stale.
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes what crashed writers left in `folder` more than a day ago.
///
/// Age is measured by the file system's own clock, which may differ from ours on a network
/// mount: a file made now tells its time.
pub(super) fn remove_stale(folder: &Path) -> io::Result<()> {
    if fs::read_dir(folder)?.next().is_none() {
        return Ok(());
    }
    let now = Temporary::write(folder, &[])?;
    let now = fs::metadata(now.path())?.modified()?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let modified = entry.metadata().and_then(|meta| meta.modified());
        let age = modified.ok().and_then(|modified| now.duration_since(modified).ok());
        if age.is_some_and(|age| age > STALE) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

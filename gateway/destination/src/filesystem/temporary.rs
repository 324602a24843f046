//! Files being written, under names that no key can have.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_block::{ALIGN, Buffer, DirectFile};

/// Where files are written before they get their name. A key's segment cannot start with a dot.
pub(super) const FOLDER: &str = ".tmp";

/// No put takes this long; what is older was left behind by a crash.
const STALE: Duration = Duration::from_secs(24 * 60 * 60);

/// Bodies of at least so many bytes are written past the page cache.
const LARGE: usize = 1 << 20;
/// Bytes written so at a time.
const PIECE: usize = 4 << 20;

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
        let done = write_direct(&file, body)?;
        file.seek(SeekFrom::Start(done as u64))?;
        file.write_all(&body[done..])?;
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

/// Writes the beginning of a large body past the page cache, where that can be, and returns how
/// many bytes that was. A pack is not read soon, and writing it out at the end would hold up its
/// backup.
fn write_direct(file: &File, body: &[u8]) -> io::Result<usize> {
    let direct = if body.len() < LARGE { None } else { DirectFile::of(file) };
    let Some(direct) = direct else { return Ok(0) };
    // Packs are built where direct writes want them; what lies elsewhere is copied there.
    let mut copy = (body.as_ptr().align_offset(ALIGN) != 0).then(|| Buffer::new(PIECE));
    let mut done = 0;
    for piece in body.chunks(PIECE) {
        let piece = match &mut copy {
            Some(copy) => {
                copy[..piece.len()].copy_from_slice(piece);
                &copy[..piece.len()]
            }
            None => piece,
        };
        let written = direct.write_at(done as u64, piece)?;
        done += written;
        if written < piece.len() {
            break;
        }
    }
    Ok(done)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_of_any_size_is_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        for length in [0, 1, LARGE - 1, LARGE, LARGE + 1, PIECE, 2 * PIECE, 2 * PIECE + 4097] {
            let body: Vec<u8> = (0..length as u32).map(|at| (at % 251) as u8).collect();
            let mut aligned = Buffer::new(length + 1);
            aligned[1..].copy_from_slice(&body);
            let odd = Temporary::write(folder.path(), &aligned[1..]).unwrap();
            assert!(fs::read(odd.path()).unwrap() == body, "{length}");
            aligned[..length].copy_from_slice(&body);
            let even = Temporary::write(folder.path(), &aligned[..length]).unwrap();
            assert!(fs::read(even.path()).unwrap() == body, "{length}");
        }
    }
}

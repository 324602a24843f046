//! Snapshots of image files: what they hold at one moment, beside them on their file system.
//!
//! ```text
//!   FOLDER/NAME.part/IMAGE/FILE   marked, then clones, made durable ──► renamed to FOLDER/NAME
//!        │ killed anywhere: begun anew, or removed with the snapshot
//! ```
//!
//! # Invariants
//!
//! * A folder has the name of its snapshot only when all of that is there and durable.
//! * No byte is copied: a file and its clone share their blocks until one of them is written.
//!   Where a file system cannot do that, there is no snapshot.
//! * Each file is as it was at one moment; several are so one shortly after the other.
//! * Whoever makes a snapshot may read it, and nobody else.
//! * Nothing is taken for a snapshot, or removed, that does not bear its mark: names come from
//!   elsewhere. Of what is removed, the mark goes last.
//!
//! Only files are kept this way. Of a block device a snapshot is made by what provides the device;
//! `clone_image` is where another way belongs.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{IFlags, ioctl_ficlone, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

use crate::inspect::inspect_within;
use crate::spot::{FileId, Spot};
use crate::{DiskError, Within};

/// Behind the name of a snapshot that is not whole.
const PART: &str = ".part";
/// The file in a snapshot's folder that holds its name.
const MARK: &str = ".sluice-snapshot";

/// Why there is no snapshot, or why it is not gone.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// Nobody has said where.
    #[error(
        "there is no folder for snapshots: name one that lies on the file system of the images"
    )]
    NoFolder,
    /// A name leads elsewhere.
    #[error("{0:?} is no name of a snapshot or image")]
    Name(String),
    /// The folders lie on other file systems.
    #[error(
        "{0} lies on another file system than every folder for snapshots, or than the images \
         before it: a snapshot shares the blocks of its images"
    )]
    Elsewhere(PathBuf),
    /// The file system has no clones.
    #[error(
        "the file system of {0} cannot share blocks between files, as XFS and Btrfs can: there is \
         no snapshot of it, and nothing was copied"
    )]
    NoClones(PathBuf),
    /// It has them, and not of this file.
    #[error(
        "the file system of {0} shares blocks between files, and refuses it for this one: is it \
         open as swap space, or are its blocks of another kind than those of new files there? \
         Nothing was copied"
    )]
    NotThis(PathBuf),
    /// A block device.
    #[error("{0} is a block device: only image files have snapshots")]
    Device(PathBuf),
    /// An image of several files.
    #[error("{0} consists of several files: only images of one file have snapshots")]
    SeveralFiles(PathBuf),
    /// Something else has its name.
    #[error("{0} bears no mark of that snapshot: it is neither used nor removed")]
    Foreign(PathBuf),
    /// A folder that had it is not there.
    #[error("{0} is not there, and the snapshot lies in it: is its disk mounted?")]
    Away(PathBuf),
    /// The image cannot be understood.
    #[error("there is no snapshot of {0}")]
    Image(PathBuf, #[source] DiskError),
    /// Something cannot be read or written.
    #[error("cannot make or remove {0}")]
    Io(PathBuf, #[source] io::Error),
}

impl SnapshotError {
    /// Whether it stays so until somebody changes something.
    pub fn is_refusal(&self) -> bool {
        !matches!(self, Self::Io(..) | Self::Away(_) | Self::Image(_, DiskError::Io(..)))
    }
}

/// A snapshot that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Where it lies.
    pub folder: PathBuf,
    /// When it was made, in milliseconds since 1970.
    pub made_ms: u64,
    /// Its images.
    pub images: Vec<KeptImage>,
}

/// An image of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptImage {
    /// As it was called when the snapshot was asked for.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Its size as a file, in bytes.
    pub bytes: u64,
}

/// Makes a snapshot of images, each with its name, in the first of `folders` that lies on their
/// file system. One that is there already is told again, as it was made. All files of the images
/// must lie where `within` says.
///
/// # Errors
/// [`SnapshotError`].
pub fn make(
    name: &str,
    folders: &[PathBuf],
    images: &[(String, PathBuf)],
    within: &Within,
) -> Result<Snapshot, SnapshotError> {
    check_name(name)?;
    for (image, _) in images {
        check_name(image)?;
    }
    if let Some(folder) = folders.iter().map(|folder| folder.join(name)).find(|one| is_there(one)) {
        return if is_own(&folder, name) {
            told(&folder, images)
        } else {
            Err(SnapshotError::Foreign(folder))
        };
    }
    let checked: Result<Vec<FileId>, SnapshotError> =
        images.iter().map(|(_, path)| check_image(path, within)).collect();
    let checked = checked?;
    let mut elsewhere = SnapshotError::NoFolder;
    for folder in folders {
        let part = folder.join(format!("{name}{PART}"));
        remove_folder(&part, name)?;
        match mark(&part, name).and_then(|()| clone_all(&part, images, &checked)) {
            Ok(()) => {
                let whole = folder.join(name);
                std::fs::rename(&part, &whole).map_err(failed(&whole))?;
                sync(folder)?;
                return told(&whole, images);
            }
            Err(error) => {
                remove_folder(&part, name)?;
                match error {
                    SnapshotError::Elsewhere(path) => elsewhere = SnapshotError::Elsewhere(path),
                    other => return Err(other),
                }
            }
        }
    }
    Err(elsewhere)
}

/// Removes a snapshot, whole or not, from all folders in which it may lie; whether there was one.
/// It was seen in those of `seen`: where it is not found and one of them is not there, it is not
/// gone.
///
/// # Errors
/// [`SnapshotError::Io`], [`SnapshotError::Away`], [`SnapshotError::Foreign`], and
/// [`SnapshotError::Name`].
pub fn remove(name: &str, folders: &[PathBuf], seen: &[PathBuf]) -> Result<bool, SnapshotError> {
    check_name(name)?;
    let mut found = false;
    for folder in folders {
        let (whole, part) = (folder.join(name), folder.join(format!("{name}{PART}")));
        if is_there(&whole) {
            if !is_own(&whole, name) {
                return Err(SnapshotError::Foreign(whole));
            }
            // What is only half there must not pass for whole.
            remove_folder(&part, name)?;
            std::fs::rename(&whole, &part).map_err(failed(&whole))?;
        }
        if remove_folder(&part, name)? {
            found = true;
            sync(folder)?;
        }
    }
    match seen.iter().find(|folder| !folder.is_dir()) {
        Some(away) if !found => Err(SnapshotError::Away(away.clone())),
        _ => Ok(found),
    }
}

fn is_there(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

/// Whether a folder is that of a snapshot. A link to one is not.
fn is_own(folder: &Path, name: &str) -> bool {
    folder.symlink_metadata().is_ok_and(|folder| folder.is_dir())
        && std::fs::read_to_string(folder.join(MARK)).is_ok_and(|text| text == name)
}

/// Makes the folder of a snapshot, and says durably whose it is before anything else is in it. The
/// folder for snapshots itself is made as well: the first one finds none.
fn mark(part: &Path, name: &str) -> Result<(), SnapshotError> {
    DirBuilder::new().recursive(true).mode(0o700).create(part).map_err(failed(part))?;
    let path = part.join(MARK);
    let write = || {
        let mut file = File::create_new(&path)?;
        file.write_all(name.as_bytes())?;
        file.sync_all()
    };
    write().map_err(failed(&path))?;
    sync(part)
}

/// What lies below a folder of its own, and nowhere else.
fn check_name(name: &str) -> Result<(), SnapshotError> {
    let odd = name.is_empty() || name.contains(['/', '\0']) || name.starts_with('.');
    if odd || name.ends_with(PART) {
        return Err(SnapshotError::Name(name.to_owned()));
    }
    Ok(())
}

/// Refuses what has no snapshot before anything is made; returns which file it is.
fn check_image(path: &Path, within: &Within) -> Result<FileId, SnapshotError> {
    let metadata = std::fs::metadata(path).map_err(failed(path))?;
    if metadata.file_type().is_block_device() {
        return Err(SnapshotError::Device(path.to_owned()));
    }
    let image = |error| SnapshotError::Image(path.to_owned(), error);
    let inspected = inspect_within(path, None, within).map_err(image)?;
    match &inspected.ids[..] {
        [Some(id)] => Ok(*id),
        _ => Err(SnapshotError::SeveralFiles(path.to_owned())),
    }
}

fn clone_all(
    part: &Path,
    images: &[(String, PathBuf)],
    checked: &[FileId],
) -> Result<(), SnapshotError> {
    let mut folders = DirBuilder::new();
    folders.mode(0o700);
    for ((name, path), id) in images.iter().zip(checked) {
        let folder = part.join(name);
        folders.create(&folder).map_err(failed(&folder))?;
        clone_image(path, *id, &place(&folder, path)?)?;
        sync(&folder)?;
    }
    sync(part)
}

/// Where the clone of a file lies: under its own name, which images of some formats know.
fn place(folder: &Path, path: &Path) -> Result<PathBuf, SnapshotError> {
    let real = std::fs::canonicalize(path).map_err(failed(path))?;
    let name = real.file_name().ok_or_else(|| SnapshotError::Elsewhere(path.to_owned()))?;
    Ok(folder.join(name))
}

/// Makes a file that shares all blocks of another one: of the one that was checked.
fn clone_image(path: &Path, id: FileId, to: &Path) -> Result<(), SnapshotError> {
    let spot = Spot::find(path).map_err(failed(path))?;
    if spot.id() != id {
        return Err(SnapshotError::Image(path.to_owned(), DiskError::Changed(path.to_owned())));
    }
    let source = spot.open().map_err(failed(path))?;
    let mut new = OpenOptions::new();
    let target = new.write(true).create_new(true).mode(0o600).open(to).map_err(failed(to))?;
    // On Btrfs, files with checksums share no blocks with files without, as images often are; and
    // a file becomes such a one only while it is empty.
    let flags = ioctl_getflags(&source).unwrap_or_else(|_| IFlags::empty()) & IFlags::NOCOW;
    if !flags.is_empty() {
        let own = ioctl_getflags(&target).unwrap_or_else(|_| IFlags::empty());
        ioctl_setflags(&target, own | flags).map_err(|error| failed(to)(error.into()))?;
    }
    match ioctl_ficlone(&target, &source) {
        Ok(()) => target.sync_all().map_err(failed(to)),
        Err(Errno::XDEV) => Err(SnapshotError::Elsewhere(path.to_owned())),
        Err(Errno::OPNOTSUPP | Errno::NOTTY | Errno::NOSYS) => {
            Err(SnapshotError::NoClones(path.to_owned()))
        }
        Err(Errno::INVAL | Errno::TXTBSY) => Err(SnapshotError::NotThis(path.to_owned())),
        Err(error) => Err(SnapshotError::Io(to.to_owned(), error.into())),
    }
}

/// What is told of a snapshot that is whole: what lies in it, whatever has become of the images.
fn told(folder: &Path, images: &[(String, PathBuf)]) -> Result<Snapshot, SnapshotError> {
    let made = std::fs::metadata(folder).and_then(|metadata| metadata.modified());
    let made: SystemTime = made.map_err(failed(folder))?;
    let made = made.duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut kept = Vec::with_capacity(images.len());
    for (name, _) in images {
        let around = folder.join(name);
        let mut entries = std::fs::read_dir(&around).map_err(failed(&around))?;
        let first = entries.next().unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
        let path = first.map_err(failed(&around))?.path();
        let bytes = std::fs::metadata(&path).map_err(failed(&path))?.len();
        kept.push(KeptImage { name: name.clone(), path, bytes });
    }
    let made_ms = u64::try_from(made.as_millis()).unwrap_or(u64::MAX);
    Ok(Snapshot { folder: folder.to_owned(), made_ms, images: kept })
}

/// Removes the folder of a snapshot with all that lies in it; whether there was one.
fn remove_folder(folder: &Path, name: &str) -> Result<bool, SnapshotError> {
    if !is_there(folder) {
        return Ok(false);
    }
    let emptied = || {
        if is_own(folder, name) {
            for entry in std::fs::read_dir(folder)? {
                let entry = entry?;
                match entry.file_type()?.is_dir() {
                    true => std::fs::remove_dir_all(entry.path())?,
                    false if entry.file_name() == MARK => {}
                    false => std::fs::remove_file(entry.path())?,
                }
            }
            return std::fs::remove_file(folder.join(MARK));
        }
        // One that was killed as it began has an empty mark, or none, and nothing else.
        let mark = folder.join(MARK);
        match mark.symlink_metadata() {
            Ok(metadata) if metadata.len() == 0 => std::fs::remove_file(mark),
            _ => Ok(()),
        }
    };
    emptied().map_err(failed(folder))?;
    match std::fs::remove_dir(folder) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory => {
                Err(SnapshotError::Foreign(folder.to_owned()))
            }
            _ => Err(SnapshotError::Io(folder.to_owned(), error)),
        },
    }
}

fn sync(folder: &Path) -> Result<(), SnapshotError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |error| SnapshotError::Io(path, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(
        name: &str,
        folders: &[PathBuf],
        images: &[(String, PathBuf)],
    ) -> Result<Snapshot, SnapshotError> {
        super::make(name, folders, images, &Within::default())
    }

    /// A folder with an image, and a folder for snapshots beside it.
    fn lab() -> (tempfile::TempDir, Vec<(String, PathBuf)>, Vec<PathBuf>) {
        let base = tempfile::tempdir().unwrap();
        let image = base.path().join("disk.raw");
        std::fs::write(&image, vec![7; 1 << 16]).unwrap();
        let folders = vec![base.path().join("kept")];
        (base, vec![("disk".to_owned(), image)], folders)
    }

    #[test]
    fn there_is_a_whole_snapshot_or_a_refusal_that_leaves_nothing() {
        let (_base, images, folders) = lab();
        match make("one", &folders, &images) {
            Ok(made) => {
                assert_eq!(std::fs::read(&made.images[0].path).unwrap(), vec![7; 1 << 16]);
                std::fs::write(&images[0].1, b"other").unwrap();
                assert_eq!(make("one", &folders, &images).unwrap(), made, "it is told again");
                assert!(remove("one", &folders, &folders).unwrap());
            }
            Err(error) => {
                assert!(matches!(error, SnapshotError::NoClones(_)) && error.is_refusal());
            }
        }
        assert_eq!(std::fs::read_dir(&folders[0]).unwrap().count(), 0);
        assert!(!remove("one", &folders, &folders).unwrap(), "it is gone already");
    }

    #[test]
    fn images_without_checksums_have_snapshots_too() {
        let (_base, images, folders) = lab();
        std::fs::remove_file(&images[0].1).unwrap();
        let image = File::create(&images[0].1).unwrap();
        if ioctl_setflags(&image, IFlags::NOCOW).is_err() {
            eprintln!("SKIPPED: the folder for temporary files does not lie on Btrfs");
            return;
        }
        std::fs::write(&images[0].1, vec![7; 1 << 16]).unwrap();
        let made = make("one", &folders, &images).unwrap();
        let clone = File::open(&made.images[0].path).unwrap();
        assert!(ioctl_getflags(&clone).unwrap().contains(IFlags::NOCOW));
        assert_eq!(std::fs::read(&made.images[0].path).unwrap(), vec![7; 1 << 16]);
    }

    #[test]
    fn a_snapshot_is_told_when_its_images_have_become_others() {
        let (_base, images, folders) = lab();
        let kept = folders[0].join("one/disk");
        std::fs::create_dir_all(&kept).unwrap();
        // As `make` leaves it; it is told even where no file system can make one.
        std::fs::write(kept.join("disk.raw"), [7; 512]).unwrap();
        std::fs::remove_file(&images[0].1).unwrap();
        let told = told(&folders[0].join("one"), &images).unwrap();
        assert_eq!((told.images[0].bytes, &told.images[0].path), (512, &kept.join("disk.raw")));
    }

    #[test]
    fn what_took_the_place_of_a_checked_image_is_not_cloned() {
        let (base, images, _) = lab();
        let path = &images[0].1;
        let id = check_image(path, &Within::default()).unwrap();
        let secret = base.path().join("secret");
        std::fs::write(&secret, [9; 512]).unwrap();
        std::fs::remove_file(path).unwrap();
        std::os::unix::fs::symlink(&secret, path).unwrap();
        let to = base.path().join("clone");
        let error = clone_image(path, id, &to).unwrap_err();
        assert!(matches!(error, SnapshotError::Image(_, DiskError::Changed(_))), "{error}");
        assert!(!to.exists());
    }

    #[test]
    fn a_disk_whose_data_lies_in_other_files_has_no_snapshot() {
        let (base, _, _) = lab();
        let at = |name: &str| base.path().join(name);
        std::fs::write(at("x.vmdk"), [7; 4096]).unwrap();
        let text = "# Disk DescriptorFile\nparentCID=ffffffff\nRW 8 FLAT \"x.vmdk\" 0\n";
        let mut hidden = vec![0; 1024];
        hidden[..4].copy_from_slice(b"KDMV");
        hidden[28] = 1;
        hidden[512..512 + text.len()].copy_from_slice(text.as_bytes());
        let missing = text.replace("x.vmdk", "none.vmdk");
        for bytes in [text.as_bytes(), &hidden, missing.as_bytes()] {
            std::fs::write(at("d.vmdk"), bytes).unwrap();
            let error = check_image(&at("d.vmdk"), &Within::default()).unwrap_err();
            assert!(matches!(error, SnapshotError::SeveralFiles(_)), "{error}");
        }
    }

    #[test]
    fn what_was_begun_is_removed_with_its_snapshot() {
        let (_base, _, folders) = lab();
        let part = folders[0].join("one.part");
        mark(&part, "one").unwrap();
        std::fs::create_dir_all(part.join("disk")).unwrap();
        std::fs::write(part.join("disk/disk.raw"), "x").unwrap();
        std::fs::create_dir_all(folders[0].join("other/disk")).unwrap();
        assert!(remove("one", &folders, &[]).unwrap());
        assert!(!part.exists() && folders[0].join("other").exists());
        // Killed before it was marked, and while it was.
        for begun in [None, Some("")] {
            std::fs::create_dir(&part).unwrap();
            let written = begun.map(|text| std::fs::write(part.join(MARK), text));
            written.transpose().unwrap();
            assert!(remove("one", &folders, &[]).unwrap() && !part.exists());
        }
    }

    #[test]
    fn what_bears_no_mark_is_neither_a_snapshot_nor_removed() {
        let (base, images, folders) = lab();
        for name in ["one", "one.part"] {
            let folder = folders[0].join(name);
            for says in [None, Some("two")] {
                std::fs::create_dir_all(folder.join("disk")).unwrap();
                std::fs::write(folder.join("disk/disk.raw"), "precious").unwrap();
                let written = says.map(|text| std::fs::write(folder.join(MARK), text));
                written.transpose().unwrap();
                for error in [
                    make("one", &folders, &images).unwrap_err(),
                    remove("one", &folders, &[]).unwrap_err(),
                ] {
                    assert!(matches!(error, SnapshotError::Foreign(_)), "{error}");
                    assert!(error.is_refusal() && folder.join("disk/disk.raw").exists());
                }
                std::fs::remove_dir_all(&folder).unwrap();
            }
        }
        let other = base.path().join("other");
        mark(&other, "one").unwrap();
        std::os::unix::fs::symlink(&other, folders[0].join("one")).unwrap();
        let error = remove("one", &folders, &[]).unwrap_err();
        assert!(matches!(error, SnapshotError::Foreign(_)) && other.join(MARK).exists());
    }

    #[test]
    fn what_was_seen_is_not_gone_while_its_folder_is_not_there() {
        let (base, _, folders) = lab();
        assert!(!remove("one", &folders, &[]).unwrap(), "nobody has seen it");
        let other = vec![base.path().to_owned(), folders[0].clone()];
        for all in [&folders, &other] {
            let error = remove("one", all, &folders).unwrap_err();
            assert!(matches!(error, SnapshotError::Away(_)) && !error.is_refusal(), "{error}");
        }
        std::fs::create_dir(&folders[0]).unwrap();
        assert!(!remove("one", &folders, &folders).unwrap(), "somebody else has removed it");
    }

    #[test]
    fn images_that_name_others_and_names_that_lead_away_are_refused() {
        let (base, images, folders) = lab();
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(b"QFI\xFB");
        (head[7], head[103], head[14], head[19]) = (3, 104, 1, 8);
        head[256..264].copy_from_slice(b"disk.raw");
        let path = base.path().join("top.qcow2");
        std::fs::write(&path, head).unwrap();
        let top = [("top".to_owned(), path)];
        let error = make("one", &folders, &top).unwrap_err();
        assert!(matches!(error, SnapshotError::SeveralFiles(_)), "{error}");
        let elsewhere = Within::new(&[vec!["/dev".to_owned()]]);
        let error = super::make("one", &folders, &images, &elsewhere).unwrap_err();
        assert!(matches!(error, SnapshotError::Image(_, DiskError::Outside(..))), "{error}");
        assert!(error.is_refusal() && !folders[0].exists());
        for bad in ["", "..", "a/b", ".x", "x.part"] {
            assert!(matches!(make(bad, &folders, &images), Err(SnapshotError::Name(_))), "{bad}");
            assert!(matches!(remove(bad, &folders, &[]), Err(SnapshotError::Name(_))), "{bad}");
        }
        assert!(matches!(make("one", &[], &images), Err(SnapshotError::NoFolder)));
    }
}

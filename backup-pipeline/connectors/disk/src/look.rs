//! Which disks there are: image files in a folder and the folders in it, or devices in a folder.
//!
//! What could not be looked at is told apart from what is not there: whoever compares listings must
//! not take a folder that cannot be read for one that is empty.
//!
//! # Invariants
//!
//! * Links are not followed, except that a device may be named by one. So nothing is told that does
//!   not lie in the folder, and no walk is endless.
//! * Memory is bounded: by how many disks are wanted at most, and by how many names are looked at.
//! * What is told of a file was asked of that file, even when another one takes its name meanwhile.

use std::collections::BTreeSet;
use std::fs::{DirEntry, File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use wildmatch::WildMatch;

use crate::Format;
use crate::spot::{Ends, Spot};

/// Names that are looked at, of all folders together.
const MOST_NAMES: usize = 1_000_000;
/// What is told of things that were passed over.
const MOST_PASSED: usize = 100;
/// Places that could not be read; of more, the whole folder counts as one.
const MOST_UNREAD: usize = 1000;
/// Mounted file systems that are told.
const MOST_MOUNTS: usize = 1000;
/// What file systems keep for themselves.
const OWN: &str = "lost+found";
/// Bytes in which all headers lie that say a size.
const SIZES: usize = 64;

/// What is looked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// The folder.
    pub folder: PathBuf,
    /// Whether block devices are wanted, and no files.
    pub devices: bool,
    /// Patterns of names; those of image files when there are none.
    pub names: Vec<String>,
    /// Patterns of names, and of ways from the folder, that are passed over.
    pub except: Vec<String>,
    /// How many levels of folders in it are looked through.
    pub depth: u32,
    /// More are an error.
    pub most: usize,
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Its path, as the folder was written.
    pub path: String,
    /// How large it is for a guest, as far as its header says; else the length of the file.
    pub size_bytes: u64,
    /// Its format; `unknown` when it cannot be read.
    pub format: String,
    /// What stays when it is called otherwise; nothing where that cannot be told. A file and its
    /// copy in a snapshot of their file system have the same.
    pub identity: String,
    /// The same for one file by several names, and for no other one of this listing.
    pub file: String,
}

/// Something that could not be looked at, or was passed over, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Its path.
    pub path: String,
    /// Why.
    pub why: String,
}

/// What is there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// In the order of their paths.
    pub disks: Vec<Disk>,
    /// Of what lies at these paths and in them nothing is known.
    pub unread: Vec<Trouble>,
    /// What is there and cannot be told of. The first hundred.
    pub passed: Vec<Trouble>,
    /// Where in the folder other file systems are mounted.
    pub mounts: BTreeSet<String>,
    /// Where the file system of the folder is mounted.
    pub mounted_on: String,
}

/// Why there is no listing.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// The folder itself cannot be read.
    #[error("cannot read {0}")]
    Folder(PathBuf, #[source] io::Error),
    /// There are more than were wanted.
    #[error("there are more than {1} disks in {0}: name fewer by patterns, or look at its parts")]
    TooMany(PathBuf, usize),
    /// There is too much to look at.
    #[error("there are more than {MOST_NAMES} names in {0}: look at its parts")]
    TooLarge(PathBuf),
}

/// Lists the disks that are there.
///
/// # Errors
/// [`LookError`]; what else fails is told in the listing.
pub fn look(wanted: &Wanted) -> Result<Listing, LookError> {
    let failed = |error| LookError::Folder(wanted.folder.clone(), error);
    let root = std::fs::metadata(&wanted.folder).map_err(failed)?;
    let compiled = |patterns: &[String]| patterns.iter().map(|one| WildMatch::new(one)).collect();
    let mut walk = Walk {
        wanted,
        names: compiled(&wanted.names),
        except: compiled(&wanted.except),
        seen: 0,
        listing: Listing { mounted_on: mounted_on(&wanted.folder, &root), ..Listing::default() },
    };
    let mut folders = vec![(wanted.folder.clone(), 0, root.dev())];
    let mut first = true;
    while let Some((folder, level, device)) = folders.pop() {
        match std::fs::read_dir(&folder) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => folders.extend(walk.meet(&entry, level, device)?),
                        Err(error) => walk.unread(&folder, &error),
                    }
                }
            }
            Err(error) if first => return Err(failed(error)),
            Err(error) => walk.unread(&folder, &error),
        }
        first = false;
    }
    let mut listing = walk.listing;
    listing.disks.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(listing)
}

/// A folder to look at, its level, and its file system.
type Next = (PathBuf, u32, u64);

struct Walk<'a> {
    wanted: &'a Wanted,
    names: Vec<WildMatch>,
    except: Vec<WildMatch>,
    seen: usize,
    listing: Listing,
}

impl Walk<'_> {
    /// Looks at one name; returns the folder that it is, when that is to be looked through.
    fn meet(
        &mut self,
        entry: &DirEntry,
        level: u32,
        device: u64,
    ) -> Result<Option<Next>, LookError> {
        self.seen += 1;
        if self.seen > MOST_NAMES {
            return Err(LookError::TooLarge(self.wanted.folder.clone()));
        }
        let path = entry.path();
        let name = entry.file_name();
        let kind = match entry.file_type() {
            Ok(kind) => kind,
            Err(error) => {
                self.unread(&path, &error);
                return Ok(None);
            }
        };
        let (Some(name), Some(text)) = (name.to_str(), path.to_str()) else {
            if kind.is_file() || kind.is_dir() {
                self.pass(&path, "its name is not UTF-8");
            }
            return Ok(None);
        };
        if name.starts_with('.') || name == OWN || self.is_excepted(name, &path) {
            return Ok(None);
        }
        if kind.is_dir() && level < self.wanted.depth {
            return Ok(match entry.metadata() {
                Ok(about) => {
                    if about.dev() != device {
                        self.mount(text);
                    }
                    Some((path, level + 1, about.dev()))
                }
                Err(error) => {
                    self.unread(&path, &error);
                    None
                }
            });
        }
        let may = match self.wanted.devices {
            true => kind.is_block_device() || kind.is_symlink(),
            false => kind.is_file(),
        };
        if may && self.is_wanted(name) {
            self.take(&path, text)?;
        }
        Ok(None)
    }

    fn take(&mut self, path: &Path, text: &str) -> Result<(), LookError> {
        let told = match self.wanted.devices {
            true => device(path),
            false => image(path),
        };
        match told {
            Ok(Some(told)) => {
                if self.listing.disks.len() >= self.wanted.most {
                    let (folder, most) = (self.wanted.folder.clone(), self.wanted.most);
                    return Err(LookError::TooMany(folder, most));
                }
                self.listing.disks.push(Disk { path: text.to_owned(), ..told });
            }
            Ok(None) => {}
            // It was removed while we looked.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => self.unread(path, &error),
        }
        Ok(())
    }

    /// Notes a mounted file system. What lies on one that is not noted would count as gone, not as
    /// on a file system that is not mounted, so of more than fit nothing is known.
    fn mount(&mut self, path: &str) {
        if self.listing.mounts.len() < MOST_MOUNTS {
            self.listing.mounts.insert(path.to_owned());
        } else if !self.listing.mounts.contains(path) {
            let text = format!("more than {MOST_MOUNTS} file systems are mounted in it");
            let folder = self.wanted.folder.clone();
            self.unread(&folder, &io::Error::other(text));
        }
    }

    fn is_wanted(&self, name: &str) -> bool {
        if !self.names.is_empty() {
            return self.names.iter().any(|pattern| pattern.matches(name));
        }
        is_image(name)
    }

    fn is_excepted(&self, name: &str, path: &Path) -> bool {
        let way = path.strip_prefix(&self.wanted.folder).ok().and_then(Path::to_str);
        self.except
            .iter()
            .any(|pattern| pattern.matches(name) || way.is_some_and(|way| pattern.matches(way)))
    }

    fn unread(&mut self, path: &Path, error: &io::Error) {
        let all = self.listing.unread.len() >= MOST_UNREAD;
        let path = if all { &self.wanted.folder } else { path };
        let path = path.to_string_lossy().into_owned();
        if self.listing.unread.iter().rev().take(MOST_UNREAD).all(|one| one.path != path) {
            self.listing.unread.push(Trouble { path, why: error.to_string() });
        }
    }

    fn pass(&mut self, path: &Path, why: &str) {
        if self.listing.passed.len() < MOST_PASSED {
            let path = path.to_string_lossy().into_owned();
            self.listing.passed.push(Trouble { path, why: why.to_owned() });
        }
    }
}

/// Whether a name is one of an image that stands for a disk. VMware's files of data beside a
/// descriptor do not.
fn is_image(name: &str) -> bool {
    const ALL: [Format; 5] = [Format::Raw, Format::Qcow2, Format::Vmdk, Format::Vhd, Format::Vhdx];
    let Some((stem, extension)) = name.rsplit_once('.') else { return false };
    let part = |(_, end): (&str, &str)| {
        end == "flat" || end == "delta" || end.strip_prefix(['s', 'f']).is_some_and(is_number)
    };
    let data = Format::Vmdk.has_extension(extension) && stem.rsplit_once('-').is_some_and(part);
    !stem.is_empty() && !data && ALL.iter().any(|format| format.has_extension(extension))
}

fn is_number(text: &str) -> bool {
    text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A disk, apart from its path; nothing when it is none.
type Told = io::Result<Option<Disk>>;

fn image(path: &Path) -> Told {
    let spot = Spot::find_plain(path)?;
    let about = spot.about();
    // It may be another thing by now.
    if !about.is_file() {
        return Ok(None);
    }
    let (size_bytes, format) = match spot.open().and_then(|file| Ends::of(&file, SIZES)) {
        Ok(ends) => {
            let size = virtual_size(ends.format(), &ends.head, &ends.tail);
            (size.unwrap_or(about.len()), ends.format().to_string())
        }
        Err(_) => (about.len(), "unknown".to_owned()),
    };
    let (identity, file) = (identity(about), format!("{}:{}", about.dev(), about.ino()));
    Ok(Some(Disk { path: String::new(), size_bytes, format, identity, file }))
}

/// What a file is, whatever it is called: a number of its file system, which is given again once
/// it is free, with the time at which it was made. Nothing where a file system does not keep that.
fn identity(about: &Metadata) -> String {
    let made = about.created().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    made.map(|made| format!("{}:{}", about.ino(), made.as_nanos())).unwrap_or_default()
}

/// How large a disk is for its guest, where its header says so.
fn virtual_size(format: Format, head: &[u8], tail: &[u8]) -> Option<u64> {
    let eight = |bytes: &[u8], at: usize| bytes.get(at..at + 8)?.try_into().ok();
    match format {
        Format::Qcow2 => eight(head, 24).map(u64::from_be_bytes),
        Format::Vhd => eight(tail, 48).map(u64::from_be_bytes),
        Format::Vmdk if head.starts_with(b"KDMV") => {
            eight(head, 12).map(u64::from_le_bytes)?.checked_mul(512)
        }
        Format::Vmdk | Format::Vhdx | Format::Raw => None,
    }
}

fn device(path: &Path) -> Told {
    if !std::fs::metadata(path)?.file_type().is_block_device() {
        return Ok(None);
    }
    let real = std::fs::canonicalize(path)?;
    // Whoever may not read it is told when it is backed up.
    let size = File::open(&real).and_then(|mut file| file.seek(SeekFrom::End(0))).unwrap_or(0);
    let (format, real) = (Format::Raw.to_string(), real.to_string_lossy().into_owned());
    let (identity, file) = (real.clone(), real);
    Ok(Some(Disk { path: String::new(), size_bytes: size, format, identity, file }))
}

/// Where the file system of a folder is mounted: the first folder on the way up that lies in
/// another one is not it.
fn mounted_on(folder: &Path, about: &Metadata) -> String {
    let real = std::fs::canonicalize(folder).unwrap_or_else(|_| folder.to_owned());
    let same = |path: &&Path| std::fs::metadata(path).is_ok_and(|one| one.dev() == about.dev());
    let last = real.ancestors().take_while(same).last();
    last.unwrap_or(&real).to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new(files: &[&str]) -> Self {
            let place = Self(tempfile::tempdir().unwrap());
            for name in files {
                let path = place.0.path().join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, *name).unwrap();
            }
            place
        }

        fn wanted(&self) -> Wanted {
            Wanted { folder: self.0.path().to_owned(), most: 100, ..Wanted::default() }
        }

        fn names(&self, wanted: &Wanted) -> Vec<String> {
            let base = format!("{}/", self.0.path().display());
            let listing = look(wanted).unwrap();
            let way = |disk: &Disk| disk.path.strip_prefix(&base).unwrap().to_owned();
            listing.disks.iter().map(way).collect()
        }
    }

    #[test]
    fn images_are_found_by_patterns_as_deep_as_wanted() {
        let place = Place::new(&[
            "b.raw",
            "a.QCOW2",
            "notes.txt",
            ".hidden.raw",
            "vm.vmdk",
            "vm-flat.vmdk",
            "vm-s001.vmdk",
            "shop/web.raw",
            "shop/old/db.raw",
            "lost+found/x.raw",
        ]);
        symlink(place.0.path().join("b.raw"), place.0.path().join("link.raw")).unwrap();
        symlink(place.0.path(), place.0.path().join("shop/round")).unwrap();
        let wanted = place.wanted();
        assert_eq!(place.names(&wanted), ["a.QCOW2", "b.raw", "vm.vmdk"]);
        let deep = Wanted { depth: 9, names: vec!["*.raw".into()], ..wanted.clone() };
        assert_eq!(place.names(&deep), ["b.raw", "shop/old/db.raw", "shop/web.raw"]);
        let except = vec!["old".into(), "shop/w*".into()];
        assert_eq!(place.names(&Wanted { except, ..deep }), ["b.raw"]);
        let names = vec!["*.txt".into()];
        assert_eq!(place.names(&Wanted { names, ..wanted }), ["notes.txt"]);
    }

    #[test]
    fn more_than_are_wanted_are_an_error_and_so_is_no_folder() {
        let place = Place::new(&["a.raw", "b.raw", "c.raw"]);
        let few = Wanted { most: 2, ..place.wanted() };
        assert!(matches!(look(&few), Err(LookError::TooMany(_, 2))));
        assert!(look(&Wanted { most: 3, ..place.wanted() }).is_ok());
        let folder = place.0.path().join("none");
        let none = Wanted { folder, ..place.wanted() };
        assert!(matches!(look(&none), Err(LookError::Folder(..))));
    }

    #[test]
    fn what_cannot_be_read_is_told_and_the_rest_is_listed() {
        if rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: nothing is closed to root");
            return;
        }
        let place = Place::new(&["a.raw", "shut/b.raw"]);
        let shut = place.0.path().join("shut");
        std::fs::set_permissions(&shut, PermissionsExt::from_mode(0o000)).unwrap();
        let listing = look(&Wanted { depth: 1, ..place.wanted() }).unwrap();
        std::fs::set_permissions(&shut, PermissionsExt::from_mode(0o700)).unwrap();
        assert_eq!((listing.disks.len(), listing.unread.len()), (1, 1));
        assert_eq!(listing.unread[0].path, shut.to_str().unwrap());
    }

    #[test]
    fn one_file_by_two_names_is_known_for_one() {
        let place = Place::new(&["a.raw", "c.raw"]);
        let at = |name: &str| place.0.path().join(name);
        std::fs::hard_link(at("a.raw"), at("b.raw")).unwrap();
        let listing = look(&place.wanted()).unwrap();
        let of = |n: usize| listing.disks[n].file.clone();
        assert!(of(0) == of(1) && of(1) != of(2), "{listing:?}");
        // What may be the same on two file systems does not tell it.
        let about = |n: usize| std::fs::metadata(&listing.disks[n].path).unwrap();
        assert_eq!(of(0), format!("{}:{}", about(0).dev(), about(0).ino()));
        assert!(!listing.disks[0].identity.contains(&about(0).dev().to_string()));
    }

    #[test]
    fn what_has_become_another_thing_is_neither_followed_nor_waited_for() {
        let place = Place::new(&["secret"]);
        let at = |name: &str| place.0.path().join(name);
        symlink(at("secret"), at("link.raw")).unwrap();
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe.raw"), rustix::fs::Mode::RWXU).unwrap();
        for name in ["link.raw", "pipe.raw"] {
            assert_eq!(image(&at(name)).unwrap(), None, "{name}");
        }
        assert!(image(&at("secret")).unwrap().is_some());
    }

    #[test]
    fn of_more_mounts_than_are_told_nothing_is_known() {
        let place = Place::new(&[]);
        let wanted = place.wanted();
        let (names, except, listing) = (Vec::new(), Vec::new(), Listing::default());
        let mut walk = Walk { wanted: &wanted, names, except, seen: 0, listing };
        (0..MOST_MOUNTS).for_each(|n| walk.mount(&format!("/srv/{n}")));
        walk.mount("/srv/7");
        assert!(walk.listing.unread.is_empty());
        walk.mount("/srv/one-more");
        walk.mount("/srv/and-another");
        let listing = walk.listing;
        assert_eq!((listing.mounts.len(), listing.unread.len()), (MOST_MOUNTS, 1));
        assert_eq!(Path::new(&listing.unread[0].path), wanted.folder);
    }

    #[test]
    fn sizes_are_those_that_guests_see() {
        let mut head = vec![0; 64];
        head[..4].copy_from_slice(b"QFI\xFB");
        head[24..32].copy_from_slice(&(5u64 << 30).to_be_bytes());
        assert_eq!(virtual_size(Format::Qcow2, &head, &[]), Some(5 << 30));
        assert_eq!(virtual_size(Format::Qcow2, &head[..20], &[]), None);
        let mut vmdk = vec![0; 64];
        vmdk[..4].copy_from_slice(b"KDMV");
        vmdk[12..20].copy_from_slice(&u64::MAX.to_le_bytes());
        assert_eq!(virtual_size(Format::Vmdk, &vmdk, &[]), None);
        let place = Place::new(&["a.raw"]);
        std::fs::write(place.0.path().join("b.img"), &head).unwrap();
        let disks = look(&place.wanted()).unwrap().disks;
        assert_eq!((disks[0].size_bytes, &*disks[0].format), (5, "raw"));
        assert_eq!((disks[1].size_bytes, &*disks[1].format), (5 << 30, "qcow2"));
    }

    #[test]
    fn devices_are_found_by_patterns_and_files_are_none() {
        let wanted = Wanted {
            folder: "/dev".into(),
            devices: true,
            names: vec!["null".into(), "loop*".into()],
            most: 1000,
            ..Wanted::default()
        };
        let listing = look(&wanted).unwrap();
        assert!(listing.disks.iter().all(|disk| disk.path.starts_with("/dev/loop")), "{listing:?}");
    }

    #[test]
    fn where_a_folder_is_mounted_is_told() {
        let listing = look(&Wanted { folder: "/proc".into(), ..Wanted::default() });
        assert_eq!(listing.unwrap().mounted_on, "/proc");
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let within = |line: &str| {
            let at = line.split(' ').nth(4)?.to_owned();
            let one = at.strip_prefix("/dev/").is_some_and(|way| !way.contains('/'));
            (one && Path::new(&at).is_dir()).then_some(at)
        };
        let wanted: BTreeSet<String> = table.lines().filter_map(within).collect();
        let names = vec!["nothing".into()];
        let dev = Wanted { folder: "/dev".into(), depth: 1, names, ..Wanted::default() };
        assert_eq!(look(&dev).unwrap().mounts, wanted);
    }
}

//! Looking at the files of a mount on this node.
//!
//! # Invariants
//!
//! * The kernel resolves each path below the folder of the mount, and crosses neither into another
//!   file system nor up: no link, however it is made, leads out (`openat2`).
//! * A folder on which nothing is mounted (any more) is not told of.
//! * Memory is bounded: a folder is read to its end, and only the entries that were asked for stay.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use data_encoding::BASE64;
use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, fstatfs, open, openat2,
    readlinkat, statat,
};
use rustix::io::Errno;
use sluice_node_api::{
    FileEntry, FileKind, LARGEST_PIECE, Look, LookAnswer, LookOrder, MOST_ENTRIES, Unseen, escaped,
    unescaped,
};

/// What `statfs` says of a file system by FUSE.
const FUSE: u64 = 0x6573_5546;

/// Why something is not told.
type No = (Unseen, String);

/// Looks at what is mounted on a folder by FUSE.
pub(super) fn at(folder: &Path, order: &LookOrder) -> LookAnswer {
    let nothing = || (Unseen::NotMounted, "the mount is not there now".to_owned());
    let root = open(folder, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let is_mounted = |root: &OwnedFd| fstatfs(root).is_ok_and(|of| of.f_type as u64 == FUSE);
    match root.ok().filter(is_mounted) {
        Some(root) => below(&root, order),
        None => refused(nothing()),
    }
}

/// What is said when nothing else can be.
pub(super) fn refused((why, message): No) -> LookAnswer {
    LookAnswer::Refused { why, message }
}

/// Looks below an open folder.
fn below(root: &OwnedFd, order: &LookOrder) -> LookAnswer {
    let path = match unescaped(&order.path) {
        Ok(path) => path,
        Err(why) => return refused((Unseen::Unfit, why.to_owned())),
    };
    // The mount itself is the path of no parts.
    let mut own = Vec::with_capacity(path.len());
    for part in path.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && part != b".") {
        if !own.is_empty() {
            own.push(b'/');
        }
        own.extend_from_slice(part);
    }
    let told = match &order.what {
        Look::Stat {} => stat(root, &own),
        Look::Open {} => opened(root, &own).map(|(_, entry)| LookAnswer::Entry { entry }),
        Look::List { after, limit } => list(root, &own, after.as_deref(), *limit),
        Look::Read { offset, length } => read(root, &own, *offset, *length),
    };
    told.unwrap_or_else(refused)
}

fn no(error: Errno) -> No {
    match error {
        Errno::NOENT => (Unseen::Missing, "there is nothing of that name".to_owned()),
        Errno::XDEV | Errno::LOOP => (Unseen::Unfit, "it leads out of the mount".to_owned()),
        Errno::NOTDIR => (Unseen::Unfit, "it is no folder".to_owned()),
        error => (Unseen::Failed, format!("it cannot be read: {error}")),
    }
}

/// Opens a path below the mount, and nowhere else.
fn inside(root: &OwnedFd, path: &[u8], flags: OFlags) -> Result<OwnedFd, No> {
    let path = if path.is_empty() { &b"."[..] } else { path };
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | ResolveFlags::NO_XDEV;
    let mut flags = flags | OFlags::CLOEXEC;
    // A pipe or a device is opened without waiting for anybody, and closed again. What is only
    // named is not opened, and takes no such flags.
    if !flags.contains(OFlags::PATH) {
        flags |= OFlags::NONBLOCK | OFlags::NOCTTY;
    }
    openat2(root, path, flags, Mode::empty(), within).map_err(no)
}

fn name_of(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or_default()
}

fn entry(name: &[u8], stat: &Stat, target: Option<String>) -> FileEntry {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => FileKind::File,
        FileType::Directory => FileKind::Folder,
        FileType::Symlink => FileKind::Link,
        _ => FileKind::Other,
    };
    let seconds = u64::try_from(stat.st_mtime).unwrap_or(0);
    let nanos = stat.st_mtime_nsec;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    FileEntry {
        name: escaped(name),
        kind,
        size,
        modified_ms: seconds.saturating_mul(1000),
        target,
        version: format!("{size:x}-{seconds:x}-{nanos:x}"),
    }
}

/// Where a link leads; that is only told, and not gone to.
fn target(folder: &OwnedFd, name: &[u8], stat: &Stat) -> Option<String> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        return None;
    }
    readlinkat(folder, name, Vec::new()).ok().map(|to| escaped(to.to_bytes()))
}

fn stat(root: &OwnedFd, path: &[u8]) -> Result<LookAnswer, No> {
    let found = inside(root, path, OFlags::PATH | OFlags::NOFOLLOW)?;
    let stat = fstat(&found).map_err(no)?;
    let target = target(&found, b"", &stat);
    Ok(LookAnswer::Entry { entry: entry(name_of(path), &stat, target) })
}

/// A file that can be read.
fn opened(root: &OwnedFd, path: &[u8]) -> Result<(OwnedFd, FileEntry), No> {
    let found = inside(root, path, OFlags::RDONLY)?;
    let stat = fstat(&found).map_err(no)?;
    let entry = entry(name_of(path), &stat, None);
    match entry.kind {
        FileKind::File => Ok((found, entry)),
        _ => Err((Unseen::Unfit, "it is no file".to_owned())),
    }
}

fn read(root: &OwnedFd, path: &[u8], offset: u64, length: u32) -> Result<LookAnswer, No> {
    let (file, entry) = opened(root, path)?;
    let file = File::from(file);
    // The kernel counts bytes of files with a sign.
    let room = (i64::MAX as u64).saturating_sub(offset).min(length.min(LARGEST_PIECE).into());
    let mut bytes = vec![0; room as usize];
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset.saturating_add(done as u64)) {
            Ok(0) => break,
            Ok(many) => done += many,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err((Unseen::Failed, format!("it cannot be read: {error}"))),
        }
    }
    let bytes = BASE64.encode(&bytes[..done]);
    Ok(LookAnswer::Piece { version: entry.version, bytes })
}

fn list(root: &OwnedFd, path: &[u8], after: Option<&str>, limit: u32) -> Result<LookAnswer, No> {
    let folder = inside(root, path, OFlags::RDONLY | OFlags::DIRECTORY)?;
    let after = match after.map(unescaped).transpose() {
        Ok(after) => after.unwrap_or_default(),
        Err(why) => return Err((Unseen::Unfit, why.to_owned())),
    };
    let limit = limit.clamp(1, MOST_ENTRIES) as usize;
    let mut first = BTreeMap::new();
    let mut more = false;
    for found in Dir::read_from(&folder).map_err(no)? {
        let found = found.map_err(no)?;
        let name = found.file_name().to_bytes();
        if [&b"."[..], b".."].contains(&name) || name <= after.as_slice() {
            continue;
        }
        first.insert(name.to_vec(), ());
        if first.len() > limit {
            first.pop_last();
            more = true;
        }
    }
    let entries = first.into_keys().filter_map(|name| {
        // One that is gone by now is not there.
        let stat = statat(&folder, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW).ok()?;
        let target = target(&folder, &name, &stat);
        Some(entry(&name, &stat, target))
    });
    Ok(LookAnswer::Folder { entries: entries.collect(), more })
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::symlink;

    use super::*;

    fn ask(folder: &Path, path: &str, what: Look) -> LookAnswer {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = open(folder, flags, Mode::empty()).unwrap();
        let order = LookOrder { id: "l".into(), mount: "m".into(), path: path.into(), what };
        below(&root, &order)
    }

    fn names(answer: &LookAnswer) -> Vec<&str> {
        let LookAnswer::Folder { entries, .. } = answer else { panic!("{answer:?}") };
        entries.iter().map(|entry| entry.name.as_str()).collect()
    }

    fn list(after: Option<&str>, limit: u32) -> Look {
        Look::List { after: after.map(str::to_owned), limit }
    }

    fn unseen(answer: &LookAnswer) -> Option<Unseen> {
        match answer {
            LookAnswer::Refused { why, .. } => Some(*why),
            _ => None,
        }
    }

    fn piece(answer: LookAnswer) -> Vec<u8> {
        let LookAnswer::Piece { bytes, .. } = answer else { panic!("{answer:?}") };
        BASE64.decode(bytes.as_bytes()).unwrap()
    }

    #[test]
    fn folders_are_told_in_parts_whatever_their_names_are() {
        let base = tempfile::tempdir().unwrap();
        for name in [&b"b"[..], b"\xff", b"a%", b"c\nd"] {
            std::fs::write(base.path().join(OsStr::from_bytes(name)), name).unwrap();
        }
        let all = ask(base.path(), "/", list(None, 10));
        assert_eq!(names(&all), ["a%25", "b", "c%0Ad", "%FF"]);
        let part = ask(base.path(), "", list(Some("a%25"), 2));
        assert_eq!(names(&part), ["b", "c%0Ad"]);
        assert!(matches!(part, LookAnswer::Folder { more: true, .. }));
        let last = ask(base.path(), "", list(Some("c%0Ad"), 2));
        assert!(matches!(last, LookAnswer::Folder { more: false, .. }));
        let read = Look::Read { offset: 0, length: 9 };
        assert_eq!(piece(ask(base.path(), "/%FF", read)), b"\xff");
    }

    #[test]
    fn a_piece_is_what_there_is_of_it() {
        let base = tempfile::tempdir().unwrap();
        std::fs::create_dir(base.path().join("in")).unwrap();
        std::fs::write(base.path().join("in/f"), "0123456789").unwrap();
        let at = |offset, length| ask(base.path(), "in/f", Look::Read { offset, length });
        assert_eq!(piece(at(3, 4)), b"3456");
        assert_eq!(piece(at(8, u32::MAX)), b"89");
        assert!(piece(at(10, 1)).is_empty() && piece(at(u64::MAX, 1)).is_empty());
        let told = ask(base.path(), "in/f", Look::Stat {});
        let LookAnswer::Entry { entry } = told else { panic!("{told:?}") };
        assert_eq!((&*entry.name, entry.kind, entry.size), ("f", FileKind::File, 10));
    }

    #[test]
    fn no_link_leads_out() {
        let base = tempfile::tempdir().unwrap();
        let (mount, out) = (base.path().join("mount"), base.path().join("secret"));
        std::fs::create_dir(&mount).unwrap();
        std::fs::write(&out, "hush").unwrap();
        std::fs::write(mount.join("own"), "mine").unwrap();
        symlink("../secret", mount.join("up")).unwrap();
        symlink(&out, mount.join("whole")).unwrap();
        symlink("..", mount.join("above")).unwrap();
        symlink("own", mount.join("within")).unwrap();
        symlink("/proc/self/root", mount.join("magic")).unwrap();
        let read = || Look::Read { offset: 0, length: 9 };
        for path in ["up", "whole", "above/secret", "../secret", "%2E%2E/secret", "magic/etc"] {
            let told = ask(&mount, path, read());
            assert_eq!(unseen(&told), Some(Unseen::Unfit), "{path}: {told:?}");
        }
        assert_eq!(unseen(&ask(&mount, "above", list(None, 9))), Some(Unseen::Unfit));
        assert_eq!(piece(ask(&mount, "within", read())), b"mine");
        let told = ask(&mount, "up", Look::Stat {});
        let LookAnswer::Entry { entry } = told else { panic!("{told:?}") };
        assert_eq!((entry.kind, entry.target.as_deref()), (FileKind::Link, Some("../secret")));
        assert_eq!(unseen(&ask(&mount, "none", read())), Some(Unseen::Missing));
        assert_eq!(unseen(&ask(&mount, "/", read())), Some(Unseen::Unfit));
    }

    #[test]
    fn a_folder_on_which_nothing_is_mounted_is_not_told_of() {
        let base = tempfile::tempdir().unwrap();
        std::fs::write(base.path().join("own"), "").unwrap();
        let path = String::new();
        let order = LookOrder { id: "l".into(), mount: "m".into(), path, what: list(None, 9) };
        assert_eq!(unseen(&at(base.path(), &order)), Some(Unseen::NotMounted));
        assert_eq!(unseen(&at(&base.path().join("none"), &order)), Some(Unseen::NotMounted));
    }
}

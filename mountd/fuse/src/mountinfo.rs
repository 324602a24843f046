//! What is mounted, as the kernel tells it without asking any file system.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// A file system on a mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mounted {
    /// Number of its device, as `MAJOR:MINOR`: tells apart what was mounted on one folder.
    pub(crate) device: String,
    /// Where it is mounted.
    pub(crate) path: PathBuf,
    /// Its type, such as `fuse` or `fuse.NAME`.
    pub(crate) kind: String,
}

impl Mounted {
    /// Whether a process serves it.
    pub(crate) fn is_fuse(&self) -> bool {
        self.kind == "fuse" || self.kind.starts_with("fuse.")
    }
}

/// What is mounted on `path`, the topmost last.
pub(crate) fn on(path: &Path) -> io::Result<Vec<Mounted>> {
    // Bytes, not text: a path need not be UTF-8.
    let bytes = std::fs::read("/proc/self/mountinfo")?;
    let mounts = bytes.split(|byte| *byte == b'\n').filter_map(parse);
    Ok(mounts.filter(|mounted| mounted.path == path).collect())
}

/// What lies on top of `path`, if it is a mount point.
pub(crate) fn top(path: &Path) -> io::Result<Option<Mounted>> {
    Ok(on(path)?.pop())
}

/// `ID PARENT MAJOR:MINOR ROOT PATH OPTIONS [TAG...] - TYPE SOURCE OPTIONS`
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|byte| *byte == b' ');
    let device = String::from_utf8(fields.nth(2)?.to_vec()).ok()?;
    let path = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
    fields.find(|field| *field == b"-")?;
    let kind = String::from_utf8_lossy(fields.next()?).into_owned();
    Some(Mounted { device, path, kind })
}

/// Turns `\040` and the like back into bytes.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let digits = tail.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_parsed_with_its_escapes_and_tags() {
        let line = b"36 35 0:52 / /mnt/a\\040b\\134 rw,noatime shared:1 - fuse.x src ro";
        let found = parse(line).unwrap();
        assert_eq!((found.device.as_str(), found.kind.as_str()), ("0:52", "fuse.x"));
        assert_eq!(found.path, Path::new("/mnt/a b\\"));
        assert!(found.is_fuse());
    }

    #[test]
    fn lines_that_are_no_mounts_are_passed_over() {
        for line in [&b""[..], b"36 35", b"36 35 0:52 / /mnt rw", b"\xFF \xFF \xFF / / rw - x y"] {
            assert_eq!(parse(line), None);
        }
    }

    #[test]
    fn the_root_is_mounted() {
        let root = top(Path::new("/")).unwrap().unwrap();
        assert!(!root.is_fuse() && root.device.contains(':'));
    }
}

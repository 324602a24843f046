//! What is said about the files of a mount: a server that is asked for them asks the node.
//!
//! A node waits at the server for questions, as it waits for tasks, and answers each by a request
//! of its own. An answer is bounded: a part of a folder, or a piece of a file.

use serde::{Deserialize, Serialize};

/// The most of a file in one answer, in bytes. With what is around it, it fits into a request.
pub const LARGEST_PIECE: u32 = 1 << 20;
/// The most entries of a folder in one answer.
pub const MOST_ENTRIES: u32 = 1000;
/// The longest path, in bytes.
const LONGEST_PATH: usize = 4096;

/// A question about a mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LookOrder {
    /// Names the question.
    pub id: String,
    /// The mount's id at the server.
    pub mount: String,
    /// Where below the mount, as [`escaped`].
    pub path: String,
    /// What is wanted of it.
    pub what: Look,
}

/// What is wanted of a path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Look {
    /// What it is; links are not followed.
    Stat {},
    /// What a folder holds, in the order of the bytes of names.
    List {
        /// Behind this name, as [`escaped`]; from the beginning without.
        #[serde(default)]
        after: Option<String>,
        /// So many at most.
        limit: u32,
    },
    /// What a file is; links within the mount are followed.
    Open {},
    /// A piece of a file; as much as there is, if that is less.
    Read {
        /// Where it begins, in bytes.
        offset: u64,
        /// How long it is, in bytes.
        length: u32,
    },
}

/// What a node says to a question.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum LookAnswer {
    /// What it is.
    Entry {
        /// That.
        entry: FileEntry,
    },
    /// A part of a folder.
    Folder {
        /// What is in it.
        entries: Vec<FileEntry>,
        /// Whether there is more behind it.
        more: bool,
    },
    /// A piece of a file.
    Piece {
        /// Which file it is of, as [`FileEntry::version`].
        version: String,
        /// The bytes, as base64.
        bytes: String,
    },
    /// There is no such thing, or it is not told.
    Refused {
        /// Why.
        why: Unseen,
        /// The same, for people.
        message: String,
    },
}

/// Why something of a mount is not told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unseen {
    /// There is nothing of that name.
    Missing,
    /// It is something else, or leads out of the mount.
    Unfit,
    /// The node does not have the mount now.
    NotMounted,
    /// It cannot be read.
    #[serde(other)]
    Failed,
}

/// A file, folder or link.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileEntry {
    /// Its name, as [`escaped`]; empty for the mount itself.
    pub name: String,
    /// What it is.
    pub kind: FileKind,
    /// In bytes.
    pub size: u64,
    /// When it was changed, in milliseconds since 1970.
    pub modified_ms: u64,
    /// Where a link leads, as [`escaped`].
    pub target: Option<String>,
    /// Another when the file is another.
    pub version: String,
}

/// What something is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileKind {
    /// A file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// Something else.
    #[default]
    #[serde(other)]
    Other,
}

/// A name or path as text: `%` and two digits stand for a byte that is `%`, is no part of UTF-8, or
/// is a control character. Every path has one such text of its own.
pub fn escaped(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '%' || c.is_control() {
                let mut own = [0; 4];
                escape(c.encode_utf8(&mut own).as_bytes(), &mut text);
            } else {
                text.push(c);
            }
        }
        escape(chunk.invalid(), &mut text);
    }
    text
}

fn escape(bytes: &[u8], text: &mut String) {
    for byte in bytes {
        text.push_str(&format!("%{byte:02X}"));
    }
}

/// The bytes of a path that was [`escaped`].
///
/// # Errors
/// In words, when that is no path: it leads up, has a NUL, is too long, or `%` without digits.
pub fn unescaped(text: &str) -> Result<Vec<u8>, &'static str> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digit = |at: usize| Some(char::from(*behind.get(at)?).to_digit(16)? as u8);
        let (Some(high), Some(low)) = (digit(0), digit(1)) else {
            return Err("in a path, % stands before two digits; write %25 for itself");
        };
        bytes.push(high << 4 | low);
        rest = &behind[2..];
    }
    if bytes.contains(&0) || bytes.len() > LONGEST_PATH {
        return Err("a path has 4096 bytes at most, and no NUL");
    }
    if bytes.split(|byte| *byte == b'/').any(|part| part == b"..") {
        return Err("a path does not lead up");
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_come_back_from_their_text() {
        let odd: Vec<u8> = (1..=255).filter(|byte| *byte != b'/').collect();
        for name in [&b"web-1.raw"[..], "é 50%".as_bytes(), b"\xff\xfe", b"a\nb", &odd, b""] {
            assert_eq!(unescaped(&escaped(name)).unwrap(), name);
        }
        assert_eq!(escaped("é 50%\n".as_bytes()), "é 50%25%0A");
        assert_eq!(escaped(b"\xff/a"), "%FF/a");
        assert_ne!(escaped(b"%41"), escaped(b"A"));
    }

    #[test]
    fn what_is_no_path_below_a_mount_is_refused() {
        for bad in ["%", "%4", "%zz", "%00", "..", "a/../b", "a/%2E%2E", "é%", &"x".repeat(5000)] {
            assert!(unescaped(bad).is_err(), "{bad}");
        }
        assert!(unescaped("/a/..b/...").is_ok());
    }
}

//! What a restore has done, in a file that outlives it.
//!
//! A first line names image and target; then comes a line for each leaf that is durable: its number
//! twice. A disk that fills up or a loss of power may leave any part of what was appended.
//!
//! # Invariants
//!
//! * A line counts only as a whole, with its end: no part of one, and no two run together, say a
//!   number twice. So what was never written counts as not done, and is written again.
//! * Nothing is appended behind a line without its end: going on cuts it off.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

/// After so many bytes the target is flushed and the journal extended.
const CHECKPOINT: u64 = 1 << 30;

#[derive(Debug)]
pub(super) struct Journal {
    path: Option<PathBuf>,
    /// Leaves that need not be written again.
    pub(super) done: HashSet<u64>,
    /// Leaves written and not flushed yet, and their bytes.
    pending: Mutex<(Vec<u64>, u64)>,
}

impl Journal {
    /// Goes on with the journal under `path` if it begins with the line `head`, else begins one.
    pub(super) fn open(path: Option<PathBuf>, head: &str) -> io::Result<Self> {
        let done = path.as_deref().map(|path| begin(path, head)).transpose()?.unwrap_or_default();
        Ok(Self { path, done, pending: Mutex::default() })
    }

    /// Takes note of a written leaf; whether it is time to flush.
    pub(super) fn note(&self, leaf: u64, bytes: u64) -> bool {
        if self.path.is_none() {
            return false;
        }
        let mut pending = self.pending.lock();
        pending.0.push(leaf);
        pending.1 += bytes;
        if pending.1 < CHECKPOINT {
            return false;
        }
        pending.1 = 0;
        true
    }

    pub(super) fn take_pending(&self) -> Vec<u64> {
        std::mem::take(&mut self.pending.lock().0)
    }

    /// Remembers leaves, which must be durable.
    pub(super) fn append(&self, leaves: &[u64]) -> io::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let text: String = leaves.iter().map(|leaf| format!("{leaf} {leaf}\n")).collect();
        let mut file = File::options().append(true).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_data()
    }

    pub(super) fn remove(&self) {
        if let Some(path) = &self.path {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Whether a journal that begins with the line `head` is under `path`.
pub(super) fn begins_with(path: &Path, head: &str) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| after_head(&text, head).is_some())
}

fn after_head<'t>(text: &'t str, head: &str) -> Option<&'t str> {
    text.strip_prefix(head)?.strip_prefix('\n')
}

fn begin(path: &Path, head: &str) -> io::Result<HashSet<u64>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        // Bytes that never were a journal's, as power cuts leave them.
        Err(error) if error.kind() == io::ErrorKind::InvalidData => String::new(),
        text => text?,
    };
    let Some(lines) = after_head(&text, head) else {
        std::fs::write(path, format!("{head}\n"))?;
        return Ok(HashSet::new());
    };
    let whole = lines.rfind('\n').map_or(0, |at| at + 1);
    if whole < lines.len() {
        let length = head.len() + 1 + whole;
        File::options().write(true).open(path)?.set_len(length as u64)?;
    }
    Ok(lines[..whole].lines().filter_map(leaf_of).collect())
}

/// The leaf that a whole line names.
fn leaf_of(line: &str) -> Option<u64> {
    let (leaf, again) = line.split_once(' ')?;
    (leaf == again).then(|| leaf.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "sluice restore 1 2 3";

    fn open(path: &Path) -> Journal {
        Journal::open(Some(path.to_owned()), HEAD).unwrap()
    }

    fn done(path: &Path) -> Vec<u64> {
        let mut done: Vec<u64> = open(path).done.into_iter().collect();
        done.sort_unstable();
        done
    }

    #[test]
    fn a_journal_goes_on_where_any_byte_of_it_was_the_last() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        open(&path).append(&[0, 11, 1, 1111]).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for end in 0..=whole.len() {
            std::fs::write(&path, &whole[..end]).unwrap();
            let before = done(&path);
            assert_eq!(before.len() == 4, end == whole.len());
            assert!(before.iter().all(|leaf| [0, 11, 1, 1111].contains(leaf)), "{before:?}");
            open(&path).append(&[15, 1]).unwrap();
            let mut expected = [before, vec![15, 1]].concat();
            expected.sort_unstable();
            expected.dedup();
            assert_eq!(done(&path), expected, "cut at {end}");
        }
    }

    #[test]
    fn lines_that_ran_together_count_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        // As versions before left them, and what they appended behind a cut.
        for lines in ["0\n1115\n", "1115 115\n", "1 1 1\n", "1 \n", " \n", "\n", "1 115 15\n"] {
            std::fs::write(&path, format!("{HEAD}\n{lines}")).unwrap();
            assert_eq!(done(&path), [0; 0], "{lines:?}");
        }
        std::fs::write(&path, format!("{HEAD}\n\0\0\0\x001 1\n2 2\n")).unwrap();
        assert_eq!(done(&path), [2]);
        std::fs::write(&path, b"sluice \xFF\n1 1\n").unwrap();
        assert_eq!(done(&path), [0; 0]);
        assert!(begins_with(&path, HEAD));
    }
}

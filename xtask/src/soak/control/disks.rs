//! Disks that say which version they are.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};

use crate::soak::model::mix;

const DISK: usize = 1 << 20;
const BLOCK: usize = 64 << 10;

/// The disks of all instances.
#[derive(Debug)]
pub(super) struct Disks {
    folder: PathBuf,
    /// Of each disk, when which version was there for sure, in milliseconds since 1970.
    history: Vec<Mutex<Vec<(u64, u64)>>>,
}

/// What time it is, in milliseconds since 1970.
fn now_ms() -> u64 {
    let since = UNIX_EPOCH.elapsed().unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The content of a version: a block changes in one of four.
fn content(disk: usize, version: u64) -> Vec<u8> {
    let mut bytes = vec![0; DISK];
    for (number, block) in bytes.chunks_mut(BLOCK).enumerate() {
        let number = number as u64;
        let since = version.saturating_sub(mix(number, 77) % 4) / 4;
        let mut state = mix(mix(number, since), disk as u64) | 1;
        for (at, word) in block.chunks_exact_mut(8).enumerate() {
            if at % 4 == 0 {
                state = mix(state, at as u64);
            }
            word.copy_from_slice(&state.to_le_bytes());
        }
    }
    bytes[..8].copy_from_slice(&version.to_le_bytes());
    bytes
}

impl Disks {
    pub(super) fn new(folder: &Path, many: usize) -> Result<Self> {
        let folder = folder.join("disks");
        std::fs::create_dir_all(&folder)?;
        let history = (0..many).map(|_| Mutex::default()).collect();
        let disks = Self { folder, history };
        for disk in 0..many {
            disks.change(disk)?;
        }
        Ok(disks)
    }

    pub(super) fn name(disk: usize) -> String {
        format!("vm-{disk}")
    }

    pub(super) fn path(&self, disk: usize) -> PathBuf {
        self.folder.join(format!("{}.raw", Self::name(disk)))
    }

    pub(super) fn len(&self) -> usize {
        self.history.len()
    }

    /// Puts the next version in the place of the last one, at once.
    pub(super) fn change(&self, disk: usize) -> Result<()> {
        let mut history = self.history[disk].lock().unwrap_or_else(PoisonError::into_inner);
        let version = history.last().map_or(1, |(_, version)| version + 1);
        let new = self.folder.join(format!("{}.new", Self::name(disk)));
        std::fs::write(&new, content(disk, version))?;
        std::fs::rename(&new, self.path(disk))?;
        history.push((now_ms(), version));
        Ok(())
    }

    /// Fails unless this is a version of the disk that was there at some time between two
    /// moments.
    pub(super) fn check(&self, disk: usize, bytes: &[u8], from: u64, until: u64) -> Result<()> {
        let head = bytes.get(..8).and_then(|head| head.try_into().ok());
        let version = u64::from_le_bytes(head.context("it is too short")?);
        if bytes != content(disk, version) {
            bail!("its bytes are not those of version {version}");
        }
        let history = self.history[disk].lock().unwrap_or_else(PoisonError::into_inner);
        // The version before the first moment is the oldest that could be read; the one after the
        // last may have been there before its time was noted.
        let at = |time| history.partition_point(|(since, _)| *since <= time) as u64;
        let (oldest, newest) = (at(from), at(until) + 1);
        if !(oldest..=newest).contains(&version) {
            bail!("it has version {version} where {oldest} to {newest} were there");
        }
        Ok(())
    }
}

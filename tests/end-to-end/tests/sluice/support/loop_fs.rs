//! A file system of its own in a file: of a kind that the machine may not have.

use std::path::{Path, PathBuf};

use super::disk::{self, MIB};
use super::run::Cmd;

/// A mounted file system; unmounted when dropped.
pub struct LoopFs {
    at: PathBuf,
}

impl LoopFs {
    /// Makes one with this program and mounts it at a new folder. Nothing when this may not be done
    /// here.
    pub fn new(make: &[&str], folder: &Path, name: &str) -> Option<Self> {
        let (file, at) = (folder.join(format!("{name}.img")), folder.join(name));
        // The smallest that mkfs.xfs makes is 300 MiB; the file is sparse.
        disk::create(&file, 320 * MIB);
        std::fs::create_dir(&at).unwrap();
        Cmd::new(make[0]).args(&make[1..]).arg(&file).ok();
        let ran = Cmd::new("mount").args(["-o", "loop"]).arg(&file).arg(&at).run();
        if ran.code != Some(0) {
            eprintln!("SKIPPED: no loop mounts here (root is needed): {}", ran.err.trim());
            return None;
        }
        Some(Self { at })
    }

    /// One whose files may share blocks.
    pub fn xfs(folder: &Path) -> Option<Self> {
        Self::new(&["mkfs.xfs", "-q", "-m", "reflink=1"], folder, "xfs")
    }

    /// One whose files may not.
    pub fn ext4(folder: &Path) -> Option<Self> {
        Self::new(&["mke2fs", "-q", "-t", "ext4"], folder, "ext4")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.at.join(name)
    }
}

impl Drop for LoopFs {
    fn drop(&mut self) {
        let _ = Cmd::new("umount").arg("--lazy").arg(&self.at).run();
    }
}

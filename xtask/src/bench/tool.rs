//! What every tool of the comparison can be asked to do.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::data::DataSet;
use super::measure::Run;
use crate::host;

/// What is measured, in this order, each on what the one before left behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// An image into an empty repository.
    Full,
    /// The same image once more, reading all of it.
    Rescan,
    /// The similar image under another name.
    Similar,
    /// The first image to a new file.
    Restore,
    /// Every stored byte read back and checked.
    Check,
    /// The similar image removed, and its space given back.
    Prune,
}

impl Step {
    pub const ALL: [Self; 6] =
        [Self::Full, Self::Rescan, Self::Similar, Self::Restore, Self::Check, Self::Prune];

    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "new data",
            Self::Rescan => "unchanged rescan",
            Self::Similar => "similar image",
            Self::Restore => "restore",
            Self::Check => "check of all data",
            Self::Prune => "prune",
        }
    }
}

/// A tool that keeps disk images.
pub trait Tool {
    /// Its name in the table.
    fn name(&self) -> &str;

    /// How it is run here, in half a sentence.
    fn about(&self) -> &str;

    /// The command that prints its version, if there is one.
    fn version(&self) -> Option<Command>;

    /// Creates its repository; not measured.
    ///
    /// # Errors
    /// When that fails.
    fn prepare(&self, place: &Place) -> Result<()>;

    /// How it does a step; nothing when it cannot.
    fn step(&self, step: Step, place: &Place, data: &DataSet) -> Option<Run>;

    /// Where the restored image is after [`Step::Restore`].
    fn restored(&self, place: &Place, data: &DataSet) -> PathBuf;
}

/// The folders of one tool in one round, all new.
#[derive(Debug)]
pub struct Place {
    pub folder: PathBuf,
}

impl Place {
    /// Makes the folders anew.
    pub fn new(folder: PathBuf) -> Result<Self> {
        let place = Self { folder };
        place.remove()?;
        for folder in [place.cache(), place.out()] {
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        std::fs::write(place.passphrase(), "not a secret\n").context("cannot write a file")?;
        Ok(place)
    }

    /// Removes everything.
    pub fn remove(&self) -> Result<()> {
        match std::fs::remove_dir_all(&self.folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", self.folder.display()))
            }
            _ => Ok(()),
        }
    }

    /// Where the tool stores; made by the tool.
    pub fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    /// Its caches.
    pub fn cache(&self) -> PathBuf {
        self.folder.join("cache")
    }

    /// Where it restores to.
    pub fn out(&self) -> PathBuf {
        self.folder.join("out")
    }

    /// A file with the passphrase.
    pub fn passphrase(&self) -> PathBuf {
        self.folder.join("passphrase")
    }

    /// Where the output of what is measured goes.
    pub fn log(&self) -> PathBuf {
        self.folder.join("log")
    }
}

/// A command of these words.
pub fn command<S: AsRef<OsStr>>(
    program: impl AsRef<OsStr>,
    args: impl IntoIterator<Item = S>,
) -> Command {
    let mut command = host::command(program);
    command.args(args);
    command
}

/// One command after another, in the environment and with the words of the first.
pub fn then(first: Command, more: &[&str]) -> Command {
    let script = "first=$1; shift; \"$0\" $first && \"$0\" $@";
    let words: Vec<_> = first.get_args().map(|word| word.to_string_lossy()).collect();
    let mut both = command("sh", ["-c", script]);
    both.arg(first.get_program()).arg(words.join(" ")).args(more);
    for (name, value) in first.get_envs() {
        match value {
            Some(value) => both.env(name, value),
            None => both.env_remove(name),
        };
    }
    both
}

/// `folder` and the absolute path `file` below it, as archivers restore.
pub fn below(folder: &Path, file: &Path) -> PathBuf {
    folder.join(file.strip_prefix("/").unwrap_or(file))
}

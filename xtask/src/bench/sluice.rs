//! Sluice itself: the steps it shares with others.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use super::data::DataSet;
use super::measure::Run;
use super::tool::{Place, Step, Tool, command, then};
use crate::host;

/// The program under test, and an example of the repository that says what opening takes.
#[derive(Debug, Clone)]
pub struct Sluice {
    pub program: PathBuf,
    pub opening: PathBuf,
}

impl Sluice {
    /// A command of `sluice` on this place's repository.
    pub fn command(&self, place: &Place, args: &[&str]) -> Command {
        let mut command = command(&self.program, args);
        command
            .env("SLUICE_REPO", place.repository())
            .env("SLUICE_PASSPHRASE_FILE", place.passphrase())
            .env("SLUICE_CACHE_DIR", place.cache())
            .env_remove("SLUICE_PASSPHRASE");
        command
    }

    /// A backup of `image` as the disk of `instance`.
    pub fn backup(&self, place: &Place, instance: &str, image: &std::path::Path) -> Command {
        let mut command = self.command(place, &["--no-progress", "backup", instance]);
        command.arg(format!("disk={}", image.display()));
        command
    }
}

impl Tool for Sluice {
    fn name(&self) -> &str {
        "sluice"
    }

    fn about(&self) -> &str {
        "AES-256-GCM; zstd 1; blocks of 128 KiB"
    }

    fn version(&self) -> Option<Command> {
        Some(command(&self.program, ["--version"]))
    }

    fn prepare(&self, place: &Place) -> Result<()> {
        host::output(&mut self.command(place, &["init", "--no-recovery-key"])).map(drop)
    }

    fn step(&self, step: Step, place: &Place, data: &DataSet) -> Option<Run> {
        let command = match step {
            Step::Full | Step::Rescan => self.backup(place, "first", &data.image),
            Step::Similar => self.backup(place, "second", &data.similar),
            Step::Restore => {
                let mut command =
                    self.command(place, &["--no-progress", "restore", "first@latest"]);
                command.arg(self.restored(place, data));
                return Some(Run { command, flush: vec![self.restored(place, data)] });
            }
            Step::Check => self.command(place, &["--no-progress", "verify", "--data"]),
            Step::Prune => {
                let forget = self.command(place, &["--no-progress", "forget", "second@latest"]);
                then(forget, &["--no-progress", "collect"])
            }
        };
        Some(command.into())
    }

    fn restored(&self, place: &Place, _: &DataSet) -> PathBuf {
        place.out().join("image.raw")
    }
}

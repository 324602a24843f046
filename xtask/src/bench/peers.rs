//! The other tools, each as its manual recommends for disk images.
//!
//! Those that can encrypt do, because Sluice does; those that would skip a file whose times are
//! as before are told to read it, because a disk has no such times.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::data::DataSet;
use super::measure::Run;
use super::tool::{Place, Step, Tool, below, command, then};
use crate::host;

/// All of them; `rustic` is the program, if there is one.
pub fn all(rustic: Option<PathBuf>) -> Vec<Box<dyn Tool>> {
    let rustic = rustic.map(|program| Box::new(Rustic { program }) as Box<dyn Tool>);
    let mut tools: Vec<Box<dyn Tool>> = vec![Box::new(Restic), Box::new(Borg), Box::new(Casync)];
    tools.extend(rustic);
    tools.push(Box::new(Copier { name: "qemu-img", about: "qcow2, zlib, no key" }));
    tools.push(Box::new(Copier { name: "qemu-img-zstd", about: "qcow2, zstd, no key" }));
    tools.push(Box::new(Copier { name: "zstd", about: "zstd -1 -T0, no key" }));
    tools.push(Box::new(Copier { name: "cp", about: "cp --sparse=always" }));
    tools
}

struct Restic;

impl Restic {
    fn command(place: &Place, args: &[&str]) -> Command {
        let mut command = command("restic", ["--quiet"]);
        command
            .args(args)
            .env("RESTIC_REPOSITORY", place.repository())
            .env("RESTIC_PASSWORD_FILE", place.passphrase())
            .env("RESTIC_CACHE_DIR", place.cache());
        command
    }
}

impl Tool for Restic {
    fn name(&self) -> &str {
        "restic"
    }

    fn about(&self) -> &str {
        "AES-256-CTR, Poly1305; zstd; content-defined chunks"
    }

    fn version(&self) -> Option<Command> {
        Some(command("restic", ["version"]))
    }

    fn prepare(&self, place: &Place) -> Result<()> {
        host::output(&mut Self::command(place, &["init", "--repository-version", "2"])).map(drop)
    }

    fn step(&self, step: Step, place: &Place, data: &DataSet) -> Option<Run> {
        let mut command = match step {
            Step::Full | Step::Similar => Self::command(place, &["backup"]),
            Step::Rescan => Self::command(place, &["backup", "--force"]),
            Step::Restore => Self::command(place, &["restore", "latest", "--path"]),
            Step::Check => return Some(Self::command(place, &["check", "--read-data"]).into()),
            Step::Prune => {
                return Some(Self::command(place, &["forget", "--prune", "latest"]).into());
            }
        };
        command.arg(if step == Step::Similar { &data.similar } else { &data.image });
        if step == Step::Restore {
            command.arg("--target").arg(place.out());
            return Some(Run { command, flush: vec![self.restored(place, data)] });
        }
        Some(command.into())
    }

    fn restored(&self, place: &Place, data: &DataSet) -> PathBuf {
        below(&place.out(), &data.image)
    }
}

struct Rustic {
    program: PathBuf,
}

impl Rustic {
    fn command(&self, place: &Place, args: &[&str]) -> Command {
        let mut command = command(&self.program, args);
        command
            .env("RUSTIC_REPOSITORY", place.repository())
            .env("RUSTIC_PASSWORD_FILE", place.passphrase())
            .env("RUSTIC_CACHE_DIR", place.cache())
            .env("RUSTIC_NO_PROGRESS", "true");
        command
    }
}

impl Tool for Rustic {
    fn name(&self) -> &str {
        "rustic"
    }

    fn about(&self) -> &str {
        "the format of restic; built from its crate"
    }

    fn version(&self) -> Option<Command> {
        Some(command(&self.program, ["--version"]))
    }

    fn prepare(&self, place: &Place) -> Result<()> {
        host::output(&mut self.command(place, &["init"])).map(drop)
    }

    fn step(&self, step: Step, place: &Place, data: &DataSet) -> Option<Run> {
        let mut command = match step {
            Step::Full | Step::Similar => self.command(place, &["backup"]),
            Step::Rescan => self.command(place, &["backup", "--force"]),
            Step::Check => return Some(self.command(place, &["check", "--read-data"]).into()),
            Step::Prune => {
                let words = ["forget", "--prune", "--instant-delete", "latest"];
                return Some(self.command(place, &words).into());
            }
            Step::Restore => {
                let mut command = self.command(place, &["restore", "--sparse", "by-content"]);
                command.arg("--filter-paths-exact").arg(&data.image).arg("latest").arg(place.out());
                return Some(Run { command, flush: vec![self.restored(place, data)] });
            }
        };
        command.arg(if step == Step::Similar { &data.similar } else { &data.image });
        Some(command.into())
    }

    fn restored(&self, place: &Place, data: &DataSet) -> PathBuf {
        below(&place.out(), &data.image)
    }
}

struct Borg;

impl Borg {
    fn command(place: &Place, args: &[&str]) -> Command {
        let mut command = command("borg", args);
        command
            .env("BORG_REPO", place.repository())
            .env("BORG_PASSPHRASE", "not a secret")
            .env("BORG_BASE_DIR", place.cache());
        command
    }
}

impl Tool for Borg {
    fn name(&self) -> &str {
        "borg"
    }

    fn about(&self) -> &str {
        "AES-256-CTR, BLAKE2; zstd 1; chunks of 4 MiB, holes skipped"
    }

    fn version(&self) -> Option<Command> {
        Some(command("borg", ["--version"]))
    }

    fn prepare(&self, place: &Place) -> Result<()> {
        host::output(&mut Self::command(place, &["init", "--encryption", "repokey-blake2"]))
            .map(drop)
    }

    fn step(&self, step: Step, place: &Place, data: &DataSet) -> Option<Run> {
        let (archive, image) = match step {
            Step::Full => ("::full", &data.image),
            Step::Rescan => ("::rescan", &data.image),
            Step::Similar => ("::similar", &data.similar),
            Step::Check => return Some(Self::command(place, &["check", "--verify-data"]).into()),
            Step::Prune => {
                let delete = Self::command(place, &["delete", "::similar"]);
                return Some(then(delete, &["compact"]).into());
            }
            Step::Restore => {
                let mut command = Self::command(place, &["extract", "--sparse", "::full"]);
                command.current_dir(place.out());
                return Some(Run { command, flush: vec![self.restored(place, data)] });
            }
        };
        let options = ["create", "--compression", "zstd,1", "--files-cache", "disabled"];
        let mut command = Self::command(place, &options);
        command.args(["--chunker-params", "fixed,4194304", "--sparse", archive]).arg(image);
        Some(command.into())
    }

    fn restored(&self, place: &Place, data: &DataSet) -> PathBuf {
        below(&place.out(), &data.image)
    }
}

struct Casync;

impl Tool for Casync {
    fn name(&self) -> &str {
        "casync"
    }

    fn about(&self) -> &str {
        "no key; zstd; content-defined chunks of 64 KiB"
    }

    fn version(&self) -> Option<Command> {
        Some(command("casync", ["--version"]))
    }

    fn prepare(&self, place: &Place) -> Result<()> {
        Ok(std::fs::create_dir_all(place.repository())?)
    }

    fn step(&self, step: Step, place: &Place, data: &DataSet) -> Option<Run> {
        let index = |name: &str| place.repository().join(name);
        let store = format!("--store={}", place.repository().join("store.castr").display());
        let make = |name: &str, image: &Path| {
            let mut command = command("casync", ["make", &store]);
            command.arg(index(name)).arg(image);
            Some(command.into())
        };
        match step {
            Step::Full => make("full.caibx", &data.image),
            Step::Rescan => make("rescan.caibx", &data.image),
            Step::Similar => make("similar.caibx", &data.similar),
            // It reads what it needs, not all there is.
            Step::Check => None,
            Step::Prune => {
                let mut command = command("casync", ["gc", &store]);
                command.arg(index("full.caibx")).arg(index("rescan.caibx"));
                Some(command.into())
            }
            Step::Restore => {
                let mut command = command("casync", ["extract", &store]);
                command.arg(index("full.caibx")).arg(self.restored(place, data));
                Some(Run { command, flush: vec![self.restored(place, data)] })
            }
        }
    }

    fn restored(&self, place: &Place, _: &DataSet) -> PathBuf {
        place.out().join("image.raw")
    }
}

/// A tool that writes one file for one image and knows nothing of others.
struct Copier {
    name: &'static str,
    about: &'static str,
}

impl Copier {
    fn convert(&self, step: Step, from: &Path, to: &Path) -> Command {
        let words: &[&str] = match (self.name, step) {
            ("qemu-img", Step::Full) => &["qemu-img", "convert", "-f", "raw", "-c", "-O", "qcow2"],
            ("qemu-img-zstd", Step::Full) => &[
                "qemu-img",
                "convert",
                "-f",
                "raw",
                "-c",
                "-O",
                "qcow2",
                "-o",
                "compression_type=zstd",
            ],
            ("qemu-img" | "qemu-img-zstd", _) => {
                &["qemu-img", "convert", "-f", "qcow2", "-O", "raw"]
            }
            ("zstd", Step::Full) => &["zstd", "-1", "-T0", "-q", "-f"],
            ("zstd", _) => &["zstd", "-d", "--sparse", "-q", "-f"],
            _ => &["cp", "--sparse=always", "--reflink=never"],
        };
        let mut command = command(words[0], &words[1..]);
        command.arg(from);
        if self.name == "zstd" {
            command.arg("-o");
        }
        command.arg(to);
        command
    }
}

impl Tool for Copier {
    fn name(&self) -> &str {
        self.name
    }

    fn about(&self) -> &str {
        self.about
    }

    fn version(&self) -> Option<Command> {
        let program = if self.name == "qemu-img-zstd" { "qemu-img" } else { self.name };
        Some(command(program, ["--version"]))
    }

    fn prepare(&self, place: &Place) -> Result<()> {
        Ok(std::fs::create_dir_all(place.repository())?)
    }

    fn step(&self, step: Step, place: &Place, data: &DataSet) -> Option<Run> {
        let stored = place.repository().join("image");
        let restored = self.restored(place, data);
        let (from, to) = match step {
            Step::Full => (data.image.clone(), stored),
            Step::Restore => (stored, restored),
            Step::Rescan | Step::Similar | Step::Check | Step::Prune => return None,
        };
        Some(Run { command: self.convert(step, &from, &to), flush: vec![to] })
    }

    fn restored(&self, place: &Place, _: &DataSet) -> PathBuf {
        place.out().join("image.raw")
    }
}

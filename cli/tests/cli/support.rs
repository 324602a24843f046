//! A repository of a test's own, and the executable pointed at it.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// What a test finds in its images: four blocks that differ, a hole, and an odd end.
pub fn content(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; (3 << 20) + 777];
    for (number, block) in bytes.chunks_mut(128 << 10).take(4).enumerate() {
        for (at, byte) in block.iter_mut().enumerate() {
            *byte = (at as u64 * 31 + at as u64 / 255 + number as u64) as u8 ^ seed;
        }
    }
    bytes
}

/// A folder with a repository.
pub struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    /// A folder for a repository that is not created yet.
    pub fn empty() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        place.write("pass", b"open sesame\n");
        place
    }

    /// A folder with an encrypted repository.
    pub fn new() -> Self {
        let place = Self::empty();
        place.ok(&["init", "--no-recovery-key"]);
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The path as an argument.
    pub fn at(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.at(name)
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// The executable, with nothing of this process's surroundings.
    pub fn sluice<S: AsRef<OsStr>>(&self, args: &[S]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command
            .args(args)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("TZ", "UTC")
            .env("HOME", self.folder.path())
            .env("SLUICE_REPO", self.path("repository"))
            .env("SLUICE_PASSPHRASE_FILE", self.path("pass"))
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    #[track_caller]
    pub fn ends<S: AsRef<OsStr>>(&self, code: i32, args: &[S]) -> Ended {
        Ended::of(self.sluice(args)).with(code)
    }

    /// Runs it; it must succeed. What it wrote to stdout.
    #[track_caller]
    pub fn ok(&self, args: &[&str]) -> String {
        self.ends(0, args).out
    }

    /// Runs it with `--json`; the document it wrote.
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let out = self.ends(0, &[args, &["--json", "--no-progress"]].concat()).out;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// Backs up the file as the image `disk` of `vm`; the point's name.
    #[track_caller]
    pub fn backup(&self, file: &str, more: &[&str]) -> String {
        let image = format!("disk={}", self.at(file));
        self.ok(&[&["backup", "vm", &image], more].concat()).trim().to_owned()
    }
}

/// What came of a run.
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn of(mut command: Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: status.code(), out: text(stdout), err: text(stderr) }
    }

    #[track_caller]
    pub fn with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{}{}", self.out, self.err);
        self
    }

    #[track_caller]
    pub fn says(self, part: &str) -> Self {
        assert!(self.err.contains(part), "no {part:?} in: {}", self.err);
        self
    }
}

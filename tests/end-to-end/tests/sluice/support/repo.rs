//! A repository of a test's own, and the executable pointed at it.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tempfile::TempDir;

use super::binary;
use super::run::{Cmd, Ran};
use super::s3::{self, Prefix};

/// Long and odd enough to be found wherever it leaks to.
pub const PASSPHRASE: &str = "correct-horse-7391-battery-staple";

/// A folder for a test's files, and where its repository is.
pub struct Repo {
    dir: TempDir,
    url: String,
    env: Vec<(String, String)>,
    /// Removes what was stored.
    prefix: Option<Prefix>,
}

impl Repo {
    /// A new repository in a folder.
    pub fn new() -> Self {
        let repo = Self::without();
        repo.ok(["init"]);
        repo
    }

    /// A place for a repository in a folder; not created.
    pub fn without() -> Self {
        let dir = tempfile::Builder::new().prefix("sluice-test-").tempdir().unwrap();
        let passphrase = dir.path().join("passphrase");
        fs::write(&passphrase, format!("{PASSPHRASE}\n")).unwrap();
        fs::set_permissions(&passphrase, fs::Permissions::from_mode(0o600)).unwrap();
        let url = dir.path().join("repository").to_str().unwrap().to_owned();
        Self { dir, url, env: Vec::new(), prefix: None }
    }

    /// A new repository on the S3 server.
    pub fn on_s3() -> Self {
        let repo = Self::without_on_s3();
        repo.ok(["init"]);
        repo
    }

    /// A place for a repository on the S3 server; not created.
    pub fn without_on_s3() -> Self {
        let prefix = s3::prefix();
        let repo = Self::without();
        Self { url: prefix.url(), env: prefix.env(), prefix: Some(prefix), ..repo }
    }

    /// A place for a repository in a bucket whose objects can be locked; not created.
    pub fn without_on_locked_s3() -> Option<Self> {
        let prefix = s3::locked_prefix()?;
        let repo = Self::without();
        Some(Self { url: prefix.url(), env: prefix.env(), prefix: Some(prefix), ..repo })
    }

    /// Where the objects lie, of a repository on the S3 server.
    pub fn prefix(&self) -> &Prefix {
        self.prefix.as_ref().expect("the repository is on S3")
    }

    /// The same folder and passphrase with another place for the repository, and more environment.
    pub fn at(self, url: &str, env: Vec<(String, String)>) -> Self {
        let env = self.env.iter().cloned().chain(env).collect();
        Self { url: url.to_owned(), env, ..self }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The folder with everything of this test.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the objects lie, of a repository in a folder.
    pub fn folder(&self) -> PathBuf {
        PathBuf::from(&self.url)
    }

    /// The executable with arguments, in an environment of its own.
    pub fn sluice(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Cmd {
        self.sluice_at(binary::path(), args)
    }

    /// The same from another place.
    pub fn sluice_at(
        &self,
        executable: &Path,
        args: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> Cmd {
        let mut cmd = Cmd::new(executable).args(args);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy();
            if ["SLUICE_", "AWS_", "OS_", "ST_"].iter().any(|prefix| name.starts_with(prefix)) {
                cmd = cmd.without_env(&name);
            }
        }
        for (name, value) in &self.env {
            cmd = cmd.env(name, value);
        }
        cmd.env("SLUICE_REPO", &self.url)
            .env("SLUICE_PASSPHRASE_FILE", self.path("passphrase"))
            .env("HOME", self.path("home"))
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("XDG_STATE_HOME", self.path("state"))
            .env("XDG_RUNTIME_DIR", self.path("home"))
            .env("TZ", "UTC")
    }

    /// Runs the executable; it must succeed.
    #[track_caller]
    pub fn ok(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        self.sluice(args).run().ended(0)
    }

    /// Runs the executable; it must end with this code.
    #[track_caller]
    pub fn fails(&self, code: i32, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Ran {
        self.sluice(args).run().ended(code)
    }

    /// Runs the executable with `--json`; its one document.
    #[track_caller]
    pub fn json(&self, args: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Value {
        self.sluice(args).args(["--json", "--no-progress"]).run().ended(0).json()
    }

    /// Backs up one image of the instance `vm`; the new point, as `vm@ID`.
    #[track_caller]
    pub fn backup(&self, image: impl AsRef<Path>) -> String {
        self.backup_with(image, &[])
    }

    /// The same with more arguments.
    #[track_caller]
    pub fn backup_with(&self, image: impl AsRef<Path>, more: &[&str]) -> String {
        let image = image.as_ref().to_str().unwrap();
        self.ok([&["backup", "vm", image], more].concat());
        self.points("vm").pop().unwrap()
    }

    /// What a point's backup did.
    #[track_caller]
    pub fn stats(&self, point: &str) -> Stats {
        let shown = self.json(["show", point]);
        let shown = shown.get("point").filter(|point| point.is_object()).unwrap_or(&shown);
        let figure = |name: &str| shown["stats"][name].as_u64().unwrap();
        Stats { read: figure("read_bytes"), new: figure("new_bytes"), dedup: figure("dedup_bytes") }
    }

    /// All points of an instance, the oldest first, as `INSTANCE@ID`.
    #[track_caller]
    pub fn points(&self, instance: &str) -> Vec<String> {
        let list = self.json(["list", instance]);
        let points = list["points"].as_array().expect("a list of points");
        let names = points.iter().map(|point| point["point"].as_str().unwrap().to_owned());
        let mut names: Vec<_> = names.collect();
        // Ids start with the time.
        names.sort();
        names
    }

    /// The image is exactly `expected`, by way of `restore`.
    #[track_caller]
    pub fn assert_restores(&self, point: &str, expected: &Path) {
        let target = self.path("restored.raw");
        let _ = fs::remove_file(&target);
        self.ok(["restore", point, target.to_str().unwrap()]);
        super::disk::assert_same(expected, &target);
        fs::remove_file(&target).unwrap();
    }

    /// Everything stored is sound.
    #[track_caller]
    pub fn assert_sound(&self) {
        self.ok(["verify", "--data"]);
    }

    /// Bytes of all data packs, in a folder or on S3.
    pub fn data(&self) -> u64 {
        match &self.prefix {
            None => super::disk::folder_size(&self.folder().join("d")),
            Some(prefix) => {
                let data = |(key, _): &(String, u64)| key.contains("/d/");
                prefix.objects().iter().filter(|object| data(object)).map(|(_, size)| size).sum()
            }
        }
    }

    /// Every object of a repository in a folder whose key starts with `prefix`, by size, the
    /// largest first. Some may be gone by the time it is returned.
    pub fn objects(&self, prefix: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        walk(&self.folder().join(prefix), &mut found);
        found.sort_by_key(|path| std::cmp::Reverse(path.metadata().map_or(0, |meta| meta.len())));
        found
    }
}

/// What a backup did, in bytes.
pub struct Stats {
    pub read: u64,
    pub new: u64,
    pub dedup: u64,
}

fn walk(path: &Path, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.push(path.to_owned());
    } else if let Ok(entries) = path.read_dir() {
        entries.for_each(|entry| walk(&entry.unwrap().path(), found));
    }
}

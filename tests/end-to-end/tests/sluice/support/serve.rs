//! Exports, mounts and foreign servers that run beside a test; all end with it.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::binary;
use super::repo::Repo;
use super::run::{Cmd, Ran, Running, wait_until};

/// A running `sluice export`.
pub struct Export {
    running: Running,
    /// The URI of the default export, as the executable told it.
    uri: String,
}

impl Export {
    /// Serves a point on a Unix socket.
    pub fn unix(repo: &Repo, point: &str) -> Self {
        let socket = socket(repo.dir());
        Self::start(repo, &["nbd", point, "--socket", socket.to_str().unwrap()])
    }

    /// Serves a point on a free TCP port of this machine.
    pub fn tcp(repo: &Repo, point: &str) -> Self {
        Self::start(repo, &["nbd", point, "--listen", "127.0.0.1:0"])
    }

    /// Serves what the arguments say over NBD on a free TCP port of this machine.
    pub fn nbd(repo: &Repo, args: &[&str]) -> Self {
        Self::start(repo, &[&["nbd", "--listen", "127.0.0.1:0"], args].concat())
    }

    /// Serves a point over iSCSI on a free TCP port of this machine, with more options.
    pub fn iscsi(repo: &Repo, point: &str, more: &[&str]) -> Self {
        Self::start(repo, &[&["iscsi", point, "--listen", "127.0.0.1:0"], more].concat())
    }

    /// Serves points over HTTP on a free TCP port of this machine, with more options.
    pub fn http(repo: &Repo, points: &[&str], more: &[&str]) -> Self {
        Self::start(repo, &[&["http"], points, &["--listen", "127.0.0.1:0"], more].concat())
    }

    /// Serves an image over vhost-user on a socket of its own, with more options.
    pub fn vhost_user(repo: &Repo, point: &str, more: &[&str]) -> Self {
        let socket = socket(repo.dir());
        let args = ["vhost-user", point, "--socket", socket.to_str().unwrap()];
        Self::start(repo, &[&args, more].concat())
    }

    /// Starts the export and waits until it says it is ready.
    pub fn start(repo: &Repo, what: &[&str]) -> Self {
        let ready = tempfile::Builder::new().prefix("ready-").tempfile_in(repo.dir()).unwrap();
        // The shell opens descriptor 5 and becomes the executable.
        let script = r#"exec "$@" 5>"$READY""#;
        let shell = ["sh", "-c", script, "sh"].map(Into::into);
        let args = [&["export"], what, &["--ready-fd", "5"]].concat();
        let mut running = repo.sluice(args).env("READY", ready.path()).behind(&shell).spawn();
        let mut over = false;
        let mut told = String::new();
        wait_until("the export is ready", || {
            over = running.is_over();
            told = fs::read_to_string(ready.path()).unwrap();
            over || told.lines().count() == 2 && told.ends_with('\n')
        });
        if over {
            let ran = running.wait();
            panic!("{} ended with {:?}: {}", ran.what, ran.code, ran.err);
        }
        let mut lines = told.lines();
        assert_eq!(lines.next(), Some("READY=1"));
        Self { running, uri: lines.next().unwrap().to_owned() }
    }

    /// The URI of the default export: the image that was asked for.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The URI of the export with this name.
    pub fn named(&self, name: &str) -> String {
        match self.uri.split_once('?') {
            Some((place, socket)) => {
                format!("{}/{name}?{socket}", place.strip_suffix('/').unwrap_or(place))
            }
            None => format!("{}/{name}", self.uri.strip_suffix('/').unwrap_or(&self.uri)),
        }
    }

    pub fn running(&mut self) -> &mut Running {
        &mut self.running
    }

    /// Ends it the way an operator does; it must end well.
    pub fn stop(self) -> Ran {
        self.running.signal(Signal::TERM);
        self.running.wait().ended(0)
    }
}

/// A folder where the repository is mounted; unmounted when dropped.
pub struct Mount {
    dir: PathBuf,
    pid: u32,
}

impl Mount {
    /// Mounts in the background.
    pub fn detached(repo: &Repo) -> Self {
        Self::detached_with(repo, &[])
    }

    /// The same with more options.
    pub fn detached_with(repo: &Repo, more: &[&str]) -> Self {
        let dir = repo.path("mnt");
        fs::create_dir_all(&dir).unwrap();
        let mut mount = Self::adopt(dir.clone());
        repo.ok([&["mount", dir.to_str().unwrap(), "--detach"], more].concat());
        assert!(mount.is_mounted(), "the mount returned before there was one");
        mount.pid = serving(&dir).expect("a process serves the mount");
        mount
    }

    /// A mount that somebody else makes here.
    pub fn adopt(dir: PathBuf) -> Self {
        Self { dir, pid: 0 }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    pub fn is_mounted(&self) -> bool {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let dir = self.dir.to_str().unwrap();
        table.lines().any(|line| line.split(' ').nth(4) == Some(dir))
    }

    /// Unmounts, which must work; the process must then end.
    pub fn unmount(self, lazy: bool) {
        let flags: &[&str] = if lazy { &["-u", "-z"] } else { &["-u"] };
        Cmd::new("fusermount3").args(flags).arg(&self.dir).ok();
        assert!(!self.is_mounted());
        if self.pid != 0 {
            wait_until("the process of the mount ends", || serving(&self.dir) != Some(self.pid));
        }
    }

    /// Kills the process that serves it.
    pub fn kill(&mut self) {
        let pid = Pid::from_raw(self.pid as i32).unwrap();
        kill_process(pid, Signal::KILL).unwrap();
        wait_until("the killed process ends", || serving(&self.dir) != Some(self.pid));
        self.pid = 0;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // In this order: mountd starts a process that was killed again, not one that was unmounted.
        if self.is_mounted() {
            let _ = Cmd::new("fusermount3").args(["-u", "-z"]).arg(&self.dir).run();
        }
        for _ in 0..100 {
            if serving(&self.dir).is_none() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        if let Some(pid) = serving(&self.dir) {
            let _ = kill_process(Pid::from_raw(pid as i32).unwrap(), Signal::KILL);
        }
    }
}

/// The process of the executable with this mount point among its arguments.
fn serving(dir: &Path) -> Option<u32> {
    let dir = dir.to_str().unwrap();
    fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let line = fs::read(entry.path().join("cmdline")).ok()?;
        let mut words = line.split(|byte| *byte == 0);
        let program = words.next()? == binary::path().as_os_str().as_encoded_bytes();
        (program && words.any(|word| word == dir.as_bytes())).then_some(pid)
    })
}

/// A foreign NBD server: a source of others' making.
pub struct Source {
    running: Running,
    uri: String,
}

impl Source {
    /// `qemu-nbd` of an image.
    pub fn qemu(dir: &Path, image: &Path, format: &str, more: &[&str]) -> Self {
        let socket = socket(dir);
        let cmd = Cmd::new("qemu-nbd").args(["-r", "-t", "-e", "16", "-f", format, "-k"]);
        Self::start(cmd.arg(&socket).args(more).arg(image), &socket)
    }

    /// A raw file by `nbdkit` at 200 MB a second: however fast the machine, a backup of some
    /// hundred megabytes is in its middle for a while.
    pub fn slow(dir: &Path, image: &Path) -> Self {
        let socket = socket(dir);
        let cmd = Cmd::new("nbdkit").args(["-f", "-U"]).arg(&socket);
        let cmd = cmd.args(["--filter=rate", "file"]).arg(image);
        Self::start(cmd.args(["rate=1600M", "burstiness=0.1"]), &socket)
    }

    /// A disk of which nothing can be read.
    pub fn unreadable(dir: &Path) -> Self {
        let socket = socket(dir);
        let cmd = Cmd::new("nbdkit").args(["-f", "-U"]).arg(&socket);
        let failing = ["--filter=error", "pattern", "16M", "error-pread=EIO"];
        Self::start(cmd.args(failing).arg("error-pread-rate=100%"), &socket)
    }

    fn start(cmd: Cmd, socket: &Path) -> Self {
        let mut running = cmd.spawn();
        let mut over = false;
        wait_until("the source listens", || {
            over = running.is_over();
            over || UnixStream::connect(socket).is_ok()
        });
        if over {
            let ran = running.wait();
            panic!("{} ended with {:?}: {}", ran.what, ran.code, ran.err);
        }
        Self { running, uri: format!("nbd+unix:///?socket={}", socket.display()) }
    }

    pub fn uri(&self) -> &str {
        &self.uri
    }

    pub fn kill(&self) {
        self.running.signal(Signal::KILL);
    }
}

/// A name for a socket that nobody has.
fn socket(dir: &Path) -> PathBuf {
    let file = tempfile::Builder::new().prefix("nbd-").tempfile_in(dir).unwrap();
    file.into_temp_path().to_path_buf()
}

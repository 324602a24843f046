//! File systems of a test's own, seen by nobody else: in a mount namespace that a sleeping process
//! holds. Root makes it plainly; others need user namespaces.

use std::ffi::OsString;
use std::path::Path;

use super::run::{Cmd, Running, wait_until};

pub struct Namespace {
    holder: Running,
    root: bool,
}

impl Namespace {
    pub fn new() -> Self {
        let root = rustix::process::geteuid().is_root();
        let user: &[&str] = if root { &[] } else { &["--user", "--map-root-user"] };
        let mut holder =
            Cmd::new("unshare").args(user).args(["--mount", "--", "sleep", "infinity"]).spawn();
        let name = |pid: u32| std::fs::read_link(format!("/proc/{pid}/ns/mnt")).ok();
        wait_until("a mount namespace", || {
            assert!(
                !holder.is_over(),
                "cannot make a mount namespace: be root, or allow user ones"
            );
            let comm = std::fs::read_to_string(format!("/proc/{}/comm", holder.pid()));
            comm.is_ok_and(|comm| comm == "sleep\n")
                && name(holder.pid()) != name(std::process::id())
        });
        Self { holder, root }
    }

    /// What to put before a command.
    pub fn enter(&self) -> Vec<OsString> {
        let pid = self.holder.pid().to_string();
        let user: &[&str] = if self.root { &[] } else { &["--user", "--preserve-credentials"] };
        let words = ["nsenter", "--target", &pid, "--mount"].into_iter();
        words.chain(user.iter().copied()).chain(["--"]).map(OsString::from).collect()
    }

    /// Runs a command inside; it must succeed.
    pub fn ok(&self, program: &str, args: &[&str]) {
        Cmd::new(program).args(args).behind(&self.enter()).ok();
    }

    /// A file system in memory of this size in MiB.
    pub fn tmpfs(&self, dir: &Path, mib: u64) {
        std::fs::create_dir_all(dir).unwrap();
        let size = format!("size={mib}m");
        self.ok("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", dir.to_str().unwrap()]);
    }

    /// Makes a folder read-only.
    pub fn read_only(&self, dir: &Path) {
        let dir = dir.to_str().unwrap();
        self.ok("mount", &["--bind", dir, dir]);
        self.ok("mount", &["-o", "remount,ro,bind", dir]);
    }
}

//! Servers of disks, each started anew for every measurement.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::bench::sluice::Sluice;
use crate::bench::tool::{Place, command};
use crate::host;

/// How long a server may take until it listens.
const PATIENCE: Duration = Duration::from_secs(60);
/// The iSCSI target that is served, by whomever.
const TARGET: &str = "iqn.2026-01.org.example:bench";
/// The port of tgtd's control socket, a number of its own among those of other users.
const TGT_CONTROL: &str = "731";

/// Who serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Server {
    Sluice,
    SluiceFine,
    SluiceIscsi,
    SluiceOverlay,
    Nbdkit,
    QemuRaw,
    QemuZstd,
    QemuOverlay,
    Tgt,
}

impl Server {
    /// Whether it is Sluice, in whatever way.
    pub fn is_ours(self) -> bool {
        matches!(self, Self::Sluice | Self::SluiceFine | Self::SluiceIscsi | Self::SluiceOverlay)
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Sluice | Self::SluiceIscsi => "sluice",
            Self::SluiceFine => "sluice, blocks of 16 KiB",
            Self::SluiceOverlay => "sluice --writable",
            Self::Nbdkit => "nbdkit file",
            Self::QemuRaw => "qemu-nbd raw",
            Self::QemuZstd => "qemu-nbd qcow2, zstd",
            Self::QemuOverlay => "qemu-nbd qcow2 overlay",
            Self::Tgt => "tgt",
        }
    }
}

/// What is served: the same disk, as a file, as a compressed qcow2, and in a repository.
#[derive(Debug)]
pub struct Disk {
    pub raw: PathBuf,
    pub zstd: PathBuf,
    pub place: Place,
    pub sluice: Sluice,
}

impl Disk {
    /// Puts the image into a repository and a qcow2.
    pub fn prepare(sluice: &Sluice, raw: &Path, place: Place) -> Result<Self> {
        host::output(&mut sluice.command(&place, &["init", "--no-recovery-key"]))?;
        host::output(&mut sluice.backup(&place, "vm", raw))?;
        let mut fine = sluice.backup(&place, "fine", raw);
        host::output(fine.args(["--block-size", "16KiB"]))?;
        let zstd = place.folder.join("zstd.qcow2");
        let convert = ["convert", "-f", "raw", "-O", "qcow2", "-c", "-o", "compression_type=zstd"];
        host::output(command("qemu-img", convert).arg(raw).arg(&zstd))?;
        Ok(Self { raw: raw.to_owned(), zstd, place, sluice: sluice.clone() })
    }

    fn overlay(&self) -> PathBuf {
        self.place.folder.join("overlay")
    }

    fn command(&self, server: Server, socket: &Path, port: u16) -> Result<Command> {
        let sluice = |words: &[&str]| self.sluice.command(&self.place, words);
        let qemu = |words: &[&str], file: &Path| {
            let mut command = command("qemu-nbd", ["-t", "-e", "64", "-k"]);
            command.arg(socket).args(words).arg(file);
            command
        };
        Ok(match server {
            Server::Sluice => {
                let mut command = sluice(&["-q", "export", "nbd", "vm@latest", "--socket"]);
                command.arg(socket);
                command
            }
            Server::SluiceFine => {
                let mut command = sluice(&["-q", "export", "nbd", "fine@latest", "--socket"]);
                command.arg(socket);
                command
            }
            Server::SluiceOverlay => {
                let words = ["-q", "export", "nbd", "vm@latest", "--writable", "--socket"];
                let mut command = sluice(&words);
                command.arg(socket).arg("--overlay").arg(self.overlay());
                command
            }
            Server::SluiceIscsi => {
                let words = ["-q", "export", "iscsi", "vm@latest", "--target-name", TARGET];
                let mut command = sluice(&words);
                command.arg("--listen").arg(format!("127.0.0.1:{port}"));
                command
            }
            Server::Nbdkit => {
                let mut command = command("nbdkit", ["--foreground", "--readonly", "--unix"]);
                command.arg(socket).args(["--threads", "16", "file"]).arg(&self.raw);
                command
            }
            Server::QemuRaw => qemu(&["-r", "-f", "raw"], &self.raw),
            Server::QemuZstd => qemu(&["-r", "-f", "qcow2"], &self.zstd),
            Server::QemuOverlay => {
                let file = self.overlay();
                let create = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"];
                host::output(command("qemu-img", create).arg(&self.raw).arg(&file))?;
                qemu(&["-f", "qcow2", "--discard", "unmap"], &file)
            }
            Server::Tgt => {
                let portal = format!("portal=127.0.0.1:{port}");
                command("tgtd", ["-f", "-C", TGT_CONTROL, "--iscsi", &portal])
            }
        })
    }

    /// Starts a server, and waits until it serves.
    pub fn serve(&self, server: Server) -> Result<Serving> {
        let (socket, overlay) = (self.place.folder.join("socket"), self.overlay());
        let _ = std::fs::remove_file(&socket);
        let _ = std::fs::remove_dir_all(&overlay).or_else(|_| std::fs::remove_file(&overlay));
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut command = self.command(server, &socket, port)?;
        let log = std::fs::File::create(self.place.log())?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let name = host::name(&command);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let uri = match server {
            Server::SluiceIscsi => format!("iscsi://127.0.0.1:{port}/{TARGET}/0"),
            Server::Tgt => format!("iscsi://127.0.0.1:{port}/{TARGET}/1"),
            _ => format!("nbd+unix:///?socket={}", socket.display()),
        };
        let mut serving = Serving { child, uri };
        let begun = Instant::now();
        let mut configured = server != Server::Tgt;
        loop {
            if let Some(status) = serving.child.try_wait()? {
                let said = std::fs::read_to_string(self.place.log()).unwrap_or_default();
                bail!("{name} ended with {status}\n{said}");
            }
            if !configured {
                configured = configure_tgt(&self.raw).is_ok();
            }
            let there = match server {
                Server::SluiceIscsi | Server::Tgt => {
                    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
                }
                _ => std::os::unix::net::UnixStream::connect(&socket).is_ok(),
            };
            if configured && there {
                return Ok(serving);
            }
            if begun.elapsed() > PATIENCE {
                bail!("{name} does not listen after {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

fn configure_tgt(image: &Path) -> Result<()> {
    let admin = |words: &[&str]| {
        let mut admin = command("tgtadm", ["-C", TGT_CONTROL, "--lld", "iscsi"]);
        admin.args(words);
        admin
    };
    host::output(&mut admin(&["--op", "show", "--mode", "sys"]))?;
    // What is there already comes from the attempt before.
    let _ = host::output(&mut admin(&["--op", "new", "--mode", "target", "--tid=1", "-T", TARGET]));
    let unit = ["--op", "new", "--mode", "logicalunit", "--tid=1", "--lun=1", "-b"];
    host::output(admin(&unit).arg(image))?;
    host::output(&mut admin(&["--op", "bind", "--mode", "target", "--tid=1", "-I", "ALL"]))?;
    Ok(())
}

/// A server that serves until it is dropped.
#[derive(Debug)]
pub struct Serving {
    child: Child,
    pub uri: String,
}

impl Serving {
    /// Processor time it took so far, of all its threads.
    pub fn cpu(&self) -> Duration {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()));
        let text = text.unwrap_or_default();
        // The name in the second field may have anything in it but ends with the last bracket.
        let fields = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Largest resident set so far, in KiB.
    pub fn memory_kib(&self) -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let text = text.unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = host::command("kill").arg(self.child.id().to_string()).status();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(10) {
            if matches!(self.child.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

//! What only Sluice does, measured against its own restore.

use std::ffi::OsStr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::data::DataSet;
use super::measure::{Sample, Samples, measure};
use super::sluice::Sluice;
use super::tool::{Place, Tool, command};
use crate::host;

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);
/// Size of the sparse disk: 16 TiB.
const HUGE: &str = "16T";

/// Things measured, by name, in order.
#[derive(Debug, Default)]
pub struct Extras(pub Vec<(String, Samples)>);

impl Extras {
    fn add(&mut self, name: &str, sample: Sample) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, samples)) => samples.0.push(sample),
            None => self.0.push((name.to_owned(), Samples(vec![sample]))),
        }
    }
}

/// Runs all of them, on a repository in which the shared steps were done and on new ones.
pub fn run(sluice: &Sluice, place: &Place, data: &DataSet, extras: &mut Extras) -> Result<()> {
    let mut rescan = sluice.backup(place, "first", &data.image);
    rescan.arg("--rescan");
    let rescan = measure(&rescan.into(), &place.log())?;
    extras.add("unchanged, compared block by block (`--rescan`)", rescan);
    cold(sluice, place, data, extras)?;
    let listed = incremental(sluice, place, data, &["--changed".as_ref(), data.changed.as_ref()])?;
    extras.add("2 % changed, from a list of extents (`--changed`)", listed);
    let found = incremental(sluice, place, data, &[])?;
    extras.add("2 % changed, found by reading", found);
    extras.add("read over NBD (`nbdcopy` to nowhere)", nbd(sluice, place)?);
    if Path::new("/dev/fuse").exists() {
        extras.add("read through FUSE (`dd` to nowhere)", fuse(sluice, place)?);
    }
    huge(sluice, place, extras)
}

/// An unchanged image that is not in memory, beside `dd` that only reads it.
fn cold(sluice: &Sluice, place: &Place, data: &DataSet, extras: &mut Extras) -> Result<()> {
    let from = format!("if={}", data.image.display());
    // Nothing is read: it only tells the system that the file's pages are not needed.
    let forget = || command("dd", [from.as_str(), "iflag=nocache", "count=0", "status=none"]);
    host::output(&mut forget())?;
    let read = command("dd", [from.as_str(), "of=/dev/null", "bs=1M", "status=none"]);
    extras.add("reading the source from its disk (`dd`)", measure(&read.into(), &place.log())?);
    host::output(&mut forget())?;
    let rescan = sluice.backup(place, "first", &data.image);
    let rescan = measure(&rescan.into(), &place.log())?;
    extras.add("unchanged, the source on its disk and not in memory", rescan);
    Ok(())
}

/// The similar image as the next point of the first, in a repository that knows only the first.
fn incremental(
    sluice: &Sluice,
    place: &Place,
    data: &DataSet,
    options: &[&OsStr],
) -> Result<Sample> {
    let place = Place::new(place.folder.join("incremental"))?;
    sluice.prepare(&place)?;
    host::output(&mut sluice.backup(&place, "first", &data.image))?;
    let mut backup = sluice.backup(&place, "first", &data.similar);
    backup.args(options);
    let sample = measure(&backup.into(), &place.log())?;
    place.remove()?;
    Ok(sample)
}

/// A server that is killed when it is no longer needed.
struct Server {
    child: Child,
    /// From its start until it answered.
    ready: Duration,
}

impl Server {
    fn start(command: &mut Command, ready: impl Fn() -> bool) -> Result<Self> {
        let started = Instant::now();
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().context("cannot start sluice")?;
        let mut server = Self { child, ready: Duration::ZERO };
        while !ready() {
            if let Some(status) = server.child.try_wait()? {
                bail!("{} ended with {status}", host::name(command));
            }
            if started.elapsed() > PATIENCE {
                bail!("{} is not ready after {PATIENCE:?}", host::name(command));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        server.ready = started.elapsed();
        Ok(server)
    }

    /// Adds what the server took to what its client took.
    fn add_to(&self, sample: Sample) -> Sample {
        let file = |name: &str| {
            std::fs::read_to_string(format!("/proc/{}/{name}", self.child.id())).unwrap_or_default()
        };
        let status = file("status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        // User and system time are fields 14 and 15, in hundredths; the name may hold spaces.
        let stat = file("stat");
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
        let ticks: u64 = fields.take(2).filter_map(|word| word.parse::<u64>().ok()).sum();
        Sample {
            wall: sample.wall,
            cpu: sample.cpu + Duration::from_millis(ticks * 10),
            rss_kib: sample.rss_kib.max(peak.unwrap_or(0)),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Exports the latest point of an instance; the socket's path must be short.
fn export(sluice: &Sluice, place: &Place, instance: &str) -> Result<(Server, PathBuf)> {
    let socket = place.folder.join(format!("{instance}.sock"));
    let mut export = sluice.command(place, &["export", "nbd", &format!("{instance}@latest")]);
    export.arg("--socket").arg(&socket).stderr(Stdio::null());
    let server = Server::start(&mut export, || UnixStream::connect(&socket).is_ok())?;
    Ok((server, socket))
}

fn url(socket: &Path) -> String {
    format!("nbd+unix:///?socket={}", socket.display())
}

fn nbd(sluice: &Sluice, place: &Place) -> Result<Sample> {
    let (server, socket) = export(sluice, place, "first")?;
    let copy = command("nbdcopy", [url(&socket).as_str(), "null:"]);
    Ok(server.add_to(measure(&copy.into(), &place.log())?))
}

fn fuse(sluice: &Sluice, place: &Place) -> Result<Sample> {
    let folder = place.folder.join("mnt");
    std::fs::create_dir_all(&folder)?;
    let latest = folder.join("first/latest");
    let mut mount = sluice.command(place, &["mount"]);
    let server = Server::start(mount.arg(&folder).stderr(Stdio::null()), || latest.is_dir())?;
    let result = read_image(&latest, &place.log()).map(|sample| server.add_to(sample));
    host::output(command("fusermount3", ["-u", "-z"]).arg(&folder))?;
    result
}

/// Reads the only raw image in a folder.
fn read_image(folder: &Path, log: &Path) -> Result<Sample> {
    let mut image = None;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "raw") {
            image = Some(path);
        }
    }
    let image = image.with_context(|| format!("no image in {}", folder.display()))?;
    let from = format!("if={}", image.display());
    measure(&command("dd", [from.as_str(), "of=/dev/null", "bs=1M", "status=none"]).into(), log)
}

/// A disk of 16 TiB with little in it: backed up, shown, and read from.
fn huge(sluice: &Sluice, place: &Place, extras: &mut Extras) -> Result<()> {
    // No raw file: ext4 ends just below 16 TiB.
    let image = place.folder.join("huge.qcow2");
    host::output(command("qemu-img", ["create", "-q", "-f", "qcow2"]).arg(&image).arg(HUGE))?;
    let writes = ["-c", "write -P 1 0 64M", "-c", "write -P 2 8T 64M", "-c", "write -P 3 15T 64M"];
    host::output(command("qemu-io", ["-f", "qcow2"]).args(writes).arg(&image))?;
    let backup = sluice.backup(place, "huge", &image);
    extras.add("16 TiB disk with 192 MiB in it: backup", measure(&backup.into(), &place.log())?);
    let show = sluice.command(place, &["show", "huge@latest"]);
    extras.add("16 TiB disk: `sluice show`", measure(&show.into(), &place.log())?);
    opening(sluice, place, extras)?;
    let (server, socket) = export(sluice, place, "huge")?;
    let ready = Sample { wall: server.ready, cpu: Duration::ZERO, rss_kib: 0 };
    extras.add("16 TiB disk: `sluice export nbd` until it answers", server.add_to(ready));
    let mut read = command("qemu-io", ["-r", "-f", "raw", "-c", "read -P 2 8T 4k"]);
    read.arg(url(&socket));
    let read = server.add_to(measure(&read.into(), &place.log())?);
    extras.add("16 TiB disk: first 4 KiB at 8 TiB over NBD (`qemu-io`)", read);
    Ok(())
}

/// Opens the point inside a process that has the repository open, and reads from it.
fn opening(sluice: &Sluice, place: &Place, extras: &mut Extras) -> Result<()> {
    let mut opening = command(&sluice.opening, [place.repository(), place.passphrase()]);
    let text = host::output(opening.args(["huge", &(8u64 << 40).to_string()]))?;
    let answer: Value = serde_json::from_str(&text).context("the example printed no JSON")?;
    for (part, what) in [
        ("unlock", "unlock the repository"),
        ("open", "open the point"),
        ("first_read", "first 4 KiB at 8 TiB"),
    ] {
        let part = &answer[part];
        let seconds = part["seconds"].as_f64().context("the example printed no seconds")?;
        let (gets, others) = (&part["gets"], &part["other_requests"]);
        let name = format!("16 TiB disk, within a process: {what} ({gets} GET, {others} other)");
        let wall = Duration::from_secs_f64(seconds);
        extras.add(&name, Sample { wall, cpu: Duration::ZERO, rss_kib: 0 });
    }
    Ok(())
}

//! Every format QEMU knows, read through `qemu-nbd`.
//!
//! A child process serves the image read-only on a socket in a private folder, for as long as the
//! source is open. Both go away with it; and when this program is killed, the process ends by
//! itself with its last connection. It can open the files that were looked at, and no others.

use std::io::ErrorKind::{ConnectionRefused, NotFound};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use sluice_block::{BlockRead, Extent, Result};
use sluice_connector_nbd::{NbdError, NbdSource};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use crate::confine::{self, Confine};
use crate::inspect::Inspected;
use crate::{DiskError, Format};

/// How long `qemu-nbd` may take to open an image.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections it allows; the source uses a few.
const CONNECTIONS: &str = "8";

/// An image behind a `qemu-nbd` of its own.
#[derive(Debug)]
pub(crate) struct QemuDisk {
    source: NbdSource,
    // Both are held for their drop: the child is killed, the folder removed.
    _child: Child,
    _folder: TempDir,
}

impl QemuDisk {
    /// Serves an image that was looked at.
    pub(crate) async fn open(image: &Inspected) -> Result<Self, DiskError> {
        Self::open_confined(image, Confine::Yes).await
    }

    async fn open_confined(image: &Inspected, confine: Confine) -> Result<Self, DiskError> {
        let chain = &image.chain;
        let path = chain.first().map_or(Path::new(""), |(path, _)| path);
        let failed = |error| DiskError::Io(path.to_owned(), error);
        // It would be told a name that is almost the same, and open another file.
        if let Some(odd) = image.files.iter().find(|file| file.to_str().is_none()) {
            return Err(DiskError::Qemu(odd.clone(), "its name is not UTF-8".into()));
        }
        let folder = tempfile::Builder::new().prefix("sluice-").tempdir().map_err(failed)?;
        let socket = folder.path().join("nbd.sock");
        let mut command = Command::new("qemu-nbd");
        command
            .args(["--read-only", "--discard=ignore", "--cache=writeback"])
            .arg(format!("--shared={CONNECTIONS}"))
            .arg(format!("--socket={}", socket.display()))
            .arg("--")
            .arg(format!("json:{}", layers(chain)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let inherited = confine::inherited().map_err(failed)?;
        let mut child = confine::spawn(command, image, folder.path(), confine).await?;
        let uri = format!("nbd+unix:///?socket={}", escape(&socket.display().to_string()));
        let source = connect(&uri, &mut child, path).await?;
        // It listens only after it has opened all that it serves.
        if let Some(process) = child.id() {
            let strange = confine::check(process, image, &socket, &inherited).map_err(failed)?;
            if let Some(strange) = strange {
                return Err(DiskError::Strange(path.to_owned(), strange));
            }
        }
        Ok(Self { source, _child: child, _folder: folder })
    }
}

/// The chain as QEMU's description of block devices: every driver named, nothing left to probe.
/// What it opens beyond that, by headers that say something else by now, is `confine`'s.
fn layers(chain: &[(PathBuf, Format)]) -> Value {
    let Some(((path, format), below)) = chain.split_first() else { return Value::Null };
    // Each of these two drivers refuses what is the other's.
    let device = std::fs::metadata(path).is_ok_and(|about| about.file_type().is_block_device());
    let driver = if device { "host_device" } else { "file" };
    let file = json!({ "driver": driver, "filename": path.to_string_lossy() });
    let mut layer = json!({ "driver": format.qemu(), "file": file });
    // These two formats can have something below them; no entry would let QEMU look itself.
    if matches!(format, Format::Qcow2 | Format::Vmdk) {
        layer["backing"] = layers(below);
    }
    layer
}

/// Connects once the process listens; fails when it ends before. Between making its socket and
/// listening there it refuses; and it would end with the first connection that is only a trial.
async fn connect(uri: &str, child: &mut Child, path: &Path) -> Result<NbdSource, DiskError> {
    let refused = |text: String| DiskError::Qemu(path.to_owned(), text);
    let connected = async {
        loop {
            match NbdSource::connect(uri).await {
                Err(NbdError::Connect { source, .. })
                    if matches!(source.kind(), NotFound | ConnectionRefused) =>
                {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                other => return other.map_err(|error| DiskError::Nbd(path.to_owned(), error)),
            }
        }
    };
    let ended = tokio::select! {
        connected = connected => return connected,
        () = tokio::time::sleep(PATIENCE) => return Err(refused("it takes too long".into())),
        ended = child.wait() => ended,
    };
    let mut text = String::new();
    if let Some(stderr) = child.stderr.take() {
        let mut said = Vec::new();
        let _ = stderr.take(4096).read_to_end(&mut said).await;
        text = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
    }
    let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
    Err(refused(if text.is_empty() { status } else { text }))
}

/// Percent-escapes what has a meaning in a URI.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./~".contains(&byte);
    let escape = |byte: u8| {
        if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escape).collect()
}

#[async_trait]
impl BlockRead for QemuDisk {
    fn size(&self) -> u64 {
        self.source.size()
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.source.read_at(offset, buf).await
    }

    async fn extents(&self, offset: u64, length: u64) -> Result<Vec<Extent>> {
        self.source.extents(offset, length).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::inspect;

    fn make(args: &[&str]) {
        let made = std::process::Command::new("qemu-img").args(args).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    /// An image that begins as another one once it was looked at, as by a guest that writes it
    /// again and again.
    async fn swapped(name: &str, with: &str, confine: Confine) -> (DiskError, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| std::fs::canonicalize(folder.path()).unwrap().join(name);
        let (image, other, secret) = (at(name), at(with), at("secret"));
        let text = |path: &PathBuf| path.to_str().unwrap().to_owned();
        std::fs::write(&secret, vec![7; 1 << 20]).unwrap();
        match with {
            "other.qcow2" => {
                let data = format!("data_file={},data_file_raw=on", text(&at("data")));
                make(&["create", "-q", "-f", "qcow2", "-o", &data, &text(&other), "1M"]);
                std::fs::rename(&secret, at("data")).unwrap();
            }
            _ => {
                let line = format!("RW 2048 FLAT \"{}\" 0\n", text(&secret));
                let head = "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n";
                let kind = "createType=\"monolithicFlat\"\n";
                std::fs::write(&other, [head, kind, &line].concat()).unwrap();
            }
        }
        let format = if name.ends_with("vmdk") { "vmdk" } else { "qcow2" };
        make(&["create", "-q", "-f", format, &text(&image), "1M"]);
        let seen = inspect(&image, None).unwrap();
        assert!(QemuDisk::open_confined(&seen, confine).await.is_ok(), "it can be read before");
        std::fs::write(&image, std::fs::read(&other).unwrap()).unwrap();
        let error = QemuDisk::open_confined(&seen, confine).await.unwrap_err();
        (error, if with == "other.qcow2" { at("data") } else { secret })
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_header_that_changes_after_the_look_draws_in_no_other_file() {
        for (name, with) in [("disk.qcow2", "other.qcow2"), ("disk.vmdk", "other.vmdk")] {
            // Where the kernel does not confine, what is open is seen.
            let (error, secret) = swapped(name, with, Confine::No).await;
            let strange =
                matches!(&error, DiskError::Strange(_, file) if Path::new(file) == secret);
            assert!(strange, "{error}");
            let (error, _) = swapped(name, with, Confine::Yes).await;
            let refused = matches!(&error, DiskError::Qemu(_, text) if text.contains("denied"));
            let strange = matches!(error, DiskError::Strange(..));
            assert!(if confine::is_possible() { refused } else { strange }, "{error}");
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_file_that_takes_the_place_of_the_image_is_not_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        for name in ["a.qcow2", "b.qcow2"] {
            make(&["create", "-q", "-f", "qcow2", &path(name), "1M"]);
        }
        let seen = inspect(Path::new(&path("a.qcow2")), None).unwrap();
        std::fs::rename(path("b.qcow2"), path("a.qcow2")).unwrap();
        let error = QemuDisk::open(&seen).await.unwrap_err();
        assert!(matches!(error, DiskError::Changed(_)), "{error}");
    }
}

//! Every format QEMU knows, read through `qemu-nbd`.
//!
//! A child process serves the image read-only on a socket in a private folder, for as long as the
//! source is open. Both go away with it; and when this program is killed, the process ends by
//! itself with its last connection.

use std::io::ErrorKind::{ConnectionRefused, NotFound};
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
    /// Serves the first file of a chain, with the others below it.
    pub(crate) async fn open(chain: &[(PathBuf, Format)]) -> Result<Self, DiskError> {
        let path = chain.first().map_or(Path::new(""), |(path, _)| path);
        // It would be told a name that is almost the same, and open another file.
        if let Some((odd, _)) = chain.iter().find(|(file, _)| file.to_str().is_none()) {
            return Err(DiskError::Qemu(odd.clone(), "its name is not UTF-8".into()));
        }
        let folder = tempfile::Builder::new()
            .prefix("sluice-")
            .tempdir()
            .map_err(|error| DiskError::Io(path.to_owned(), error))?;
        let socket = folder.path().join("nbd.sock");
        let mut child = Command::new("qemu-nbd")
            .args(["--read-only", "--discard=ignore", "--cache=writeback"])
            .arg(format!("--shared={CONNECTIONS}"))
            .arg(format!("--socket={}", socket.display()))
            .arg("--")
            .arg(format!("json:{}", layers(chain)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(DiskError::NoQemu)?;
        let uri = format!("nbd+unix:///?socket={}", escape(&socket.display().to_string()));
        let source = connect(&uri, &mut child, path).await?;
        Ok(Self { source, _child: child, _folder: folder })
    }
}

/// The chain as QEMU's description of block devices: every driver named, nothing left to probe.
fn layers(chain: &[(PathBuf, Format)]) -> Value {
    let Some(((path, format), below)) = chain.split_first() else { return Value::Null };
    let file = json!({ "driver": "file", "filename": path.to_string_lossy() });
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

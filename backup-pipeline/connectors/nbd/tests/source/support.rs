//! Disks, servers to read from, and external programs.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use sluice_block::MemoryDisk;
use sluice_nbd::{Export, Limits, Listener, Server};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A disk of data and holes, a multiple of 4096 bytes.
pub fn sample() -> Vec<u8> {
    let mut bytes = vec![0u8; 6 << 20];
    let mut state = 0x2545_f491_4f6c_dd1du64;
    for range in [0..70_000, 1 << 20..(2 << 20) + 4096, (5 << 20) + 8192..(5 << 20) + 8200] {
        for byte in &mut bytes[range] {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            *byte = (state >> 56) as u8;
        }
    }
    bytes
}

/// Our own server, with the sample as "disk".
pub struct Ours {
    pub dir: TempDir,
    pub address: SocketAddr,
    shutdown: CancellationToken,
    served: JoinHandle<()>,
}

impl Ours {
    pub async fn start(limits: Limits) -> Self {
        Self::serve(&sample(), limits).await
    }

    pub async fn serve(bytes: &[u8], limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let export = Export::new("disk", Arc::new(MemoryDisk::from_bytes(bytes)));
        let listeners = [
            Listener::Tcp("127.0.0.1:0".parse().unwrap()),
            Listener::Unix(dir.path().join("nbd.sock")),
        ];
        let bound = Server::new(vec![export], limits).unwrap().bind(&listeners).await.unwrap();
        let address = bound.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(bound.serve(shutdown.clone()));
        Self { dir, address, shutdown, served }
    }

    pub fn tcp(&self) -> String {
        format!("nbd://{}/disk", self.address)
    }

    pub fn unix(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.dir.path().join("nbd.sock").display())
    }

    /// Ends the server without waiting, the directory stays.
    pub fn cancel(&self) {
        self.shutdown.cancel();
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.served.await.unwrap();
    }
}

/// A server of another make on a Unix socket; killed when dropped.
pub struct Theirs {
    child: Child,
    pub uri: String,
}

impl Theirs {
    pub async fn start(package: &str, program: &str, args: &[&str], socket: &Path) -> Self {
        let child = tool(program, args).stdin(Stdio::null()).spawn();
        let child = child.unwrap_or_else(|error| missing(package, program, &error));
        let uri = format!("nbd+unix:///?socket={}", socket.display());
        let mut theirs = Self { child, uri };
        while UnixStream::connect(socket).await.is_err() {
            let ended = theirs.child.try_wait().unwrap();
            assert!(ended.is_none(), "{program} {args:?} ended: {ended:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        theirs
    }
}

impl Drop for Theirs {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tool(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args);
    command
}

fn missing(package: &str, program: &str, error: &std::io::Error) -> ! {
    if error.kind() == ErrorKind::NotFound {
        panic!("{program} is missing: install the Debian package {package}");
    }
    panic!("cannot run {program}: {error}")
}

/// Runs a program that must succeed.
pub fn succeed(package: &str, program: &str, args: &[&str]) {
    let output = tool(program, args).output();
    let output = output.unwrap_or_else(|error| missing(package, program, &error));
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?} failed: {err}");
}

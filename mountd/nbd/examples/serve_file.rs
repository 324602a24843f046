//! Serves a file over NBD until interrupted, for trying clients by hand.
//!
//! ```text
//! cargo run --release -p sluice-nbd --example serve_file -- disk.raw 127.0.0.1:10809
//! cargo run --release -p sluice-nbd --example serve_file -- disk.raw /tmp/disk.sock
//! cargo run --release -p sluice-nbd --example serve_file -- --writable disk.raw /tmp/disk.sock
//! ```

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use anyhow::{Context, Result};
use async_trait::async_trait;
use rustix::fs::FallocateFlags;
use sluice_block::{
    BlockError, BlockRead, BlockWrite, Extent, ExtentList, MAX_EXTENTS, Result as BlockResult,
    check_range,
};
use sluice_nbd::{Export, Limits, Listener, Server};
use tokio_util::sync::CancellationToken;

/// A file used in place: simple, and fast while the file is in the page cache.
struct FileDisk {
    file: File,
    size: u64,
}

#[async_trait]
impl BlockRead for FileDisk {
    fn size(&self) -> u64 {
        self.size
    }

    async fn read_at(&self, offset: u64, buf: &mut [u8]) -> BlockResult<()> {
        check_range(self.size, offset, buf.len() as u64)?;
        self.file.read_exact_at(buf, offset).map_err(|e| BlockError::io("read the file", e))
    }

    async fn extents(&self, offset: u64, length: u64) -> BlockResult<Vec<Extent>> {
        check_range(self.size, offset, length)?;
        let end = offset + length;
        let mut list = ExtentList::default();
        let mut at = offset;
        while at < end && list.len() < MAX_EXTENTS - 1 {
            // No data after `at` is reported as an error, and the end is a hole.
            let data = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Data(at))
                .map_or(end, |data| data.min(end));
            list.push(Extent::hole(at, data - at));
            at = data;
            if at < end {
                let hole = rustix::fs::seek(&self.file, rustix::fs::SeekFrom::Hole(at))
                    .map_or(end, |hole| hole.min(end));
                list.push(Extent::data(at, hole - at));
                at = hole;
            }
        }
        Ok(list.into_vec())
    }
}

#[async_trait]
impl BlockWrite for FileDisk {
    async fn write_at(&self, offset: u64, data: &[u8]) -> BlockResult<()> {
        check_range(self.size, offset, data.len() as u64)?;
        self.file.write_all_at(data, offset).map_err(|e| BlockError::io("write the file", e))
    }

    async fn write_zeroes(&self, offset: u64, length: u64) -> BlockResult<()> {
        check_range(self.size, offset, length)?;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        rustix::fs::fallocate(&self.file, punch, offset, length)
            .map_err(|e| BlockError::io("punch a hole into the file", e.into()))
    }

    async fn flush(&self) -> BlockResult<()> {
        let file = self.file.try_clone().map_err(|e| BlockError::io("share the file", e))?;
        let synced = tokio::task::spawn_blocking(move || file.sync_data()).await;
        let synced = synced.unwrap_or_else(|e| Err(std::io::Error::other(e)));
        synced.map_err(|e| BlockError::io("flush the file", e))
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let mut args = std::env::args().skip(1).peekable();
    let writable = args.next_if(|arg| arg == "--writable").is_some();
    let usage = "usage: serve_file [--writable] FILE [ADDRESS:PORT | SOCKET]";
    let path = args.next().context(usage)?;
    let listener = match args.next() {
        Some(text) => text.parse().map_or_else(|_| Listener::Unix(text.into()), Listener::Tcp),
        None => Listener::Tcp(([127, 0, 0, 1], 10809).into()),
    };
    let file = File::options().read(true).write(writable).open(&path);
    let file = file.with_context(|| format!("cannot open {path}"))?;
    let size = file.metadata()?.len();
    let disk = Arc::new(FileDisk { file, size });
    let export = if writable { Export::writable("disk", disk) } else { Export::new("disk", disk) };
    let export = export.with_description(path);
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    Server::new(vec![export], Limits::default())?.serve(&[listener], shutdown).await?;
    Ok(())
}

//! Serves a thin disk in memory over iSCSI until interrupted, for conformance suites and for trying
//! initiators by hand.
//!
//! ```text
//! cargo run -p sluice-iscsi --example memory-target -- 127.0.0.1:3260
//! iscsi-test-cu --dataloss --test=ALL iscsi://127.0.0.1:3260/iqn.2026-01.test:memory/0
//! ```
//!
//! Logical unit 0 can be written, logical unit 1 is write-protected, logical unit 2 can be written
//! and has physical blocks of 512 bytes instead of 4096. Several addresses are several
//! portals. The first line on standard output is the URL of logical unit 0. The size in MiB comes
//! from `MEMORY_TARGET_MIB`.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use sluice_block::MemoryDisk;
use sluice_iscsi::{Identity, Limits, Lun, Server, Target};
use tokio_util::sync::CancellationToken;

const NAME: &str = "iqn.2026-01.test:memory";

#[tokio::main]
#[expect(clippy::print_stdout, reason = "the address is this program's output")]
async fn main() -> Result<()> {
    let filter = tracing_subscriber::EnvFilter::builder()
        .with_default_directive(tracing::level_filters::LevelFilter::INFO.into())
        .from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let mut portals = Vec::new();
    for text in std::env::args().skip(1) {
        portals.push(text.parse().with_context(|| format!("{text} is no ADDRESS:PORT"))?);
    }
    if portals.is_empty() {
        portals.push(SocketAddr::from(([127, 0, 0, 1], 3260)));
    }
    let mib: u64 = match std::env::var("MEMORY_TARGET_MIB") {
        Ok(text) => text.parse().context("MEMORY_TARGET_MIB is no number")?,
        Err(_) => 256,
    };
    let writable =
        Lun::writable(Arc::new(MemoryDisk::new(mib << 20)), Identity::from_digest([1; 32]));
    let protected =
        Lun::read_only(Arc::new(MemoryDisk::new(mib << 20)), Identity::from_digest([2; 32]));
    let simple =
        Lun::writable(Arc::new(MemoryDisk::new(mib << 20)), Identity::from_digest([3; 32]))
            .with_physical_exponent(0);
    let target = Target::new(NAME, vec![writable, protected, simple]);
    let bound = Server::new(target, Limits::default())?.bind(&portals).await?;
    println!("iscsi://{}/{NAME}/0", bound.addresses()[0]);
    let shutdown = CancellationToken::new();
    let stop = shutdown.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    bound.serve(shutdown).await;
    Ok(())
}

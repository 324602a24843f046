use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Expose a restore point as a disk, without restoring it first
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(subcommand)]
    pub(crate) protocol: ExportProtocol,
}

/// Export protocols.
#[derive(Debug, Subcommand)]
pub(crate) enum ExportProtocol {
    Nbd(NbdArgs),
}

/// Serve a restore point over NBD, read-only, until interrupted
///
/// Each image is an export of its name; the first one (or the one named by POINT:IMAGE) is also the
/// default export. NBD has no authentication here: use a Unix socket or loopback, or a network you
/// trust.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice export nbd web-1@latest
  sluice export nbd web-1@latest:vda --socket /run/web-1.sock
  qemu-img convert -O qcow2 nbd://127.0.0.1:10809 disk.qcow2
  nbdcopy 'nbd+unix:///?socket=/run/web-1.sock' disk.raw

With --ready-fd N, two lines are written to file descriptor N once clients can connect, and it is
closed: READY=1, and the URI of the default export.")]
pub(crate) struct NbdArgs {
    /// The restore point, with :IMAGE to export one image only
    pub(crate) point: String,

    /// TCP address to listen on; port 0 takes a free one [default: 127.0.0.1:10809]
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "socket")]
    pub(crate) listen: Option<SocketAddr>,

    /// Unix socket to listen on, for this user only
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Name of the export, instead of the image's; needs a single image
    #[arg(long)]
    pub(crate) name: Option<String>,

    /// File descriptor that is told when clients can connect
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) ready_fd: Option<i32>,
}

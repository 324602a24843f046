use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::DetachArgs;

/// Expose a restore point as a disk, without restoring it first
#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    #[command(flatten)]
    pub(crate) background: DetachArgs,

    #[command(subcommand)]
    pub(crate) protocol: ExportProtocol,
}

/// Export protocols.
#[derive(Debug, Subcommand)]
pub(crate) enum ExportProtocol {
    Nbd(NbdArgs),
    Iscsi(IscsiArgs),
}

/// Serve a restore point over NBD, read-only, until interrupted or as long as --lease says
///
/// Each image is an export of its name; the first one (or the one named by POINT:IMAGE) is also the
/// default export. NBD has no authentication here: use a Unix socket or loopback, or a network you
/// trust.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice export nbd web-1@latest
  sluice export nbd web-1@latest:vda --socket /run/web-1.sock
  sluice export nbd web-1@latest --detach --lease 8h
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

/// Serve a restore point over iSCSI, read-only, until interrupted
///
/// The images of the point are logical units 0, 1, 2 and so on of one target, in their order; with
/// POINT:IMAGE there is one. Whoever reaches the address can read the disks unless --chap-user asks
/// for a proof. What is sent is not encrypted: use a network you trust.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice export iscsi web-1@latest
  sluice export iscsi web-1@latest:vda --listen 192.0.2.7:3260 --initiator iqn.2026-01.test:host-1
  sluice export iscsi web-1 --chap-user backup --chap-secret-file /etc/sluice/chap
  qemu-img convert -O qcow2 iscsi://127.0.0.1:3260/iqn.2026-01.test:web-1/0 disk.qcow2
  iscsiadm -m discovery -t sendtargets -p 127.0.0.1:3260

With --ready-fd N, two lines are written to file descriptor N once initiators can connect, and it is
closed: READY=1, and the URL of logical unit 0.")]
pub(crate) struct IscsiArgs {
    /// The restore point, with :IMAGE to export one image only
    pub(crate) point: String,

    /// TCP address to listen on; several are several portals, port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:3260")]
    pub(crate) listen: Vec<SocketAddr>,

    /// Address that initiators are told to connect to, where it differs from the one listened on
    #[arg(long, value_name = "ADDR:PORT")]
    pub(crate) portal: Vec<SocketAddr>,

    /// Name of the target [default: made from instance and point]
    #[arg(long, value_name = "IQN")]
    pub(crate) target_name: Option<String>,

    /// Initiator that may connect; several are a list, none lets everybody in
    #[arg(long, value_name = "IQN")]
    pub(crate) initiator: Vec<String>,

    /// User that initiators must prove to be, by CHAP
    #[arg(long, value_name = "USER", requires = "chap_secret_file")]
    pub(crate) chap_user: Option<String>,

    /// File whose first line is that user's secret, 12 bytes or more
    #[arg(long, value_name = "PATH", requires = "chap_user")]
    pub(crate) chap_secret_file: Option<PathBuf>,

    /// User that the target proves to be, to initiators that ask (mutual CHAP)
    #[arg(long, value_name = "USER", requires = "mutual_chap_secret_file", requires = "chap_user")]
    pub(crate) mutual_chap_user: Option<String>,

    /// File whose first line is the target's secret, another than the initiators'
    #[arg(long, value_name = "PATH", requires = "mutual_chap_user")]
    pub(crate) mutual_chap_secret_file: Option<PathBuf>,

    /// File descriptor that is told when initiators can connect
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) ready_fd: Option<i32>,
}

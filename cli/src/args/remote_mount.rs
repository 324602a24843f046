use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use sluice_node_api::Network;

use super::lists::MountListArgs;
use super::value;

/// Show restore points as disks on a node of a server, and end that
///
/// The node keeps each for as long as its lease says, also while the server is away, and comes back
/// with it at the same address after a restart.
#[derive(Debug, Args)]
pub(crate) struct RemoteMountArgs {
    #[command(subcommand)]
    pub(crate) command: RemoteMountCommand,
}

/// What can be done with mounts of a server.
#[derive(Debug, Subcommand)]
pub(crate) enum RemoteMountCommand {
    /// List mounts, newest first; those that are gone only with --state gone
    #[command(after_help = "Example:\n  sluice remote-mount list --state ready")]
    List(MountListArgs),
    /// Show a mount
    #[command(after_help = "Example:\n  sluice remote-mount show 0193a2b4-...")]
    Show {
        /// Its id
        id: String,
    },
    Start(RemoteMountStartArgs),
    /// Let the lease of a mount begin anew
    #[command(after_help = "Example:\n  sluice remote-mount renew 0193a2b4-... --lease 2d")]
    Renew {
        /// Its id
        id: String,
        /// How long it stays from now on
        #[arg(long, value_name = "TIME", value_parser = value::duration)]
        lease: Duration,
    },
    /// Make a restore point of what clients have written to a mount, which stays
    #[command(after_help = "Example:\n  sluice remote-mount commit 0193a2b4-...")]
    Commit {
        /// Its id
        id: String,
    },
    /// List what a folder of a mount by fuse holds, through the server
    #[command(after_help = "\
Examples:
  sluice remote-mount files 0193a2b4-...
  sluice remote-mount files 0193a2b4-... /shop.web-1/latest")]
    Files {
        /// The mount's id
        id: String,
        /// The folder, as it is listed: %25 is a percent sign
        #[arg(default_value = "/")]
        path: String,
    },
    Download(DownloadArgs),
    /// End a mount; what was written to it and not committed is thrown away
    #[command(after_help = "Example:\n  sluice remote-mount stop 0193a2b4-...")]
    Stop {
        /// Its id
        id: String,
        /// Do not wait until it has ended
        #[arg(long)]
        no_wait: bool,
    },
}

/// Download a file of a mount by fuse, through the server
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice remote-mount download 0193a2b4-... /shop.web-1/latest/root.raw
  sluice remote-mount download 0193a2b4-... /shop.web-1/latest/root.raw --output /tmp/root.raw
  sluice remote-mount download 0193a2b4-... /shop.web-1/latest/root.raw --output - | sha256sum")]
pub(crate) struct DownloadArgs {
    /// The mount's id
    pub(crate) id: String,
    /// The file, as it is listed: %25 is a percent sign
    pub(crate) path: String,
    /// Where to, or - for standard output [default: the file's own name, in this folder]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Write over a file that is there, once all of the new one is
    #[arg(long)]
    pub(crate) overwrite: bool,
}

/// Mount a restore point on a node, for the clients that are named
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice remote-mount start shop/web-1 --client 192.0.2.0/24
  sluice remote-mount start shop/web-1 --from vault --client 192.0.2.0/24
  sluice remote-mount start shop.web-1@0q5g3 --node mover-2 --protocol iscsi --client 192.0.2.9 \\
    --initiator iqn.2026-01.test:host-1 --lease 2d
  sluice remote-mount start shop/web-1 --protocol iscsi --client 0.0.0.0/0 --chap-user backup \\
    --chap-secret-file /etc/sluice/chap
  sluice remote-mount start shop/web-1 --protocol http --client 192.0.2.9
  sluice remote-mount start shop/web-1 --protocol fuse --node mover-2 --folder web-1")]
pub(crate) struct RemoteMountStartArgs {
    /// The restore point: its id, its name in the repository as far as it is unique, or an
    /// instance, whose newest is meant
    #[arg(value_name = "POINT")]
    pub(crate) point: String,

    /// Network of clients that may connect, such as 192.0.2.0/24; several are a list, and only fuse
    /// goes without
    #[arg(long, value_name = "CIDR")]
    pub(crate) client: Vec<Network>,

    /// How clients use it
    #[arg(long, value_enum, value_name = "PROTOCOL", default_value = "nbd")]
    pub(crate) protocol: RemoteProtocol,

    /// With fuse: name of the folder on the node, below the one that its administrator has named
    /// [default: the mount's id]
    #[arg(long, value_name = "NAME")]
    pub(crate) folder: Option<String>,

    /// Let clients write; what they write is gone with the mount, if it is not committed before
    #[arg(long)]
    pub(crate) writable: bool,

    /// The only image to show
    #[arg(long, value_name = "NAME")]
    pub(crate) image: Option<String>,

    /// The destination to read it from, of those that hold it [default: where it was made; the
    /// others when that fails]
    #[arg(long, value_name = "[PROJECT/]NAME")]
    pub(crate) from: Option<String>,

    /// The node [default: one that can]
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,

    /// iSCSI initiator that may connect; several are a list, none lets everybody in
    #[arg(long, value_name = "IQN")]
    pub(crate) initiator: Vec<String>,

    /// User that iSCSI initiators must prove to be, by CHAP
    #[arg(long, value_name = "USER", requires = "chap_secret_file")]
    pub(crate) chap_user: Option<String>,

    /// File whose first line is that user's secret, 12 bytes or more
    #[arg(long, value_name = "PATH", requires = "chap_user")]
    pub(crate) chap_secret_file: Option<PathBuf>,

    /// It ends by itself after so long
    #[arg(long, value_name = "TIME", default_value = "8h", value_parser = value::duration)]
    pub(crate) lease: Duration,

    /// Do not wait until it can be used
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Protocols of mounts on nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RemoteProtocol {
    /// Network block device
    Nbd,
    /// A SCSI disk over TCP
    Iscsi,
    /// Files that can be read at any range, for who knows the token in their URLs
    Http,
    /// Files in a folder of the node
    Fuse,
}

impl RemoteProtocol {
    /// Its word in the API.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Nbd => "nbd",
            Self::Iscsi => "iscsi",
            Self::Http => "http",
            Self::Fuse => "fuse",
        }
    }
}

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use sluice_node_api::Network;

use super::WritableArgs;

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
    Http(HttpArgs),
    VhostUser(VhostUserArgs),
}

/// Serve restore points over NBD until interrupted or as long as --lease says, read-only unless
/// --writable is given
///
/// Of one point, each image is an export of its name. Of several points, or of all, each image is
/// the export INSTANCE@ID:IMAGE. Exports are opened when the first client asks for them. The first
/// one is also the default export. Clients can ask which blocks changed since an earlier point of
/// the chain, by the metadata context sluice:changed-since=POINT.
///
/// Whoever reaches the server can read the disks, unless clients must have a certificate
/// (--tls-client-ca) or a key (--tls-psk-file): otherwise use a Unix socket, loopback, or a network
/// you trust.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice export nbd web-1@latest
  sluice export nbd web-1@latest:vda --socket /run/web-1.sock
  sluice export nbd web-1@latest db-1@latest
  sluice export nbd --all --listen 192.0.2.7:10809 --tls-psk-file /etc/sluice/keys.psk
  sluice export nbd web-1@latest --detach --lease 8h
  sluice export nbd web-1@latest --writable --overlay-limit 10GiB
  qemu-img convert -O qcow2 nbd://127.0.0.1:10809 disk.qcow2
  nbdcopy 'nbd+unix:///?socket=/run/web-1.sock' disk.raw
  nbdinfo --map=sluice:changed-since=2026-11-20T03:00 nbd://127.0.0.1:10809
  nbdcopy 'nbds://host-1@192.0.2.7/?tls-psk-file=keys.psk' disk.raw

With --ready-fd N, two lines are written to file descriptor N once clients can connect, and it is
closed: READY=1, and the URI of the default export.")]
pub(crate) struct NbdArgs {
    /// The restore points, with :IMAGE to export one image only
    #[arg(required_unless_present = "all", value_name = "POINT")]
    pub(crate) points: Vec<String>,

    /// Export all restore points there are now
    #[arg(long, conflicts_with = "points")]
    pub(crate) all: bool,

    /// TCP address to listen on; port 0 takes a free one [default: 127.0.0.1:10809]
    #[arg(long, value_name = "ADDR:PORT", conflicts_with = "socket")]
    pub(crate) listen: Option<SocketAddr>,

    /// Unix socket to listen on, for this user only
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: Option<PathBuf>,

    /// Name of the export, instead of the image's; needs a single image
    #[arg(long)]
    pub(crate) name: Option<String>,

    #[command(flatten)]
    pub(crate) tls: TlsArgs,

    /// Network of clients that may connect, such as 192.0.2.0/24; several are a list, none lets
    /// everybody in
    #[arg(long, value_name = "CIDR", conflicts_with = "socket")]
    pub(crate) allow: Vec<Network>,

    /// Connections at a time; clients that have not opened an export yet make room for new ones
    #[arg(long, value_name = "N", default_value_t = 1024)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_connections: u32,

    #[command(flatten)]
    pub(crate) writable: WritableArgs,

    /// File descriptor that is told when clients can connect
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) ready_fd: Option<i32>,
}

/// Encryption of an NBD server.
#[derive(Debug, Default, Args)]
pub(crate) struct TlsArgs {
    /// Whether connections are encrypted: never, if the client wants it, or always
    ///
    /// By default always, when there is a certificate or a file of keys, and never otherwise.
    #[arg(long, value_enum, value_name = "WHEN")]
    pub(crate) tls: Option<TlsMode>,

    /// File of the server's certificate and what leads to its authority, in PEM
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    pub(crate) tls_certificate: Option<PathBuf>,

    /// File of the certificate's private key, in PEM
    #[arg(long, value_name = "PATH", requires = "tls_certificate")]
    pub(crate) tls_key: Option<PathBuf>,

    /// File of the authorities, in PEM, from one of which clients must have a certificate
    #[arg(long, value_name = "PATH", requires = "tls_certificate")]
    pub(crate) tls_client_ca: Option<PathBuf>,

    /// File of users and keys, of which clients must have one, as psktool writes it
    #[arg(long, value_name = "PATH")]
    pub(crate) tls_psk_file: Option<PathBuf>,
}

/// When connections are encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TlsMode {
    /// Never
    Off,
    /// When the client asks for it
    On,
    /// Always
    Require,
}

/// Serve a restore point over iSCSI until interrupted, read-only unless --writable is given
///
/// The images of the point are logical units 0, 1, 2 and so on of one target, in their order; with
/// POINT:IMAGE there is one. Whoever reaches the address can read the disks unless --chap-user asks
/// for a proof. What is sent is not encrypted: use a network you trust.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice export iscsi web-1@latest
  sluice export iscsi web-1@latest:vda --listen 192.0.2.7:3260 --initiator iqn.2026-01.test:host-1
  sluice export iscsi web-1@latest --writable --overlay /srv/overlays/web-1
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

    /// Name of the target [default: made from instance and point, or overlay]
    #[arg(long, value_name = "IQN")]
    pub(crate) target_name: Option<String>,

    /// Initiator that may connect; several are a list, none lets everybody in
    #[arg(long, value_name = "IQN")]
    pub(crate) initiator: Vec<String>,

    /// Network of initiators that may connect, such as 192.0.2.0/24; several are a list, none lets
    /// everybody in
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow: Vec<Network>,

    /// User that initiators must prove to be, by CHAP; its secret is in --chap-secret-file or in
    /// the variable SLUICE_CHAP_SECRET
    #[arg(long, value_name = "USER")]
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

    #[command(flatten)]
    pub(crate) writable: WritableArgs,

    /// File descriptor that is told when initiators can connect
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) ready_fd: Option<i32>,
}

/// Serve restore points over HTTP as files that can be read at any range, until interrupted
///
/// Each image is a file NAME.raw, or INSTANCE/ID/NAME.raw when several points are served. A secret
/// token opens them: in the URL, as a bearer token, or as a password. Without --tls-certificate a
/// certificate is made at the first start and kept; its fingerprint is shown.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice export http web-1@latest --plain
  sluice export http web-1 db-1:vda --listen 192.0.2.7:10443 --token-file /etc/sluice/token
  sluice export http web-1 --tls-certificate /etc/ssl/web.pem --tls-key /etc/ssl/private/web.key
  curl -C - -O http://127.0.0.1:10443/TOKEN/vda.raw
  qemu-img convert -m 1 -O qcow2 http://127.0.0.1:10443/TOKEN/vda.raw disk.qcow2
  nbdkit curl https://127.0.0.1:10443/TOKEN/vda.raw cainfo=FILE

With --ready-fd N, two lines are written to file descriptor N once clients can connect, and it is
closed: READY=1, and the URL of the first image.")]
pub(crate) struct HttpArgs {
    /// The restore points, each with :IMAGE to export one image only
    #[arg(required = true, value_name = "POINT")]
    pub(crate) points: Vec<String>,

    /// TCP address to listen on; several are possible, port 0 takes a free one
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:10443")]
    pub(crate) listen: Vec<SocketAddr>,

    /// File whose first line is the token, 16 characters or more [default: SLUICE_HTTP_TOKEN, or a
    /// new one at each start]
    #[arg(long, value_name = "PATH")]
    pub(crate) token_file: Option<PathBuf>,

    /// Certificate to serve with, and those that vouch for it, as PEM
    #[arg(long, value_name = "PATH", requires = "tls_key")]
    pub(crate) tls_certificate: Option<PathBuf>,

    /// Private key of the certificate, as PEM
    #[arg(long, value_name = "PATH", requires = "tls_certificate")]
    pub(crate) tls_key: Option<PathBuf>,

    /// Serve without TLS: token and disks can be read by everybody on the way
    #[arg(long, conflicts_with = "tls_certificate")]
    pub(crate) plain: bool,

    /// Network of clients that may connect, such as 192.0.2.0/24; several are a list, none lets
    /// everybody in who knows the token
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow: Vec<Network>,

    /// File descriptor that is told when clients can connect
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) ready_fd: Option<i32>,
}

/// Serve an image as a virtio disk over vhost-user until interrupted, read-only unless --writable
/// is given
///
/// For QEMU and cloud-hypervisor on this machine: requests pass through the guest's memory, which
/// the monitor must share. One monitor at a time; it may come back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice export vhost-user web-1@latest:vda --socket /run/web-1.sock
  sluice export vhost-user web-1 --socket /run/web-1.sock --queues 4
  sluice export vhost-user web-1 --socket /run/web-1.sock --writable --overlay /srv/overlays/web-1
  qemu-system-x86_64 -m 1G -object memory-backend-memfd,id=m,size=1G,share=on \\
    -machine q35,memory-backend=m -chardev socket,id=c,path=/run/web-1.sock \\
    -device vhost-user-blk-pci,chardev=c
  cloud-hypervisor --memory size=1G,shared=on --disk vhost_user=true,socket=/run/web-1.sock ...

With --ready-fd N, two lines are written to file descriptor N once a monitor can connect, and it is
closed: READY=1, and the path of the socket.")]
pub(crate) struct VhostUserArgs {
    /// The restore point, with :IMAGE when it has several images
    pub(crate) point: String,

    /// Unix socket to listen on, for this user only
    #[arg(long, value_name = "PATH")]
    pub(crate) socket: PathBuf,

    /// Queues of the device, one for each processor of the guest at most
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) queues: u16,

    #[command(flatten)]
    pub(crate) writable: WritableArgs,

    /// File descriptor that is told when a monitor can connect
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) ready_fd: Option<i32>,
}

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::value;

/// Whether mountd keeps what is started.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct DetachArgs {
    /// Let mountd keep it in the background, and return once it can be used
    #[arg(long, global = true)]
    pub(crate) detach: bool,

    /// With --detach: end it by itself after this time, such as 8h
    #[arg(long, value_name = "TIME", value_parser = value::duration, global = true)]
    pub(crate) lease: Option<Duration>,
}

/// Keep mounts and exports in the background: the daemon behind --detach
///
/// Mounts and exports that were handed over with --detach are stored, and started again with the
/// same addresses when mountd comes back after a restart or a crash. Where none runs, --detach
/// starts one that ends with its last mount. Runs in the foreground until interrupted; under
/// systemd, it says when it is ready.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice mountd --metrics 9469
  sluice mountd --state /var/lib/sluice/mountd --socket /run/sluice/mountd.sock
  systemctl enable --now sluice-mountd
  curl http://127.0.0.1:9469/metrics")]
pub(crate) struct MountdArgs {
    /// Folder for what is to come back [default: $XDG_STATE_HOME/sluice/mountd or
    /// ~/.local/state/sluice/mountd]
    #[arg(long, value_name = "DIR", env = "SLUICE_MOUNTD_STATE", hide_env_values = true)]
    pub(crate) state: Option<PathBuf>,

    /// Control socket, for this user and root [default: mountd.sock in the state folder]
    #[arg(long, value_name = "PATH", env = "SLUICE_MOUNTD_SOCKET", hide_env_values = true)]
    pub(crate) socket: Option<PathBuf>,

    /// Serve metrics for Prometheus on this address; a port alone is one of 127.0.0.1
    #[arg(long, value_name = "[ADDR:]PORT", value_parser = address)]
    pub(crate) metrics: Option<SocketAddr>,

    /// End when there is no mount any more
    #[arg(long, hide = true)]
    pub(crate) until_idle: bool,
}

/// List what mountd keeps, with what it has done; or renew a lease
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  sluice mounts
  sluice mounts --json
  sluice mounts renew k3v8qd --lease 8h

SLUICE_MOUNTD_SOCKET names the control socket of another mountd."
)]
pub(crate) struct MountsArgs {
    #[command(subcommand)]
    pub(crate) command: Option<MountsCommand>,
}

/// What else can be done with mounts.
#[derive(Debug, Subcommand)]
pub(crate) enum MountsCommand {
    Renew(RenewArgs),
}

/// Let the lease of a mount begin anew
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice mounts renew k3v8qd --lease 8h
  sluice mounts renew k3v8qd --forever")]
pub(crate) struct RenewArgs {
    /// The mount
    pub(crate) id: String,

    /// How long it stays from now on
    #[arg(
        long,
        value_name = "TIME",
        value_parser = value::duration,
        required_unless_present = "forever"
    )]
    pub(crate) lease: Option<Duration>,

    /// Keep it until somebody unmounts it
    #[arg(long, conflicts_with = "lease")]
    pub(crate) forever: bool,
}

/// An address, or a port of this machine.
fn address(text: &str) -> Result<SocketAddr, String> {
    let port = text.parse().map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port));
    port.or_else(|_| text.parse())
        .map_err(|_| format!("{text:?} is no address; write 9469 or 192.0.2.7:9469"))
}

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{DetachArgs, value};

/// Show all restore points as raw image files in a folder (FUSE), read-only unless --writable is
/// given
///
/// DIR/INSTANCE/POINT/IMAGE.raw, a metadata.json beside the images, and a link DIR/INSTANCE/latest
/// to the newest point. New points appear by themselves. Runs in the foreground until unmounted or
/// interrupted, or with --detach in the background, where mountd keeps it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice mount /mnt/backups --repo /backup/repository
  sluice mount /backup/repository /mnt/backups --detach --lease 8h
  losetup --read-only --find --show --partscan /mnt/backups/web-1/latest/disk.raw
  sluice mount /mnt/backups --point web-1@0q5g3
  sluice mount /mnt/backups --writable --overlays /srv/overlays --overlay-limit 20GiB
  sluice unmount /mnt/backups")]
pub(crate) struct MountArgs {
    /// The folder to mount on, after the repository unless --repo names it
    #[arg(required = true, num_args = 1..=2, value_name = "[DEST] DIR")]
    pub(crate) places: Vec<String>,

    #[command(flatten)]
    pub(crate) background: DetachArgs,

    /// Show this restore point only, which is kept for as long as it is mounted
    #[arg(long, value_name = "POINT")]
    pub(crate) point: Option<String>,

    /// Let images be written; what is written goes to overlays, and the restore points stay as they
    /// are
    #[arg(long)]
    pub(crate) writable: bool,

    /// Folder of the overlays, one for each restore point that is written to [default:
    /// $XDG_STATE_HOME/sluice/overlays]
    #[arg(long, value_name = "DIR", requires = "writable")]
    pub(crate) overlays: Option<PathBuf>,

    /// Most bytes that what is written may take, for each restore point; beyond them the disk is
    /// full
    #[arg(long, value_name = "SIZE", value_parser = value::bytes, requires = "writable")]
    pub(crate) overlay_limit: Option<u64>,

    /// Let other users read the files (needs user_allow_other in /etc/fuse.conf)
    #[arg(long)]
    pub(crate) allow_other: bool,

    /// How long a read may wait for the destination before it fails
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = value::duration)]
    pub(crate) timeout: Duration,

    /// File descriptor that is told READY=1 and the folder once mounted
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(3..))]
    pub(crate) ready_fd: Option<i32>,
}

/// End a mount or an export, also with files open or the destination gone
///
/// Ends what mountd keeps, by its id or its folder, and what `sluice mount` mounted on a folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice unmount /mnt/backups
  sluice unmount k3v8qd
  sluice unmount --all")]
pub(crate) struct UnmountArgs {
    /// The folder, or the id that `sluice mounts` shows
    #[arg(value_name = "DIR|ID", required_unless_present = "all")]
    pub(crate) what: Option<PathBuf>,

    /// Everything that mountd keeps
    #[arg(long, conflicts_with = "what")]
    pub(crate) all: bool,
}

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::value;

/// Options of an export that can be written
#[derive(Debug, Args)]
#[command(next_help_heading = "Options for writing")]
pub(crate) struct WritableArgs {
    /// Let clients write; what they write goes to an overlay, and the restore point stays as it is
    #[arg(long)]
    pub(crate) writable: bool,

    /// Folder of the overlay, made when it is not there [default: one for this point below
    /// $XDG_STATE_HOME/sluice/overlays]
    #[arg(long, value_name = "DIR", requires = "writable")]
    pub(crate) overlay: Option<PathBuf>,

    /// Most bytes that what is written may take; beyond them clients see a full disk
    #[arg(long, value_name = "SIZE", value_parser = value::bytes, requires = "writable")]
    pub(crate) overlay_limit: Option<u64>,

    /// Copy the whole disks into the overlay's folder meanwhile, so that the repository is no
    /// longer read once it is done
    #[arg(long, requires = "writable")]
    pub(crate) hydrate: bool,

    /// Copy the whole disk to this file or device meanwhile, which in the end is the disk, as
    /// `sluice overlay hydrate --to` does; of several disks, a folder for them
    #[arg(long, value_name = "FILE", requires = "writable", conflicts_with = "hydrate")]
    pub(crate) hydrate_to: Option<PathBuf>,

    /// Most bytes a second that --hydrate or --hydrate-to reads, such as 50MiB
    #[arg(long, value_name = "SIZE", value_parser = value::bytes, requires = "writable")]
    pub(crate) hydrate_limit: Option<u64>,
}

/// What was written to restore points: look at it, keep it as a new point, or throw it away
#[derive(Debug, Args)]
pub(crate) struct OverlayArgs {
    #[command(subcommand)]
    pub(crate) command: OverlayCommand,
}

/// What can be done with overlays.
#[derive(Debug, Subcommand)]
pub(crate) enum OverlayCommand {
    /// List the overlays of this user, and whether the repository keeps what they lie over
    #[command(after_help = "Example:\n  sluice overlay list --json")]
    List(OverlayListArgs),
    /// Show what an overlay lies over and holds
    #[command(after_help = "Example:\n  sluice overlay show /srv/overlays/web-1")]
    Show(OverlayShowArgs),
    Commit(OverlayCommitArgs),
    Hydrate(OverlayHydrateArgs),
    Discard(OverlayDiscardArgs),
}

/// Arguments of `sluice overlay list`.
#[derive(Debug, Args)]
pub(crate) struct OverlayListArgs {
    /// Folder whose subfolders are overlays [default: $XDG_STATE_HOME/sluice/overlays]
    pub(crate) dir: Option<PathBuf>,
}

/// Arguments that are an overlay.
#[derive(Debug, Args)]
pub(crate) struct OverlayShowArgs {
    /// The overlay's folder
    pub(crate) dir: PathBuf,
}

/// Make a restore point of what the disks of an overlay hold
///
/// Only what was written is read. An export that uses the overlay does it itself and goes on
/// meanwhile: the point holds what was written up to one moment, of all disks. Afterwards the
/// overlay lies over the new point, and its room is free again.
///
/// The point follows the one the overlay lies over. Where the machine itself goes on being backed
/// up with --changed or --dirty-bitmap, give the copy a name of its own with --as: such a backup
/// takes what it does not name from the newest point of the instance.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice overlay commit /srv/overlays/web-1
  sluice overlay commit /srv/overlays/web-1 --as web-1-test")]
pub(crate) struct OverlayCommitArgs {
    /// The overlay's folder
    pub(crate) dir: PathBuf,

    /// Instance that gets the new point, instead of the overlay's own
    #[arg(long = "as", value_name = "INSTANCE")]
    pub(crate) instance: Option<String>,
}

/// Copy what lies under an overlay to this machine, while it is served
///
/// Without --to, it is copied into the overlay's folder. What is there is read from there; in the
/// end the repository is not read any more. An export that uses the overlay does it itself and
/// goes on meanwhile. A copy that was cut off goes on with the same command.
///
/// With --to, the whole disk, with what was written to it, is copied to a file or a device, and in
/// the end is there: the export then reads and writes nothing else. When it ends, the file is an
/// ordinary disk. It cannot be committed any more; back the file up instead.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice overlay hydrate /srv/overlays/web-1
  sluice overlay hydrate /srv/overlays/web-1 --limit 50MiB
  sluice overlay hydrate /srv/overlays/web-1 --to /srv/images/web-1.raw")]
pub(crate) struct OverlayHydrateArgs {
    /// The overlay's folder
    pub(crate) dir: PathBuf,

    /// File, new or empty, or device that becomes the disk; of several disks, a folder for them
    #[arg(long, value_name = "FILE")]
    pub(crate) to: Option<PathBuf>,

    /// Most bytes a second
    #[arg(long, value_name = "SIZE", value_parser = value::bytes)]
    pub(crate) limit: Option<u64>,
}

/// Throw an overlay away with all that was written to it
///
/// Its restore point is not kept for it any more, so the repository is told. Where that cannot be
/// reached, --local leaves it out; `sluice release POINT --overlays` makes up for it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice overlay discard /srv/overlays/web-1
  sluice overlay discard /srv/overlays/web-1 --local")]
pub(crate) struct OverlayDiscardArgs {
    /// The overlay's folder
    pub(crate) dir: PathBuf,

    /// Do not tell the repository, which goes on keeping the restore point
    #[arg(long)]
    pub(crate) local: bool,
}

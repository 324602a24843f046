use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use sluice_connector_disk::Within;

use super::value;

/// Keep instances of a server as they are now, at their source, and show and remove what is kept
///
/// A snapshot shares the blocks of image files, on file systems that can (XFS, Btrfs): it is made
/// within seconds and takes space only as the images change. It is gone when its disk is, and no
/// backup. Policies make them by schedule, with `snapshots`.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    pub(crate) command: SnapshotCommand,
}

/// What can be done with snapshots.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Make a snapshot of an instance now, with the commands that its policies have around them
    #[command(after_help = "\
Examples:
  sluice snapshot make shop/web-1
  sluice snapshot make shop/web-1 --keep 2d
  sluice snapshot make shop/web-1 --no-hooks")]
    Make {
        /// The instance
        #[arg(value_name = "PROJECT/NAME")]
        instance: String,
        /// Remove it by itself after so long [default: when somebody does]
        #[arg(long, value_name = "TIME", value_parser = value::duration)]
        keep: Option<Duration>,
        /// Leave out the commands that its policies have around snapshots
        #[arg(long)]
        no_hooks: bool,
        /// Do not wait until it is there
        #[arg(long)]
        no_wait: bool,
    },
    /// List snapshots, newest first
    #[command(after_help = "\
Examples:
  sluice snapshot list
  sluice snapshot list --instance shop/web-1 --state ready")]
    List {
        /// Only those of this instance
        #[arg(long, value_name = "PROJECT/NAME")]
        instance: Option<String>,
        /// Only those in this state: requested, ready, removing, gone [default: all but gone]
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
    },
    /// Show a snapshot, and where its images lie
    #[command(after_help = "Example:\n  sluice snapshot show 0193a2b4-...")]
    Show {
        /// Its id
        id: String,
    },
    /// Remove a snapshot from its source
    #[command(after_help = "Example:\n  sluice snapshot remove 0193a2b4-...")]
    Remove {
        /// Its id
        id: String,
        /// Do not wait until it is gone
        #[arg(long)]
        no_wait: bool,
    },
}

/// Make or remove a snapshot of image files: what nodes do for the task
#[derive(Debug, Args)]
#[command(hide = true)]
#[command(after_help = "\
Example:
  sluice snapshot-files make --name s1 --folder /srv/images/.snapshots -- vda=/srv/images/a.raw")]
pub(crate) struct SnapshotFilesArgs {
    #[command(subcommand)]
    pub(crate) command: SnapshotFilesCommand,
}

/// What nodes do with snapshots.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotFilesCommand {
    /// Make one; one that is there is told again
    #[command(after_help = "\
Example:
  sluice snapshot-files make --name s1 --folder /srv/images/.snapshots -- vda=/srv/images/a.raw")]
    Make {
        #[command(flatten)]
        place: SnapshotPlaceArgs,
        /// Lists of folders, as JSON: the images must lie in a folder of each list
        #[arg(long, hide = true, value_name = "JSON", value_parser = value::within)]
        within: Option<Within>,
        /// An image file; NAME=IMAGE gives it a name
        #[arg(required = true, last = true, value_name = "[NAME=]IMAGE")]
        images: Vec<String>,
    },
    /// Remove one, whole or not; one that is not there is gone
    #[command(after_help = "\
Example:
  sluice snapshot-files remove --name s1 --folder /srv/images/.snapshots")]
    Remove {
        #[command(flatten)]
        place: SnapshotPlaceArgs,
        /// A folder in which it was seen: it is not gone while that is not there
        #[arg(long, value_name = "DIR")]
        seen: Vec<PathBuf>,
    },
}

/// Where a snapshot lies.
#[derive(Debug, Args)]
pub(crate) struct SnapshotPlaceArgs {
    /// What it is called
    #[arg(long)]
    pub(crate) name: String,
    /// A folder for snapshots; several are a list
    #[arg(long = "folder", value_name = "DIR")]
    pub(crate) folders: Vec<PathBuf>,
}

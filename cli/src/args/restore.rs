use std::path::PathBuf;

use clap::{ArgGroup, Args, ValueEnum};

/// Write an image of a restore point to a file or device
///
/// Files are made sparse. Every byte is verified before it is written. A restore to a raw file or
/// device that was interrupted goes on where it stopped with --resume.
#[derive(Debug, Args)]
#[command(group(ArgGroup::new("place").required(true).args(["target", "to"])))]
#[command(after_help = "\
Examples:
  sluice restore web-1@latest disk.raw
  sluice restore web-1@latest disk.qcow2 --format qcow2
  sluice restore web-1@2026-11-21T03:00:vda --to /dev/vg/web-1 --overwrite
  sluice restore web-1@latest images/        (all images, into that folder)")]
pub(crate) struct RestoreArgs {
    /// The restore point, with :IMAGE where it has several
    pub(crate) point: String,

    /// A new file, a device, or a folder for all images
    pub(crate) target: Option<PathBuf>,

    /// The same as TARGET
    #[arg(long, value_name = "TARGET")]
    pub(crate) to: Option<PathBuf>,

    /// Format of the target
    #[arg(long, value_enum, default_value_t = TargetFormat::Raw)]
    pub(crate) format: TargetFormat,

    /// Write over a file that exists, or a device
    #[arg(long, visible_alias = "force")]
    pub(crate) overwrite: bool,

    /// Go on with a restore to this target that was interrupted
    #[arg(long)]
    pub(crate) resume: bool,
}

impl RestoreArgs {
    /// Where to restore to.
    pub(crate) fn place(&self) -> PathBuf {
        self.target.clone().or_else(|| self.to.clone()).unwrap_or_default()
    }
}

/// Format of a restored image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum TargetFormat {
    /// The disk's bytes as they are, sparse
    Raw,
    /// QEMU
    Qcow2,
}

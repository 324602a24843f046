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
  sluice restore web-1@latest disk.qcow2
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

    /// Format of the target [default: qcow2 for a file that is called so, else raw]
    #[arg(long, value_enum)]
    pub(crate) format: Option<TargetFormat>,

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

    /// The format that was asked for, or that the target's name tells.
    pub(crate) fn format(&self) -> TargetFormat {
        let named = || self.place().extension().is_some_and(|extension| extension == "qcow2");
        match self.format {
            Some(format) => format,
            None if named() => TargetFormat::Qcow2,
            None => TargetFormat::Raw,
        }
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn format(line: &str) -> TargetFormat {
        match Cli::try_parse_from(format!("sluice restore p {line}").split(' ')).unwrap().command {
            Command::Restore(args) => args.format(),
            _ => unreachable!("the line is a restore"),
        }
    }

    #[test]
    fn the_target_tells_its_format_unless_one_is_named() {
        assert_eq!(format("a.qcow2"), TargetFormat::Qcow2);
        assert_eq!(format("--to a.qcow2"), TargetFormat::Qcow2);
        assert_eq!(format("a.qcow2 --format raw"), TargetFormat::Raw);
        assert_eq!(format("a.raw"), TargetFormat::Raw);
        assert_eq!(format("/dev/sda --format qcow2"), TargetFormat::Qcow2);
    }
}

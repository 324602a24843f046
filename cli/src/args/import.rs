use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::TargetFormat;

/// Make image files of a restore point for a new instance: what nodes do for the task
#[derive(Debug, Args)]
#[command(hide = true)]
pub(crate) struct ImportFilesArgs {
    #[command(subcommand)]
    pub(crate) command: ImportFilesCommand,
}

/// What nodes do for imports.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportFilesCommand {
    /// Write all images to a new folder; one that was interrupted goes on
    #[command(after_help = "\
Example:
  sluice import-files make --folder /srv/imports --name web-2 --id i1 web-1@latest")]
    Make {
        #[command(flatten)]
        place: ImportPlaceArgs,
        /// Format of the images
        #[arg(long, value_enum, default_value_t = TargetFormat::Raw)]
        format: TargetFormat,
        /// The restore point
        point: String,
    },
    /// Remove what this import has made, whole or not
    #[command(after_help = "\
Example:
  sluice import-files remove --folder /srv/imports --name web-2 --id i1")]
    Remove {
        #[command(flatten)]
        place: ImportPlaceArgs,
    },
}

/// Where an import lies.
#[derive(Debug, Args)]
pub(crate) struct ImportPlaceArgs {
    /// The folder in which its own folder is made
    #[arg(long, value_name = "DIR")]
    pub(crate) folder: PathBuf,
    /// The name of its folder, which must not be there
    #[arg(long)]
    pub(crate) name: String,
    /// What tells this import from all others
    #[arg(long)]
    pub(crate) id: String,
}

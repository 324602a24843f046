use std::path::PathBuf;

use clap::Args;

/// List the disks in a folder: what nodes do for an inventory
#[derive(Debug, Args)]
#[command(hide = true)]
#[command(after_help = "Example:\n  sluice look --depth 1 -- /srv/images")]
pub(crate) struct LookArgs {
    /// What the list is for; it says so
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub(crate) order: String,

    /// Block devices, and no files
    #[arg(long)]
    pub(crate) devices: bool,

    /// A pattern of names; several are a list [default: those of image files]
    #[arg(long, value_name = "PATTERN")]
    pub(crate) name: Vec<String>,

    /// A pattern of what is passed over; several are a list
    #[arg(long, value_name = "PATTERN")]
    pub(crate) except: Vec<String>,

    /// How many levels of folders are looked through
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) depth: u32,

    /// More disks are an error
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub(crate) most: u32,

    /// The folder
    #[arg(last = true, required = true, value_name = "DIR")]
    pub(crate) folder: PathBuf,
}

use clap::Args;

/// List restore points
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  sluice list\n  sluice list web-1 --json")]
pub(crate) struct ListArgs {
    /// Only those of this instance
    pub(crate) instance: Option<String>,
}

/// Show a restore point: its images, what the backup did, the metadata kept with it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice show web-1@latest
  sluice show web-1@2026-11-21T03:00 --json")]
pub(crate) struct ShowArgs {
    /// The restore point
    pub(crate) point: String,
}

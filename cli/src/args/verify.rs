use clap::Args;

use super::value;

/// Check that restore points can be read
///
/// Without options the structure: every block map, and every pack's table. --data also reads every
/// block back and checks its content. Exits with 4 when something is damaged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice verify
  sluice verify --data
  sluice verify web-1@latest --sample 5%
  sluice verify --instance web-1 --data")]
pub(crate) struct VerifyArgs {
    /// Only this restore point
    pub(crate) point: Option<String>,

    /// Only the restore points of this instance
    #[arg(long, value_name = "NAME", conflicts_with = "point")]
    pub(crate) instance: Option<String>,

    /// Also read every block
    #[arg(long, conflicts_with = "sample")]
    pub(crate) data: bool,

    /// Also read this share of the blocks, others each time
    #[arg(long, value_name = "SHARE", value_parser = value::share)]
    pub(crate) sample: Option<f64>,
}

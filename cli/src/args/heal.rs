use clap::Args;

/// Bring damaged objects back from a copy of the repository
///
/// Looks for damage in the repository and takes the objects of the same names from the copy, after
/// checking both: only what fails its own checks is replaced, and only by what passes all of them.
/// Exits with 4 when damage remains.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice heal --from /mnt/copy/repository
  sluice heal --from s3://copies/web --data
  sluice heal --from /mnt/copy/repository --dry-run")]
pub(crate) struct HealArgs {
    /// The copy: another destination with the same repository
    #[arg(long, value_name = "DEST")]
    pub(crate) from: String,

    /// Read every byte to find damage, beyond what is known already
    #[arg(long)]
    pub(crate) data: bool,

    /// Say what would be done, and change nothing
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Also bring back restore points that only the copy has, which may have been pruned here
    #[arg(long)]
    pub(crate) missing_points: bool,
}

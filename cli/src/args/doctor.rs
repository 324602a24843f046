use std::time::Duration;

use clap::Args;

use super::value;

/// Explain the state of the repository, and what can be done about it
///
/// Looks at the descriptor, key slots, sessions, pins and collections, and for damage; names the
/// restore points and the bytes of their images that need what is damaged; and gives the commands
/// that help. Works, as far as it can, also when the repository does not open.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice doctor
  sluice doctor --data
  sluice doctor --probe --json
  sluice doctor --repair --dry-run")]
pub(crate) struct DoctorArgs {
    /// Also read every byte
    #[arg(long)]
    pub(crate) data: bool,

    /// Try again what the destination can do; writes a few small objects for it
    #[arg(long)]
    pub(crate) probe: bool,

    /// Put right damaged records that stop backups or collections, instead of examining: of
    /// sessions, pins, and collections. Removes no pack and no restore point
    #[arg(long, conflicts_with_all = ["data", "probe"])]
    pub(crate) repair: bool,

    /// With --repair: only tell what would be done
    #[arg(long, short = 'n', requires = "repair")]
    pub(crate) dry_run: bool,

    /// With --repair: a damaged record of a program is that of a living one until it was not
    /// written for this long, by the destination's clock
    #[arg(
        long,
        value_name = "TIME",
        value_parser = value::duration,
        default_value = "24h",
        requires = "repair"
    )]
    pub(crate) min_age: Duration,
}

use std::time::Duration;

use clap::Args;

use super::value;

/// Read back what lies longest unread
///
/// Reads packs, those that were proven longest ago first, and remembers in the repository what was
/// proven when. Run often with a budget, it comes round to every byte. Exits with 4 when something
/// is damaged; `sluice doctor` tells what that touches.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice scrub --budget 100GiB
  sluice scrub --max-age 90d
  sluice scrub --keyless --budget 1TiB
  sluice scrub --status --max-age 90d")]
pub(crate) struct ScrubArgs {
    /// Read at most so many bytes
    #[arg(long, value_name = "BYTES", value_parser = value::bytes, conflicts_with = "status")]
    pub(crate) budget: Option<u64>,

    /// Read only what was not proven for so long; with --status, warn (exit 3) when there is any
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    pub(crate) max_age: Option<Duration>,

    /// Use no key: compare packs with their hashes, without looking into them
    #[arg(long)]
    pub(crate) keyless: bool,

    /// Show since when every byte is proven, and read nothing
    #[arg(long)]
    pub(crate) status: bool,
}

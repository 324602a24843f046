use std::time::Duration;

use clap::Args;

use super::value;

/// Give back the space of what no restore point needs any more
///
/// Backups, restores and mounts go on meanwhile, on this and on other nodes. Packs that nothing
/// references are removed; packs of which little is referenced are compacted. With --plan, says
/// what it would do and changes nothing. A collection that is interrupted is finished by the next.
///
/// Open backups first learn what is to be removed, which takes a minute or so; when one does not
/// answer within --wait, nothing is removed, the exit code is 3, and the next collection goes on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice collect --plan
  sluice collect
  sluice collect --limit 50MiB --wait 1h
  sluice collect --compact-below 80% --min-saving 1MiB")]
pub(crate) struct CollectArgs {
    /// Say what would be done, with bytes and requests, and change nothing
    #[arg(long, visible_alias = "dry-run")]
    pub(crate) plan: bool,

    /// Compact packs of which less than this share is referenced
    #[arg(long, value_name = "PERCENT", value_parser = value::share, default_value = "50%")]
    pub(crate) compact_below: f64,

    /// Leave packs alone of which compaction would free less than this
    #[arg(long, value_name = "BYTES", value_parser = value::bytes, default_value = "8MiB")]
    pub(crate) min_saving: u64,

    /// Wait so long for open backups to answer
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "15m")]
    pub(crate) wait: Duration,

    /// Declare backups and mounts dead that have shown no sign of life for so long
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "24h")]
    pub(crate) silent: Duration,

    /// Compact at most so many bytes a second
    #[arg(long, value_name = "BYTES", value_parser = value::bytes)]
    pub(crate) limit: Option<u64>,
}

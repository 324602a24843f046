use std::time::Duration;

use clap::Args;

use super::periods::PeriodArgs;
use super::value;

/// Remove restore points that no rule keeps
///
/// A point is kept when any rule keeps it. The newest of each instance is always kept, and so are
/// points on hold or under retention; --min-age keeps what is young from every rule. Of each hour,
/// day, ISO week, month or year it is the newest point that counts; periods without one are
/// skipped. Removed points vanish from lists and mounts within seconds; `sluice
/// collect` gives their space back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice prune --keep-daily 14 --keep-weekly 8 --dry-run
  sluice prune web-1 --keep-within 30d --keep-monthly 12 --min-age 14d
  sluice prune web-1 --keep-daily 7 --keep-until 2033-01-01 --keep-until web-1@0q5g3=event
  sluice prune --keep-daily 7 --keep-monthly 12 --simulate 2y --every 1d")]
pub(crate) struct PruneArgs {
    /// Only points of this instance
    pub(crate) instance: Option<String>,

    #[command(flatten)]
    pub(crate) periods: PeriodArgs,
    /// Keep every point not older than this, such as 30d
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    pub(crate) keep_within: Option<Duration>,

    /// Keep every point until this date, or `event`: without end, as long as an event has not
    /// happened; with POINT= or INSTANCE= that point, which must be there, or those of that
    /// instance, alone. @SECONDS counts from 1970
    #[arg(long, value_name = "[POINT=|INSTANCE=]DATE")]
    pub(crate) keep_until: Vec<String>,

    /// Remove nothing younger than this, such as 14d, whatever the rules say
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    pub(crate) min_age: Option<Duration>,

    /// Show what the rules come to over this time, such as 2y; needs no repository
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    #[arg(conflicts_with_all = ["instance", "dry_run"])]
    pub(crate) simulate: Option<Duration>,
    /// With --simulate: the time from one backup to the next
    #[arg(long, value_name = "TIME", value_parser = value::duration, requires = "simulate")]
    pub(crate) every: Option<Duration>,
    /// With --simulate: the time of the first backup [default: now]
    #[arg(long, value_name = "DATE", requires = "simulate")]
    pub(crate) from: Option<String>,

    /// Show what would happen and change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,

    #[command(flatten)]
    pub(crate) of_server: OfServerArgs,

    /// With --json: tell points by their ids, instance by instance, and nothing else of them; at
    /// most 100000 are removed at once, and the rest by the next prune
    #[arg(long, hide = true, conflicts_with_all = ["simulate", "dry_run"])]
    pub(crate) brief: bool,
}

/// Remove the named restore points
///
/// They vanish from lists at once and from mounts within seconds; their space is given back by a
/// later collection.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice forget web-1@2026-11-21T03:00 web-1@0q5g3")]
pub(crate) struct ForgetArgs {
    /// The restore points
    #[arg(required = true)]
    pub(crate) points: Vec<String>,

    #[command(flatten)]
    pub(crate) of_server: OfServerArgs,
}

/// What becomes of restore points that only a server may judge.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct OfServerArgs {
    /// Also remove restore points that tasks of a server have made: its policies may keep them
    /// because of events, of which the repository does not know
    #[arg(long)]
    pub(crate) even_of_server: bool,
}

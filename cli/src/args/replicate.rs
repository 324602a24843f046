use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::civil::Time;

use super::periods::PeriodArgs;
use super::value;

/// Copy the repository to a second place, or from there
///
/// What is at the other place already is told by listings and not sent again; a copy that was
/// stopped or killed is gone on with by the same command. DEST becomes a replica: it has the same
/// keys, can be listed, verified, mounted and restored from like the original, and takes no
/// backups until `promote`. To copy everything takes no passphrase. When DEST holds another
/// repository, with keys of its own, restore points are copied into it one by one.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  sluice replicate --to 's3://far/web?region=eu-central-1'
  sluice replicate --to /mnt/disk --dry-run
  sluice replicate --to s3://far/web --keep-daily 7 --keep-monthly 12
  sluice replicate --to s3://far/web --limit-window 08:00-18:00=5MiB/s
  sluice replicate --repo /backup/repository --from s3://far/web --instance web-1 --latest 1

To seed a far place by courier: replicate to a disk, carry it there, replicate from the disk into
the far place (--repo DISK --to FAR), and from then on from here to there."
)]
pub(crate) struct ReplicateArgs {
    #[command(subcommand)]
    pub(crate) command: Option<ReplicateCommand>,
    #[command(flatten)]
    pub(crate) run: ReplicateRunArgs,
}

/// A copy.
#[derive(Debug, Args)]
pub(crate) struct ReplicateRunArgs {
    /// Copy from the repository to DEST
    #[arg(long, value_name = "DEST", conflicts_with = "from", required_unless_present = "from")]
    pub(crate) to: Option<String>,
    /// Copy from DEST to the repository
    #[arg(long, value_name = "DEST")]
    pub(crate) from: Option<String>,

    /// Only restore points of these instances
    #[arg(long, value_name = "NAME", num_args = 1..)]
    pub(crate) instance: Vec<String>,
    /// Only the newest N restore points of each instance
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) latest: Option<u32>,
    /// Only restore points made at or after this date or time
    #[arg(long, value_name = "DATE")]
    pub(crate) since: Option<String>,

    /// Also remove at the target what was removed at the source
    #[arg(long)]
    pub(crate) mirror_prunes: bool,
    /// Also bring back packs the target has lost; without filters that is always done
    #[arg(long)]
    pub(crate) repair: bool,
    /// Move at most so much a second, such as 20MiB/s
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) limit: Option<u64>,
    /// Move at most so much a second at this time of the day, such as 08:00-18:00=5MiB/s; 0 pauses
    #[arg(long, value_name = "FROM-TO=RATE", value_parser = window)]
    pub(crate) limit_window: Vec<RateWindow>,
    /// Packs copied side by side, each held in memory
    #[arg(
        long,
        value_name = "N",
        default_value_t = 4,
        value_parser = clap::value_parser!(u8).range(1..=32)
    )]
    pub(crate) parallel: u8,

    /// Use no key, though one is given
    #[arg(long)]
    pub(crate) without_key: bool,
    /// Passphrase of DEST when it is another repository [default: the same as the repository's]
    #[arg(
        long,
        value_name = "FILE",
        env = "SLUICE_DEST_PASSPHRASE_FILE",
        hide_env_values = true,
        hide_env = true
    )]
    pub(crate) dest_passphrase_file: Option<PathBuf>,
    /// Copy also into another repository that is not encrypted, where everybody can read the copies
    #[arg(long)]
    pub(crate) dest_unencrypted: bool,

    /// Tell in the document which copies DEST, or the repository, holds of these instances now
    #[arg(long, requires = "instance", hide = true)]
    pub(crate) tell_copies: bool,

    /// Show what would be copied and change nothing
    #[arg(short = 'n', long)]
    pub(crate) dry_run: bool,
    /// Keep every point not older than this, such as 30d
    #[arg(long, value_name = "TIME", value_parser = value::duration)]
    #[arg(help_heading = "What the target keeps")]
    pub(crate) keep_within: Option<Duration>,
    #[command(flatten, next_help_heading = "What the target keeps")]
    pub(crate) periods: PeriodArgs,
}

/// What else can be done about replicas.
#[derive(Debug, Subcommand)]
pub(crate) enum ReplicateCommand {
    /// Make the replica at --repo the primary, which takes backups
    #[command(after_help = "Example:\n  sluice --repo s3://far/web replicate promote")]
    Promote {
        /// Also when a replication into it seems to be under way: its machine is gone
        #[arg(long)]
        force: bool,
    },
    /// Make the repository at --repo a replica of the new primary
    #[command(after_help = "\
Example:
  sluice --repo /backup/repository replicate demote --to s3://far/web")]
    Demote {
        /// The new primary
        #[arg(long, value_name = "NEWPRIMARY")]
        to: String,
    },
    /// Show whether the repository at --repo is a replica, of what, and how fresh
    #[command(after_help = "Example:\n  sluice --repo s3://far/web replicate status --json")]
    Status,
}

/// A limit at a time of the day.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateWindow {
    pub(crate) from: Time,
    pub(crate) to: Time,
    pub(crate) rate: u64,
}

/// Bytes a second: `20MiB/s`, or `20MiB`.
pub(crate) fn rate(text: &str) -> Result<u64, String> {
    let rate = any_rate(text)?;
    if rate == 0 { Err("a limit of 0 would move nothing, ever".into()) } else { Ok(rate) }
}

fn any_rate(text: &str) -> Result<u64, String> {
    value::bytes(text.trim().trim_end_matches("/s"))
}

/// `FROM-TO=RATE`, such as `08:00-18:00=5MiB/s`.
pub(crate) fn window(text: &str) -> Result<RateWindow, String> {
    let wrong = || format!("{text:?} is no time with a limit; write 08:00-18:00=5MiB/s");
    let (times, rate) = text.split_once('=').ok_or_else(wrong)?;
    let (from, to) = times.split_once('-').ok_or_else(wrong)?;
    let time = |text: &str| match text.trim() {
        "24:00" => Ok(Time::midnight()),
        text => text.parse::<Time>().map_err(|_| wrong()),
    };
    Ok(RateWindow { from: time(from)?, to: time(to)?, rate: any_rate(rate)? })
}

#[cfg(test)]
mod tests {
    use jiff::civil::time;

    use super::*;

    #[test]
    fn limits_and_their_times_are_read_as_documented() {
        assert_eq!(rate("20MiB/s"), Ok(20 << 20));
        assert_eq!(rate("512"), Ok(512));
        assert!(rate("0").is_err() && rate("5MiB/h").is_err());
        let day = window("08:00-18:30=5MiB/s").unwrap();
        assert_eq!((day.from, day.to), (time(8, 0, 0, 0), time(18, 30, 0, 0)));
        assert_eq!(day.rate, 5 << 20);
        let night = window("22:00-24:00=0").unwrap();
        assert_eq!((night.to, night.rate), (Time::midnight(), 0));
        for bad in ["", "08:00=5", "08:00-18:00", "8-18=1", "25:00-26:00=1", "08:00-18:00=x"] {
            assert!(window(bad).is_err(), "{bad:?}");
        }
    }
}

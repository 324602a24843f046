use std::time::Duration;

use clap::Args;

use super::value;

/// Put restore points on hold: nothing removes them until they are released
#[derive(Debug, Args)]
#[command(after_help = "\
The reason can be read at the destination without a key: put no secret in it.

Example:
  sluice hold web-1@2026-11-21T03:00 --reason 'case 17'")]
pub(crate) struct HoldArgs {
    /// The restore points
    #[arg(required = true, value_name = "POINT")]
    pub(crate) points: Vec<String>,

    /// Why, for whoever wants to remove them
    #[arg(long, value_name = "TEXT")]
    pub(crate) reason: Option<String>,
}

/// End a hold; the retention of the restore points stays as it is
///
/// A restore point that an overlay lies over is kept until the overlay is discarded or committed.
/// --overlays ends that where the overlay's folder is lost: without the restore point, an overlay
/// is worth nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice release web-1@2026-11-21T03:00
  sluice release web-1@2026-11-21T03:00 --overlays")]
pub(crate) struct ReleaseArgs {
    /// The restore points
    #[arg(required = true, value_name = "POINT")]
    pub(crate) points: Vec<String>,

    /// Do not keep them for overlays any more, instead of ending holds
    #[arg(long)]
    pub(crate) overlays: bool,
}

/// Keep restore points up to a date, or for some time after an event
///
/// Retention is made longer at once. --shorten makes it shorter, but only after a delay, and `list`
/// and `show` tell of it meanwhile; asking for the old date again takes it back. An instance alone
/// means all its restore points there are by now.
#[derive(Debug, Args)]
#[command(after_help = "\
Names of events can be read at the destination without a key: put no secret in them.

Examples:
  sluice retain web-1@latest --until 2033-01-01
  sluice retain web-1@latest --for 7y
  sluice retain web-1 --after-event contract-17-ended --for 7y
  sluice retain web-1@latest --until 2027-01-01 --shorten
  sluice retain web-1@latest --shorten --delay 30d")]
pub(crate) struct RetainArgs {
    /// The restore points, or instances with all of theirs
    #[arg(required = true, value_name = "POINT|INSTANCE")]
    pub(crate) points: Vec<String>,

    /// Up to the beginning of this date or time, such as 2033-01-01 or 2033-01-01T12:00
    #[arg(long, value_name = "DATE", required_unless_present_any = ["time", "shorten"])]
    pub(crate) until: Option<String>,

    /// For this long from the time of the restore point on (or after the event), such as 7y; a
    /// year has 366 days here
    #[arg(long = "for", value_name = "TIME", value_parser = value::keeping)]
    #[arg(conflicts_with = "until")]
    pub(crate) time: Option<Duration>,

    /// Keep them without end until `sluice event NAME`, and from then on for the time of --for
    #[arg(long, value_name = "NAME", requires = "time", conflicts_with = "until")]
    pub(crate) after_event: Option<String>,

    /// Make the retention shorter; without a date, end it
    #[arg(long, conflicts_with = "after_event")]
    pub(crate) shorten: bool,

    /// With --shorten: not before this time has passed
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "7d")]
    pub(crate) delay: Duration,
}

/// Say that an event has happened: retention that waits for it begins
///
/// Heard of twice, the later time counts.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice event contract-17-ended
  sluice event contract-17-ended --at 2026-11-30 --instance web-1")]
pub(crate) struct EventArgs {
    /// The event's name
    pub(crate) name: String,

    /// When it happened [default: now]
    #[arg(long, value_name = "DATE")]
    pub(crate) at: Option<String>,

    /// Only for restore points of this instance
    #[arg(long)]
    pub(crate) instance: Option<String>,
}

/// Destroy the repository: all restore points, all keys
///
/// Asks for it first. It can be done when the delay is over, by running the command again, and
/// never while a restore point is on hold or under retention, or somebody uses the repository.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice destroy
  sluice destroy --yes 5f3a8e21c07b46d99a1c0d2e4b6f8071 --delay 30d
  sluice destroy --cancel")]
pub(crate) struct DestroyArgs {
    /// The repository's id, as `sluice stat` shows it, instead of typing it
    #[arg(long, value_name = "ID")]
    pub(crate) yes: Option<String>,

    /// Not before this time has passed
    #[arg(long, value_name = "TIME", value_parser = value::duration, default_value = "7d")]
    pub(crate) delay: Duration,

    /// Take the wish back
    #[arg(long, conflicts_with_all = ["yes", "delay"])]
    pub(crate) cancel: bool,
}

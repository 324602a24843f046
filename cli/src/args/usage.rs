//! Quotas, usage and reports of a server.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use super::lists::WhoseByPolicyArgs;
use super::value;

/// Show and set quotas of a server's projects
#[derive(Debug, Args)]
pub(crate) struct QuotaArgs {
    #[command(subcommand)]
    pub(crate) command: QuotaCommand,
}

/// What can be done with quotas.
#[derive(Debug, Subcommand)]
pub(crate) enum QuotaCommand {
    /// Show the quota of a project, and what of it is used
    #[command(after_help = "Example:\n  sluice quota show shop")]
    Show {
        /// The project
        project: String,
    },
    /// Set the quota of a project; limits that are left out are none
    ///
    /// Above a soft limit a backup warns; above a hard one it is refused. `project` limits the
    /// project as a whole, `instance` each of its instances: `backups` and `restores` in a window
    /// that slides, `front_end_bytes` (what is protected) and `stored_bytes`.
    #[command(after_help = "\
Example:
  echo '{\"project\": {\"backups\": {\"hard\": 100, \"window\": \"24h\"}}}' |
    sluice quota set shop --spec -")]
    Set {
        /// The project
        project: String,
        /// The limits, as JSON; `-` for standard input
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
    },
}

/// Show who used how much of a server's destinations
///
/// Bytes that were moved are added up; what is stored and protected is that at the end. Times are
/// dates or moments: 2026-11-01, 2026-11-01T12:00:00Z; in the zone of this machine, if they name
/// none.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice usage
  sluice usage --by instance --project shop --from 2026-11-01 --until 2026-12-01 --csv")]
pub(crate) struct UsageArgs {
    /// What it is grouped by
    #[arg(long, value_name = "WHAT", default_value = "project")]
    pub(crate) by: GroupBy,

    /// From this time on [default: 30 days before the end]
    #[arg(long, value_name = "TIME", value_parser = value::moment)]
    pub(crate) from: Option<u64>,

    /// Until before this time [default: now]
    #[arg(long, value_name = "TIME", value_parser = value::moment)]
    pub(crate) until: Option<u64>,

    #[command(flatten)]
    pub(crate) whose: WhoseByPolicyArgs,

    /// Without what is at this destination
    #[arg(long, value_name = "[PROJECT/]NAME", conflicts_with = "destination")]
    pub(crate) without_destination: Option<String>,

    /// Print comma-separated values
    #[arg(long)]
    pub(crate) csv: bool,
}

/// What usage is grouped by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GroupBy {
    Project,
    Instance,
    Cluster,
    Policy,
    Destination,
}

/// Show reports of a server
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    #[command(subcommand)]
    pub(crate) command: ReportCommand,
}

/// What there are reports of.
#[derive(Debug, Subcommand)]
pub(crate) enum ReportCommand {
    /// Show which instances have no recent good backup, or lack a copy, the worst first
    #[command(after_help = "Example:\n  sluice report protection --max-age 26h --late")]
    Protection {
        /// How old a good backup may be: 90s, 15m, 26h, 7d
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = value::duration)]
        max_age: Duration,
        /// Only those without a recent good backup, or with a copy that is overdue
        #[arg(long)]
        late: bool,
        /// Print comma-separated values
        #[arg(long)]
        csv: bool,
    },
    /// Show what was due and did not run, latest first
    #[command(after_help = "Example:\n  sluice report missed")]
    Missed,
    /// Show whether instances were protected as their policies promise, the worst first
    ///
    /// The newest restore point of an instance must never be older than the recovery point
    /// objective (`objectives.rpo_seconds` of policies). Where there is a recovery time objective
    /// (`rto_seconds`), a restore test must have met it.
    #[command(after_help = "\
Examples:
  sluice report sla
  sluice report sla --from 2026-10-01 --until 2026-11-01 --project shop")]
    Sla {
        /// From this date or moment on, in the zone of this machine if it names none [default: 30
        /// days before the end]
        #[arg(long, value_name = "TIME", value_parser = value::moment)]
        from: Option<u64>,
        /// Until before this date or moment [default: now]
        #[arg(long, value_name = "TIME", value_parser = value::moment)]
        until: Option<u64>,
        /// What is promised where policies say nothing
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = value::duration)]
        rpo: Duration,
        /// Only instances of this project
        #[arg(long, value_name = "NAME")]
        project: Option<String>,
    },
    /// Show what schedules are going to ask for, by slots of time
    ///
    /// What a backup takes is the mean of those of the last 30 days. SIDE BY SIDE is how many tasks
    /// would have to run all the time for a slot's work to be done within it.
    #[command(after_help = "\
Examples:
  sluice report forecast
  sluice report forecast --period 7d --slot 6h --by-schedule")]
    Forecast {
        /// How long a time is looked at, from now on
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = value::duration)]
        period: Duration,
        /// How long a slot is
        #[arg(long, value_name = "TIME", default_value = "1h", value_parser = value::duration)]
        slot: Duration,
        /// Only instances of this project
        #[arg(long, value_name = "NAME")]
        project: Option<String>,
        /// What each schedule asks for, instead of slots
        #[arg(long)]
        by_schedule: bool,
    },
    /// Save a report as a page (.html), for printers (.pdf), or for spreadsheets (.csv)
    #[command(after_help = "\
Examples:
  sluice report save sla november.pdf --period 30d
  sluice report save usage usage.csv --by instance --project shop")]
    Save {
        /// The report
        report: SavedReport,
        /// The file: what its name ends with says the form
        file: PathBuf,
        /// How long a time it covers: back from now, and for a forecast from now on
        #[arg(long, value_name = "TIME", value_parser = value::duration)]
        period: Option<Duration>,
        /// What usage is grouped by
        #[arg(long)]
        by: Option<GroupBy>,
        /// How old a backup may be: for protection, and for promises where policies say nothing
        #[arg(long, value_name = "TIME", value_parser = value::duration)]
        max_age: Option<Duration>,
        /// Only of this project
        #[arg(long, value_name = "NAME")]
        project: Option<String>,
    },
}

/// Reports that can be saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SavedReport {
    Protection,
    Missed,
    Usage,
    Sla,
    Forecast,
}

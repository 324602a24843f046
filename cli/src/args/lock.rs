use clap::builder::RangedI64ValueParser;
use clap::{Args, Subcommand, ValueEnum};

/// Have the destination itself keep restore points until a time
///
/// Needs a store with object lock, such as an S3 bucket made with it. Nobody can then remove a
/// restore point before its time, also not with the credentials of the backup.
#[derive(Debug, Args)]
pub(crate) struct LockArgs {
    #[command(subcommand)]
    pub(crate) command: LockCommand,
}

/// Days a lock may last: 100 years at most.
pub(super) fn days() -> RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=36_525)
}

/// What to do with locks.
#[derive(Debug, Subcommand)]
pub(crate) enum LockCommand {
    /// Say how long restore points are locked from the time of their backup
    ///
    /// What is longer or stricter holds from the next backup on; `sluice lock extend` brings it to
    /// older points. What is weaker holds a week from now. Locks that exist stay as they are.
    #[command(after_help = "\
Examples:
  sluice lock set --object-lock governance --lock-days 30
  sluice lock set --off")]
    Set(LockSetArgs),
    /// Show until when each restore point is locked, and what the next backup would extend
    #[command(after_help = "\
Examples:
  sluice lock status
  sluice lock status --recheck --json")]
    Status {
        /// Ask the destination also for locks that were seen before
        #[arg(long)]
        recheck: bool,
    },
    /// Lock every restore point for as long as if it had been backed up now
    ///
    /// Only what restore points reference is locked for longer; removed ones run out. For a daily
    /// job, where points are to stay locked for as long as they exist.
    #[command(after_help = "\
Examples:
  sluice lock extend --plan
  sluice lock extend --quiet")]
    Extend {
        /// Tell which locks would be made longer, and change nothing
        #[arg(long)]
        plan: bool,
        /// Ask the destination also for locks that were seen before
        #[arg(long)]
        recheck: bool,
    },
}

/// How long to lock.
#[derive(Debug, Args)]
pub(crate) struct LockSetArgs {
    /// How strictly the destination keeps what is locked
    #[arg(long, value_enum, value_name = "MODE", requires = "lock_days")]
    #[arg(required_unless_present = "off")]
    pub(crate) object_lock: Option<ObjectLock>,
    /// For how many days from the time of a backup
    #[arg(long, value_name = "N", value_parser = days(), requires = "object_lock")]
    pub(crate) lock_days: Option<u32>,
    /// Lock nothing any more, a week from now
    #[arg(long, conflicts_with_all = ["object_lock", "lock_days"])]
    pub(crate) off: bool,
}

/// How strictly a destination keeps what is locked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ObjectLock {
    /// Accounts with a permission of their own may still remove it
    Governance,
    /// Nobody can remove it, the owner of the account neither
    Compliance,
}

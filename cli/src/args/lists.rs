//! What lists of a server are filtered by.

use clap::{Args, ValueEnum};

use super::value::moment;

/// A time, by which what has one is filtered.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TimeFilter {
    /// Only from this time on: 2026-11-01 or 2026-11-01T12:00, in the zone of this machine, or
    /// 2026-11-01T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) since: Option<u64>,
    /// Only before this time
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) until: Option<u64>,
}

/// What something is of, by which it is filtered.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WhoseArgs {
    /// Only what is of this project
    #[arg(long, value_name = "NAME")]
    pub(crate) project: Option<String>,
    /// Only what is of this instance
    #[arg(long, value_name = "PROJECT/NAME")]
    pub(crate) instance: Option<String>,
    /// Only what uses this destination, or lies there; copies too
    #[arg(long, value_name = "[PROJECT/]NAME")]
    pub(crate) destination: Option<String>,
}

/// The same, of what policies want.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct WhoseByPolicyArgs {
    #[command(flatten)]
    pub(crate) whose: WhoseArgs,
    /// Only what this policy wanted
    #[arg(long, value_name = "[PROJECT/]NAME")]
    pub(crate) policy: Option<String>,
}

/// In which order a list is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ListOrder {
    /// The oldest first
    Oldest,
    /// The newest first
    Newest,
}

/// `sluice task list`
#[derive(Debug, Default, Args)]
pub(crate) struct TaskListArgs {
    /// Only those in this state: queued, running, succeeded, warnings, failed, cancelled
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<String>,
    /// Only those of this kind: backup, restore, verify, prune, collect, copy, ...
    #[arg(long, value_name = "KIND")]
    pub(crate) kind: Option<String>,
    #[command(flatten)]
    pub(crate) whose: WhoseByPolicyArgs,
    /// Only those that this node runs, or ran last
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) time: TimeFilter,
    /// In which order they were added
    #[arg(long, value_enum, value_name = "ORDER")]
    pub(crate) order: Option<ListOrder>,
}

/// `sluice point list`
#[derive(Debug, Args)]
pub(crate) struct PointListArgs {
    #[command(flatten)]
    pub(crate) whose: WhoseArgs,
    /// Only those that hold a moment of this time
    #[command(flatten)]
    pub(crate) time: TimeFilter,
    /// In the order of the moments that they hold
    #[arg(long, value_enum, value_name = "ORDER")]
    pub(crate) order: Option<ListOrder>,
}

/// `sluice remote-mount list`
#[derive(Debug, Args)]
pub(crate) struct MountListArgs {
    /// Only those in this state: requested, ready, failed, releasing, gone
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<String>,
    #[command(flatten)]
    pub(crate) whose: WhoseArgs,
    /// Only those that this node shows
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) time: TimeFilter,
}

/// `sluice restore-test list`
#[derive(Debug, Args)]
pub(crate) struct TestListArgs {
    /// Only those in this state: pending, ok, failed, undone, cancelled
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<String>,
    #[command(flatten)]
    pub(crate) whose: WhoseByPolicyArgs,
    #[command(flatten)]
    pub(crate) time: TimeFilter,
}

/// `sluice approval list`
#[derive(Debug, Args)]
pub(crate) struct ApprovalListArgs {
    /// Only those in this state: pending, done, failed, rejected, withdrawn, expired
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<String>,
    /// Only those that do this, such as destination.remove
    #[arg(long, value_name = "WORD")]
    pub(crate) action: Option<String>,
    /// Only those of this project
    #[arg(long, value_name = "NAME")]
    pub(crate) project: Option<String>,
    /// Only those that this user asked for
    #[arg(long, value_name = "USER")]
    pub(crate) requester: Option<String>,
    #[command(flatten)]
    pub(crate) time: TimeFilter,
}

/// `sluice node list`
#[derive(Debug, Args)]
pub(crate) struct NodeListArgs {
    /// Only those with this name; `*` stands for anything, `?` for one character
    #[arg(long, value_name = "PATTERN")]
    pub(crate) name: Option<String>,
    /// Only those in this state: enabled, draining, disabled
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<String>,
}

/// A list of records that commands of one kind have, and examples of what these do.
pub(crate) trait Listing: Args + Into<RecordFilter> {
    /// Of `list`.
    const LIST: &'static str;
    /// Of `show`.
    const SHOW: &'static str;
    /// Of `set`.
    const SET: &'static str;
    /// Of `remove`.
    const REMOVE: &'static str;
}

/// What a list of records is filtered by: of each kind by what its command knows.
#[derive(Debug, Default)]
pub(crate) struct RecordFilter {
    pub(crate) name: Option<String>,
    pub(crate) project: Option<String>,
    pub(crate) tag: Option<String>,
    pub(crate) node: Option<String>,
    pub(crate) cluster: Option<String>,
    pub(crate) policy: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) present: Option<bool>,
    pub(crate) paused: Option<bool>,
    pub(crate) destination: Option<String>,
    pub(crate) scheme: Option<String>,
}

/// `sluice project list`
#[derive(Debug, Args)]
pub(crate) struct ProjectListArgs {
    /// Only those with this name; `*` stands for anything, `?` for one character
    #[arg(long, value_name = "PATTERN")]
    pub(crate) name: Option<String>,
}

impl From<ProjectListArgs> for RecordFilter {
    fn from(args: ProjectListArgs) -> Self {
        Self { name: args.name, ..Self::default() }
    }
}

impl Listing for ProjectListArgs {
    const LIST: &'static str = "Example:\n  sluice project list --name 'shop-*'";
    const SHOW: &'static str = "Example:\n  sluice project show shop";
    const SET: &'static str = "\
Examples:
  sluice project set shop
  sluice project set shop --spec project.yaml";
    const REMOVE: &'static str = "Example:\n  sluice project remove shop";
}

/// `sluice destination list`
#[derive(Debug, Args)]
pub(crate) struct DestinationListArgs {
    /// Only those with this name; `*` stands for anything, `?` for one character
    #[arg(long, value_name = "PATTERN")]
    pub(crate) name: Option<String>,
    /// Only those of this project
    #[arg(long, value_name = "NAME")]
    pub(crate) project: Option<String>,
    /// Only those whose URL begins with this: s3, sftp, file, ...
    #[arg(long, value_name = "WORD")]
    pub(crate) scheme: Option<String>,
}

impl From<DestinationListArgs> for RecordFilter {
    fn from(args: DestinationListArgs) -> Self {
        let DestinationListArgs { name, project, scheme } = args;
        Self { name, project, scheme, ..Self::default() }
    }
}

impl Listing for DestinationListArgs {
    const LIST: &'static str = "Example:\n  sluice destination list --scheme s3";
    const SHOW: &'static str = "Example:\n  sluice destination show local";
    const SET: &'static str = "\
Examples:
  sluice destination set local --url /backup/repository --passphrase-file pass
  sluice destination set vault --url 's3://vault/main?region=eu-central-1' \\
    --passphrase-file pass --secret AWS_ACCESS_KEY_ID=key-id \\
    --secret AWS_SECRET_ACCESS_KEY=key";
    const REMOVE: &'static str = "Example:\n  sluice destination remove vault";
}

/// `sluice policy list`
#[derive(Debug, Args)]
pub(crate) struct PolicyListArgs {
    /// Only those with this name; `*` stands for anything, `?` for one character
    #[arg(long, value_name = "PATTERN")]
    pub(crate) name: Option<String>,
    /// Only those of this project
    #[arg(long, value_name = "NAME")]
    pub(crate) project: Option<String>,
    /// Only those that use this destination
    #[arg(long, value_name = "[PROJECT/]NAME")]
    pub(crate) destination: Option<String>,
    /// Only those that are paused, or that are not
    #[arg(long, value_name = "true|false")]
    pub(crate) paused: Option<bool>,
}

impl From<PolicyListArgs> for RecordFilter {
    fn from(args: PolicyListArgs) -> Self {
        let PolicyListArgs { name, project, destination, paused } = args;
        Self { name, project, destination, paused, ..Self::default() }
    }
}

impl Listing for PolicyListArgs {
    const LIST: &'static str = "\
Examples:
  sluice policy list
  sluice policy list --project shop --destination vault";
    const SHOW: &'static str = "Example:\n  sluice policy show shop/hourly";
    const SET: &'static str = "Example:\n  sluice policy set shop/hourly --spec policy.yaml";
    const REMOVE: &'static str = "Example:\n  sluice policy remove shop/hourly";
}

//! What lists of a server are filtered by.

use clap::{Args, ValueEnum};

use super::usage::moment;

/// A time, by which what has one is filtered.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TimeFilter {
    /// Only from this time on: 2026-11-01, or 2026-11-01T12:00:00Z
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

/// Lists of projects, destinations, instances and policies. Not each of them can be filtered by
/// each of these; the server says so.
#[derive(Debug, Default, Args)]
pub(crate) struct RecordListArgs {
    /// Only those with this name; `*` stands for anything, `?` for one character
    #[arg(long, value_name = "PATTERN")]
    pub(crate) name: Option<String>,
    /// Only those of this project
    #[arg(long, value_name = "NAME")]
    pub(crate) project: Option<String>,
    /// Only instances with this tag
    #[arg(long, value_name = "WORD")]
    pub(crate) tag: Option<String>,
    /// Only instances that this node reaches
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,
    /// Only instances that run on this
    #[arg(long, value_name = "WORD")]
    pub(crate) cluster: Option<String>,
    /// Only instances that this policy has
    #[arg(long, value_name = "[PROJECT/]NAME")]
    pub(crate) policy: Option<String>,
    /// Only instances whose disks come from there: disk-files, device, folder, command
    #[arg(long, value_name = "KIND")]
    pub(crate) source: Option<String>,
    /// Only instances whose source is there, or gone
    #[arg(long, value_name = "true|false")]
    pub(crate) present: Option<bool>,
    /// Only instances or policies that are paused, or that are not
    #[arg(long, value_name = "true|false")]
    pub(crate) paused: Option<bool>,
    /// Only policies that use this destination
    #[arg(long, value_name = "[PROJECT/]NAME")]
    pub(crate) destination: Option<String>,
    /// Only destinations whose URL begins with this: s3, sftp, file, ...
    #[arg(long, value_name = "WORD")]
    pub(crate) scheme: Option<String>,
}

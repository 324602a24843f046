use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::lists::TestListArgs;

/// Test that restore points of a server boot and answer, and show what proves it
///
/// A node with QEMU boots the restore point in a virtual machine that reaches nothing; what it
/// writes is thrown away. Policies do the same by schedule, with `tests`.
#[derive(Debug, Args)]
pub(crate) struct RestoreTestArgs {
    #[command(subcommand)]
    pub(crate) command: RestoreTestCommand,
}

/// What can be done with restore tests.
#[derive(Debug, Subcommand)]
pub(crate) enum RestoreTestCommand {
    Run(RestoreTestRunArgs),
    /// List tests, newest first
    #[command(after_help = "Example:\n  sluice restore-test list --state failed")]
    List(TestListArgs),
    /// Show a test, with the end of the guest's console
    #[command(after_help = "Example:\n  sluice restore-test show 0193a2b4-... --screenshot w.png")]
    Show {
        /// Its id
        id: String,
        /// Write what the guest's screen showed at the end to this file, as PNG
        #[arg(long, value_name = "FILE")]
        screenshot: Option<PathBuf>,
    },
}

/// Boot a restore point on a node and see whether it answers
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice restore-test run shop/web-1
  sluice restore-test run shop/web-1 --spec boot.yaml --node mover-2
  echo 'checks: [{kind: tcp, port: 22}]' | sluice restore-test run shop/web-1 --spec -")]
pub(crate) struct RestoreTestRunArgs {
    /// The restore point: its id, its name in the repository, or an instance, whose newest is meant
    #[arg(value_name = "POINT")]
    pub(crate) point: String,

    /// How it is booted and what is waited for, as YAML or JSON: memory_mib, cpus, firmware, disk,
    /// nic, timeout_seconds, and checks of kind console, tcp, guest-agent, script or ssh; `-` for
    /// standard input [default: wait for a login prompt on the console]
    #[arg(long, value_name = "FILE")]
    pub(crate) spec: Option<PathBuf>,

    /// The node [default: one that can]
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,

    /// Do not wait for the verdict
    #[arg(long)]
    pub(crate) no_wait: bool,
}

use std::time::Duration;

use clap::Args;

use super::value;

/// Run a command of a recovery plan, or around a backup: what nodes do for the task
///
/// What it writes goes to standard error; it ends with this process.
#[derive(Debug, Args)]
#[command(hide = true)]
#[command(after_help = "Example:\n  sluice run-script --timeout 5m --accept 0 -- /usr/bin/true")]
pub(crate) struct RunScriptArgs {
    /// It is killed after so long
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = value::duration)]
    pub(crate) timeout: Duration,

    /// An exit code that means success; several are a list [default: 0]
    #[arg(long, value_name = "CODE")]
    pub(crate) accept: Vec<i32>,

    /// An exit code that means success with a warning; several are a list
    #[arg(long, value_name = "CODE")]
    pub(crate) warn: Vec<i32>,

    /// The program and its arguments
    #[arg(required = true, last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<String>,
}

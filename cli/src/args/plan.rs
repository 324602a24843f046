use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::lists::TimeFilter;

/// Recovery plans of a server: what is brought back, in which order, and to where
///
/// A plan says groups of instances, and scripts around them; how one is written is in
/// docs/operations.md. A run goes on where it was when the server was killed.
#[derive(Debug, Args)]
pub(crate) struct PlanArgs {
    #[command(subcommand)]
    pub(crate) command: PlanCommand,
}

/// What can be done with plans.
#[derive(Debug, Subcommand)]
pub(crate) enum PlanCommand {
    /// List plans
    #[command(after_help = "Example:\n  sluice plan list --project shop")]
    List {
        /// Only those with this name; `*` stands for anything, `?` for one character
        #[arg(long, value_name = "PATTERN")]
        name: Option<String>,
        /// Only those of this project
        #[arg(long, value_name = "NAME")]
        project: Option<String>,
    },
    /// Show a plan
    #[command(after_help = "Example:\n  sluice plan show shop/flood")]
    Show {
        /// Its name
        #[arg(value_name = "PROJECT/NAME")]
        name: String,
    },
    /// Make a plan, or change what it says
    #[command(after_help = "Example:\n  sluice plan set shop/flood --spec flood.yaml")]
    Set {
        /// Its name
        #[arg(value_name = "PROJECT/NAME")]
        name: String,
        /// What it says, as YAML or JSON; `-` for standard input
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
    },
    /// Remove a plan; its runs stay
    #[command(after_help = "Example:\n  sluice plan remove shop/flood")]
    Remove {
        /// Its name
        #[arg(value_name = "PROJECT/NAME")]
        name: String,
    },
    Run(PlanRunArgs),
    /// List runs of plans, newest first, or show one
    #[command(after_help = "\
Examples:
  sluice plan runs --plan shop/flood
  sluice plan runs 0193a2b4-...")]
    Runs {
        /// The run to show, with its steps
        #[arg(conflicts_with_all = ["since", "until"])]
        id: Option<String>,
        /// Only those of this plan
        #[arg(long, value_name = "PROJECT/NAME", conflicts_with = "id")]
        plan: Option<String>,
        /// Only those in this state: running, succeeded, warnings, failed, cancelled
        #[arg(long, value_name = "STATE", conflicts_with = "id")]
        state: Option<String>,
        /// Only those of this project
        #[arg(long, value_name = "NAME", conflicts_with = "id")]
        project: Option<String>,
        /// Only those that are for this: run, test
        #[arg(long, value_name = "MODE", conflicts_with = "id")]
        mode: Option<String>,
        #[command(flatten)]
        time: TimeFilter,
    },
    /// Cancel a run: what it has started is ended
    #[command(after_help = "Example:\n  sluice plan cancel 0193a2b4-...")]
    Cancel {
        /// Its id
        id: String,
    },
}

/// Run a plan, or test it
///
/// A test boots or mounts what would be restored, and leaves nothing behind.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice plan run shop/flood --test
  sluice plan run shop/flood --parameter where=/srv/restored")]
pub(crate) struct PlanRunArgs {
    /// Its name
    #[arg(value_name = "PROJECT/NAME")]
    pub(crate) name: String,

    /// Only test it
    #[arg(long)]
    pub(crate) test: bool,

    /// What a parameter of the plan stands for this time; several are a list
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    pub(crate) parameter: Vec<(String, String)>,

    /// Do not wait for its end
    #[arg(long)]
    pub(crate) no_wait: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or_else(|| format!("{text:?} is no NAME=VALUE"))?;
    Ok((name.to_owned(), value.to_owned()))
}

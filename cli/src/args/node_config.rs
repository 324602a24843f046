//! Configurations of nodes, and what they make of a task.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::RateWindow;
use super::replicate::{rate, window};

/// Show and change configurations of nodes: what nodes may do, and how much
///
/// A configuration says how many tasks a node runs (`slots`, `slots_by_kind`), with how many
/// threads (`threads_by_kind`), which destinations it may use (`destinations`), in which folders
/// projects may name sources by themselves (`source_paths`, where `{project}` is a project's name)
/// and in which there are any (`only_paths`), where snapshots lie (`snapshot_folders`) and images
/// of imported instances (`import_folders`), which programs of its machine tasks may run
/// (`commands`) and how they reach guests (`guest_ssh`), how fast it sends and receives
/// (`bandwidth`), where it keeps what tasks need beside a repository (`staging`), and whose
/// instances its nodes back up and nobody else's (`serves`: clusters, hosts, tags, instances). The
/// one that is called `default` is that of all nodes which have none of their own.
#[derive(Debug, Args)]
pub(crate) struct NodeConfigArgs {
    #[command(subcommand)]
    pub(crate) command: NodeConfigCommand,
}

/// What can be done with configurations of nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeConfigCommand {
    /// List them
    #[command(after_help = "Example:\n  sluice node-config list")]
    List,
    /// Show one
    #[command(after_help = "Example:\n  sluice node-config show default")]
    Show {
        /// Its name
        name: String,
    },
    /// Make one, or change what it says
    #[command(after_help = "\
Example:
  echo '{\"source_paths\": [\"/srv/images/{project}\"]}' |
    sluice node-config set default --spec -")]
    Set {
        /// Its name
        name: String,
        /// What it says, as YAML or JSON; `-` for standard input
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
    },
    /// Give a node a configuration
    #[command(after_help = "\
Examples:
  sluice node-config assign mover-1 slow-link
  sluice node-config assign mover-1")]
    Assign {
        /// The node
        node: String,
        /// The configuration; without, the one that is called `default`
        config: Option<String>,
    },
    /// Remove one that no node has
    #[command(after_help = "Example:\n  sluice node-config remove slow-link")]
    Remove {
        /// Its name
        name: String,
    },
}

/// How fast a command may send and receive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Always, in bytes for each second.
    pub(crate) limit: Option<u64>,
    /// At times of the day.
    pub(crate) windows: Vec<RateWindow>,
}

/// `RATE;HH:MM-HH:MM=RATE;...`
pub(crate) fn rates(text: &str) -> Result<Rates, String> {
    let mut rates = Rates::default();
    for part in text.split(';').filter(|part| !part.trim().is_empty()) {
        if part.contains('=') {
            rates.windows.push(window(part)?);
        } else {
            rates.limit = Some(rate(part)?);
        }
    }
    Ok(rates)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_as_a_server_writes_them() {
        let read = rates("1048576;08:00-18:00=5").unwrap();
        assert_eq!((read.limit, read.windows.len(), read.windows[0].rate), (Some(1 << 20), 1, 5));
        assert_eq!(rates("20MiB/s").unwrap().limit, Some(20 << 20));
        assert_eq!(rates("").unwrap(), Rates::default());
        for bad in ["x", "0", "8-18=5"] {
            assert!(rates(bad).is_err(), "{bad}");
        }
    }
}

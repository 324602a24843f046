//! Nodes: machines that run tasks of a server.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::control::MountPlaceArgs;
use super::lists::NodeListArgs;

/// Make this machine a node of a server, and manage nodes
#[derive(Debug, Args)]
pub(crate) struct NodeArgs {
    #[command(subcommand)]
    pub(crate) command: NodeCommand,
}

/// What can be done with nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Make a token that lets one node join, or come back
    #[command(after_help = "\
Examples:
  sluice node token > join.txt
  sluice node token --for mover-1 > join.txt")]
    Token {
        /// A node that has joined before, and has lost its certificate or let it end
        #[arg(long = "for", value_name = "NAME")]
        node: Option<String>,
    },
    /// Let this machine join a server, with the token in a file
    ///
    /// The node makes a key, and the server a certificate for it, which `node run` renews in time.
    /// A node that has joined before and joins again stays what it was.
    #[command(after_help = "Example:\n  sluice node join mover-1 --token-file join.txt")]
    Join {
        /// What it is to be called
        name: String,
        /// A file with the token; `-` for standard input
        #[arg(long, value_name = "FILE")]
        token_file: PathBuf,
        /// Folder of what is kept [default: $XDG_STATE_HOME/sluice/node or
        /// ~/.local/state/sluice/node]
        #[arg(long, value_name = "DIR")]
        state: Option<PathBuf>,
    },
    /// Run tasks until stopped
    #[command(after_help = "\
Examples:
  sluice node run --slots 4 --mount-address 192.0.2.7
  sluice node run --mount-folder /srv/mounts --mount-allow-other
  sluice node run --allow-path /srv/images")]
    Run(NodeRunArgs),
    /// List the nodes of the server
    #[command(after_help = "Example:\n  sluice node list --state draining")]
    List(NodeListArgs),
    /// Show a node, and what works there
    #[command(after_help = "Example:\n  sluice node show mover-1")]
    Show {
        /// Its name
        name: String,
    },
    /// Tell what works on this machine, and what is missing for the rest
    ///
    /// Each source, export and way to boot is tried here, as a node does that tells its server.
    #[command(after_help = "\
Examples:
  sluice node check
  sluice node check --mount-folder /srv/mounts")]
    Check {
        #[command(flatten)]
        mounts: MountPlaceArgs,
    },
    /// Tell the version of this executable, and of the contract that it speaks with servers
    #[command(after_help = "Example:\n  sluice node version")]
    Version,
    /// Let a node have tasks again
    #[command(after_help = "Example:\n  sluice node enable mover-1")]
    Enable {
        /// Its name
        name: String,
    },
    /// Let a node finish what it has, and give it nothing new
    #[command(after_help = "Example:\n  sluice node drain mover-1")]
    Drain {
        /// Its name
        name: String,
    },
    /// Let nodes start again with what was installed there, one after the other
    ///
    /// Install the package on the nodes first; `node show` tells what is installed. A node then
    /// takes no new tasks, finishes what it has, starts again by itself, and what it has mounted
    /// comes back. When one fails, those after it are not begun. It goes on when this command has
    /// ended.
    #[command(after_help = "\
Examples:
  sluice node upgrade mover-1
  sluice node upgrade --config rack-1 --wait
  sluice node upgrade --all
  sluice node upgrade mover-1 --cancel")]
    Upgrade(NodeUpgradeArgs),
    /// Tell which nodes may back up an instance, and why, or why not
    #[command(name = "for", after_help = "Example:\n  sluice node for shop/web-1")]
    For {
        /// The instance
        #[arg(value_name = "PROJECT/NAME")]
        instance: String,
    },
    /// End the access of a node at once; its tasks go to others when their leases are over
    #[command(after_help = "Example:\n  sluice node disable mover-1")]
    Disable {
        /// Its name
        name: String,
    },
    /// Remove a node; to come back it must join as a new one
    #[command(after_help = "Example:\n  sluice node remove mover-1")]
    Remove {
        /// Its name
        name: String,
    },
}

/// `sluice node upgrade`
#[derive(Debug, Args)]
pub(crate) struct NodeUpgradeArgs {
    /// Their names
    #[arg(value_name = "NAME", required_unless_present_any = ["all", "config"])]
    pub(crate) names: Vec<String>,
    /// All on which something else is installed than runs
    #[arg(long, conflicts_with_all = ["names", "config"])]
    pub(crate) all: bool,
    /// The same of those that were given this configuration
    #[arg(long, value_name = "NAME", conflicts_with = "names")]
    pub(crate) config: Option<String>,
    /// Take it back, or that one has failed; they get tasks again
    #[arg(long)]
    pub(crate) cancel: bool,
    /// Wait until they are back; ends with status 1 when one is not
    #[arg(long, conflicts_with = "cancel")]
    pub(crate) wait: bool,
}

/// `sluice node run`
#[derive(Debug, Args)]
pub(crate) struct NodeRunArgs {
    /// Folder that `join` has used
    #[arg(long, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,
    /// Tasks that run at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) slots: u32,
    #[command(flatten)]
    pub(crate) mounts: MountPlaceArgs,
    /// Back up nothing that does not lie in this folder, whatever the server says; several are a
    /// list
    #[arg(long, value_name = "DIR")]
    pub(crate) allow_path: Vec<String>,
    /// Run no other programs around backups than this, or those in this folder, whatever the server
    /// says, and none on guests; several are a list
    #[arg(long, value_name = "PATH")]
    pub(crate) allow_command: Vec<String>,
    /// Tell Prometheus numbers at http://ADDR:PORT/metrics, to everybody who reaches it
    #[arg(long, env = "SLUICE_METRICS", value_name = "ADDR:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
}

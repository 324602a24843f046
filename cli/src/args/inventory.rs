use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::SetArgs;

/// Places of a server that nodes look through for instances: folders of disk images, and devices
///
/// What is new there becomes an instance with the inventory's tags, manager and cluster, by which
/// policies take it; what is gone is noted as not present, keeps its restore points, and is not
/// backed up.
/// How one is written is in docs/operations.md.
#[derive(Debug, Args)]
pub(crate) struct InventoryArgs {
    #[command(subcommand)]
    pub(crate) command: InventoryCommand,
}

/// What can be done with inventories.
#[derive(Debug, Subcommand)]
pub(crate) enum InventoryCommand {
    /// List inventories
    #[command(after_help = "Example:\n  sluice inventory list")]
    List,
    /// Show an inventory
    #[command(after_help = "Example:\n  sluice inventory show shop/images")]
    Show {
        /// Its name
        #[arg(value_name = "PROJECT/NAME")]
        name: String,
    },
    /// Make an inventory, or change what it says; takes a manager of the system
    #[command(after_help = "\
Example:
  sluice inventory set shop/images --spec images.yaml

  look: {kind: files, folder: /srv/images, depth: 1, except: [\"*-old.qcow2\"]}
  node: mover-1
  naming: \"{name}\"
  tags: [gold]
  schedules:
    - {name: nightly, when: {kind: calendar, calendar: {at: [\"01:00\"]}}}")]
    Set {
        /// Its name
        #[arg(value_name = "PROJECT/NAME")]
        name: String,
        /// What it says, as YAML or JSON; `-` for standard input
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
    },
    /// Remove an inventory; what it has found stays, as if made by hand
    #[command(after_help = "Example:\n  sluice inventory remove shop/images")]
    Remove {
        /// Its name
        #[arg(value_name = "PROJECT/NAME")]
        name: String,
    },
    Run(InventoryRunArgs),
    /// List what an inventory has found, with what is gone
    #[command(after_help = "Example:\n  sluice inventory found shop/images")]
    Found {
        /// Its name
        #[arg(value_name = "PROJECT/NAME")]
        name: String,
    },
}

/// Look through an inventory now, and wait for what comes of it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice inventory run shop/images --dry-run
  sluice inventory run shop/images
  sluice inventory run shop/images --accept-gone")]
pub(crate) struct InventoryRunArgs {
    /// Its name
    #[arg(value_name = "PROJECT/NAME")]
    pub(crate) name: String,

    /// Only tell what would become of it, and which policies would take what is new
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// What is not there is gone, however much it is, and whatever is not mounted
    #[arg(long)]
    pub(crate) accept_gone: bool,

    /// Do not wait for its end
    #[arg(long)]
    pub(crate) no_wait: bool,
}

/// Instances.
#[derive(Debug, Args)]
pub(crate) struct InstanceArgs {
    #[command(subcommand)]
    pub(crate) command: InstanceCommand,
}

/// What can be done with instances.
#[derive(Debug, Subcommand)]
pub(crate) enum InstanceCommand {
    /// List them
    #[command(after_help = "\
Examples:
  sluice instance list
  sluice instance list --project shop --tag gold --name 'web-*'
  sluice instance list --absent
  sluice instance list --inventory shop/images --policy shop/hourly")]
    List(InstanceListArgs),
    /// Show one
    #[command(after_help = "Example:\n  sluice instance show shop/web-1")]
    Show {
        /// Its name
        #[arg(value_name = "PROJECT/NAME")]
        name: String,
    },
    /// Make one, or change what it says
    #[command(after_help = "\
Examples:
  sluice instance set shop/web-1 --disk /var/lib/images/web-1.qcow2 --tag gold
  sluice instance set shop/app-db --output-of 'app=/usr/bin/pg_dump --format=custom app'
  sluice instance set shop/db-1 --spec instance.yaml")]
    Set(SetArgs),
    /// Remove one
    #[command(after_help = "Example:\n  sluice instance remove shop/web-1")]
    Remove {
        /// Its name
        #[arg(value_name = "PROJECT/NAME")]
        name: String,
    },
}

/// Which instances to list.
#[derive(Debug, Args)]
pub(crate) struct InstanceListArgs {
    /// Only those with this name; `*` stands for anything, `?` for one character
    #[arg(long, value_name = "PATTERN")]
    pub(crate) name: Option<String>,

    /// Only those of this project
    #[arg(long, value_name = "NAME")]
    pub(crate) project: Option<String>,

    /// Only those that this node reaches
    #[arg(long, value_name = "NAME")]
    pub(crate) node: Option<String>,

    /// Only those that run on this
    #[arg(long, value_name = "WORD")]
    pub(crate) cluster: Option<String>,

    /// Only those that this policy has
    #[arg(long, value_name = "[PROJECT/]NAME")]
    pub(crate) policy: Option<String>,

    /// Only those whose disks come from there: disk-files, device, folder, command
    #[arg(long, value_name = "KIND")]
    pub(crate) source: Option<String>,

    /// Only those that are paused, or that are not
    #[arg(long, value_name = "true|false")]
    pub(crate) paused: Option<bool>,

    /// Only those whose source is there
    #[arg(long, conflicts_with = "absent")]
    pub(crate) present: bool,

    /// Only those whose source is gone
    #[arg(long)]
    pub(crate) absent: bool,

    /// Only those with this tag; several are a list, of which one is enough
    #[arg(long, value_name = "WORD")]
    pub(crate) tag: Vec<String>,

    /// Only those that this inventory has found
    #[arg(long, value_name = "PROJECT/NAME")]
    pub(crate) inventory: Option<String>,
}

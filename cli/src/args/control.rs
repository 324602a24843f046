//! The control plane: server, nodes, and what is asked of a server.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::lists::{Listing, PointListArgs, PolicyListArgs, TaskListArgs};
use super::periods::PeriodArgs;
use super::{TargetFormat, value};

/// Run everything on this machine: server, one node, one destination
///
/// State, certificate and database are kept in one folder. The first start prints a setup token,
/// with which `sluice login --setup-token-file` makes the first administrator.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice up
  sluice up --state /var/lib/sluice --listen 0.0.0.0:9390 --name backup.example.org")]
pub(crate) struct UpArgs {
    #[command(flatten)]
    pub(crate) server: ServerArgs,

    /// Tasks that run at a time
    #[arg(long, value_name = "N", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) slots: u32,

    #[command(flatten)]
    pub(crate) mounts: MountPlaceArgs,
}

/// Where and how a node shows mounted restore points.
#[derive(Debug, Clone, Args)]
pub(crate) struct MountPlaceArgs {
    /// Address of this machine at which clients find mounted restore points
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    pub(crate) mount_address: IpAddr,
    /// Certificate of mounts by http, and those that vouch for it, as PEM [default: one that is
    /// made and kept in the state folder]
    #[arg(long, value_name = "PATH", requires = "mount_key")]
    pub(crate) mount_certificate: Option<PathBuf>,
    /// Private key of that certificate, as PEM
    #[arg(long, value_name = "PATH", requires = "mount_certificate")]
    pub(crate) mount_key: Option<PathBuf>,
    /// Folder below which restore points may be mounted as files (FUSE); without, none are
    #[arg(long, value_name = "DIR")]
    pub(crate) mount_folder: Option<PathBuf>,
    /// Let other users of this machine read those files (needs user_allow_other in /etc/fuse.conf)
    #[arg(long, requires = "mount_folder")]
    pub(crate) mount_allow_other: bool,
}

/// Run a server for other machines' nodes
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice server --listen 0.0.0.0:9390 --name backup.example.org
  SLUICE_DATABASE=postgres://sluice@db/sluice sluice server")]
pub(crate) struct ServerArgs {
    /// Folder of key, certificate and database [default: $XDG_STATE_HOME/sluice/server or
    /// ~/.local/state/sluice/server]
    #[arg(long, env = "SLUICE_STATE", hide_env_values = true, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,

    /// The database: sqlite:PATH or postgres://USER@HOST/NAME [default: a file in the folder]
    #[arg(long, env = "SLUICE_DATABASE", hide_env_values = true, value_name = "URL")]
    pub(crate) database: Option<String>,

    /// Where to listen
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9390")]
    pub(crate) listen: SocketAddr,

    /// Names and addresses by which it is reached; nodes are told the first
    #[arg(long = "name", value_name = "HOST", default_value = "127.0.0.1")]
    pub(crate) names: Vec<String>,

    /// How browsers reach it, with a name and no address: passkeys are made for that host, and
    /// there are none without
    #[arg(long, env = "SLUICE_PUBLIC_URL", value_name = "https://HOST[:PORT]")]
    pub(crate) public_url: Option<String>,

    /// How long a node may go without a word before its tasks are given to others
    #[arg(long, value_name = "TIME", default_value = "1m", value_parser = value::duration)]
    pub(crate) lease: Duration,

    /// Replace the setup token, where that of an earlier start is lost and nobody has used it
    #[arg(long)]
    pub(crate) new_setup_token: bool,

    /// Tell Prometheus numbers at http://ADDR:PORT/metrics, to everybody who reaches it
    #[arg(long, env = "SLUICE_METRICS", value_name = "ADDR:PORT")]
    pub(crate) metrics: Option<SocketAddr>,
    /// How long the certificates of nodes are good; nodes renew them at two thirds of it
    #[arg(long, value_name = "TIME", default_value = "90d", value_parser = value::duration)]
    pub(crate) node_certificates: Duration,
}

/// Log in to a server
///
/// With `--oidc` an identity provider says who you are: a URL is printed, for a browser on this
/// machine, which brings the answer back; with `--device` a code, for a browser anywhere. Else the
/// password comes from SLUICE_PASSWORD_FILE or a prompt; so do a new password, where it must be
/// changed first (SLUICE_NEW_PASSWORD_FILE), and the code of an authenticator app, where you have a
/// second factor (SLUICE_CODE_FILE). What is needed for later commands is
/// kept in $XDG_CONFIG_HOME/sluice/login.json or ~/.config/sluice/login.json, readable for you
/// only; SLUICE_LOGIN names another file.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice login https://127.0.0.1:9390 --fingerprint 3a5f... --user admin --setup-token-file t
  sluice login https://backup.example.org:9390 --fingerprint 3a5f... --user anna
  sluice login https://backup.example.org:9390 --fingerprint 3a5f... --oidc company
  sluice login https://backup.example.org:9390 --fingerprint 3a5f... --ldap office --user anna")]
pub(crate) struct LoginArgs {
    /// The server
    pub(crate) server: String,

    /// SHA-256 of its certificate, as `sluice up` and `sluice server` print it
    #[arg(long, value_name = "HEX")]
    pub(crate) fingerprint: String,

    /// Your name there
    #[arg(long, value_name = "NAME", required_unless_present = "oidc")]
    pub(crate) user: Option<String>,

    /// Log in by this identity provider, with a browser
    #[arg(long, value_name = "PROVIDER", conflicts_with = "user")]
    pub(crate) oidc: Option<String>,

    /// Log in by this identity provider, with your name and password in its directory
    #[arg(long, value_name = "PROVIDER", requires = "user", conflicts_with = "oidc")]
    pub(crate) ldap: Option<String>,

    /// The browser is elsewhere: print a code to type there
    #[arg(long, requires = "oidc")]
    pub(crate) device: bool,

    /// The port of this machine to which the browser comes back, where the provider wants one
    /// [default: any]
    #[arg(long, value_name = "PORT", requires = "oidc", conflicts_with = "device")]
    pub(crate) callback_port: Option<u16>,

    /// Make this the first administrator, with the setup token in this file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["oidc", "ldap"])]
    pub(crate) setup_token_file: Option<PathBuf>,
}

/// Show, start and cancel tasks of a server
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct TaskArgs {
    #[command(subcommand)]
    pub(crate) command: Option<TaskCommand>,
}

/// What can be done with tasks.
#[derive(Debug, Subcommand)]
pub(crate) enum TaskCommand {
    /// List tasks, newest first
    #[command(after_help = "\
Examples:
  sluice task list --state running
  sluice task list --kind restore --project shop --since 2026-11-01")]
    List(TaskListArgs),
    /// Show a task
    #[command(after_help = "Example:\n  sluice task show 0193a2b4-...")]
    Show {
        /// Its id
        id: String,
    },
    /// Show the log of a task
    #[command(after_help = "Example:\n  sluice task log 0193a2b4-...")]
    Log {
        /// Its id
        id: String,
    },
    /// Cancel a task
    #[command(after_help = "Example:\n  sluice task cancel 0193a2b4-...")]
    Cancel {
        /// Its id
        id: String,
    },
    /// Back up an instance now, with the commands that its policies have around backups
    #[command(after_help = "\
Examples:
  sluice task backup shop/web-1 --to local
  sluice task backup shop/web-1 --to local --full
  sluice task backup shop/web-1 --to local --no-hooks
  sluice task backup shop/web-1 --to local --snapshot 0193a2b4-...")]
    Backup {
        /// The instance
        #[arg(value_name = "PROJECT/NAME")]
        instance: String,
        /// The destination
        #[arg(long, value_name = "[PROJECT/]NAME")]
        to: String,
        /// Leave out the commands around it: as after pulling the plug
        #[arg(long)]
        no_hooks: bool,
        /// Take nothing for granted: read every byte of the source again, and compare it
        #[arg(long)]
        full: bool,
        /// Make a snapshot at the source first, back that up and remove it; with =false the source
        /// is read as it stands [default: as the rules for that destination say]
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        from_snapshot: Option<bool>,
        /// Back up this snapshot, which stays, without any commands
        #[arg(long, value_name = "ID", conflicts_with_all = ["from_snapshot", "no_hooks"])]
        snapshot: Option<String>,
    },
    /// Write the images of a restore point to a file, device or folder of a node
    ///
    /// It is read where it was backed up to, or at the destination of --from; where that fails, at
    /// another one that has it.
    #[command(after_help = "\
Examples:
  sluice task restore shop/web-1 /srv/restored/ --node mover-1
  sluice task restore shop.web-1@0q5g3 /srv/web-1.qcow2 --node mover-1 --from vault")]
    Restore {
        /// The restore point: its id, its name in the repository, or an instance, whose newest is
        /// meant
        #[arg(value_name = "POINT")]
        point: String,
        /// Where to: an absolute path on the node
        #[arg(value_name = "TARGET")]
        target: String,
        /// The node that writes it
        #[arg(long, value_name = "NODE")]
        node: String,
        /// Read it at this destination, which holds it or a copy of it
        #[arg(long, value_name = "[PROJECT/]NAME")]
        from: Option<String>,
    },
    /// Make a new instance of a restore point, over nothing that is there
    ///
    /// Its images are written to a folder that the configuration of the node has for that
    /// (import_folders).
    #[command(after_help = "\
Examples:
  sluice task import shop/web-1 --name shop/web-2 --node mover-1
  sluice task import shop.web-1@0q5g3 --name test/web-1 --node mover-1 --format qcow2 --tag gold")]
    Import {
        /// The restore point: its id, its name in the repository, or an instance, whose newest is
        /// meant
        #[arg(value_name = "POINT")]
        point: String,
        /// What the new instance is called
        #[arg(long, value_name = "PROJECT/NAME")]
        name: String,
        /// The node that gets its images
        #[arg(long, value_name = "NODE")]
        node: String,
        /// Format of its images
        #[arg(long, value_enum, default_value_t = TargetFormat::Raw)]
        format: TargetFormat,
        /// A word by which policies find it; several are a list
        #[arg(long = "tag", value_name = "TAG")]
        tags: Vec<String>,
    },
    /// Remove restore points at a destination that nothing keeps: neither this nor, by policies, an
    /// event
    ///
    /// All instances are judged, each by itself, whatever else policies keep of them. The newest of
    /// each stays.
    #[command(after_help = "\
Example:
  sluice task prune local --keep-daily 14 --keep-monthly 12")]
    Prune(TaskPruneArgs),
    /// Copy what another destination lacks of an instance's restore points
    #[command(after_help = "Example:\n  sluice task copy shop/web-1 --from local --to vault")]
    Copy {
        /// The instance
        #[arg(value_name = "PROJECT/NAME")]
        instance: String,
        /// The destination that has them
        #[arg(long, value_name = "[PROJECT/]NAME")]
        from: String,
        /// The destination that is to have them
        #[arg(long, value_name = "[PROJECT/]NAME")]
        to: String,
    },
}

/// `sluice task prune`
#[derive(Debug, Args)]
pub(crate) struct TaskPruneArgs {
    /// The destination
    #[arg(value_name = "[PROJECT/]NAME")]
    pub(crate) destination: String,
    #[command(flatten)]
    pub(crate) periods: PeriodArgs,
}

/// Show the restore points that a server knows
#[derive(Debug, Args)]
pub(crate) struct PointArgs {
    #[command(subcommand)]
    pub(crate) command: PointCommand,
}

/// What can be done with a server's restore points.
#[derive(Debug, Subcommand)]
pub(crate) enum PointCommand {
    /// List them, and at which destinations they are
    #[command(after_help = "\
Examples:
  sluice point list
  sluice point list --instance shop/web-1 --json
  sluice point list --destination vault --since 2026-11-01 --order newest")]
    List(PointListArgs),
    /// Tell that an event has happened for which retention of policies waits
    ///
    /// Of restore points that a policy keeps `after_event`, the time begins. Heard of twice, the
    /// later time counts.
    #[command(after_help = "\
Examples:
  sluice point event contract-ended --instance shop/web-1
  sluice point event contract-ended --instance shop/web-1 --at 2026-11-30
  sluice point event contract-ended --point shop.web-1@0q5g3
  sluice point event contract-ended --instance shop/web-1 --take-back")]
    Event(PointEventArgs),
    /// List the events that have happened
    #[command(after_help = "Example:\n  sluice point events --instance shop/web-1")]
    Events {
        /// Only those of this instance
        #[arg(long, value_name = "PROJECT/NAME")]
        instance: Option<String>,
    },
    /// Show one, with its copies
    #[command(after_help = "Example:\n  sluice point show shop.web-1@0q5g3")]
    Show {
        /// Its id, its name in the repository, or an instance, whose newest is meant
        #[arg(value_name = "POINT")]
        point: String,
    },
}

/// `sluice point event`
#[derive(Debug, Args)]
pub(crate) struct PointEventArgs {
    /// What policies call it
    pub(crate) name: String,

    /// It is one of all restore points of this instance, those that are made later too
    #[arg(long, value_name = "PROJECT/NAME", required_unless_present = "point")]
    pub(crate) instance: Option<String>,

    /// It is one of this restore point and its copies: an id, or a name in the repository
    #[arg(long, value_name = "POINT", conflicts_with = "instance")]
    pub(crate) point: Option<String>,

    /// When it happened [default: now]
    #[arg(long, value_name = "DATE", conflicts_with = "take_back")]
    pub(crate) at: Option<String>,

    /// It has not happened after all: wait for it again
    #[arg(long)]
    pub(crate) take_back: bool,
}

/// Records of one kind, which are listed so.
#[derive(Debug, Args)]
pub(crate) struct RecordArgs<L: Listing> {
    #[command(subcommand)]
    pub(crate) command: RecordCommand<L>,
}

/// What can be done with records.
#[derive(Debug, Subcommand)]
pub(crate) enum RecordCommand<L: Listing> {
    /// List them
    #[command(after_help = L::LIST)]
    List(L),
    /// Show one
    #[command(after_help = L::SHOW)]
    Show {
        /// Its name
        #[arg(value_name = "[PROJECT/]NAME")]
        name: String,
    },
    /// Make one, or change what it says
    #[command(after_help = L::SET)]
    Set(SetArgs),
    /// Remove one
    #[command(after_help = L::REMOVE)]
    Remove {
        /// Its name
        #[arg(value_name = "[PROJECT/]NAME")]
        name: String,
    },
}

/// Policies.
#[derive(Debug, Args)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    pub(crate) command: PolicyCommand,
}

/// What can be done with policies.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    #[command(flatten)]
    Record(RecordCommand<PolicyListArgs>),
    /// List the instances a policy has, or would have
    ///
    /// With `--spec` nothing is changed: what the policy would have if it said that is listed, with
    /// `+` where it has it not yet, and `-` before what it would no longer have.
    #[command(after_help = "\
Examples:
  sluice policy instances shop/hourly
  sluice policy instances shop/hourly --spec policy.yaml")]
    Instances {
        /// Its name; with `--spec` also one that is not there yet
        #[arg(value_name = "[PROJECT/]NAME")]
        name: String,
        /// What it might say, as YAML or JSON; `-` for standard input
        #[arg(long, value_name = "FILE")]
        spec: Option<PathBuf>,
    },
    /// Give a policy an instance by hand, whatever the policy finds by itself
    #[command(after_help = "Example:\n  sluice policy assign shop/hourly shop/web-1")]
    Assign {
        /// The policy
        #[arg(value_name = "[PROJECT/]NAME")]
        name: String,
        /// The instance
        #[arg(value_name = "PROJECT/INSTANCE")]
        instance: String,
    },
    /// Take back what was assigned by hand
    #[command(after_help = "Example:\n  sluice policy unassign shop/hourly shop/web-1")]
    Unassign {
        /// The policy
        #[arg(value_name = "[PROJECT/]NAME")]
        name: String,
        /// The instance
        #[arg(value_name = "PROJECT/INSTANCE")]
        instance: String,
    },
}

/// What a record is to say.
#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    /// Its name
    #[arg(value_name = "[PROJECT/]NAME")]
    pub(crate) name: String,

    /// What it says, as YAML or JSON; `-` for standard input
    #[arg(long, value_name = "FILE", conflicts_with_all = ["url", "disk", "tag", "block_size"])]
    pub(crate) spec: Option<PathBuf>,

    /// A destination's repository
    #[arg(long, value_name = "DEST")]
    pub(crate) url: Option<String>,

    /// File with the passphrase of a destination
    #[arg(long, value_name = "FILE")]
    pub(crate) passphrase_file: Option<PathBuf>,

    /// A variable for a destination, and the file with it, such as the key of a store; what one
    /// command names replaces all secrets that the destination had, its passphrase too
    #[arg(long, value_name = "NAME=FILE")]
    pub(crate) secret: Vec<String>,

    /// A disk file of an instance
    #[arg(long, value_name = "PATH")]
    pub(crate) disk: Vec<String>,

    /// For an instance: what this command prints on the node is its only image, as
    /// `sluice backup --output-of` has it; the node's configuration must allow the program
    #[arg(long, value_name = "[NAME=]COMMAND", conflicts_with_all = ["spec", "disk"])]
    pub(crate) output_of: Option<String>,

    /// A word by which policies find an instance
    #[arg(long, value_name = "WORD")]
    pub(crate) tag: Vec<String>,

    /// In blocks of which size an instance is stored, from its first backup on, or else from the
    /// next full one: 16KiB to 1MiB
    #[arg(long, value_name = "SIZE", value_parser = value::block_size)]
    pub(crate) block_size: Option<u32>,
}

/// Make a server's configuration what a file says
///
/// The file is YAML or JSON: for each of `projects`, `identity-providers`, `destinations`,
/// `node-configs`, `instances`, `inventories`, `policies` and `plans` an object of names
/// (PROJECT/NAME for what belongs to a project) and specs. What it does not name stays.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice apply -f sluice.yaml --plan
  sluice apply -f sluice.yaml
  sluice apply -f sluice.yaml --check || echo the server is not as the file says")]
pub(crate) struct ApplyArgs {
    /// The file, YAML or JSON; `-` for standard input
    #[arg(short = 'f', long, value_name = "FILE")]
    pub(crate) file: PathBuf,

    /// Only say what would be done
    #[arg(long)]
    pub(crate) plan: bool,

    /// Only say what differs, and end with status 3 if anything does
    #[arg(long)]
    pub(crate) check: bool,
}

/// `sluice config`
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Print the server's configuration as a file that `sluice apply` takes
    ///
    /// Projects, destinations, configurations of nodes, instances, inventories, policies and plans,
    /// by name, and for administrators identity providers. Secrets are left out, and so are
    /// instances that an inventory has found: it finds them again.
    #[command(after_help = "\
Examples:
  sluice config export > sluice.yaml")]
    Export,
}

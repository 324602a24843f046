//! Operating a control plane: its own backups, and what comes back from them.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::{ServerArgs, value};

/// Run a server for other machines' nodes, or bring a lost one back
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  sluice server --listen 0.0.0.0:9390 --name backup.example.org
  SLUICE_DATABASE=postgres://sluice@db/sluice sluice server
  sluice server restore --from s3://vault/main --state /var/lib/sluice")]
pub(crate) struct ServerCommandArgs {
    #[command(flatten)]
    pub(crate) serve: ServerArgs,

    #[command(subcommand)]
    pub(crate) command: Option<ServerCommand>,
}

/// What can be done with a server that does not run.
#[derive(Debug, Subcommand)]
pub(crate) enum ServerCommand {
    /// Bring a lost server back from the backup that it made of itself
    ///
    /// All that is needed is the repository and its key. The folder must hold no server yet; a
    /// database that is named must be empty. Afterwards start the server as before: nodes and
    /// users are known, and schedules go on. What was backed up since the backup of the server is
    /// found by `sluice catalog rebuild`.
    #[command(after_help = "\
Examples:
  sluice server restore --from s3://vault/main --state /var/lib/sluice
  sluice server restore --from /mnt/vault --database postgres://sluice@db/sluice")]
    Restore(ServerRestoreArgs),
}

/// Where a server is brought back from, and where to.
#[derive(Debug, Args)]
pub(crate) struct ServerRestoreArgs {
    /// The repository with the backup [default: --repo, or SLUICE_REPO]
    #[arg(long, value_name = "DEST")]
    pub(crate) from: Option<String>,

    /// Folder of the server [default: as for `sluice server`]
    #[arg(long, env = "SLUICE_STATE", hide_env_values = true, value_name = "DIR")]
    pub(crate) state: Option<PathBuf>,

    /// The database, if it is not a file in the folder
    #[arg(long, env = "SLUICE_DATABASE", hide_env_values = true, value_name = "URL")]
    pub(crate) database: Option<String>,

    /// Which backup, as other commands name restore points
    #[arg(long, value_name = "POINT", default_value = "control-plane@latest")]
    pub(crate) point: String,
}

/// Back up the server's own catalog and keys to a destination
#[derive(Debug, Args)]
pub(crate) struct SelfBackupArgs {
    #[command(subcommand)]
    pub(crate) command: SelfBackupCommand,
}

/// What can be done with backups of the server.
#[derive(Debug, Subcommand)]
pub(crate) enum SelfBackupCommand {
    /// Tell where the server is backed up, and what became of the last backup
    #[command(after_help = "Example:\n  sluice self-backup show")]
    Show,
    /// Say where the server is backed up, and how often; the first backup is made at once
    #[command(after_help = "Example:\n  sluice self-backup set --to local --every 6h --keep 60")]
    Set {
        /// A destination of the server; it must be encrypted
        #[arg(long, value_name = "[PROJECT/]NAME")]
        to: String,
        /// How often: a minute to a week
        #[arg(long, value_name = "TIME", default_value = "1d", value_parser = value::duration)]
        every: Duration,
        /// How many are kept
        #[arg(long, value_name = "N", default_value_t = 30)]
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
    },
    /// Back up the server now
    #[command(after_help = "Example:\n  sluice self-backup run")]
    Run,
}

/// What a server knows of repositories
#[derive(Debug, Args)]
pub(crate) struct CatalogArgs {
    #[command(subcommand)]
    pub(crate) command: CatalogCommand,
}

/// What can be done with the catalog.
#[derive(Debug, Subcommand)]
pub(crate) enum CatalogCommand {
    /// Find instances and restore points again from a repository alone
    ///
    /// Lists the repository of --repo and tells the server that you are logged in to what is in
    /// it. Projects and instances that the server does not know are made; such an instance counts
    /// as gone from its source until somebody says where it is.
    #[command(after_help = "\
Example:
  sluice catalog rebuild --repo s3://vault/main --destination vault")]
    Rebuild {
        /// What the server calls this repository
        #[arg(long, value_name = "[PROJECT/]NAME")]
        destination: String,
    },
}

/// Write what helps others to help you: setup and failures of a server, without secrets
///
/// Secrets cannot be read from a server. Of addresses, users' passwords and parameters are left
/// out; names of machines, instances and paths are in it. Look at the file before you send it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice support-bundle --output bundle.json")]
pub(crate) struct SupportBundleArgs {
    /// The file to write; it must not be there
    #[arg(short, long, value_name = "FILE", default_value = "sluice-support.json")]
    pub(crate) output: PathBuf,
}

/// Show and change who is told what, by mail or webhook
#[derive(Debug, Args)]
pub(crate) struct NotifyArgs {
    #[command(subcommand)]
    pub(crate) command: NotifyCommand,
}

/// What can be done with notifications.
#[derive(Debug, Subcommand)]
pub(crate) enum NotifyCommand {
    /// Tell who is told what, and what waits to be told
    #[command(after_help = "Example:\n  sluice notify show")]
    Show,
    /// Say who is told what, by a file of YAML or JSON
    #[command(after_help = "\
Example:
  sluice notify set --spec notify.yaml

  channels:
    - {name: ops, via: {kind: webhook, url: \"https://hooks.example.org/sluice\"}}
    - {name: mail, via: {kind: mail, server: \"mail.example.org:587\", user: sluice,
       from: sluice@example.org, to: [ops@example.org]}}
  rules:
    - {events: [task-failed, missed-run, quota-soft], channels: [ops]}
    - {events: [node-gone, certificate-expires, self-backup-failed], channels: [ops, mail]}
  reports:
    - {name: weekly, what: {report: sla, format: pdf, period: 7d}, channels: [mail],
       when: {kind: calendar, calendar: {at: [\"07:00\"], days: [mon]}}}")]
    Set {
        /// The file; `-` for standard input
        #[arg(long, value_name = "FILE")]
        spec: PathBuf,
    },
    /// Set the secret of a channel: the key of signatures, or a mail account's password
    #[command(after_help = "Example:\n  sluice notify secret mail --secret-file password.txt")]
    Secret {
        /// The channel
        channel: String,
        /// A file with the secret; `-` for standard input
        #[arg(long, value_name = "FILE")]
        secret_file: PathBuf,
    },
    /// Send a message by a channel, to see whether it arrives
    #[command(after_help = "Example:\n  sluice notify test ops")]
    Test {
        /// The channel
        channel: String,
    },
    /// Send a report now that is otherwise sent by itself
    #[command(after_help = "Example:\n  sluice notify report weekly")]
    Report {
        /// Its name
        name: String,
    },
}

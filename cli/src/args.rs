//! What can be typed: one file for each command.

mod access;
mod backup;
mod boot_test;
mod collect;
mod control;
mod doctor;
mod export;
mod generate;
mod heal;
mod import;
mod init;
mod inventory;
mod key;
mod lists;
mod lock;
mod look;
mod mount;
mod mountd;
mod node;
mod node_config;
mod operate;
mod overlay;
mod periods;
mod plan;
mod points;
mod prune;
mod read;
mod remote_mount;
mod replicate;
mod restore;
mod restore_test;
mod retain;
mod run_script;
mod scrub;
mod snapshot;
mod stat;
mod usage;
pub(crate) mod value;
mod verify;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub(crate) use access::{
    AccessArgs, AccessCommand, ApprovalArgs, ApprovalCommand, GroupArgs, GroupCommand,
    IdentityProviderArgs, IdentityProviderCommand, PasskeyCommand, SessionCommand, TokenCommand,
    TotpCommand, UserArgs, UserCommand,
};
pub(crate) use backup::{BackupArgs, SourceFormat};
pub(crate) use boot_test::{
    Accelerator, BootTestArgs, BootTogetherArgs, DiskBus, Firmware, Nic, TcpCheck,
};
pub(crate) use collect::CollectArgs;
pub(crate) use control::{
    ApplyArgs, ConfigCommand, LoginArgs, MountPlaceArgs, PointArgs, PointCommand, PointEventArgs,
    PolicyArgs, PolicyCommand, RecordArgs, RecordCommand, ServerArgs, SetArgs, TaskArgs,
    TaskCommand, UpArgs,
};
pub(crate) use doctor::DoctorArgs;
pub(crate) use export::{
    ExportArgs, ExportProtocol, HttpArgs, IscsiArgs, NbdArgs, TlsArgs, TlsMode, VhostUserArgs,
};
pub(crate) use generate::{CompletionsArgs, ManArgs};
pub(crate) use heal::HealArgs;
pub(crate) use import::{ImportFilesArgs, ImportFilesCommand, ImportPlaceArgs};
pub(crate) use init::{Encryption, InitArgs};
pub(crate) use inventory::{
    InstanceArgs, InstanceCommand, InstanceListArgs, InventoryArgs, InventoryCommand,
    InventoryRunArgs,
};
pub(crate) use key::{KeyArgs, KeyCommand, RotateArgs};
pub(crate) use lists::{
    ApprovalListArgs, DestinationListArgs, ListOrder, Listing, MountListArgs, NodeListArgs,
    PointListArgs, ProjectListArgs, RecordFilter, TaskListArgs, TestListArgs, TimeFilter,
    WhoseArgs, WhoseByPolicyArgs,
};
pub(crate) use lock::{LockArgs, LockCommand, LockSetArgs, ObjectLock};
pub(crate) use look::LookArgs;
pub(crate) use mount::{MountArgs, UnmountArgs};
pub(crate) use mountd::{DetachArgs, MountdArgs, MountsArgs, MountsCommand, RenewArgs};
pub(crate) use node::{NodeArgs, NodeCommand, NodeRunArgs, NodeUpgradeArgs};
pub(crate) use node_config::{NodeConfigArgs, NodeConfigCommand};
pub(crate) use operate::{
    CatalogArgs, CatalogCommand, NotifyArgs, NotifyCommand, SelfBackupArgs, SelfBackupCommand,
    ServerCommand, ServerCommandArgs, ServerRestoreArgs, SupportBundleArgs,
};
pub(crate) use overlay::{
    OverlayArgs, OverlayCommand, OverlayCommitArgs, OverlayDiscardArgs, OverlayHydrateArgs,
    WritableArgs,
};
pub(crate) use plan::{PlanArgs, PlanCommand, PlanRunArgs};
pub(crate) use points::{ListArgs, ShowArgs};
pub(crate) use prune::{ForgetArgs, OfServerArgs, PruneArgs};
pub(crate) use read::{CatArgs, DiffArgs};
pub(crate) use remote_mount::{
    DownloadArgs, RemoteMountArgs, RemoteMountCommand, RemoteMountStartArgs, RemoteProtocol,
};
pub(crate) use replicate::{RateWindow, ReplicateArgs, ReplicateCommand, ReplicateRunArgs};
pub(crate) use restore::{RestoreArgs, TargetFormat};
pub(crate) use restore_test::{RestoreTestArgs, RestoreTestCommand, RestoreTestRunArgs};
pub(crate) use retain::{DestroyArgs, EventArgs, HoldArgs, ReleaseArgs, RetainArgs};
pub(crate) use run_script::RunScriptArgs;
pub(crate) use scrub::ScrubArgs;
pub(crate) use snapshot::{
    SnapshotArgs, SnapshotCommand, SnapshotFilesArgs, SnapshotFilesCommand, SnapshotPlaceArgs,
};
pub(crate) use stat::StatArgs;
pub(crate) use usage::{GroupBy, QuotaArgs, QuotaCommand, ReportArgs, ReportCommand, UsageArgs};
pub(crate) use verify::VerifyArgs;

/// Back up disks, expose any restore point at once, get it back.
#[derive(Debug, Parser)]
#[command(
    name = "sluice",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    disable_help_subcommand = false,
    after_help = AFTER_HELP,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const AFTER_HELP: &str = "\
A POINT is INSTANCE@latest, INSTANCE@latest~1 for the one before it, INSTANCE@ID (or the start of an
id), or INSTANCE@2026-11-21T03:00 for the newest at or before that time; INSTANCE alone means its
latest. POINT:IMAGE names one image.

The passphrase comes from SLUICE_PASSPHRASE_FILE, SLUICE_PASSPHRASE, or a prompt.

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 done with warnings, 4 damaged data found.

Examples:
  export SLUICE_REPO=/backup/repository
  sluice init
  sluice backup web-1 /var/lib/images/web-1.qcow2
  sluice list
  sluice export nbd web-1@latest
  sluice restore web-1@latest disk.raw";

/// Options that every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options for every command")]
pub(crate) struct Global {
    /// The repository: /path, file:///path, s3://BUCKET/PREFIX?endpoint=URL&region=R,
    /// swift://CONTAINER/PREFIX?auth=URL&region=R, azblob://CONTAINER/PREFIX?account=NAME,
    /// gcs://BUCKET/PREFIX, or sftp://USER@HOST:PORT/PATH
    #[arg(long, env = "SLUICE_REPO", hide_env_values = true, value_name = "DEST", global = true)]
    pub(crate) repo: Option<String>,

    /// Write one JSON document to stdout (progress as lines of JSON before it)
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Log what is going on to stderr; twice for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,

    /// How the log on stderr is written
    #[arg(
        long,
        env = "SLUICE_LOG_FORMAT",
        hide_env_values = true,
        value_enum,
        default_value_t = LogFormat::Text,
        global = true
    )]
    pub(crate) log_format: LogFormat,

    /// Show no progress
    #[arg(long, global = true)]
    pub(crate) no_progress: bool,

    /// Folder of the local dedup index [default: $XDG_CACHE_HOME/sluice or ~/.cache/sluice]
    #[arg(
        long,
        env = "SLUICE_CACHE_DIR",
        hide_env_values = true,
        value_name = "DIR",
        global = true
    )]
    pub(crate) cache_dir: Option<PathBuf>,

    /// Most memory for decoded blocks, from which exports and mounts answer again [default: 128MiB]
    #[arg(
        long,
        env = "SLUICE_CACHE_MEMORY",
        hide_env_values = true,
        value_name = "SIZE",
        value_parser = value::bytes,
        global = true
    )]
    pub(crate) cache_memory: Option<u64>,

    /// Tell what the command's requests cost: a table on stderr, or `costs` in the document
    #[arg(long, global = true)]
    pub(crate) costs: bool,

    /// Prices for --costs, as JSON or TOML [default: an example, see docs/operations.md]
    #[arg(long, env = "SLUICE_PRICES", hide_env_values = true, value_name = "FILE", global = true)]
    pub(crate) prices: Option<PathBuf>,

    /// Unlock with the recovery key in this file instead of a passphrase
    #[arg(long, value_name = "FILE", global = true)]
    pub(crate) recovery_key_file: Option<PathBuf>,

    /// How long a destination that does not answer is asked again, such as 30s or 5m; a read of an
    /// export or a mount waits as long, and fails then
    #[arg(
        long,
        env = "SLUICE_RETRY_FOR",
        value_name = "TIME",
        default_value = "5m",
        value_parser = value::duration,
        hide_env = true,
        global = true
    )]
    pub(crate) retry_for: std::time::Duration,

    /// Threads that hash, compress and seal, where a command does not say how many
    #[arg(
        long,
        env = "SLUICE_THREADS",
        value_name = "N",
        default_value_t = 0,
        hide = true,
        hide_env = true,
        global = true
    )]
    pub(crate) threads: usize,

    /// How fast a destination is written and read: RATE;HH:MM-HH:MM=RATE
    #[arg(
        long,
        env = "SLUICE_BANDWIDTH",
        value_name = "RATES",
        value_parser = node_config::rates,
        hide = true,
        hide_env = true,
        global = true
    )]
    pub(crate) bandwidth: Option<node_config::Rates>,

    /// How often a backup shows a sign of life and looks whether a collection waits for it
    #[arg(
        long,
        env = "SLUICE_HEARTBEAT",
        value_name = "TIME",
        default_value = "1m",
        value_parser = value::duration,
        hide = true,
        hide_env = true,
        global = true
    )]
    pub(crate) heartbeat: std::time::Duration,
}

/// How logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line, for programs
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(InitArgs),
    Backup(BackupArgs),
    List(ListArgs),
    Show(ShowArgs),
    Stat(StatArgs),
    Export(ExportArgs),
    Mount(MountArgs),
    Unmount(UnmountArgs),
    Overlay(OverlayArgs),
    Mounts(MountsArgs),
    Mountd(MountdArgs),
    Restore(RestoreArgs),
    BootTest(BootTestArgs),
    BootTogether(BootTogetherArgs),
    Cat(CatArgs),
    Diff(DiffArgs),
    Verify(VerifyArgs),
    Scrub(ScrubArgs),
    Heal(HealArgs),
    Doctor(DoctorArgs),
    Prune(PruneArgs),
    Collect(CollectArgs),
    Forget(ForgetArgs),
    Replicate(ReplicateArgs),
    Lock(LockArgs),
    Hold(HoldArgs),
    Release(ReleaseArgs),
    Retain(RetainArgs),
    Event(EventArgs),
    Destroy(DestroyArgs),
    Key(KeyArgs),
    Up(UpArgs),
    Server(ServerCommandArgs),
    Node(NodeArgs),
    Login(LoginArgs),
    #[command(visible_alias = "jobs")]
    Task(TaskArgs),
    Point(PointArgs),
    Snapshot(SnapshotArgs),
    SnapshotFiles(SnapshotFilesArgs),
    ImportFiles(ImportFilesArgs),
    /// Show and change projects, the tenants of a server
    Project(RecordArgs<ProjectListArgs>),
    /// Show and change destinations of a server: repositories that backups go to
    Destination(RecordArgs<DestinationListArgs>),
    /// Show and change instances of a server: what is protected
    Instance(InstanceArgs),
    Inventory(InventoryArgs),
    /// Show and change policies of a server: what is done with instances, and when
    Policy(PolicyArgs),
    NodeConfig(NodeConfigArgs),
    RemoteMount(RemoteMountArgs),
    RestoreTest(RestoreTestArgs),
    Plan(PlanArgs),
    RunScript(RunScriptArgs),
    Look(LookArgs),
    Apply(ApplyArgs),
    /// The configuration of a server as a whole
    #[command(subcommand)]
    Config(ConfigCommand),
    Quota(QuotaArgs),
    Usage(UsageArgs),
    Report(ReportArgs),
    User(UserArgs),
    Group(GroupArgs),
    IdentityProvider(IdentityProviderArgs),
    Approval(ApprovalArgs),
    Access(AccessArgs),
    SelfBackup(SelfBackupArgs),
    Catalog(CatalogArgs),
    Notify(NotifyArgs),
    SupportBundle(SupportBundleArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

impl Command {
    /// The file descriptor on which to say that the command is ready.
    pub(crate) fn ready_fd(&self) -> Option<i32> {
        match self {
            Self::Export(ExportArgs { protocol, .. }) => match protocol {
                ExportProtocol::Nbd(args) => args.ready_fd,
                ExportProtocol::Iscsi(args) => args.ready_fd,
                ExportProtocol::Http(args) => args.ready_fd,
                ExportProtocol::VhostUser(args) => args.ready_fd,
            },
            Self::Mount(args) => args.ready_fd,
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn walk(command: &clap::Command) {
            let leaf = command.get_subcommands().next().is_none();
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let name = command.get_name();
            assert!(!leaf || help.contains("Example"), "{name} has no example");
            command.get_subcommands().for_each(walk);
        }
        walk(&Cli::command());
    }

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split(' ')).map(|cli| cli.command)
    }

    #[test]
    fn the_documented_lines_parse() {
        for line in [
            "sluice init --encryption none",
            "sluice --repo /r backup web-1 disk.qcow2 --format qcow2 --changed ext.json",
            "sluice backup web-1 a=disk.raw - --meta vm.json --rescan",
            "sluice list web-1 --json",
            "sluice show web-1@latest",
            "sluice stat",
            "sluice stat web-1 --json --costs --prices prices.toml",
            "sluice stat --name-separator -",
            "sluice stat --quick",
            "sluice backup web-1 d --project shop --meta vm.json",
            "sluice export nbd web-1@latest:vda --socket /run/x.sock --ready-fd 3",
            "sluice export nbd web-1 --listen 127.0.0.1:0",
            "sluice export http web-1 db-1:vda --token-file t --tls-certificate c --tls-key k",
            "sluice export nbd web-1@a db-1@latest:vda --tls-psk-file f --tls on",
            "sluice export nbd --all --tls-certificate c --tls-key k --tls-client-ca a",
            "sluice export vhost-user web-1:vda --socket s --queues 4",
            "sluice mount /mnt --detach",
            "sluice mount /repo /mnt",
            "sluice unmount /mnt",
            "sluice export iscsi web-1 --writable --overlay /o --overlay-limit 10GiB",
            "sluice overlay list",
            "sluice overlay show /o --json",
            "sluice overlay commit /o --as web-1-test",
            "sluice overlay discard /o",
            "sluice overlay hydrate /o --limit 50MiB",
            "sluice export iscsi web-1 --writable --hydrate --hydrate-limit 1MiB",
            "sluice unmount --all",
            "sluice mount /mnt --detach --lease 8h",
            "sluice export nbd web-1 --detach --lease 8h",
            "sluice export --detach iscsi web-1",
            "sluice mounts --json",
            "sluice mounts renew k3v8 --lease 8h",
            "sluice mountd --metrics 9469 --state /s --socket /s/x",
            "sluice mountd --metrics [::1]:9469",
            "sluice restore web-1@latest disk.raw --format qcow2",
            "sluice restore web-1@latest --to disk.raw --overwrite",
            "sluice restore web-1@latest disk.raw --force",
            "sluice cat web-1@latest --offset 4KiB --length 512",
            "sluice diff web-1@a web-1@b --json",
            "sluice verify --data",
            "sluice verify web-1@latest --sample 5%",
            "sluice scrub --budget 100GiB --max-age 90d",
            "sluice scrub --keyless",
            "sluice scrub --status",
            "sluice heal --from /copy --data",
            "sluice doctor --data --probe",
            "sluice doctor --repair -n --min-age 2d",
            "sluice prune --keep-daily 7 --keep-within 30d --dry-run",
            "sluice forget web-1@a web-1@b",
            "sluice collect --plan",
            "sluice collect --wait 1h --limit 5MiB --compact-below 80%",
            "sluice replicate --to /mnt/disk --keep-daily 7 --limit 20MiB/s --parallel 2",
            "sluice replicate --from s3://far/x --instance a b --latest 3 --since 2026-11-01",
            "sluice replicate --to /d --limit-window 08:00-18:00=5MiB/s -n",
            "sluice replicate promote",
            "sluice replicate demote --to s3://new/x",
            "sluice replicate status --json",
            "sluice lock set --object-lock compliance --lock-days 30",
            "sluice lock set --off",
            "sluice lock status --recheck",
            "sluice lock extend --plan --recheck",
            "sluice prune --keep-last 3 --min-age 14d",
            "sluice prune --keep-daily 7 --simulate 2y --every 1d --from 2026-01-01",
            "sluice hold web-1@a --reason why",
            "sluice release web-1@a web-1@b",
            "sluice retain web-1@a --until 2033-01-01",
            "sluice retain web-1 --after-event e --for 7y",
            "sluice retain web-1@a --shorten --delay 30d",
            "sluice event e --at 2026-11-30 --instance web-1",
            "sluice destroy --yes 0123 --delay 30d",
            "sluice destroy --cancel",
            "sluice backup web-1 d --hold --retain-for 30d",
            "sluice key add",
            "sluice key list",
            "sluice key remove 0123",
            "sluice key recovery --out f --qr f.svg",
            "sluice key check --recovery-key-file f",
            "sluice key rotate --new-passphrase-file f",
            "sluice key rotate --data --keep-passphrase-file f --drop-other-slots --trust 0123",
            "sluice boot-test web-1 --console login: --tcp 22=^SSH --guest-agent --timeout 5m",
            "sluice completions bash",
            "sluice man /tmp",
        ] {
            parse(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            "sluice",
            "sluice backup web-1",
            "sluice backup web-1 d --rescan --changed f",
            "sluice export nbd p --listen 127.0.0.1:1 --socket s",
            "sluice export http",
            "sluice export http p --tls-certificate c",
            "sluice export http p --plain --tls-certificate c --tls-key k",
            "sluice export nbd",
            "sluice export nbd --all p",
            "sluice export nbd p --tls-certificate c",
            "sluice export nbd p --tls-client-ca c",
            "sluice export nbd p --tls sometimes",
            "sluice restore p a --to b",
            "sluice export iscsi p --overlay /o",
            "sluice overlay commit",
            "sluice restore p",
            "sluice verify --data --sample 5%",
            "sluice verify --sample 500%",
            "sluice forget",
            "sluice unmount",
            "sluice unmount /mnt --all",
            "sluice mounts renew k3v8",
            "sluice mountd --metrics here",
            "sluice replicate",
            "sluice replicate --to /a --from /b",
            "sluice replicate --to /a --parallel 0",
            "sluice replicate --to /a --limit-window 8=5",
            "sluice replicate demote",
            "sluice lock set",
            "sluice lock set --object-lock governance",
            "sluice lock set --lock-days 3",
            "sluice lock set --off --object-lock governance --lock-days 3",
            "sluice init --object-lock governance",
            "sluice init --lock-days 3",
            "sluice key rotate --drop-other-slots",
            "sluice key rotate --data --id 0123",
            "sluice list -q -v",
            "sluice stat web-1 --quick",
            "sluice backup web-1 d --project ",
            "sluice retain web-1@a",
            "sluice retain web-1@a --after-event e",
            "sluice retain web-1@a --until 2033-01-01 --for 7y",
            "sluice prune --keep-last 3 --every 1d",
            "sluice destroy --cancel --yes 0123",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}

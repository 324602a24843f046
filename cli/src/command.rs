//! What the commands do: one file for each family.

mod backup;
mod boot_test;
mod collect;
mod control;
mod destroy;
mod detach;
mod doctor;
mod export;
mod generate;
mod heal;
mod import_files;
mod init;
mod key;
mod lock;
mod look;
mod mount;
mod mountd;
mod mounts;
mod overlay;
mod points;
mod prune;
mod read;
mod replicate;
mod restore;
mod retain;
mod run_script;
mod scrub;
mod simulate;
mod snapshot_files;
mod stat;
mod verify;

use anyhow::Result;

use crate::args::{Cli, Command, ExportProtocol, ServerCommand};
use crate::context::Context;
use crate::error::Exit;
use crate::managed;
use crate::ready::Ready;

pub(crate) use prune::who;

/// Commands that need no runtime, or must act before there is one.
pub(crate) fn without_runtime(cli: &Cli) -> Result<Option<Exit>> {
    match &cli.command {
        Command::Completions(args) => generate::completions(args).map(Some),
        Command::Man(args) => generate::man(args).map(Some),
        _ => Ok(None),
    }
}

/// Runs a command.
pub(crate) async fn run(cli: Cli, ready: Option<Ready>) -> Result<Exit> {
    let mut context = Context::new(cli.global);
    if let Some(wanted) = detach::wanted(&cli.command)? {
        return detach::run(&mut context, wanted, ready).await;
    }
    if managed::is_managed() {
        managed::attend(context.statistics.clone())?;
    }
    let done = dispatch(&mut context, cli.command, ready).await;
    context.settle().await;
    done
}

async fn dispatch(context: &mut Context, command: Command, ready: Option<Ready>) -> Result<Exit> {
    match command {
        Command::Init(args) => init::run(context, &args).await,
        Command::Backup(args) => Box::pin(backup::run(context, args)).await,
        Command::List(args) => points::list(context, &args).await,
        Command::Show(args) => points::show(context, &args).await,
        Command::Stat(args) => Box::pin(stat::run(context, &args)).await,
        Command::Export(args) => match args.protocol {
            ExportProtocol::Nbd(args) => export::nbd(context, args, ready).await,
            ExportProtocol::Iscsi(args) => export::iscsi(context, args, ready).await,
            ExportProtocol::Http(args) => export::http(context, args, ready).await,
            ExportProtocol::VhostUser(args) => export::vhost_user(context, args, ready).await,
        },
        Command::Mount(args) => mount::run(context, args, ready).await,
        Command::Overlay(args) => Box::pin(overlay::run(context, args.command)).await,
        Command::Unmount(args) => mounts::unmount(context, &args).await,
        Command::Mounts(args) => mounts::run(context, &args).await,
        Command::Mountd(args) => mountd::run(context, &args).await,
        Command::Restore(args) => Box::pin(restore::run(context, &args)).await,
        Command::BootTest(args) => Box::pin(boot_test::run(context, args)).await,
        Command::BootTogether(args) => Box::pin(boot_test::run_together(context, args)).await,
        Command::Cat(args) => read::cat(context, &args).await,
        Command::Diff(args) => read::diff(context, &args).await,
        Command::Verify(args) => verify::run(context, &args).await,
        Command::Scrub(args) => scrub::run(context, &args).await,
        Command::Doctor(args) => Box::pin(doctor::run(context, &args)).await,
        Command::Heal(args) => Box::pin(heal::run(context, &args)).await,
        Command::Collect(args) => Box::pin(collect::run(context, &args)).await,
        Command::Prune(args) => prune::prune(context, &args).await,
        Command::Forget(args) => prune::forget(context, &args).await,
        Command::Replicate(args) => Box::pin(replicate::run(context, args)).await,
        Command::Lock(args) => Box::pin(lock::run(context, args.command)).await,
        Command::Hold(args) => retain::hold(context, &args).await,
        Command::Release(args) => retain::release(context, &args).await,
        Command::Retain(args) => retain::retain(context, &args).await,
        Command::Event(args) => retain::event(context, &args).await,
        Command::Destroy(args) => destroy::run(context, &args).await,
        Command::Key(args) => key::run(context, args.command).await,
        Command::Up(args) => control::up(context, args).await,
        Command::Server(args) => match args.command {
            Some(ServerCommand::Restore(args)) => Box::pin(control::restore(context, args)).await,
            None => control::server(context, args.serve).await,
        },
        Command::Node(args) => Box::pin(control::node(context, args.command)).await,
        Command::Login(args) => Box::pin(control::login(context, args)).await,
        Command::Task(args) => Box::pin(control::task(context, args.command)).await,
        Command::Project(args) => control::record(context, "projects", args.command).await,
        Command::Destination(args) => control::record(context, "destinations", args.command).await,
        Command::Instance(args) => control::instance(context, args.command).await,
        Command::Inventory(args) => Box::pin(control::inventory(context, args.command)).await,
        Command::Point(args) => control::point(context, args.command).await,
        Command::Snapshot(args) => Box::pin(control::snapshot(context, args.command)).await,
        Command::ImportFiles(args) => Box::pin(import_files::run(context, args.command)).await,
        Command::SnapshotFiles(args) => snapshot_files::run(context, args.command).await,
        Command::Policy(args) => control::policy(context, args.command).await,
        Command::NodeConfig(args) => control::node_config(context, args.command).await,
        Command::RemoteMount(args) => Box::pin(control::remote_mount(context, args.command)).await,
        Command::Plan(args) => Box::pin(control::plan(context, args.command)).await,
        Command::RestoreTest(args) => Box::pin(control::restore_test(context, args.command)).await,
        Command::RunScript(args) => run_script::run(context, args).await,
        Command::Look(args) => look::run(context, args).await,
        Command::Apply(args) => control::apply(context, args).await,
        Command::Config(command) => control::config(context, command).await,
        Command::Quota(args) => control::quota(context, args.command).await,
        Command::Usage(args) => Box::pin(control::usage(context, args)).await,
        Command::Report(args) => control::report(context, args.command).await,
        Command::User(args) => Box::pin(control::user(context, args.command)).await,
        Command::Group(args) => Box::pin(control::group(context, args.command)).await,
        Command::IdentityProvider(args) => {
            Box::pin(control::identity_provider(context, args.command)).await
        }
        Command::Approval(args) => control::approval(context, args.command).await,
        Command::Access(args) => control::access(context, args.command).await,
        Command::SelfBackup(args) => control::self_backup(context, args.command).await,
        Command::Notify(args) => Box::pin(control::notify(context, args.command)).await,
        Command::SupportBundle(args) => Box::pin(control::support_bundle(context, args)).await,
        Command::Catalog(args) => Box::pin(control::catalog(context, args.command)).await,
        Command::Completions(_) | Command::Man(_) => {
            unreachable!("done by without_runtime")
        }
    }
}

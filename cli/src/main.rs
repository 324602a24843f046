//! The one executable `sluice`.
//!
//! [`args`] says what can be typed, [`command`] does it, [`output`] says what came of it, and
//! [`error`] turns what went wrong into one line, a hint and an exit code. [`adapter`] connects the
//! rooms that do not know each other: sources and exports with the repository.
//!
//! Results go to stdout, everything else to stderr. Secrets are neither arguments nor logged.

mod adapter;
mod args;
mod command;
mod context;
mod cost;
mod error;
mod interrupt;
mod leash;
mod managed;
mod output;
mod ready;
mod secret;
mod statistics;

use std::io::IsTerminal;

use clap::Parser;

use args::Cli;
use error::Exit;

fn main() {
    if let Some(error) = leash::tethered() {
        eprintln!("error: {error}");
        std::process::exit(Exit::Failed as i32);
    }
    let mut cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => error::usage(&error),
    };
    leash::hold();
    let adopted = if managed::is_managed() { managed::adopt(&mut cli) } else { Ok(()) };
    let (json, verbose) = (cli.global.json, cli.global.verbose > 0);
    let exit = match adopted.and_then(|()| run(cli)) {
        Ok(exit) => exit,
        Err(error) => error::report(&error, json),
    };
    cost::finish(verbose);
    std::process::exit(exit as i32);
}

fn run(cli: Cli) -> anyhow::Result<Exit> {
    // Before any file is opened, so that what the number names is what the parent passed.
    let ready = cli.command.ready_fd().map(ready::Ready::claim).transpose()?;
    start_logging(&cli.global);
    cost::start(&cli.global)?;
    if let Some(exit) = command::without_runtime(&cli)? {
        return Ok(exit);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(command::run(cli, ready));
    // A read of standard input cannot be interrupted: it must not keep the process alive.
    runtime.shutdown_background();
    result
}

/// Logs go to stderr: warnings, more with `-v`, or what `SLUICE_LOG` asks for.
fn start_logging(global: &args::Global) {
    use tracing_subscriber::EnvFilter;
    let level = match (global.quiet, global.verbose) {
        (true, _) => "error",
        // fuser warns of what is no failure, such as a mount that is gone already.
        (_, 0) => "warn,fuser=error",
        (_, 1) => {
            "warn,sluice=info,sluice_repository=info,sluice_engine=info,sluice_nbd=info,\
                   sluice_iscsi=info,sluice_http=info,sluice_vhost_user=info,\
                   sluice_fuse=info,sluice_destination=info"
        }
        (_, 2) => {
            "info,sluice=debug,sluice_repository=debug,sluice_engine=debug,\
                   sluice_nbd=debug,sluice_iscsi=debug,sluice_http=debug,sluice_vhost_user=debug,\
                   sluice_fuse=debug,sluice_destination=debug"
        }
        _ => "trace",
    };
    let filter = match std::env::var("SLUICE_LOG") {
        Ok(text) if !text.is_empty() => EnvFilter::new(text),
        _ => EnvFilter::new(level),
    };
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match global.log_format {
        args::LogFormat::Json => log.json().flatten_event(true).init(),
        args::LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            log.with_ansi(colours).with_target(global.verbose > 0).init();
        }
    }
}

use anyhow::{Context as _, Result};
use clap::CommandFactory;

use crate::args::{Cli, CompletionsArgs, ManArgs};
use crate::error::Exit;
use crate::output::print_bytes;

/// Writes a completion script to stdout.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sluice", &mut script);
    print_bytes(&script)?;
    Ok(Exit::Done)
}

/// Writes a manual page for each command.
pub(crate) fn man(args: &ManArgs) -> Result<Exit> {
    let context = || format!("cannot write manual pages into {}", args.dir.display());
    std::fs::create_dir_all(&args.dir).with_context(context)?;
    clap_mangen::generate_to(Cli::command(), &args.dir).with_context(context)?;
    Ok(Exit::Done)
}

use std::path::PathBuf;

use clap::Args;

/// Write a completion script for a shell to stdout
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  sluice completions bash > ~/.local/share/bash-completion/completions/sluice")]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: clap_complete::Shell,
}

/// Write the manual pages into a folder
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sluice man /usr/local/share/man/man1")]
pub(crate) struct ManArgs {
    /// The folder
    pub(crate) dir: PathBuf,
}

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Manage the ways to unlock the repository
#[derive(Debug, Args)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

/// What to do with key slots.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// List key slots
    #[command(after_help = "Example:\n  sluice key list")]
    List,
    /// Add a passphrase
    ///
    /// The new passphrase comes from the file, or from a prompt.
    #[command(after_help = "\
Examples:
  sluice key add --label night-shift
  sluice key add --new-passphrase-file new.txt")]
    Add {
        /// A file whose first line is the new passphrase
        #[arg(
            long,
            value_name = "FILE",
            env = "SLUICE_NEW_PASSPHRASE_FILE",
            hide_env_values = true
        )]
        new_passphrase_file: Option<PathBuf>,
        /// A name for people
        #[arg(long, default_value = "passphrase")]
        label: String,
    },
    /// Remove a key slot; the last one stays
    #[command(after_help = "Example:\n  sluice key remove 1f2e3d4c5b6a")]
    Remove {
        /// Its id, as `sluice key list` shows it
        id: String,
    },
    /// Make a new recovery key
    #[command(after_help = "Example:\n  sluice key recovery --out recovery.txt")]
    Recovery {
        /// Write it to this new file instead of showing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// A name for people
        #[arg(long, default_value = "recovery")]
        label: String,
    },
}

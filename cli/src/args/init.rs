use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Create a repository
///
/// The destination is probed first: one that lets two writers create the same object is refused,
/// unless an arbiter (arbiter=URL or SLUICE_ARBITER) decides for it.
/// The repository is encrypted with a key that the passphrase unlocks. A recovery key is made as
/// a second way in, for the day the passphrase is lost; it is shown once and kept nowhere.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice init --repo /backup/repository
  SLUICE_PASSPHRASE_FILE=~/.pass sluice init --repo 's3://bucket/prefix?region=eu-central-1'
  SLUICE_ARBITER=/srv/arbiter sluice init --repo 'swift://backup/site-1?region=north'
  sluice init --repo /backup/repository --recovery-key-out recovery.txt
  sluice init --repo /backup/repository --encryption none")]
pub(crate) struct InitArgs {
    /// Whether what is stored is unreadable without a key
    #[arg(long, value_enum, default_value_t = Encryption::Aes)]
    pub(crate) encryption: Encryption,

    /// Write the recovery key to this new file instead of showing it
    #[arg(long, value_name = "FILE", conflicts_with = "no_recovery_key")]
    pub(crate) recovery_key_out: Option<PathBuf>,

    /// Make no recovery key: a lost passphrase then means lost backups
    #[arg(long)]
    pub(crate) no_recovery_key: bool,
}

/// Whether a repository is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Encryption {
    /// AES-256-GCM.
    #[value(name = "aes-256-gcm")]
    Aes,
    /// None: whoever reads the destination reads the backups.
    None,
}

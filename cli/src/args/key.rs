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
    /// Remove a key slot; the last one that surely opens the repository stays
    #[command(after_help = "Example:\n  sluice key remove 1f2e3d4c5b6a")]
    Remove {
        /// Its id, as `sluice key list` shows it
        id: String,
    },
    /// Change a passphrase, or with --data the key of the data
    ///
    /// Without --data: adds the new passphrase (from the file, or a prompt), proves that it opens
    /// the repository, and removes the old one.
    ///
    /// With --data: what is backed up from now on is encrypted under a new random key, which a
    /// leaked old one does not give away. What was stored before stays under its old key, and so
    /// do names and block maps. Every way in has to be wrapped again: recovery keys are, of
    /// passphrases only those that are given. If a passphrase leaked, change it first.
    #[command(after_help = "\
Examples:
  sluice key rotate --new-passphrase-file new.txt
  sluice key rotate --id 1f2e3d4c5b6a --recovery-key-file recovery.txt
  sluice key rotate --data --keep-passphrase-file night-shift.txt
  sluice key rotate --data --drop-other-slots")]
    Rotate(RotateArgs),
    /// Prove that a passphrase or a recovery key opens the repository, and change nothing
    ///
    /// Says which slot it opens, and decrypts something sealed with it.
    #[command(after_help = "\
Examples:
  sluice key check
  sluice key check --recovery-key-file recovery.txt")]
    Check,
    /// Let key slots of earlier versions tell that somebody with the key has made them
    ///
    /// Anybody who can write to the destination can put a slot there that opens nothing. Slots are
    /// vouched for when they are made; those of earlier versions are made anew by this: the one
    /// that opens the repository, and recovery slots whose public key is known. Of others the
    /// holder runs it with their passphrase.
    #[command(after_help = "\
Examples:
  sluice key vouch
  sluice key vouch --trust 1f2e3d4c5b6a")]
    Vouch {
        /// Also this recovery slot, which does not prove whose it is: its fingerprint is known to
        /// you
        #[arg(long, value_name = "ID")]
        trust: Vec<String>,
    },
    /// Make a new recovery key
    #[command(after_help = "\
Examples:
  sluice key recovery
  sluice key recovery --out recovery.txt --qr recovery.svg")]
    Recovery {
        /// Write it to this new file instead of showing it
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
        /// Write it to this new file as a picture to scan
        #[arg(long, value_name = "FILE.svg")]
        qr: Option<PathBuf>,
        /// A name for people
        #[arg(long, default_value = "recovery")]
        label: String,
    },
}

/// What to change.
#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// Begin a new key for what is backed up from now on
    #[arg(long, conflicts_with_all = ["id", "new_passphrase_file"])]
    pub(crate) data: bool,
    /// The slot whose passphrase to change [default: the one that opens the repository]
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// A file whose first line is the new passphrase [default: SLUICE_NEW_PASSPHRASE_FILE]
    // Not by clap's way from the environment: there it would contradict --data.
    #[arg(long, value_name = "FILE")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
    /// With --data: a file whose first line is the passphrase of another slot to keep
    #[arg(long, value_name = "FILE", requires = "data")]
    pub(crate) keep_passphrase_file: Vec<PathBuf>,
    /// With --data: keep this recovery slot, although it does not prove whose it is
    #[arg(long, value_name = "ID", requires = "data")]
    pub(crate) trust: Vec<String>,
    /// With --data: drop the slots that cannot be kept
    #[arg(long, requires = "data")]
    pub(crate) drop_other_slots: bool,
}

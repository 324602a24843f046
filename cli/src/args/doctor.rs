use clap::Args;

/// Explain the state of the repository, and what can be done about it
///
/// Looks at the descriptor, key slots, sessions, pins and collections, and for damage; names the
/// restore points and the bytes of their images that need what is damaged; and gives the commands
/// that help. Works, as far as it can, also when the repository does not open.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice doctor
  sluice doctor --data
  sluice doctor --probe --json")]
pub(crate) struct DoctorArgs {
    /// Also read every byte
    #[arg(long)]
    pub(crate) data: bool,

    /// Try again what the destination can do; writes a few small objects for it
    #[arg(long)]
    pub(crate) probe: bool,
}

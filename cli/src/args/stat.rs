use clap::Args;

/// Count what the repository holds: bytes protected, stored, and who needs them
///
/// For each instance and each project: bytes of all its restore points (logical), stored bytes that
/// only it needs (unique, which removing it would free) and that others need too (shared), and how
/// much deduplication and compression save. Reads the block maps of all restore points, but no
/// blocks. A project is what `backup --project` named last.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice stat
  sluice stat web-1
  sluice stat --json --costs
  sluice stat --quick
  sluice stat --name-separator -")]
pub(crate) struct StatArgs {
    /// Only this instance
    pub(crate) instance: Option<String>,

    /// Read no block maps: the repository's totals only
    #[arg(long, conflicts_with_all = ["instance", "name_separator"])]
    pub(crate) quick: bool,

    /// Where backups named no project, take what an instance's name has before this text
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub(crate) name_separator: Option<String>,
}

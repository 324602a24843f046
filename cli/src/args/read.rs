use clap::Args;

use super::value;

/// Write an image's bytes to stdout
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice cat web-1@latest | ssh host 'cat > /dev/vg/web-1'
  sluice cat web-1@latest:vda --offset 0 --length 512 | xxd")]
pub(crate) struct CatArgs {
    /// The restore point, with :IMAGE where it has several
    pub(crate) point: String,

    /// First byte
    #[arg(long, value_name = "BYTES", default_value = "0", value_parser = value::bytes)]
    pub(crate) offset: u64,

    /// Number of bytes [default: up to the end]
    #[arg(long, value_name = "BYTES", value_parser = value::bytes)]
    pub(crate) length: Option<u64>,
}

/// List the extents of an image that changed from one restore point to another
///
/// Compares the block maps: nothing is read but what tells them apart. With --json the result is
/// what `backup --changed` and other tools take.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice diff web-1@latest~1 web-1@latest
  sluice diff web-1@2026-11-20T03:00 web-1@latest
  sluice diff web-1@0q5g3 web-1@latest --json")]
pub(crate) struct DiffArgs {
    /// The older restore point, with :IMAGE where it has several
    pub(crate) from: String,

    /// The newer one
    pub(crate) to: String,
}

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use sluice_connector_disk::Within;

use super::value;

/// Back up disk images as a new restore point
///
/// The first backup of an instance reads all that is not a hole. Later ones store only what
/// changed; each restore point is full all the same and depends on no other. A backup that was
/// stopped or killed leaves no restore point; run it again, and what was stored is not sent twice.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  sluice backup web-1 /var/lib/images/web-1.qcow2
  sluice backup web-1 vda=/dev/vg/web-1 vdb=/dev/vg/web-1-data
  sluice backup web-1 disk.raw --changed extents.json
  sluice backup web-1 disk.raw --defragment --defragment-limit 1GiB
  sluice backup web-1 'nbd://localhost/vda' --dirty-bitmap backup0
  zstd -dc dump.raw.zst | sluice backup db-1 dump=-
  sluice backup db-1 --output-of 'app=pg_dump --format=custom app'

A changed-extents file is JSON: [{\"offset\": 0, \"length\": 65536}, ...], in bytes. What it does
not name is taken from the last restore point unread, so it must name every change since then.")]
pub(crate) struct BackupArgs {
    /// Name of the protected machine
    pub(crate) instance: String,

    /// A disk image file or device, `-` for stdin, or an NBD URI; NAME=IMAGE gives it a name
    #[arg(required_unless_present = "output_of", value_name = "[NAME=]IMAGE")]
    pub(crate) images: Vec<String>,

    /// Take what this command prints as an image: a program with its arguments, without a shell.
    /// No restore point is made when it fails
    #[arg(long, value_name = "[NAME=]COMMAND")]
    pub(crate) output_of: Vec<String>,

    /// Format of image files
    #[arg(long, value_enum, default_value_t = SourceFormat::Auto)]
    pub(crate) format: SourceFormat,

    /// Lists of folders, as JSON: all files of the images must lie in a folder of each list
    #[arg(long, hide = true, value_name = "JSON", value_parser = value::within)]
    pub(crate) within: Option<Within>,

    /// Read only the extents this file lists; NAME=FILE where there are several images
    #[arg(long, value_name = "[NAME=]FILE", conflicts_with = "rescan")]
    pub(crate) changed: Vec<String>,

    /// Read only what this dirty bitmap of the NBD server marks; NAME=BITMAP for one of several
    #[arg(long, value_name = "[NAME=]BITMAP", conflicts_with = "rescan")]
    pub(crate) dirty_bitmap: Vec<String>,

    /// Read everything and compare block by block with the last restore point
    #[arg(long)]
    pub(crate) rescan: bool,

    /// Keep this JSON file with the restore point, such as the machine's definition
    #[arg(long, value_name = "FILE.json")]
    pub(crate) meta: Option<PathBuf>,

    /// Name the project that the instance belongs to, for `sluice stat`
    #[arg(long, value_name = "NAME", value_parser = value::project)]
    pub(crate) project: Option<String>,

    /// Note with the restore point which task of a server asked for it
    #[arg(long, value_name = "ID", value_parser = value::project)]
    pub(crate) task: Option<String>,

    /// The task has been tried before: if it got as far as a restore point, tell of that one and
    /// make no other
    #[arg(long, requires = "task")]
    pub(crate) again: bool,

    /// Stop when more than this would be stored, what interrupted runs left included: no restore
    /// point is made then, and what was stored is kept for the next run
    #[arg(long, value_name = "SIZE", value_parser = value::bytes)]
    pub(crate) allowance: Option<u64>,

    /// Block size of the images, for the first backup: 16KiB to 1MiB. Small blocks make cold random
    /// reads of mounts faster, and the block map larger and compression weaker. Another size than
    /// that of the restore point before stores everything once more [default: as that, or 128KiB]
    #[arg(long, value_name = "SIZE", value_parser = value::block_size)]
    pub(crate) block_size: Option<u32>,

    /// The same for images that were not backed up before; others stay as they are stored
    #[arg(long, hide = true, value_name = "SIZE", value_parser = value::block_size)]
    #[arg(conflicts_with = "block_size")]
    pub(crate) first_block_size: Option<u32>,

    /// zstd level of new blocks, -7 to 19
    #[arg(
        long,
        value_name = "LEVEL",
        default_value_t = 1,
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i32).range(-7..=19)
    )]
    pub(crate) level: i32,

    /// Threads that hash and compress [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: Option<u16>,

    /// How consistent the images are, as you know it
    #[arg(long, value_enum, default_value_t = Consistency::Crash)]
    pub(crate) consistency: Consistency,

    /// Refuse to remove the restore point before this time has passed, such as 30d; a year has
    /// 366 days here
    #[arg(long, value_name = "TIME", value_parser = value::keeping)]
    #[arg(visible_alias = "retain-for")]
    pub(crate) retain: Option<Duration>,

    /// Store again what lies scattered over many packs, in the order of the image: parts with more
    /// than this many extents in a GiB; the first restore or mount of a chain with many small
    /// changes gains [default: 256]
    #[arg(long, value_name = "EXTENTS", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "256")]
    pub(crate) defragment: Option<u32>,

    /// Most to store again for that, the worst parts first
    #[arg(long, value_name = "SIZE", default_value = "4GiB", requires = "defragment")]
    #[arg(value_parser = value::bytes)]
    pub(crate) defragment_limit: u64,

    /// Put the restore point on hold: nothing removes it until `sluice release`
    #[arg(long)]
    pub(crate) hold: bool,
}

/// Format of an image file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SourceFormat {
    /// By the file's first bytes
    Auto,
    /// The disk's bytes as they are
    Raw,
    /// QEMU, with its backing files
    Qcow2,
    /// VMware
    Vmdk,
    /// Virtual PC
    Vhd,
    /// Hyper-V
    Vhdx,
}

/// How consistent the images of a point are with each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Consistency {
    /// As after pulling the plug
    Crash,
    /// Applications had written everything down
    Application,
    /// Not known
    Unknown,
}

impl Consistency {
    /// The word the restore point keeps.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Application => "application",
            Self::Unknown => "unknown",
        }
    }
}

//! Looking at an image before anything else does: its format, and the other files it names.
//!
//! The parsers here read foreign bytes and never panic on them. They follow the qcow2
//! specification (QEMU's docs/interop/qcow2.rst), VMware's "Virtual Disk Format 5.0" for the
//! descriptor, and the VHD and VHDX specifications for their magic bytes.

use std::io;
use std::path::{Path, PathBuf};

use crate::spot::{Ends, FileId, Spot};
use crate::{DiskError, Format, Within};

/// Bytes looked at from the beginning of a file; descriptors and backing names lie in there.
const HEAD: usize = 64 << 10;
/// Longest chain of backing files.
const LONGEST_CHAIN: usize = 64;
/// Longest backing name, by the qcow2 specification.
const LONGEST_NAME: u32 = 1023;
/// Longest name of an extent: of a longer one QEMU takes the beginning.
const LONGEST_EXTENT: usize = 511;

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// The image itself, and what lies below it, each with its own format.
    pub chain: Vec<(PathBuf, Format)>,
    /// All files it consists of, the image itself first: those of the chain, and the extents that
    /// VMDK descriptors name.
    pub files: Vec<PathBuf>,
    /// Which files these were; nothing of an extent that is not there.
    pub(crate) ids: Vec<Option<FileId>>,
}

impl Inspected {
    fn add(&mut self, path: PathBuf, id: Option<FileId>) {
        if !self.files.contains(&path) {
            self.files.push(path);
            self.ids.push(id);
        }
    }

    /// The files that were there, and which they were.
    pub(crate) fn known(&self) -> impl Iterator<Item = (&Path, FileId)> {
        let pairs = self.files.iter().zip(&self.ids);
        pairs.filter_map(|(path, id)| Some((path.as_path(), (*id)?)))
    }
}

/// First bytes of formats that are not read: taking such a file for a raw disk would back up
/// the wrong bytes.
const FOREIGN: [(usize, &[u8]); 5] = [
    (0, b"QED\0"),
    (0, b"OOOM"),
    (0, b"WithoutFreeSpace"),
    (0, b"WithouFreSpacExt"),
    (64, b"\x7f\x10\xda\xbe"),
];

fn is_foreign(head: &[u8]) -> bool {
    FOREIGN.iter().any(|(at, magic)| head.get(*at..at + magic.len()) == Some(*magic))
}

/// The format that a file's first and last bytes tell.
pub fn detect(head: &[u8], tail: &[u8]) -> Format {
    if head.starts_with(b"QFI\xFB") {
        Format::Qcow2
    } else if head.starts_with(b"KDMV") || head.starts_with(b"# Disk DescriptorFile") {
        Format::Vmdk
    } else if head.starts_with(b"vhdxfile") {
        Format::Vhdx
    } else if head.starts_with(b"conectix") || tail.starts_with(b"conectix") {
        // A fixed VHD has only a footer: the last 512 bytes.
        Format::Vhd
    } else {
        Format::Raw
    }
}

/// The backing file a qcow2 image names.
///
/// # Errors
/// What is wrong with the header.
pub fn qcow2_backing(head: &[u8]) -> Result<Option<String>, &'static str> {
    let u32_at = |at: usize| {
        let bytes = head.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or("the header is cut off")
    };
    let u64_at = |at: usize| -> Result<u64, &'static str> {
        Ok((u64::from(u32_at(at)?) << 32) | u64::from(u32_at(at + 4)?))
    };
    let version = u32_at(4)?;
    if !(2..=3).contains(&version) {
        return Err("its version is neither 2 nor 3");
    }
    let features: u64 = if version == 3 { u64_at(72)? } else { 0 };
    if features & 4 != 0 {
        return Err("its data lies in another file");
    }
    let (offset, length): (u64, u32) = (u64_at(8)?, u32_at(16)?);
    if offset == 0 {
        return Ok(None);
    }
    if length > LONGEST_NAME {
        return Err("the name of its backing file is too long");
    }
    let start = usize::try_from(offset).map_err(|_| "the name of its backing file is misplaced")?;
    let name = start.checked_add(length as usize).and_then(|end| head.get(start..end));
    let name = name.ok_or("the name of its backing file is misplaced")?;
    let name = std::str::from_utf8(name).map_err(|_| "the name of its backing file is no text")?;
    Ok(Some(name.to_owned()))
}

/// The format a qcow2 image says its backing file has, by the header extension for it.
///
/// # Errors
/// When the extensions are cut off.
pub fn qcow2_backing_format(head: &[u8]) -> Result<Option<String>, &'static str> {
    let u32_at = |at: usize| {
        let bytes = head.get(at..at + 4).and_then(|b| b.try_into().ok());
        bytes.map(u32::from_be_bytes).ok_or("its header extensions are cut off")
    };
    // Version 2 headers have 72 bytes; later ones say their length.
    let mut at = if u32_at(4)? == 2 { 72 } else { u32_at(100)? as usize };
    loop {
        let (kind, length) = (u32_at(at)?, u32_at(at + 4)? as usize);
        match kind {
            0 => return Ok(None),
            0xE279_2ACA => {
                let name = head.get(at + 8..at + 8 + length);
                let name = name.and_then(|name| std::str::from_utf8(name).ok());
                let name = name.ok_or("the format of its backing file is no text")?;
                return Ok(Some(name.to_owned()));
            }
            _ => at += 8 + length.div_ceil(8) * 8,
        }
    }
}

/// A file that a VMDK descriptor names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmdkExtent {
    /// As it is named there.
    pub name: String,
    /// Whether it has a header of its own, and is not the disk's bytes as they are.
    pub sparse: bool,
}

/// The files a VMDK descriptor names.
///
/// # Errors
/// When it needs a parent, which is not followed, or a name is none that QEMU would take so.
pub fn vmdk_extents(descriptor: &str) -> Result<Vec<VmdkExtent>, &'static str> {
    let mut files = Vec::new();
    let mut rest = descriptor;
    while !rest.is_empty() {
        let (line, next) = rest.split_once('\n').unwrap_or((rest, ""));
        // Whatever mentions a parent must say that there is none: QEMU is lenient about the rest.
        let word = line.trim().to_ascii_lowercase();
        let parent = word.contains("parentfilenamehint")
            || (word.contains("parentcid") && word != "parentcid=ffffffff");
        if parent {
            return Err("it is a snapshot that needs its parent");
        }
        // QEMU has sscanf read this, to which ends of lines and vertical tabs are blanks, and some
        // blanks may be left out: whatever is not printed counts as one here, and none is needed.
        let begin = line.find(|c: char| c.is_ascii_graphic()).unwrap_or(line.len());
        if ["RW", "RDONLY", "NOACCESS"].iter().any(|access| line[begin..].starts_with(access))
            && let Some((before, name)) = rest[begin..].split_once('"')
        {
            let name = name.split(['"', '\r', '\n']).next().unwrap_or_default();
            if name.len() > LONGEST_EXTENT {
                return Err("the name of an extent is too long");
            }
            if name.contains(char::REPLACEMENT_CHARACTER) {
                return Err("the name of an extent is no text");
            }
            files.push(VmdkExtent { name: name.to_owned(), sparse: before.contains("SPARSE") });
        }
        rest = next;
    }
    files.dedup();
    Ok(files)
}

/// The text of the descriptor in the head of a VMDK file.
pub fn vmdk_descriptor(head: &[u8]) -> String {
    let text = from_descriptor(head).split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

/// The head of a VMDK file from its descriptor on, which ends at the first zero.
fn from_descriptor(head: &[u8]) -> &[u8] {
    if !head.starts_with(b"KDMV") {
        return head;
    }
    // Sparse header: the descriptor's offset in sectors of 512 bytes at byte 28.
    let start = usize::try_from(vmdk_number(head, 28).saturating_mul(512)).unwrap_or(usize::MAX);
    head.get(start..).unwrap_or_default()
}

/// A field of the header of a sparse VMDK file.
fn vmdk_number(head: &[u8], at: usize) -> u64 {
    head.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

/// Looks at a file that a VMDK descriptor names, which lies in `folder`; returns where it lies,
/// and which file it is.
fn look_at_extent(
    path: &Path,
    extent: &VmdkExtent,
    folder: &Path,
    within: &Within,
) -> Result<(PathBuf, Option<FileId>), DiskError> {
    let file = folder.join(&extent.name);
    let failed = |error| DiskError::Io(file.clone(), error);
    // What is not there is QEMU's to miss: some extents it does not open.
    let spot = match Spot::find(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((file, None)),
        spot => spot.map_err(failed)?,
    };
    is_disk(&spot).map_err(failed)?;
    let real = spot.real().map_err(failed)?;
    within.check(path, &real)?;
    if extent.sparse {
        let head = spot.open().and_then(|file| Ends::of(&file, HEAD)).map_err(failed)?.head;
        // One without a size has a descriptor of its own, whose extents QEMU would follow.
        if head.starts_with(b"KDMV") && vmdk_number(&head, 12) == 0 && vmdk_number(&head, 28) != 0 {
            let text = format!("extent {:?} names further files", extent.name);
            return Err(DiskError::Unsafe(path.to_owned(), text));
        }
    }
    Ok((real, Some(spot.id())))
}

/// Whether a name is a plain path: no protocol, no options.
fn is_plain(name: &str) -> bool {
    let protocol = name.split_once(':').is_some_and(|(before, _)| !before.contains('/'));
    !name.is_empty() && !protocol && !name.contains('\0')
}

/// Looks at an image and all files it needs.
///
/// # Errors
/// [`DiskError`].
pub fn inspect(path: &Path, named: Option<Format>) -> Result<Inspected, DiskError> {
    inspect_within(path, named, &Within::default())
}

/// The same, and refuses a file outside of some folders before it is opened.
///
/// # Errors
/// [`DiskError`].
pub fn inspect_within(
    path: &Path,
    named: Option<Format>,
    within: &Within,
) -> Result<Inspected, DiskError> {
    let image = path;
    let mut found = Inspected { chain: Vec::new(), files: Vec::new(), ids: Vec::new() };
    let mut next = Some((path.to_owned(), named));
    while let Some((path, named)) = next.take() {
        let failed = |error| DiskError::Io(path.clone(), error);
        let Looked { real, id, format: this, said, head } = look(&path, named, image, within)
            .map_err(|error| match error {
                Refusal::Outside(error) => error,
                Refusal::Io(error) => failed(error),
            })?;
        if found.chain.iter().any(|(known, _)| *known == real) {
            let text = format!("{} is its own backing file", real.display());
            return Err(DiskError::Unsafe(path, text));
        }
        if found.chain.len() >= LONGEST_CHAIN {
            let text = format!("more than {LONGEST_CHAIN} backing files");
            return Err(DiskError::Unsafe(path, text));
        }
        found.chain.push((real.clone(), this));
        found.add(real.clone(), Some(id));
        if named.is_none() && this == Format::Raw && is_foreign(&head) {
            return Err(DiskError::Unknown(path));
        }
        let invalid = |what| DiskError::Invalid(path.clone(), this, what);
        match this {
            Format::Raw | Format::Vhd | Format::Vhdx => {}
            Format::Qcow2 => {
                let Some(name) = qcow2_backing(&head).map_err(invalid)? else { continue };
                if !said {
                    return Err(unsaid(&path, this, &name));
                }
                // QEMU spells a plain path also as file:PATH.
                let name = name.strip_prefix("file:").unwrap_or(&name);
                if !is_plain(name) {
                    return Err(DiskError::Unsafe(path, format!("backing file {name:?}")));
                }
                let folder = real.parent().unwrap_or(Path::new("/"));
                let said = qcow2_backing_format(&head).map_err(invalid)?;
                let said = said.map(|said| said.parse::<Format>()).transpose();
                let said = said.map_err(|text| {
                    DiskError::Unsafe(
                        path.clone(),
                        format!("the format of its backing file: {text}"),
                    )
                })?;
                next = Some((folder.join(name), said));
            }
            // Its guest might have written another one by the time that QEMU looks.
            Format::Vmdk if !said => return Err(DiskError::Guessed(path, this)),
            Format::Vmdk => {
                let descriptor = vmdk_descriptor(&head);
                if descriptor.is_empty() {
                    return Err(invalid("its descriptor is not at its beginning"));
                }
                if head.len() == HEAD && !from_descriptor(&head).contains(&0) {
                    return Err(invalid("its descriptor is too long"));
                }
                let extents = vmdk_extents(&descriptor).map_err(invalid)?;
                let folder = real.parent().unwrap_or(Path::new("/"));
                for extent in extents {
                    let name = &extent.name;
                    let own = real.file_name().is_some_and(|own| own == name.as_str());
                    if name.contains('/') || !is_plain(name) {
                        return Err(DiskError::Unsafe(path, format!("extent {name:?}")));
                    }
                    if own {
                        continue;
                    }
                    let (file, id) = look_at_extent(&path, &extent, folder, within)?;
                    found.add(file, id);
                }
            }
        }
    }
    Ok(found)
}

fn unsaid(path: &Path, format: Format, name: &str) -> DiskError {
    DiskError::Unsafe(
        path.to_owned(),
        format!(
            "{name:?}, and its format was only guessed; say --format {format} if the image can be \
             trusted, or --format raw to back up its bytes as they are"
        ),
    )
}

/// What was seen of a file.
struct Looked {
    /// Where it lies, with all links followed.
    real: PathBuf,
    id: FileId,
    format: Format,
    /// Whether somebody said the format, by option or by extension.
    said: bool,
    head: Vec<u8>,
}

enum Refusal {
    Outside(DiskError),
    Io(io::Error),
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Refuses what is no disk, before it is opened: a pipe would wait for its other end.
fn is_disk(spot: &Spot) -> io::Result<()> {
    if spot.about().is_dir() {
        return Err(io::Error::other("it is a folder"));
    }
    // Others have no size that could be told, and would pass for empty disks.
    if !spot.about().is_file() && !spot.is_block_device() {
        let text = "it is neither a file nor a block device; a stream is read as `-`";
        return Err(io::Error::other(text));
    }
    Ok(())
}

/// Looks at a file that `image` consists of.
fn look(
    path: &Path,
    named: Option<Format>,
    image: &Path,
    within: &Within,
) -> Result<Looked, Refusal> {
    let spot = Spot::find(path)?;
    let real = spot.real()?;
    within.check(image, &real).map_err(Refusal::Outside)?;
    is_disk(&spot)?;
    let (file, id) = (spot.open()?, spot.id());
    if named == Some(Format::Raw) || (named.is_none() && spot.is_block_device()) {
        return Ok(Looked { real, id, format: Format::Raw, said: true, head: Vec::new() });
    }
    let ends = Ends::of(&file, HEAD)?;
    let format = named.unwrap_or_else(|| ends.format());
    let said = named.is_some() || format.is_said_by(&real);
    Ok(Looked { real, id, format, said, head: ends.head })
}

#[cfg(test)]
mod tests;

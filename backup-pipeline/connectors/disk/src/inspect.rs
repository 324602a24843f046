//! Looking at an image before anything else does: its format, and the other files it names.
//!
//! The parsers here read foreign bytes and never panic on them. They follow the qcow2
//! specification (QEMU's docs/interop/qcow2.rst), VMware's "Virtual Disk Format 5.0" for the
//! descriptor, and the VHD and VHDX specifications for their magic bytes.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

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
    /// The files it consists of, the image itself first, each with its own format.
    pub chain: Vec<(PathBuf, Format)>,
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
        let line = rest.lines().next().unwrap_or_default().trim();
        // Whatever mentions a parent must say that there is none: QEMU is lenient about the rest.
        let word = line.to_ascii_lowercase();
        let parent = word.contains("parentfilenamehint")
            || (word.contains("parentcid") && word != "parentcid=ffffffff");
        if parent {
            return Err("it is a snapshot that needs its parent");
        }
        // To QEMU all blanks are the same here, and ends of lines are blanks.
        let access = rest.split_ascii_whitespace().next().unwrap_or_default();
        if ["RW", "RDONLY", "NOACCESS"].contains(&access)
            && let Some((before, name)) = rest.split_once('"')
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
        rest = rest.split_once('\n').map_or("", |(_, rest)| rest);
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

/// Looks at a file that a VMDK descriptor names, which lies in `folder`.
fn look_at_extent(
    path: &Path,
    extent: &VmdkExtent,
    folder: &Path,
    within: &Within,
) -> Result<(), DiskError> {
    let file = folder.join(&extent.name);
    // What is not there is QEMU's to miss: some extents it does not open.
    let real = match std::fs::canonicalize(&file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        real => real.map_err(|error| DiskError::Io(file.clone(), error))?,
    };
    within.check(path, &real)?;
    if !extent.sparse {
        return Ok(());
    }
    let (_, _, head) = look(&real, Some(Format::Vmdk)).map_err(|e| DiskError::Io(file, e))?;
    // One without a size has a descriptor of its own, whose extents QEMU would follow.
    if head.starts_with(b"KDMV") && vmdk_number(&head, 12) == 0 && vmdk_number(&head, 28) != 0 {
        let text = format!("extent {:?} names further files", extent.name);
        return Err(DiskError::Unsafe(path.to_owned(), text));
    }
    Ok(())
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
    let mut chain: Vec<(PathBuf, Format)> = Vec::new();
    let mut next = Some((path.to_owned(), named));
    while let Some((path, named)) = next.take() {
        let failed = |error| DiskError::Io(path.clone(), error);
        let real = std::fs::canonicalize(&path).map_err(failed)?;
        if chain.iter().any(|(known, _)| *known == real) {
            let text = format!("{} is its own backing file", real.display());
            return Err(DiskError::Unsafe(path, text));
        }
        if chain.len() >= LONGEST_CHAIN {
            let text = format!("more than {LONGEST_CHAIN} backing files");
            return Err(DiskError::Unsafe(path, text));
        }
        within.check(image, &real)?;
        let (this, said, head) = look(&real, named).map_err(failed)?;
        chain.push((real.clone(), this));
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
                    if !said {
                        return Err(unsaid(&path, this, name));
                    }
                    look_at_extent(&path, &extent, folder, within)?;
                }
            }
        }
    }
    Ok(Inspected { chain })
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

/// A file's format, whether somebody said it (by option or by extension), and its first bytes.
fn look(path: &Path, named: Option<Format>) -> io::Result<(Format, bool, Vec<u8>)> {
    // Before it is opened: a pipe would wait for its other end.
    let kind = std::fs::metadata(path)?.file_type();
    if kind.is_dir() {
        return Err(io::Error::other("it is a folder"));
    }
    // Others have no size that could be told, and would pass for empty disks.
    if !kind.is_file() && !kind.is_block_device() {
        let text = "it is neither a file nor a block device; a stream is read as `-`";
        return Err(io::Error::other(text));
    }
    let mut file = File::open(path)?;
    if named == Some(Format::Raw) || (named.is_none() && kind.is_block_device()) {
        return Ok((Format::Raw, true, Vec::new()));
    }
    let mut head = Vec::with_capacity(HEAD);
    file.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
    let mut tail = Vec::new();
    let size = file.seek(SeekFrom::End(0))?;
    if size >= 512 {
        file.seek(SeekFrom::Start(size - 512))?;
        file.take(512).read_to_end(&mut tail)?;
    }
    let format = named.unwrap_or_else(|| detect(&head, &tail));
    let extension = path.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    Ok((format, named.is_some() || format.has_extension(extension), head))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn qcow2(backing: &str) -> Vec<u8> {
        let mut head = vec![0; 512];
        head[..4].copy_from_slice(b"QFI\xFB");
        head[7] = 3;
        head[103] = 104;
        if !backing.is_empty() {
            head[14..16].copy_from_slice(&256u16.to_be_bytes());
            head[18..20].copy_from_slice(&(backing.len() as u16).to_be_bytes());
            head[256..256 + backing.len()].copy_from_slice(backing.as_bytes());
        }
        head
    }

    #[test]
    fn backing_names_are_found() {
        assert_eq!(qcow2_backing(&qcow2("")).unwrap(), None);
        assert_eq!(qcow2_backing(&qcow2("base.raw")).unwrap(), Some("base.raw".into()));
        let mut data_file = qcow2("");
        data_file[79] = 4;
        assert!(qcow2_backing(&data_file).is_err());
    }

    #[test]
    fn protocols_are_no_plain_names() {
        for bad in ["json:{}", "nbd:host:1", "http://x/y", "", "fat:rw:/x"] {
            assert!(!is_plain(bad), "{bad}");
        }
        for good in ["base.raw", "/a/b:c", "./x:y", "../x"] {
            assert!(is_plain(good), "{good}");
        }
    }

    #[test]
    fn a_guessed_format_may_not_name_other_files() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("guest.raw");
        std::fs::write(&disk, qcow2("/etc/hostname")).unwrap();
        let error = inspect(&disk, None).unwrap_err();
        assert!(matches!(error, DiskError::Unsafe(..)), "{error}");
        assert_eq!(inspect(&disk, Some(Format::Raw)).unwrap().chain[0].1, Format::Raw);
        let said = inspect(&disk, Some(Format::Qcow2)).unwrap();
        assert_eq!(said.chain.len(), 2);
    }

    #[test]
    fn loops_and_protocols_in_chains_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (a, b) = (folder.path().join("a.qcow2"), folder.path().join("b.qcow2"));
        std::fs::write(&a, qcow2("b.qcow2")).unwrap();
        std::fs::write(&b, qcow2("a.qcow2")).unwrap();
        assert!(matches!(inspect(&a, None).unwrap_err(), DiskError::Unsafe(..)));
        std::fs::write(&b, qcow2("json:{\"driver\":\"nbd\"}")).unwrap();
        assert!(matches!(inspect(&a, None).unwrap_err(), DiskError::Unsafe(..)));
        std::fs::write(&b, qcow2("missing")).unwrap();
        assert!(matches!(inspect(&a, None).unwrap_err(), DiskError::Io(..)));
    }

    #[test]
    fn files_of_formats_that_are_not_read_are_no_raw_disks() {
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("a.img");
        std::fs::write(&disk, [b"QED\0".as_slice(), &[0; 600]].concat()).unwrap();
        assert!(matches!(inspect(&disk, None).unwrap_err(), DiskError::Unknown(..)));
        let overlay = folder.path().join("top.qcow2");
        let mut head = qcow2("a.img");
        head[103] = 104;
        std::fs::write(&overlay, &head).unwrap();
        assert!(matches!(inspect(&overlay, None).unwrap_err(), DiskError::Unknown(..)));
        head[104..115].copy_from_slice(b"\xE2\x79\x2A\xCA\0\0\0\x03qed");
        std::fs::write(&overlay, &head).unwrap();
        assert!(matches!(inspect(&overlay, None).unwrap_err(), DiskError::Unsafe(..)));
        head[112..115].copy_from_slice(b"raw");
        std::fs::write(&overlay, &head).unwrap();
        assert_eq!(inspect(&overlay, None).unwrap().chain[1].1, Format::Raw);
    }

    #[test]
    fn what_is_no_disk_is_not_taken_for_an_empty_one() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [Path::new("/dev/null"), &socket, folder.path()] {
            for format in [None, Some(Format::Raw), Some(Format::Qcow2)] {
                assert!(
                    matches!(inspect(path, format).unwrap_err(), DiskError::Io(..)),
                    "{path:?}"
                );
            }
        }
    }

    #[test]
    fn vmdk_extents_stay_in_their_folder() {
        let text = "# Disk DescriptorFile\nparentCID=ffffffff\nRW 8 FLAT \"../x.vmdk\" 0\n";
        let named = |text: &str| -> Vec<String> {
            vmdk_extents(text).unwrap().into_iter().map(|extent| extent.name).collect()
        };
        assert_eq!(named(text), ["../x.vmdk"]);
        // As QEMU reads them: blanks of any kind, and over the ends of lines.
        for odd in ["RW\t8\tFLAT\t\"/x\"\t0", "RW\n8 FLAT\n\"/x\" 0\n", " RW 8 FLAT \"/x\nq\""] {
            assert_eq!(named(odd), ["/x"], "{odd:?}");
        }
        for bad in [&format!("RW 8 SPARSE \"{}\"", "x".repeat(512)), "RW 8 FLAT \"\u{fffd}\""] {
            assert!(vmdk_extents(bad).is_err(), "{bad}");
        }
        for bad in ["parentCID=12345678", "parentCID 12345678", " PARENTcid = ffffffff"] {
            assert!(vmdk_extents(bad).is_err(), "{bad}");
        }
        assert!(vmdk_extents("parentFileNameHint=\"/x.vmdk\"").is_err());
        let folder = tempfile::tempdir().unwrap();
        let disk = folder.path().join("d.vmdk");
        std::fs::write(&disk, text).unwrap();
        assert!(matches!(inspect(&disk, None).unwrap_err(), DiskError::Unsafe(..)));
    }

    #[test]
    fn vmdk_extents_hide_no_files_behind_them() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("shop")).unwrap();
        let disk = at("shop/d.vmdk");
        let text = |kind: &str| {
            format!("# Disk DescriptorFile\nparentCID=ffffffff\nRW 8 {kind} \"x.vmdk\" 0\n")
        };
        std::fs::write(&disk, text("FLAT")).unwrap();
        std::fs::write(at("secret"), [7; 4096]).unwrap();
        std::os::unix::fs::symlink(at("secret"), at("shop/x.vmdk")).unwrap();
        let within = Within::new(&[vec![at("shop").to_str().unwrap().to_owned()]]);
        assert!(inspect(&disk, None).is_ok());
        let error = inspect_within(&disk, None, &within).unwrap_err();
        assert!(matches!(&error, DiskError::Outside(..)), "{error}");
        // A header that leads to another descriptor, as QEMU takes it.
        std::fs::remove_file(at("shop/x.vmdk")).unwrap();
        let mut head = vec![0; 1024];
        head[..4].copy_from_slice(b"KDMV");
        head[28] = 1;
        std::fs::write(at("shop/x.vmdk"), head).unwrap();
        assert!(inspect_within(&disk, None, &within).is_ok(), "these are the disk's own bytes");
        std::fs::write(&disk, text("SPARSE")).unwrap();
        let error = inspect(&disk, None).unwrap_err();
        assert!(error.to_string().contains("names further files"), "{error}");
        // What is not looked at might name others.
        std::fs::write(&disk, text("FLAT") + &"#".repeat(HEAD)).unwrap();
        assert!(matches!(inspect(&disk, None).unwrap_err(), DiskError::Invalid(..)));
    }

    #[test]
    fn backing_files_out_of_a_folder_are_no_way_out_of_it() {
        let base = tempfile::tempdir().unwrap();
        let at = |name: &str| base.path().join(name);
        std::fs::create_dir(at("shop")).unwrap();
        std::fs::write(at("secret.raw"), [7; 4096]).unwrap();
        std::fs::write(at("shop/base.raw"), [7; 4096]).unwrap();
        std::os::unix::fs::symlink(at("secret.raw"), at("shop/link.raw")).unwrap();
        std::fs::write(at("shop/middle.qcow2"), qcow2("../secret.raw")).unwrap();
        let within = Within::new(&[vec![at("shop").to_str().unwrap().to_owned()]]);
        let absolute = at("secret.raw");
        let out = ["../secret.raw", absolute.to_str().unwrap(), "link.raw", "middle.qcow2"];
        for name in out {
            std::fs::write(at("shop/a.qcow2"), qcow2(name)).unwrap();
            let error = inspect_within(&at("shop/a.qcow2"), None, &within).unwrap_err();
            assert!(matches!(&error, DiskError::Outside(..)), "{name}: {error}");
            assert!(error.to_string().contains("secret.raw"), "{error}");
        }
        std::fs::write(at("shop/a.qcow2"), qcow2("base.raw")).unwrap();
        let inside = inspect_within(&at("shop/a.qcow2"), None, &within).unwrap();
        assert_eq!(inside.chain.len(), 2);
        assert!(inspect_within(&at("secret.raw"), None, &within).is_err());
    }

    proptest! {
        #[test]
        fn hostile_bytes_never_panic(
            mut head in proptest::collection::vec(any::<u8>(), 0..700),
            magic in 0usize..4,
        ) {
            let magic = [&b"QFI\xFB\0\0\0\x03"[..], b"KDMV", b"# Disk DescriptorFile", b""][magic];
            let length = magic.len().min(head.len());
            head[..length].copy_from_slice(&magic[..length]);
            detect(&head, &head);
            let _ = qcow2_backing(&head);
            let _ = qcow2_backing_format(&head);
            is_foreign(&head);
            let _ = vmdk_extents(&vmdk_descriptor(&head));
        }
    }
}

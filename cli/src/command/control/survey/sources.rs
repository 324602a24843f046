//! What can be backed up here.

use std::fs::File;
use std::path::{Path, PathBuf};

use sluice_connector_disk::{Format, open};
use sluice_node_api::Ability;

/// Block devices of this machine.
const DEVICES: &str = "/sys/class/block";
/// What reads other formats than raw.
const FORMATS: &str = "source:formats";

/// What needs no other program.
pub(super) fn look() -> Vec<Ability> {
    let limit = match rustix::process::geteuid().is_root() {
        true => String::new(),
        false => "what the user of the node may read".to_owned(),
    };
    let plain = |name| Ability { why: limit.clone(), ..Ability::works(name) };
    vec![plain("source:disk-files"), plain("source:folder"), plain("source:command")]
}

/// Whether block devices of this machine can be read.
pub(super) fn devices() -> Ability {
    device(Path::new(DEVICES))
}

/// Whether block devices can be read: one is opened.
fn device(listed: &Path) -> Ability {
    const NAME: &str = "source:device";
    let mut refused = None;
    for path in listed_in(listed) {
        match File::open(&path) {
            Ok(_) => return Ability::works(NAME),
            Err(error) => refused = Some(format!("{}: {error}", path.display())),
        }
    }
    match refused {
        None => Ability { why: "there is no block device".to_owned(), ..Ability::works(NAME) },
        Some(why) => {
            Ability::lacks(NAME, why, "root or the group disk, and for a container the devices")
        }
    }
}

/// Devices with something in them.
fn listed_in(listed: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(listed).into_iter().flatten().flatten();
    let holds = |entry: &std::fs::DirEntry| {
        let size = std::fs::read_to_string(entry.path().join("size")).unwrap_or_default();
        size.trim().parse::<u64>().is_ok_and(|sectors| sectors > 0)
    };
    let path = |entry: std::fs::DirEntry| Path::new("/dev").join(entry.file_name());
    entries.filter(holds).map(path).filter(|path| path.exists()).collect()
}

/// Whether images of QEMU's formats can be read: one is.
pub(super) async fn formats() -> Ability {
    let tried = async {
        let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
        let path = folder.path().join("empty.qcow2");
        std::fs::write(&path, empty_qcow2()).map_err(|error| error.to_string())?;
        let source = open(&path, Some(Format::Qcow2)).await.map_err(|error| error.to_string())?;
        Ok(source.device.size())
    };
    match tried.await {
        Ok(64_512..) => Ability::works(FORMATS),
        Ok(size) => Ability::lacks(FORMATS, format!("an image has {size} bytes"), "qemu-utils"),
        Err(why) => {
            let why: String = why;
            Ability::lacks(FORMATS, why, "package qemu-utils")
        }
    }
}

/// An empty image of 64 KiB: a header, and a first table that refers to nothing.
fn empty_qcow2() -> Vec<u8> {
    const CLUSTER: usize = 64 << 10;
    let mut image = vec![0; 4 * CLUSTER];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"QFI\xfb");
    put(4, &2u32.to_be_bytes());
    put(20, &16u32.to_be_bytes());
    put(24, &(CLUSTER as u64).to_be_bytes());
    // One entry of the first table, in the fourth cluster.
    put(36, &1u32.to_be_bytes());
    put(40, &(3 * CLUSTER as u64).to_be_bytes());
    // Counts of references: a table in the second cluster, which names a block in the third, which
    // says that all four are in use.
    put(48, &(CLUSTER as u64).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(CLUSTER, &(2 * CLUSTER as u64).to_be_bytes());
    put(2 * CLUSTER, &[0, 1, 0, 1, 0, 1, 0, 1]);
    image
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_image_of_another_format_is_really_read() {
        let found = formats().await;
        assert!(found.works, "{found:?}");
    }

    #[test]
    fn a_machine_without_devices_lacks_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let found = device(folder.path());
        assert!(found.works && found.why.contains("no block device"), "{found:?}");
        // Files that stand for a device that is there, and has no size.
        std::fs::create_dir(folder.path().join("null")).unwrap();
        std::fs::write(folder.path().join("null/size"), "0\n").unwrap();
        assert!(listed_in(folder.path()).is_empty());
        std::fs::write(folder.path().join("null/size"), "8\n").unwrap();
        assert_eq!(listed_in(folder.path()), [Path::new("/dev/null")]);
    }
}

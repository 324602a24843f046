//! Which mounts this machine can make.

use std::path::Path;

use crate::args::MountPlaceArgs;

/// The device behind all mounts of files.
const FUSE: &str = "/dev/fuse";
/// What mounts for those who are not root.
const HELPER: &str = "fusermount3";

/// The protocols of mounts that can be made here, and why not the others.
pub(in super::super) fn protocols(args: &MountPlaceArgs) -> (Vec<String>, Vec<String>) {
    let mut protocols = ["nbd", "iscsi", "http"].map(str::to_owned).to_vec();
    match fuse_lacks(args, Path::new(FUSE)) {
        None => {
            protocols.push("fuse".to_owned());
            (protocols, vec![])
        }
        Some(lack) => (protocols, vec![format!("mounts by fuse: {lack}")]),
    }
}

/// What is missing for mounts on folders.
fn fuse_lacks(args: &MountPlaceArgs, device: &Path) -> Option<String> {
    let Some(folder) = &args.mount_folder else {
        return Some("its administrator names no folder (--mount-folder)".to_owned());
    };
    if !folder.is_dir() {
        return Some(format!("{} is no folder", folder.display()));
    }
    if !device.exists() {
        return Some(format!("there is no {}", device.display()));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let helps = || std::env::split_paths(&path).any(|dir| dir.join(HELPER).is_file());
    (!rustix::process::geteuid().is_root() && !helps()).then(|| "package fuse3".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_for_folders_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = MountPlaceArgs {
            mount_address: "127.0.0.1".parse().unwrap(),
            mount_certificate: None,
            mount_key: None,
            mount_folder: None,
            mount_allow_other: false,
        };
        let (can, missing) = protocols(&args);
        assert_eq!(can, ["nbd", "iscsi", "http"]);
        assert!(
            missing[0].starts_with("mounts by fuse: ") && missing[0].contains("--mount-folder")
        );
        args.mount_folder = Some(folder.path().join("none"));
        assert!(fuse_lacks(&args, Path::new("/dev/null")).unwrap().contains("is no folder"));
        args.mount_folder = Some(folder.path().to_owned());
        assert!(fuse_lacks(&args, Path::new("/none")).unwrap().contains("there is no /none"));
    }
}

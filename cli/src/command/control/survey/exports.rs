//! How restore points can be shown here.

use std::fs::File;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use rustix::fs::{MemfdFlags, memfd_create};
use sluice_node_api::Ability;

use super::which;
use crate::args::MountPlaceArgs;

/// The device behind all mounts of files.
const FUSE: &str = "/dev/fuse";
/// What mounts for those who are not root.
const HELPER: &str = "fusermount3";

/// All protocols but vhost-user.
pub(super) fn look(args: &MountPlaceArgs) -> Vec<Ability> {
    let address = address(args);
    let network = |name: &str| match &address {
        Ok(()) => Ability::works(name),
        Err((why, fix)) => Ability::lacks(name, why, fix),
    };
    let http = match certificate(args) {
        Some(why) => Ability::lacks("export:http", why, "--mount-certificate and --mount-key"),
        None => network("export:http"),
    };
    vec![network("export:nbd"), network("export:iscsi"), http, fuse(args, FUSE)]
}

/// Whether clients can be waited for at the address of mounts.
fn address(args: &MountPlaceArgs) -> Result<(), (String, String)> {
    let bound = TcpListener::bind((args.mount_address, 0));
    let told = |error| format!("nothing can listen on {}: {error}", args.mount_address);
    bound.map(drop).map_err(|error| (told(error), "--mount-address of this machine".to_owned()))
}

/// Why the certificate that was named cannot be used.
fn certificate(args: &MountPlaceArgs) -> Option<String> {
    let files = [&args.mount_certificate, &args.mount_key].into_iter().flatten();
    let tried = files.map(|path| (path, File::open(path)));
    let odd = tried.filter_map(|(path, opened)| Some((path, opened.err()?)));
    odd.map(|(path, error)| format!("{}: {error}", path.display())).next()
}

/// Whether files can be mounted.
fn fuse(args: &MountPlaceArgs, device: &str) -> Ability {
    const NAME: &str = "export:fuse";
    let Some(folder) = &args.mount_folder else {
        return Ability::lacks(NAME, "its administrator names no folder", "--mount-folder");
    };
    if !folder.is_dir() {
        let why = format!("{} is no folder", folder.display());
        return Ability::lacks(NAME, why, "--mount-folder");
    }
    if let Err(error) = File::options().read(true).write(true).open(device) {
        let fix = "the kernel module fuse, and its device for a container";
        return Ability::lacks(NAME, format!("{device}: {error}"), fix);
    }
    if !rustix::process::geteuid().is_root() && which(HELPER).is_none() {
        return Ability::lacks(NAME, format!("there is no {HELPER}"), "package fuse3");
    }
    Ability::works(NAME)
}

/// Whether a virtual machine can be given a disk: a socket, and memory that is shared.
pub(super) fn vhost_user() -> Ability {
    const NAME: &str = "export:vhost-user";
    let tried = || -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        UnixListener::bind(folder.path().join("socket"))?;
        memfd_create("sluice", MemfdFlags::CLOEXEC)?;
        Ok(())
    };
    let by_hand = "for exports by hand".to_owned();
    match tried() {
        Ok(()) => Ability { why: by_hand, ..Ability::works(NAME) },
        Err(error) => Ability::lacks(NAME, error.to_string(), "a folder for files, TMPDIR"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn args() -> MountPlaceArgs {
        MountPlaceArgs {
            mount_address: "127.0.0.1".parse().unwrap(),
            mount_certificate: None,
            mount_key: None,
            mount_folder: None,
            mount_allow_other: false,
        }
    }

    #[test]
    fn what_is_missing_for_folders_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut args = args();
        let lack = |args: &MountPlaceArgs, device: &Path| fuse(args, device.to_str().unwrap());
        let null = Path::new("/dev/null");
        assert_eq!(lack(&args, null).fix, "--mount-folder");
        args.mount_folder = Some(folder.path().join("none"));
        assert!(lack(&args, null).why.contains("is no folder"));
        args.mount_folder = Some(folder.path().to_owned());
        let none = lack(&args, Path::new("/none"));
        assert!(none.why.starts_with("/none: ") && none.fix.contains("module fuse"), "{none:?}");
    }

    #[test]
    fn an_address_of_another_machine_shows_nothing() {
        let mut args = args();
        let works = |args: &MountPlaceArgs| -> Vec<bool> {
            look(args).iter().map(|one| one.works).take(3).collect()
        };
        assert_eq!(works(&args), [true, true, true]);
        args.mount_certificate = Some("/none/certificate.pem".into());
        assert_eq!(works(&args), [true, true, false]);
        // Of the range for documents: nobody has it.
        args.mount_address = "192.0.2.77".parse().unwrap();
        assert_eq!(works(&args), [false, false, false]);
    }
}

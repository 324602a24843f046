//! The Debian package, by `dpkg-deb`.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{MAINTAINER, NAME, Release};
use crate::host;

/// What runs when the package comes and goes.
const SCRIPTS: [&str; 3] = ["postinst", "prerm", "postrm"];

/// Packs the tree.
pub fn build(tree: &Path, out: &Path, release: &Release) -> Result<PathBuf> {
    let control = tree.join("DEBIAN");
    std::fs::create_dir_all(&control)?;
    let kib = host::output(host::command("du").args(["-sk", "--exclude=DEBIAN"]).arg(tree))?;
    let kib = kib.split_whitespace().next().context("du says nothing")?;
    let binary = std::fs::read(tree.join("usr/bin/sluice"))?;
    std::fs::write(control.join("control"), text(release, kib, &libc(&binary)))?;
    let settings = super::tree::FILES.iter().filter(|(_, to)| to.starts_with("etc/"));
    let settings: String = settings.map(|(_, to)| format!("/{to}\n")).collect();
    std::fs::write(control.join("conffiles"), settings)?;
    std::fs::write(control.join("md5sums"), sums(tree)?)?;
    for name in SCRIPTS {
        let to = control.join(name);
        std::fs::copy(host::root().join("packaging/debian").join(name), &to)?;
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755))?;
    }
    let file = out.join(format!("{NAME}_{}_{}.deb", release.version, release.architecture));
    let mut pack = host::command("dpkg-deb");
    pack.env("SOURCE_DATE_EPOCH", release.time.to_string()).arg("--root-owner-group");
    pack.args(if release.quick { ["-Zgzip", "-z1"] } else { ["-Zxz", "-z6"] });
    host::output(pack.arg("--build").arg(tree).arg(&file))?;
    std::fs::remove_dir_all(&control)?;
    Ok(file)
}

fn text(release: &Release, kib: &str, libc: &str) -> String {
    let Release { version, architecture, .. } = release;
    format!(
        "Package: {NAME}\nVersion: {version}\nArchitecture: {architecture}\n\
         Maintainer: {MAINTAINER}\nInstalled-Size: {kib}\n\
         Depends: libc6 (>= {libc}), libgcc-s1, systemd | systemd-standalone-sysusers\n\
         Recommends: ca-certificates, fuse3, qemu-utils\n\
         Suggests: qemu-system-x86, ovmf, openssh-client\n\
         Section: admin\nPriority: optional\n\
         Description: backup storage gateway for disks of virtual machines\n \
         Backs up disks block by block, keeps every backup deduplicated, compressed\n \
         and encrypted in a folder or in a bucket, and exposes any of them at once as\n \
         a disk. Server, node and command line are one executable.\n"
    )
}

/// The oldest libc that has all that the executable asks for, by the names in it.
fn libc(binary: &[u8]) -> String {
    const WORD: &[u8] = b"GLIBC_2.";
    let found = binary.windows(WORD.len()).enumerate().filter(|(_, part)| *part == WORD);
    let minors = found.filter_map(|(at, _)| {
        let digits = binary[at + WORD.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        String::from_utf8(digits.copied().collect()).ok()?.parse::<u32>().ok()
    });
    // What no release has is a text, and no name of a version.
    format!("2.{}", minors.filter(|minor| *minor < 100).max().unwrap_or(17))
}

/// As `dpkg --verify` reads them.
fn sums(tree: &Path) -> Result<String> {
    let script = "find usr -type f -print0 | sort -z | xargs -0 md5sum";
    host::output(host::command("sh").current_dir(tree).args(["-c", script]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_that_is_asked_for_is_found() {
        let binary = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.17\0GLIBC_2.9999\0GLIBC_PRIVATE\0";
        assert_eq!(libc(binary), "2.34");
        assert_eq!(libc(b"nothing"), "2.17");
    }
}

//! The files as they lie in a system.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::{MAINTAINER, NAME, Release};
use crate::host;

/// What is taken from the checkout, where it goes, and whether it is the administrator's.
pub const FILES: [(&str, &str); 13] = [
    ("packaging/systemd/sluice-mountd.service", "usr/lib/systemd/system/sluice-mountd.service"),
    ("packaging/systemd/sluice-server.service", "usr/lib/systemd/system/sluice-server.service"),
    ("packaging/systemd/sluice-node.service", "usr/lib/systemd/system/sluice-node.service"),
    ("packaging/systemd/user/sluice-mountd.service", "usr/lib/systemd/user/sluice-mountd.service"),
    ("packaging/config/sysusers.conf", "usr/lib/sysusers.d/sluice.conf"),
    ("packaging/config/tmpfiles.conf", "usr/lib/tmpfiles.d/sluice.conf"),
    ("packaging/config/server.env", "etc/sluice/server.env"),
    ("packaging/config/node.env", "etc/sluice/node.env"),
    ("packaging/monitoring/alerts.yaml", "usr/share/doc/sluice/examples/alerts.yaml"),
    (
        "packaging/monitoring/grafana-dashboard.json",
        "usr/share/doc/sluice/examples/grafana-dashboard.json",
    ),
    ("docs/operations.md", "usr/share/doc/sluice/operations.md"),
    ("CHANGELOG.md", "usr/share/doc/sluice/NEWS"),
    ("packaging/debian/lintian-overrides", "usr/share/lintian/overrides/sluice"),
];

/// Where shells look for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/sluice"),
    ("zsh", "usr/share/zsh/vendor-completions/_sluice"),
    ("fish", "usr/share/fish/vendor_completions.d/sluice.fish"),
];

/// The executable, without what only debuggers read.
const BINARY: &str = "usr/bin/sluice";

/// Puts all files below `root`.
pub fn fill(root: &Path, binary: &Path, release: &Release) -> Result<()> {
    let executable = place(root, BINARY)?;
    let mut strip = host::command("strip");
    strip.arg("--strip-debug").arg("-o").arg(&executable).arg(binary);
    host::output(&mut strip).context("strip is of the package binutils")?;
    mode(&executable, 0o755)?;
    for (from, to) in FILES {
        let file = place(root, to)?;
        std::fs::copy(host::root().join(from), &file).with_context(|| format!("no {from}"))?;
        // They may have secrets in them.
        mode(&file, if to.starts_with("etc/") { 0o640 } else { 0o644 })?;
    }
    for (shell, to) in COMPLETIONS {
        let script = host::output(host::command(&executable).args(["completions", shell]))?;
        write(root, to, script.as_bytes())?;
    }
    manuals(root, &executable)?;
    gzip(&root.join("usr/share/doc/sluice/NEWS"))?;
    write(root, "usr/share/doc/sluice/changelog", changelog(release)?.as_bytes())?;
    gzip(&root.join("usr/share/doc/sluice/changelog"))?;
    write(root, "usr/share/doc/sluice/copyright", copyright()?.as_bytes())?;
    folders(root)?;
    Ok(())
}

fn manuals(root: &Path, executable: &Path) -> Result<()> {
    let folder = root.join("usr/share/man/man1");
    std::fs::create_dir_all(&folder)?;
    host::output(host::command(executable).arg("man").arg(&folder))?;
    for page in std::fs::read_dir(&folder)? {
        let page = page?.path();
        mode(&page, 0o644)?;
        gzip(&page)?;
    }
    Ok(())
}

/// What Debian's tools read of a version; what it brings is told to people beside it.
fn changelog(release: &Release) -> Result<String> {
    let Release { version, time, .. } = release;
    let day = host::output(host::command("date").args(["-u", "-R", "-d", &format!("@{time}")]))?;
    Ok(format!(
        "{NAME} ({version}) unstable; urgency=medium\n\n  * See NEWS.gz.\n\n -- {MAINTAINER}  {}\n",
        day.trim()
    ))
}

/// What Debian wants to be told of licences.
fn copyright() -> Result<String> {
    let notice = std::fs::read_to_string(host::root().join("NOTICE"))?;
    Ok(format!(
        "{}\n\nLicensed under the Apache License, Version 2.0; on Debian systems its text is in\n\
         /usr/share/common-licenses/Apache-2.0. What is linked in, with licences, is\n\
         listed in the CycloneDX document beside the package.\n",
        notice.trim_end()
    ))
}

fn place(root: &Path, name: &str) -> Result<PathBuf> {
    let path = root.join(name);
    let folder = path.parent().context("a file lies in a folder")?;
    std::fs::create_dir_all(folder)?;
    Ok(path)
}

fn write(root: &Path, name: &str, bytes: &[u8]) -> Result<()> {
    let path = place(root, name)?;
    std::fs::write(&path, bytes)?;
    mode(&path, 0o644)
}

fn mode(path: &Path, mode: u32) -> Result<()> {
    Ok(std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?)
}

/// Without the time in it, so that the same file is the same.
fn gzip(path: &Path) -> Result<()> {
    host::output(host::command("gzip").args(["-9nf"]).arg(path)).map(drop)
}

/// All folders are open to look into, whatever the umask was.
fn folders(root: &Path) -> Result<()> {
    mode(root, 0o755)?;
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            folders(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_there() {
        for (from, to) in FILES {
            assert!(host::root().join(from).is_file(), "{from}");
            assert!(!to.starts_with('/') && !to.contains(".."), "{to}");
        }
    }
}

//! Whether the package does what a package has to do: installed below a folder of its own, looked
//! at, removed and purged.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::NAME;
use crate::host;

/// What a purge must not take.
const KEPT: &str = "var/lib/sluice/server/catalog.sqlite";

/// All checks.
pub fn all(package: &Path, tree: &Path) -> Result<()> {
    let system = tempfile::tempdir()?;
    let root = system.path();
    for folder in ["var/lib/dpkg/info", "var/lib/dpkg/updates", "etc", "usr/lib"] {
        std::fs::create_dir_all(root.join(folder))?;
    }
    std::fs::write(root.join("var/lib/dpkg/status"), "")?;
    host::output(dpkg(root).arg("--install").arg(package))?;
    let users = std::fs::read_to_string(root.join("etc/passwd"))?;
    ensure!(users.lines().any(|line| line.starts_with("sluice:")), "no user was made");
    let version = host::output(host::command(root.join("usr/bin/sluice")).arg("--version"))?;
    ensure!(version.starts_with("sluice "), "this is not our executable: {version}");
    let changed = host::output(dpkg(root).args(["--verify", NAME]))?;
    ensure!(changed.trim().is_empty(), "files are not those of the package:\n{changed}");
    units(root)?;
    secrets(root)?;
    // What the server has written since.
    let kept = root.join(KEPT);
    std::fs::create_dir_all(kept.parent().context("it lies in a folder")?)?;
    std::fs::write(&kept, "precious")?;
    let said = host::output(dpkg(root).args(["--purge", NAME]))?;
    ensure!(std::fs::read(&kept)? == b"precious", "a purge takes data with it");
    ensure!(
        said.contains("/var/lib/sluice is kept"),
        "a purge does not say what it keeps:\n{said}"
    );
    ensure!(!root.join("usr/bin/sluice").exists(), "a purge leaves the executable");
    lintian(package)?;
    ensure!(tree.join("usr/share/man/man1/sluice.1.gz").is_file(), "no manual");
    println!("the package can be installed, removed and purged");
    Ok(())
}

/// A dpkg for a system below a folder, whose scripts run here and are told of it.
fn dpkg(root: &Path) -> Command {
    let mut dpkg = host::command("dpkg");
    let mut option = std::ffi::OsString::from("--root=");
    option.push(root);
    dpkg.arg(option);
    // What it depends on is not in the folder, and who runs this need not be root.
    dpkg.args(["--force-depends", "--force-script-chrootless", "--force-not-root"]);
    dpkg
}

/// The units are ones that systemd understands.
fn units(root: &Path) -> Result<()> {
    let folder = root.join("usr/lib/systemd/system");
    for unit in std::fs::read_dir(&folder)? {
        let unit = unit?.path();
        let mut verify = host::command("systemd-analyze");
        verify.args(["verify", "--man=no", "--recursive-errors=no"]);
        let text = std::fs::read_to_string(&unit)?;
        // The executable is where the package puts it.
        let here = root.join("usr/bin/sluice").display().to_string();
        let moved = folder.join(format!("check-{}", host::file_name(&unit)));
        std::fs::write(&moved, text.replace("/usr/bin/sluice", &here))?;
        let verified = verify.arg(&moved).output().context("cannot start systemd-analyze")?;
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        std::fs::remove_file(&moved)?;
        let own: Vec<&str> = said.lines().filter(|line| line.contains("check-")).collect();
        ensure!(verified.status.success() && own.is_empty(), "{}:\n{said}", unit.display());
    }
    Ok(())
}

/// What may have secrets in it is not for everybody.
fn secrets(root: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    for (_, to) in super::tree::FILES.iter().filter(|(_, to)| to.starts_with("etc/")) {
        let mode = std::fs::metadata(root.join(to))?.permissions().mode();
        ensure!(mode & 0o007 == 0, "everybody can read {to}");
    }
    Ok(())
}

/// Where it is installed.
fn lintian(package: &Path) -> Result<()> {
    let Some(tool) = host::find_tool("lintian") else {
        println!("not checked: lintian is not installed");
        return Ok(());
    };
    let mut lint = host::command(tool);
    // What is meant to be so is said in packaging/debian/lintian-overrides, with reasons.
    lint.args(["--allow-root", "--fail-on", "error,warning"]).arg(package);
    host::run(&mut lint)
}

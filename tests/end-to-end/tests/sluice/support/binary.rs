//! The executable under test.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// `$SLUICE_BIN`, or else the executable of this workspace, built in the profile of the tests.
pub fn path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| match std::env::var_os("SLUICE_BIN") {
        Some(path) => {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "SLUICE_BIN names {}, which is no file", path.display());
            path
        }
        None => built(),
    })
}

fn built() -> PathBuf {
    // .../target/PROFILE/deps/sluice-0123456789abcdef
    let me = std::env::current_exe().unwrap();
    let folder = me.ancestors().nth(2).unwrap().to_owned();
    let binary = folder.join("sluice");
    // nextest runs each test in a process of its own: the first of a run builds, the others wait
    // and take what came of it.
    let lock = File::create(folder.join(".end-to-end-lock")).unwrap();
    lock.lock().unwrap();
    let stamp = folder.join(".end-to-end-built");
    let run = std::env::var("NEXTEST_RUN_ID").ok();
    let outcome = match (fs::read_to_string(&stamp), &run) {
        // A run of the whole workspace has just built it, and with other features of some
        // dependencies than a build of its own: that would cost minutes.
        _ if is_current(&binary) => String::new(),
        (Ok(text), Some(run)) if text.starts_with(run.as_str()) => text[run.len()..].to_owned(),
        _ => {
            let outcome = build(&folder).err().unwrap_or_default();
            fs::write(&stamp, run.unwrap_or_default() + &outcome).unwrap();
            outcome
        }
    };
    assert!(outcome.is_empty(), "{outcome}");
    assert!(binary.is_file(), "cargo built no {}", binary.display());
    binary
}

/// Whether no source is newer.
fn is_current(binary: &Path) -> bool {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let rooms = [
        "catalog",
        "cli",
        "gateway",
        "mountd",
        "node",
        "server",
        "backup-pipeline",
        "protocol",
        "Cargo.lock",
    ];
    let built = fs::metadata(binary).and_then(|meta| meta.modified());
    built.is_ok_and(|built| !rooms.iter().any(|room| is_newer(&root.join(room), built)))
}

fn is_newer(path: &Path, than: SystemTime) -> bool {
    if let Ok(entries) = path.read_dir() {
        let skipped = |name: &str| ["tests", "examples", "target"].contains(&name);
        return entries.flatten().any(|entry| {
            !entry.file_name().to_str().is_some_and(skipped) && is_newer(&entry.path(), than)
        });
    }
    let counts =
        path.extension().is_some_and(|end| ["rs", "toml", "lock"].iter().any(|e| end == *e));
    counts && fs::metadata(path).and_then(|meta| meta.modified()).is_ok_and(|time| time > than)
}

fn build(folder: &Path) -> Result<(), String> {
    let profile = match folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(name) => name,
        None => panic!("the tests run from no target folder; set SLUICE_BIN"),
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--package", "sluice", "--bin", "sluice", "--profile", profile])
        .arg("--target-dir")
        .arg(folder.parent().unwrap())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output();
    let output = output.expect("no cargo to build the executable with; set SLUICE_BIN");
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("the executable does not build; set SLUICE_BIN to test another one\n{said}"))
}

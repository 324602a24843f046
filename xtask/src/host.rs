//! What the machine offers: the checkout, child processes, tools that may or may not be there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// The checkout's root folder.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace")
}

/// The same `cargo` that runs us, started at the root.
pub fn cargo() -> Command {
    command(std::env::var_os("CARGO").map_or_else(|| "cargo".into(), PathBuf::from))
}

/// A program started at the root of the checkout.
pub fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// Shows a command, runs it with our terminal, and fails when it fails.
pub fn run(command: &mut Command) -> Result<()> {
    show(command);
    let status = command.status().with_context(|| format!("cannot start {}", name(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", name(command));
    }
    Ok(())
}

/// Prints a command the way one would type it.
pub fn show(command: &Command) {
    let args: Vec<_> = command.get_args().map(|arg| arg.to_string_lossy()).collect();
    println!("+ {} {}", name(command), args.join(" "));
}

/// The text a command prints; fails when it fails.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {}", name(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}\n{}", name(command), output.status, stderr.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", name(command)))
}

/// The last part of a command's program: `cargo` for `/usr/bin/cargo`.
pub fn name(command: &Command) -> String {
    let path = Path::new(command.get_program());
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The last part of a path.
pub fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Finds an optional tool: in the folder that `scripts/setup --test` fills, then on `PATH`.
pub fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    tools_folder()
        .into_iter()
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// `$SLUICE_TOOLS/bin`, else `sluice-tools/bin` in the user's cache folder. `scripts/setup` has
/// the same rule.
fn tools_folder() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let folder = var("SLUICE_TOOLS").or_else(|| {
        let cache = var("XDG_CACHE_HOME").or_else(|| Some(var("HOME")?.join(".cache")))?;
        Some(cache.join("sluice-tools"))
    })?;
    Some(folder.join("bin"))
}

/// What a step does without its tool: an error where nobody watches, else a remark.
pub fn missing_tool(name: &str) -> Result<()> {
    let hint = format!("{name} is not installed: scripts/setup --test does");
    if is_ci() {
        bail!("{hint}");
    }
    println!("not checked: {hint}");
    Ok(())
}

/// All files that git tracks or would track, relative to the root.
pub fn tracked_files() -> Result<Vec<String>> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let names = output(command("git").args(list)).context("needs git and a git checkout")?;
    let files = names.split('\0').filter(|name| !name.is_empty());
    // A deleted file is still listed until the deletion is committed.
    Ok(files.filter(|name| root().join(name).is_file()).map(str::to_owned).collect())
}

/// Whether this is a run nobody watches (`CI=true`): missing tools are errors there.
pub fn is_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

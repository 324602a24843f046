//! Tests and documentation examples, counted.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::counts::Counts;
use crate::host;

/// All tests: by nextest when it is installed, else by `cargo test`.
pub fn run(counts: &mut Counts) -> Result<()> {
    let Some(nextest) = host::find_tool("cargo-nextest") else {
        println!("cargo-nextest is not installed (scripts/setup --test does): using cargo test");
        let args =
            ["test", "--workspace", "--lib", "--bins", "--tests", "--locked", "--no-fail-fast"];
        return libtest(host::cargo().args(args), counts);
    };
    let profile = if host::is_ci() { "ci" } else { "default" };
    let report = target_folder()?.join("nextest").join(profile).join("junit.xml");
    // An old report must not be counted when the build fails.
    if report.exists() {
        std::fs::remove_file(&report).with_context(|| format!("cannot remove {report:?}"))?;
    }
    let mut command = host::command(nextest);
    command.args(["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]);
    let result = host::run(command.args(["--profile", profile]));
    if let Ok(text) = std::fs::read_to_string(&report) {
        *counts += Counts::from_junit(&text).with_context(|| format!("cannot read {report:?}"))?;
    }
    result
}

/// The examples in the documentation.
pub fn doc(counts: &mut Counts) -> Result<()> {
    libtest(host::cargo().args(["test", "--doc", "--workspace", "--locked"]), counts)
}

/// Runs `cargo test`, showing its output as it comes and adding up its summaries.
fn libtest(command: &mut Command, counts: &mut Counts) -> Result<()> {
    host::show(command);
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    for line in BufReader::new(stdout).lines() {
        let line = line.context("cannot read cargo's output")?;
        println!("{line}");
        *counts += Counts::from_libtest_line(&line).unwrap_or_default();
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("cargo test ended with {status}");
    }
    Ok(())
}

/// Where cargo builds: it may be moved by `CARGO_TARGET_DIR` or a configuration file.
fn target_folder() -> Result<std::path::PathBuf> {
    let metadata = crate::manifest::metadata()?;
    let folder =
        metadata["target_directory"].as_str().context("no target_directory in metadata")?;
    Ok(folder.into())
}

//! Runs the fuzz targets of `fuzz/` with the stable compiler.
//!
//! libFuzzer needs two things: its runtime, which the `libfuzzer-sys` crate compiles (a C++
//! compiler is enough), and code that counts which edges it takes. The second is an LLVM pass that
//! the stable compiler runs when asked by `-C passes`. Sanitizers need a nightly compiler and are
//! left out: the code under test is safe Rust, where a defect shows as a panic, a hang or a large
//! allocation, and libFuzzer reports all three. The targets are laid out as `cargo fuzz` expects,
//! which also works for those who have it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::host;

/// How long each target runs unless told otherwise.
const DEFAULT_SECONDS: u64 = 60;
/// Longest input tried. Parsers take headers and tables of a few KiB; longer ones only cost speed.
const MAX_INPUT: &str = "65536";
/// An input that takes longer than this is a finding.
const INPUT_SECONDS: &str = "10";
/// A single input that makes a parser use this much memory (MiB) is a finding.
const MEMORY_MIB: &str = "1024";

/// Tells libFuzzer which edges were taken, and what was compared with what.
const COVERAGE: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
];

/// `fuzz [--seconds N] [TARGET...]`.
pub fn command(args: &[&str]) -> Result<()> {
    let mut seconds = DEFAULT_SECONDS;
    let mut wanted = Vec::new();
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        if arg == "--seconds" {
            let value = args.next().context("--seconds needs a number")?;
            seconds = value.parse().context("--seconds needs a number")?;
        } else {
            wanted.push(arg);
        }
    }
    run(seconds, &wanted)
}

/// Builds and runs the named targets (all when none is named), each for `seconds`, as many at a
/// time as there are processors.
pub fn run(seconds: u64, wanted: &[&str]) -> Result<()> {
    let (targets, folder) = targets()?;
    if let Some(unknown) = wanted.iter().find(|name| !targets.iter().any(|t| t == *name)) {
        bail!("no fuzz target {unknown:?}; there are: {}", targets.join(", "));
    }
    let targets: Vec<&str> = targets
        .iter()
        .map(String::as_str)
        .filter(|name| wanted.is_empty() || wanted.contains(name))
        .collect();

    let triple = host_triple()?;
    let mut build = host::cargo();
    build.current_dir(fuzz_folder());
    // Not --locked: the lock file follows when a crate under test gets a new dependency.
    build.args(["build", "--release", "--target", &triple]);
    for target in &targets {
        build.args(["--bin", target]);
    }
    // Flags for the target only: build scripts and macros of the host stay as they are.
    build.env("RUSTFLAGS", COVERAGE.join(" ")).env_remove("CARGO_ENCODED_RUSTFLAGS");
    host::run(&mut build)?;

    let binaries = folder.join(&triple).join("release");
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(targets.len());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(&target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    if let Err(error) = fuzz(target, &binaries, seconds) {
                        println!("{target}: {error:#}");
                        failed.lock().unwrap_or_else(|e| e.into_inner()).push(target);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap_or_else(|e| e.into_inner());
    if !failed.is_empty() {
        bail!("findings in: {}", failed.join(", "));
    }
    println!("{} targets, {seconds} s each, no findings", targets.len());
    Ok(())
}

/// Runs one target over its corpus and its checked-in seeds.
fn fuzz(target: &str, binaries: &Path, seconds: u64) -> Result<()> {
    let root = fuzz_folder();
    let corpus = root.join("corpus").join(target);
    let artifacts = root.join("artifacts").join(target);
    let seeds = root.join("seeds").join(target);
    for folder in [&corpus, &artifacts] {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {folder:?}"))?;
    }
    let mut command = Command::new(binaries.join(target));
    command.arg(&corpus);
    if seeds.is_dir() {
        command.arg(&seeds);
    }
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    command.arg(format!("-max_total_time={seconds}"));
    command.arg(format!("-max_len={MAX_INPUT}"));
    command.arg(format!("-timeout={INPUT_SECONDS}"));
    command.arg(format!("-rss_limit_mb={MEMORY_MIB}"));
    command.args(["-use_value_profile=1", "-print_final_stats=1", "-verbosity=0"]);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let report = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        bail!("{}\n{}", output.status, report.trim_end());
    }
    println!("{target}: {} inputs tried", executed(&report).unwrap_or("?"));
    Ok(())
}

/// The number of inputs in libFuzzer's closing statistics.
fn executed(report: &str) -> Option<&str> {
    let line = report.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    line.map(str::trim)
}

/// All targets, and the folder cargo builds them in.
fn targets() -> Result<(Vec<String>, PathBuf)> {
    let mut cargo = host::cargo();
    cargo.current_dir(fuzz_folder());
    cargo.args(["metadata", "--format-version", "1", "--no-deps"]);
    let metadata: Value =
        serde_json::from_str(&host::output(&mut cargo)?).context("cargo metadata is no JSON")?;
    let names = metadata["packages"][0]["targets"]
        .as_array()
        .context("no targets in fuzz/Cargo.toml")?
        .iter()
        .filter(|target| target["kind"][0] == "bin")
        .filter_map(|target| target["name"].as_str().map(str::to_owned))
        .collect();
    let folder = metadata["target_directory"].as_str().context("no target_directory")?;
    Ok((names, folder.into()))
}

fn host_triple() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = host::output(host::command(rustc).arg("-vV"))?;
    let triple = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(triple.context("rustc -vV names no host")?.to_owned())
}

fn fuzz_folder() -> PathBuf {
    host::root().join("fuzz")
}

#[cfg(test)]
mod tests {
    use super::executed;

    #[test]
    fn closing_statistics_are_read() {
        let report = "Done 5 runs\nstat::number_of_executed_units: 512\nstat::peak_rss_mb: 30\n";
        assert_eq!(executed(report), Some("512"));
        assert_eq!(executed("killed"), None);
    }
}

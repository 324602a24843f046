//! Real clients against the exports: kernels, hypervisors and tools, as they are installed out
//! there, most of them in a guest.
//!
//! The cases are scripts in `tests/lab/vm/cases`. Each prints a line for each test, and this module
//! makes a table of them. A test that fails or is skipped fails the run, unless
//! `tests/lab/vm/known.txt` gives a reason for it; a reason that is no longer needed fails it, too.

mod report;

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::host;
use report::{Known, Row};

const USAGE: &str = "\
usage: cargo xtask conformance [OPTION...]

  --list         the cases, and what each is about
  --only CASE    this one only; may be repeated
  --json         one document on stdout instead of a table
  --sluice FILE  the executable to test (default: built now)
  --folder DIR   where to work (default: a new temporary folder, removed after success)

It needs 6 GB there, and time: guests are emulated. See tests/lab/README.md.
";

/// Longest time that a case may take.
const PATIENCE: Duration = Duration::from_secs(45 * 60);

/// What was asked for.
#[derive(Debug, Default)]
struct Options {
    only: Vec<String>,
    list: bool,
    json: bool,
    sluice: Option<PathBuf>,
    folder: Option<PathBuf>,
}

/// One script.
#[derive(Debug)]
struct Case {
    name: String,
    about: String,
    path: PathBuf,
}

/// `cargo xtask conformance`.
pub fn command(args: &[&str]) -> Result<()> {
    let Some(options) = options(args)? else {
        println!("{USAGE}");
        return Ok(());
    };
    let cases = cases(&options.only)?;
    if options.list {
        for case in &cases {
            println!("{:<12} {}", case.name, case.about);
        }
        return Ok(());
    }
    let known = host::root().join("tests/lab/vm/known.txt");
    let known =
        std::fs::read_to_string(&known).with_context(|| format!("cannot read {known:?}"))?;
    let known = Known::parse(&known)?;
    // After a failure it stays, to be looked at.
    let made = || Ok(tempfile::Builder::new().prefix("conformance-").tempdir()?.keep());
    let folder = options.folder.clone().map_or_else(made, anyhow::Ok)?;
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot make {folder:?}"))?;
    let sluice =
        options.sluice.clone().map_or_else(build, |file| Ok(std::path::absolute(file)?))?;
    let lab = host::output(&mut host::command("tests/lab/vm/vm-up"))?;
    let place = Place { folder: &folder, sluice: &sluice, lab: lab.trim() };
    let mut rows = Vec::new();
    for case in &cases {
        rows.extend(run(case, &place)?);
    }
    let names: Vec<_> = cases.iter().map(|case| case.name.as_str()).collect();
    let problems = known.judge(&names, &mut rows);
    if options.json {
        println!("{:#}", report::document(&rows, &problems));
    } else {
        print!("{}", report::table(&rows));
    }
    if !problems.is_empty() {
        bail!("{}\nlogs are in {}", problems.join("\n"), folder.display());
    }
    if options.folder.is_none() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("cannot remove {folder:?}"))?;
    }
    Ok(())
}

fn options(args: &[&str]) -> Result<Option<Options>> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut value = || args.next().copied().with_context(|| format!("{arg} needs a value"));
        match *arg {
            "--only" => options.only.push(value()?.to_owned()),
            "--list" => options.list = true,
            "--json" => options.json = true,
            "--sluice" => options.sluice = Some(value()?.into()),
            "--folder" => options.folder = Some(value()?.into()),
            "help" | "-h" | "--help" => return Ok(None),
            other => bail!("{other:?} is unknown\n\n{USAGE}"),
        }
    }
    Ok(Some(options))
}

/// All cases in order of name, or those that were asked for.
fn cases(only: &[String]) -> Result<Vec<Case>> {
    let folder = host::root().join("tests/lab/vm/cases");
    let mut cases = Vec::new();
    for entry in std::fs::read_dir(&folder).with_context(|| format!("cannot read {folder:?}"))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if !only.is_empty() && !only.contains(&name) {
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        let about = text.lines().nth(1).unwrap_or_default().trim_start_matches("# ").to_owned();
        cases.push(Case { name, about, path });
    }
    if let Some(name) = only.iter().find(|name| !cases.iter().any(|case| case.name == **name)) {
        bail!("no case {name:?}: see --list");
    }
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(cases)
}

/// The executable that the tests use as well, so that nothing is built twice.
fn build() -> Result<PathBuf> {
    let mut cargo = host::cargo();
    // Standard output may be for a document.
    cargo.args(["build", "--locked", "--workspace", "--bin", "sluice"]).stdout(Stdio::null());
    if !cargo.status().context("cannot start cargo")?.success() {
        bail!("sluice does not build");
    }
    let metadata = crate::manifest::metadata()?;
    let folder = metadata["target_directory"].as_str().context("no target folder")?;
    Ok(PathBuf::from(folder).join("debug/sluice"))
}

/// What all cases are told.
struct Place<'a> {
    folder: &'a Path,
    sluice: &'a Path,
    /// The file of variables from `vm-up`.
    lab: &'a str,
}

/// Runs one case, saying each result as it comes.
fn run(case: &Case, place: &Place<'_>) -> Result<Vec<Row>> {
    let log = place.folder.join(format!("{}.log", case.name));
    eprintln!("== {}: {} (log: {})", case.name, case.about, log.display());
    let mut child = start(case, place, &log)?;
    let lines = BufReader::new(child.stdout.take().context("no standard output")?).lines();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let (mut rows, mut since, end) = (Vec::new(), Instant::now(), Instant::now() + PATIENCE);
    loop {
        match receiver.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let row = Row::parse(&case.name, &line, since.elapsed())?;
                eprintln!("{row}");
                rows.push(row);
                since = Instant::now();
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                // Itself and all that it started.
                let group = format!("-{}", child.id());
                host::command("kill").args(["-KILL", "--", &group]).status()?;
                break;
            }
        }
    }
    let status = child.wait()?;
    if !status.success() {
        let row = Row::failed(&case.name, &format!("{status}; see {}", log.display()));
        eprintln!("{row}");
        rows.push(row);
    }
    Ok(rows)
}

fn start(case: &Case, place: &Place<'_>, log: &Path) -> Result<Child> {
    Command::new("bash")
        .args(["-c", ". \"$0\" && exec \"$1\"", place.lab])
        .arg(&case.path)
        .env("LAB_WORK", place.folder)
        .env("LAB_SLUICE", place.sluice)
        .current_dir(place.folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(log).with_context(|| format!("cannot write {log:?}"))?)
        .process_group(0)
        .spawn()
        .context("cannot start bash")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_case_says_what_it_is_about() {
        let cases = cases(&[]).unwrap();
        assert!(cases.iter().any(|case| case.name == "recovery"));
        for case in cases {
            assert!(case.about.len() > 20, "{}", case.name);
        }
    }

    #[test]
    fn a_case_that_is_not_there_is_a_mistake() {
        let error = cases(&["nothing".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("--list"), "{error}");
    }
}

//! The gate: everything that must hold before a change lands, cheap steps first.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::counts::Counts;
use crate::{deny, fuzz, rooms, rust, shell, soak, test, tidy};

/// One step of the gate.
pub struct Step {
    /// What it is called on the command line.
    pub name: &'static str,
    /// One line for the help text.
    pub about: &'static str,
    run: fn(&mut Counts) -> Result<()>,
}

/// The steps in the order they run.
pub const STEPS: &[Step] = &[
    Step { name: "tidy", about: "text rules over all tracked files", run: |_| tidy::run() },
    Step { name: "rooms", about: "which crate may depend on which", run: |_| rooms::run() },
    Step { name: "fmt", about: "rustfmt --check", run: |_| rust::fmt() },
    Step { name: "shell", about: "shellcheck over all scripts", run: |_| shell::run() },
    Step { name: "deny", about: "licences, banned crates, sources", run: |_| deny::run() },
    Step { name: "clippy", about: "lints, warnings are errors", run: |_| rust::clippy() },
    Step { name: "test", about: "all tests (nextest when installed)", run: test::run },
    Step { name: "doctest", about: "the examples in the documentation", run: test::doc },
    Step { name: "doc", about: "rustdoc, warnings are errors", run: |_| rust::doc() },
];

/// The step of that name.
pub fn step(name: &str) -> Option<&'static Step> {
    STEPS.iter().find(|step| step.name == name)
}

/// `check [--fuzz SECONDS] [--soak] [STEP...]`.
pub fn command(args: &[&str]) -> Result<()> {
    let mut fuzz_seconds = None;
    let mut soaks = false;
    let mut steps = Vec::new();
    let mut args = args.iter();
    while let Some(&arg) = args.next() {
        if arg == "--fuzz" {
            let seconds = args.next().context("--fuzz needs a number of seconds")?;
            fuzz_seconds = Some(seconds.parse().context("--fuzz needs a number of seconds")?);
        } else if arg == "--soak" {
            soaks = true;
        } else {
            steps.push(step(arg).with_context(|| format!("the gate has no step {arg:?}"))?);
        }
    }
    if steps.is_empty() {
        steps = STEPS.iter().collect();
    }

    let mut gate = Gate::default();
    for step in steps {
        gate.run(step.name, step.run);
    }
    if let Some(seconds) = fuzz_seconds {
        gate.run("fuzz", |_| fuzz::run(seconds, &[]));
    }
    if soaks {
        gate.run("soak", |_| soak::short());
    }
    gate.finish()
}

/// What has run so far. All steps run, also after a failure: one run shows every problem.
#[derive(Default)]
struct Gate {
    counts: Counts,
    done: Vec<(&'static str, Duration, Result<()>)>,
}

impl Gate {
    fn run(&mut self, name: &'static str, step: impl FnOnce(&mut Counts) -> Result<()>) {
        println!("== {name}");
        let start = Instant::now();
        let result = step(&mut self.counts);
        if let Err(error) = &result {
            println!("{name}: {error:#}");
        }
        self.done.push((name, start.elapsed(), result));
    }

    fn finish(self) -> Result<()> {
        println!("== summary");
        let mut failed = Vec::new();
        for (name, took, result) in &self.done {
            let verdict = if result.is_ok() { "ok" } else { "FAILED" };
            println!("{name:<10} {verdict:<8} {:>7.1} s", took.as_secs_f64());
            if result.is_err() {
                failed.push(*name);
            }
        }
        if self.counts != Counts::default() {
            println!("{}", self.counts);
        }
        if !failed.is_empty() {
            bail!("failed: {}", failed.join(", "));
        }
        Ok(())
    }
}

//! Running a program and measuring it.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::host;

/// A program to measure.
#[derive(Debug)]
pub struct Run {
    pub command: Command,
    /// Files it wrote without making them durable; that is done for it, and counted.
    pub flush: Vec<PathBuf>,
}

impl From<Command> for Run {
    fn from(command: Command) -> Self {
        Self { command, flush: Vec::new() }
    }
}

/// What one run took.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub wall: Duration,
    /// Of the program and its children.
    pub cpu: Duration,
    /// Largest resident set of one process, in KiB.
    pub rss_kib: u64,
}

/// All samples of one thing.
#[derive(Debug, Clone, Default)]
pub struct Samples(pub Vec<Sample>);

impl Samples {
    /// The fastest one: what others on the machine disturbed least.
    pub fn best(&self) -> Option<Sample> {
        self.0.iter().copied().min_by_key(|sample| sample.wall)
    }

    /// The middle of the wall times; of an even number the upper one.
    pub fn median_wall(&self) -> Option<Duration> {
        let mut walls: Vec<Duration> = self.0.iter().map(|sample| sample.wall).collect();
        walls.sort_unstable();
        walls.get(walls.len() / 2).copied()
    }

    /// The most memory any of them took, in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.0.iter().map(|sample| sample.rss_kib).max().unwrap_or(0)
    }

    pub fn json(&self) -> Value {
        let best = self.best();
        json!({
            "wall_s": best.map(|sample| sample.wall.as_secs_f64()),
            "wall_median_s": self.median_wall().map(|wall| wall.as_secs_f64()),
            "cpu_s": best.map(|sample| sample.cpu.as_secs_f64()),
            "rss_kib": self.rss_kib(),
            "walls_s": self.0.iter().map(|sample| sample.wall.as_secs_f64()).collect::<Vec<_>>(),
        })
    }
}

/// Runs a program under GNU time, with its output in `log`, and fails when it fails.
pub fn measure(run: &Run, log: &Path) -> Result<Sample> {
    // What was written before belongs to somebody else's time.
    host::output(&mut host::command("sync"))?;
    let name = host::name(&run.command);
    let figures = log.with_extension("time");
    let mut command = Command::new("/usr/bin/time");
    command.args(["--quiet", "--format", "%U %S %M", "--output"]).arg(&figures);
    command.arg(run.command.get_program()).args(run.command.get_args());
    for (key, value) in run.command.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command.current_dir(run.command.get_current_dir().unwrap_or(host::root()));
    let output = std::fs::File::create(log).with_context(|| format!("cannot create {log:?}"))?;
    command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    let start = Instant::now();
    let status = command.status().context("cannot start /usr/bin/time")?;
    if !run.flush.is_empty() {
        host::output(host::command("sync").args(&run.flush))?;
    }
    let wall = start.elapsed();
    if !status.success() {
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let shown: Vec<_> = run.command.get_args().map(|arg| arg.to_string_lossy()).collect();
        bail!("{name} {} ended with {status}\n{}", shown.join(" "), text.trim_end());
    }
    let text = std::fs::read_to_string(&figures).context("no figures from /usr/bin/time")?;
    parse(&text, wall).with_context(|| format!("not what /usr/bin/time prints: {text:?}"))
}

fn parse(text: &str, wall: Duration) -> Option<Sample> {
    let mut words = text.lines().last()?.split_whitespace();
    let mut seconds = || words.next()?.parse::<f64>().ok().map(Duration::from_secs_f64);
    let cpu = seconds()? + seconds()?;
    Some(Sample { wall, cpu, rss_kib: words.next()?.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_gnu_time_are_read() {
        let sample = parse("1.25 0.50 20480\n", Duration::from_secs(1)).unwrap();
        assert_eq!(sample.cpu, Duration::from_millis(1750));
        assert_eq!(sample.rss_kib, 20_480);
        assert_eq!(parse("command not found", Duration::ZERO), None);
    }

    #[test]
    fn best_is_the_fastest_and_the_median_is_in_the_middle() {
        let sample = |seconds, rss_kib| Sample {
            wall: Duration::from_secs(seconds),
            cpu: Duration::ZERO,
            rss_kib,
        };
        let samples = Samples(vec![sample(5, 1), sample(2, 9), sample(3, 2)]);
        assert_eq!(samples.best(), Some(sample(2, 9)));
        assert_eq!(samples.median_wall(), Some(Duration::from_secs(3)));
        assert_eq!(samples.rss_kib(), 9);
        assert_eq!(Samples::default().best(), None);
    }
}

//! Showing how far a run has come: a bar for people, lines for logs, JSON for programs.

use std::collections::VecDeque;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;
use sluice_engine::{Phase, Progress, Snapshot};
use tokio::task::JoinHandle;

use crate::args::Global;
use crate::output::{bytes, event, note, seconds};

/// How often the bar moves.
const BAR: Duration = Duration::from_millis(200);
/// How often a program is told.
const LINES: Duration = Duration::from_secs(1);
/// How often a log is told.
const LOG: Duration = Duration::from_secs(10);
/// The rate is of the last so many seconds.
const WINDOW: Duration = Duration::from_secs(10);

/// Which figures mean something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    /// New, deduplicated, compressed.
    Backup,
    /// Done only.
    Plain,
}

/// How progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Bar,
    Log,
    Json,
    None,
}

/// A task that shows the progress of a run until it is dropped.
#[derive(Debug)]
pub(crate) struct Shower {
    task: Option<JoinHandle<()>>,
    bar: Option<ProgressBar>,
}

impl Shower {
    /// Shows the progress of an engine's run.
    pub(crate) fn start(global: &Global, progress: Arc<Progress>, shown: Shown) -> Self {
        Self::watch(global, shown, move || progress.snapshot())
    }

    /// Shows what `snapshot` says.
    pub(crate) fn watch(
        global: &Global,
        shown: Shown,
        snapshot: impl Fn() -> Snapshot + Send + 'static,
    ) -> Self {
        let style = style(global);
        let bar = (style == Style::Bar).then(new_bar);
        let shower = bar.clone();
        let task = (style != Style::None).then(|| {
            tokio::spawn(async move {
                let mut meter = Meter::new();
                let period = match style {
                    Style::Bar => BAR,
                    Style::Json => LINES,
                    _ => LOG,
                };
                loop {
                    tokio::time::sleep(period).await;
                    let now = snapshot();
                    let line = meter.measure(Instant::now(), now);
                    match (style, &shower) {
                        (Style::Json, _) => drop(event(&line)),
                        (Style::Bar, Some(bar)) => draw(bar, &line, shown),
                        _ => note(line.text(shown)),
                    }
                }
            })
        });
        Self { task, bar }
    }
}

impl Drop for Shower {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn style(global: &Global) -> Style {
    if global.no_progress || (global.quiet && !global.json) {
        Style::None
    } else if global.json {
        Style::Json
    } else if std::io::stderr().is_terminal() {
        Style::Bar
    } else {
        Style::Log
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
    let template = ProgressStyle::with_template("{wide_bar} {percent:>3}%\n{wide_msg}");
    if let Ok(style) = template {
        bar.set_style(style);
    }
    bar
}

fn draw(bar: &ProgressBar, line: &Line, shown: Shown) {
    if line.now.total > 0 {
        bar.set_length(line.now.total);
        bar.set_position(line.now.done.min(line.now.total));
    }
    bar.set_message(line.text(shown));
}

/// One report of progress.
#[derive(Debug, Serialize)]
struct Line {
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(flatten)]
    now: Snapshot,
    /// Bytes dealt with in a second, lately.
    rate: u64,
    /// Seconds to the end at this rate.
    eta: Option<u64>,
}

impl Line {
    fn text(&self, shown: Shown) -> String {
        let now = &self.now;
        let word = match now.phase {
            Phase::Preparing => "preparing, ",
            Phase::Finishing => "finishing, ",
            Phase::Running | Phase::Done => "",
        };
        let total = if now.total > 0 { format!(" of {}", bytes(now.total)) } else { String::new() };
        let done = if now.total > 0 { now.done } else { now.done.max(now.read) };
        let mut text = format!("{word}{}{total}, {}/s", bytes(done), bytes(self.rate));
        if let Some(eta) = self.eta {
            text += &format!(", {} left", seconds(Duration::from_secs(eta)));
        }
        if shown == Shown::Backup {
            let known = now.dedup.saturating_add(now.unchanged);
            text += &format!(
                "; new {} as {}, known {}",
                bytes(now.new),
                bytes(now.stored),
                bytes(known)
            );
        }
        text
    }
}

/// Measures the rate over a sliding window.
struct Meter {
    seen: VecDeque<(Instant, u64)>,
}

impl Meter {
    fn new() -> Self {
        Self { seen: VecDeque::from([(Instant::now(), 0)]) }
    }

    fn measure(&mut self, at: Instant, now: Snapshot) -> Line {
        let position = if now.total > 0 { now.done } else { now.done.max(now.read) };
        self.seen.push_back((at, position));
        while self.seen.len() > 2 && at.duration_since(self.seen[1].0) > WINDOW {
            self.seen.pop_front();
        }
        let (since, from) = self.seen[0];
        let elapsed = at.duration_since(since).as_secs_f64();
        let moved = position.saturating_sub(from) as f64;
        let rate = if elapsed > 0.0 { (moved / elapsed) as u64 } else { 0 };
        let left = now.total.saturating_sub(now.done);
        let known = now.total > 0 && now.phase == Phase::Running;
        let eta = (known && rate > 0).then(|| left.div_ceil(rate));
        Line { kind: "progress", now, rate, eta }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn snapshot(done: u64, total: u64) -> Snapshot {
        Snapshot {
            phase: Phase::Running,
            total,
            done,
            read: done,
            new: 3 << 20,
            stored: 1 << 20,
            unchanged: 2 << 20,
            ..Snapshot::default()
        }
    }

    #[test]
    fn rate_and_time_left_follow_the_last_seconds() {
        let start = Instant::now();
        let mut meter = Meter { seen: VecDeque::from([(start, 0)]) };
        let line = meter.measure(start + Duration::from_secs(2), snapshot(200, 1000));
        assert_eq!((line.rate, line.eta), (100, Some(8)));
        for second in 3..60 {
            meter.measure(start + Duration::from_secs(second), snapshot(200, 1000));
        }
        let line = meter.measure(start + Duration::from_secs(60), snapshot(200, 1000));
        assert_eq!((line.rate, line.eta), (0, None), "a run that stands still says so");
    }

    #[test]
    fn a_line_names_the_figures_that_matter() {
        let start = Instant::now();
        let mut meter = Meter { seen: VecDeque::from([(start, 0)]) };
        let line = meter.measure(start + Duration::from_secs(1), snapshot(1 << 20, 10 << 20));
        let text = line.text(Shown::Backup);
        assert_eq!(text, "1 MiB of 10 MiB, 1 MiB/s, 9.0 s left; new 3 MiB as 1 MiB, known 2 MiB");
        assert!(!line.text(Shown::Plain).contains("new"));
        let json = serde_json::to_value(&line).unwrap();
        assert_eq!((&json["type"], &json["phase"]), (&"progress".into(), &"running".into()));
        assert_eq!((&json["done"], &json["eta"]), (&(1 << 20).into(), &9.into()));
    }

    #[test]
    fn a_stream_of_unknown_length_has_no_time_left() {
        let start = Instant::now();
        let mut meter = Meter { seen: VecDeque::from([(start, 0)]) };
        let line = meter.measure(start + Duration::from_secs(1), snapshot(512, 0));
        assert_eq!(line.eta, None);
        assert!(line.text(Shown::Plain).starts_with("512 B, "));
    }
}

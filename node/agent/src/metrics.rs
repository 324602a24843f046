//! What Prometheus is told of a node.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sluice_node_api::metrics::{Tell, Text};

/// How tasks of a kind ended.
type Ended = (&'static str, &'static str);

/// What a node counts. Cheap to share.
#[derive(Debug, Default)]
pub struct Metrics {
    running: AtomicU64,
    slots: AtomicU64,
    /// How many ended, and how long they took together.
    ended: Mutex<BTreeMap<Ended, (u64, Duration)>>,
    unanswered: AtomicU64,
}

/// A task that runs, until it is dropped.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    metrics: &'a Metrics,
    kind: &'static str,
    begun: Instant,
    outcome: &'static str,
}

impl Run<'_> {
    /// How it ended. One that nobody waits for any more was lost.
    pub(crate) fn ended(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for Run<'_> {
    fn drop(&mut self) {
        self.metrics.running.fetch_sub(1, Ordering::Relaxed);
        let mut ended = self.metrics.ended.lock().unwrap_or_else(PoisonError::into_inner);
        let own = ended.entry((self.kind, self.outcome)).or_default();
        own.0 += 1;
        own.1 += self.begun.elapsed();
    }
}

impl Metrics {
    pub(crate) fn begins(&self, kind: &'static str) -> Run<'_> {
        self.running.fetch_add(1, Ordering::Relaxed);
        Run { metrics: self, kind, begun: Instant::now(), outcome: "lost" }
    }

    pub(crate) fn has_slots(&self, slots: u32) {
        self.slots.store(u64::from(slots), Ordering::Relaxed);
    }

    /// The server did not answer.
    pub(crate) fn unanswered(&self) {
        self.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    fn text(&self) -> String {
        let mut text = Text::default();
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        text.gauge("sluice_build_info", "The release that runs.", &version, 1.0);
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed) as f64;
        let help = "Tasks that run on this node.";
        text.gauge("sluice_node_tasks_running", help, &[], number(&self.running));
        let help = "Tasks that this node runs at a time.";
        text.gauge("sluice_node_slots", help, &[], number(&self.slots));
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for ((kind, outcome), (many, _)) in &ended {
            let help = "Tasks that ended on this node since it was started.";
            let labels = [("kind", *kind), ("outcome", *outcome)];
            text.counter("sluice_node_tasks_ended_total", help, &labels, *many as f64);
        }
        for ((kind, outcome), (_, took)) in &ended {
            let help = "How long those tasks took, added up.";
            let labels = [("kind", *kind), ("outcome", *outcome)];
            text.counter("sluice_node_tasks_seconds_total", help, &labels, took.as_secs_f64());
        }
        let help = "Requests that the server did not answer.";
        text.counter("sluice_node_unanswered_total", help, &[], number(&self.unanswered));
        text.process();
        text.finish()
    }
}

/// What makes the text.
pub fn tell(metrics: Arc<Metrics>) -> Tell {
    Arc::new(move || {
        let text = metrics.text();
        Box::pin(async move { text })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_is_counted_until_it_ends_and_a_lost_task_is_lost() {
        let metrics = Metrics::default();
        let mut done = metrics.begins("backup");
        let lost = metrics.begins("backup");
        assert!(metrics.text().contains("sluice_node_tasks_running 2\n"));
        done.ended("succeeded");
        drop(done);
        drop(lost);
        let text = metrics.text();
        assert!(text.contains("sluice_node_tasks_running 0\n"), "{text}");
        for outcome in ["succeeded", "lost"] {
            let line = format!(
                "sluice_node_tasks_ended_total{{kind=\"backup\",outcome=\"{outcome}\"}} 1\n"
            );
            assert!(text.contains(&line), "{text}");
        }
    }
}

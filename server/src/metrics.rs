//! What Prometheus is told of a server, and of the whole that it serves.
//!
//! Everything about tasks, nodes and instances is asked of the database when somebody looks, so
//! that several servers tell the same. What only this process knows is counted as it happens.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use sluice_catalog::{Project, Tx};
use sluice_node_api::metrics::{Histogram, Tell, Text};

use crate::api::policies::EVERYTHING;
use crate::complaint::all_readable;
use crate::problem::Result;
use crate::queue::LOST_MS;
use crate::quota::{self, Counted};
use crate::self_backup::SelfBackupState;
use crate::state::Shared;

/// A backup is recent for so long.
const DAY_MS: u64 = 86_400_000;
/// Projects whose quotas are told, at most.
const PROJECTS: usize = 1000;

/// Method, route and class of an answer. There are as many routes as in the OpenAPI document.
type Answered = (&'static str, String, &'static str);

/// What this process counts.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    answers: Mutex<BTreeMap<Answered, Arc<Histogram>>>,
    /// How long the scheduler's looks took.
    pub(crate) ticks: Histogram,
    /// How long the database took to answer the simplest question.
    pub(crate) database: Histogram,
    /// How long it took to give tasks to nodes.
    pub(crate) turns: Histogram,
}

impl Metrics {
    fn answer(&self, what: Answered) -> Arc<Histogram> {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(answers.entry(what).or_default())
    }
}

/// Times each answer by its route.
pub(crate) async fn layer(
    State(shared): State<Shared>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let route = path.map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let method = match request.method().as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "DELETE" => "DELETE",
        _ => "other",
    };
    let begun = Instant::now();
    let response = next.run(request).await;
    let class = match response.status().as_u16() {
        ..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    };
    shared.metrics.answer((method, route, class)).observe(begun.elapsed());
    response
}

/// What makes the text.
pub(crate) fn tell(shared: Shared) -> Tell {
    Arc::new(move || {
        let shared = shared.clone();
        Box::pin(async move { text(&shared).await })
    })
}

async fn text(shared: &Shared) -> String {
    let mut text = Text::default();
    let version = [("version", env!("CARGO_PKG_VERSION"))];
    text.gauge("sluice_build_info", "The release that runs.", &version, 1.0);
    let begun = Instant::now();
    let known = known(shared, &mut text).await;
    // What is not known is left out; whoever watches sees that the database does not answer.
    let up = if known.is_ok() { 1.0 } else { 0.0 };
    text.gauge("sluice_database_up", "Whether the database answers.", &[], up);
    let took = begun.elapsed().as_secs_f64();
    text.gauge("sluice_scrape_seconds", "How long it took to tell this.", &[], took);
    if let Some(end) = shared.certificate_end_ms {
        let help = "When the server's certificate expires, in seconds since 1970.";
        text.gauge("sluice_certificate_expires_timestamp_seconds", help, &[], end as f64 / 1e3);
    }
    own(&shared.metrics, &mut text);
    text.process();
    text.finish()
}

/// What this process has counted.
fn own(metrics: &Metrics, text: &mut Text) {
    let answers = metrics.answers.lock().unwrap_or_else(PoisonError::into_inner).clone();
    for ((method, route, class), times) in &answers {
        let labels = [("method", *method), ("route", route.as_str()), ("status", *class)];
        let name = "sluice_http_request_seconds";
        text.histogram(name, "How long answers took.", &labels, times);
    }
    let help = "How long the scheduler's looks took.";
    text.histogram("sluice_tick_seconds", help, &[], &metrics.ticks);
    let help = "How long it took to give tasks to the nodes that ask.";
    text.histogram("sluice_dispatch_seconds", help, &[], &metrics.turns);
    let help = "How long the database took to answer the simplest question.";
    text.histogram("sluice_database_seconds", help, &[], &metrics.database);
}

/// What the database knows.
async fn known(shared: &Shared, text: &mut Text) -> Result<()> {
    let now = shared.now();
    let since = now.saturating_sub(DAY_MS);
    let mut tx = shared.catalog.read().await?;
    for count in tx.tasks_open(&EVERYTHING).await? {
        let labels = [("kind", count.kind.as_str()), ("state", count.state.as_str())];
        let help = "Tasks that wait or run.";
        text.gauge("sluice_tasks_open", help, &labels, count.tasks as f64);
    }
    let waits = tx.oldest_waiting(now).await?.map_or(0, |oldest| now.saturating_sub(oldest));
    let help = "How long the task that waits longest has waited.";
    text.gauge("sluice_queue_wait_seconds", help, &[], waits as f64 / 1e3);
    let ended = tx.tasks_ended(&EVERYTHING, since).await?;
    for count in &ended {
        let labels = [("kind", count.kind.as_str()), ("state", count.state.as_str())];
        let help = "Tasks that ended in the last 24 hours.";
        text.gauge("sluice_tasks_last_day", help, &labels, count.tasks as f64);
    }
    for count in &ended {
        let labels = [("kind", count.kind.as_str()), ("state", count.state.as_str())];
        let help = "How long tasks ran, added up, of those that ended in the last 24 hours.";
        text.gauge("sluice_tasks_last_day_seconds", help, &labels, count.ran_ms as f64 / 1e3);
    }
    let moved = tx.moved_ever().await?;
    for (kind, bytes, _) in &moved {
        let help = "Bytes of sources that tasks have covered.";
        text.counter("sluice_covered_bytes_total", help, &[("kind", kind)], *bytes as f64);
    }
    for (kind, _, bytes) in &moved {
        let help = "Bytes that tasks have put to or got from destinations.";
        text.counter("sluice_transferred_bytes_total", help, &[("kind", kind)], *bytes as f64);
    }
    for node in tx.heard().await? {
        let age = now.saturating_sub(node.last_seen_ms) as f64 / 1e3;
        let labels = [("node", node.name.as_str())];
        let help = "How long ago a node was heard of.";
        text.gauge("sluice_node_silent_seconds", help, &labels, age);
    }
    let heard = tx.heard().await?;
    let alive = heard.iter().filter(|node| node.last_seen_ms + LOST_MS >= now).count();
    for (state, many) in [("alive", alive), ("silent", heard.len() - alive)] {
        text.gauge("sluice_nodes", "Nodes.", &[("state", state)], many as f64);
    }
    let seen = tx.protected(&EVERYTHING, since).await?;
    let recent = seen.total.saturating_sub(seen.never + seen.late);
    for (state, many) in [("recent", recent), ("late", seen.late), ("never", seen.never)] {
        let help = "Instances by their last good backup: of the last 24 hours, older, or none.";
        text.gauge("sluice_instances", help, &[("protection", state)], many as f64);
    }
    let places = tx.at_destinations(&EVERYTHING).await?;
    let stored: u64 = places.iter().map(|place| place.stored_bytes).sum();
    text.gauge("sluice_stored_bytes", "Bytes at destinations.", &[], stored as f64);
    let size = tx.front_end_bytes(&EVERYTHING).await?;
    text.gauge("sluice_protected_bytes", "Bytes of what is protected.", &[], size as f64);
    let own = SelfBackupState::load(&mut tx).await?;
    if let Some(good) = own.good_ms {
        let help =
            "When the last good backup of the control plane was done, in seconds since 1970.";
        let name = "sluice_self_backup_good_timestamp_seconds";
        text.gauge(name, help, &[], good as f64 / 1e3);
        let failed = f64::from(u8::from(own.failure.is_some()));
        let help = "Whether the last backup of the control plane failed.";
        text.gauge("sluice_self_backup_failed", help, &[], failed);
    }
    quotas(&mut tx, text, now).await
}

/// How much of their hard limits projects use.
async fn quotas(tx: &mut Tx, text: &mut Text, now: u64) -> Result<()> {
    let projects = all_readable::<Project>(tx).await?;
    for project in projects.into_iter().take(PROJECTS) {
        let Some(quota) = quota::of(tx, project.id).await? else { continue };
        let caps = quota.project;
        let used = Counted::load(tx, &caps, project.id, None, now).await?;
        for limit in used.against(&caps) {
            let Some(hard) = limit.hard.filter(|hard| *hard > 0) else { continue };
            let labels = [("project", project.name.as_str()), ("limit", limit.name)];
            let help = "Part of a hard limit of a project that is used.";
            text.gauge("sluice_quota_used_ratio", help, &labels, limit.used as f64 / hard as f64);
        }
    }
    Ok(())
}

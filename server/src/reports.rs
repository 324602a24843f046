//! What nodes tell, written down together: a transaction for all that comes while the one before
//! it is under way.
//!
//! ```text
//!   POST report ─┐
//!   POST report ─┼─► waiting ──► one transaction: all of it ──► answers, once it is durable
//!   POST lease  ─┘     (whoever has the turn takes what waits, for everybody)
//! ```
//!
//! A database commits so many times a second, whatever is in it, and nodes report each few seconds
//! on each task. One report that is refused undoes nothing of the others.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::Request;
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use sluice_catalog::{NodeId, Progress, TaskId, Tx};
use sluice_node_api::{Report, Reported};
use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Semaphore, oneshot};

use crate::allowance;
use crate::dispatch;
use crate::front_end;
use crate::problem::{Problem, Result};
use crate::state::Shared;

/// What is written down in one transaction, at most: others want to write as well.
const MOST: usize = 256;

/// A report is large that has more, in bytes. Nearly none is.
const SMALL: u64 = 1 << 20;
/// Large reports that are heard at a time: as a document in memory each is some times as large.
static LARGE: Semaphore = Semaphore::const_new(2);
/// How long one may take, with its time in line; then its node tells it again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Hears few large reports at a time.
pub(crate) async fn few_large(request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH);
    let length = length.and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length <= SMALL) {
        return next.run(request).await;
    }
    let heard = async {
        let _place = LARGE.acquire().await;
        next.run(request).await
    };
    let heard = tokio::time::timeout(PATIENCE, heard).await;
    heard.unwrap_or_else(|_| lost().into_response())
}

/// What a node tells.
#[derive(Debug)]
pub(crate) enum Said {
    /// It is there.
    Here,
    /// How a task goes.
    Report(TaskId, Box<Report>),
}

/// What waits to be written down.
#[derive(Debug, Default)]
pub(crate) struct Reports {
    waiting: Mutex<Vec<Entry>>,
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug)]
struct Entry {
    node: NodeId,
    said: Said,
    answer: oneshot::Sender<Result<Reported>>,
}

/// Writes down what a node tells, and returns once it is durable: what is said to it.
pub(crate) async fn note(shared: &Shared, node: NodeId, said: Said) -> Result<Reported> {
    let (answer, mut told) = oneshot::channel();
    let reports = &shared.reports;
    let lock = || reports.waiting.lock().unwrap_or_else(PoisonError::into_inner);
    lock().push(Entry { node, said, answer });
    loop {
        let turn = Arc::clone(&reports.turn).lock_owned().await;
        match told.try_recv() {
            Ok(answer) => return answer,
            Err(TryRecvError::Closed) => return Err(lost()),
            Err(TryRecvError::Empty) => {}
        }
        let entries: Vec<Entry> = {
            let mut waiting = lock();
            let many = waiting.len().min(MOST);
            waiting.drain(..many).collect()
        };
        let shared = shared.clone();
        // Whoever has the turn may hang up, and the others must not be lost with it.
        let _ = tokio::spawn(async move {
            let _turn = turn;
            write(&shared, entries).await;
        })
        .await;
    }
}

fn lost() -> Problem {
    let text = "this report was not written down: report again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", text)
}

/// Writes down all of it, and answers.
async fn write(shared: &Shared, entries: Vec<Entry>) {
    match write_all(shared, &entries).await {
        Ok(answers) => {
            let ended = entries.iter().any(|entry| entry.said.is_end());
            for (entry, answer) in entries.into_iter().zip(answers) {
                // Whoever has hung up reports again.
                let _ = entry.answer.send(answer);
            }
            if ended {
                shared.work.notify_one();
            }
        }
        Err(problem) => {
            for entry in entries {
                let _ = entry.answer.send(Err(problem.clone()));
            }
        }
    }
}

async fn write_all(shared: &Shared, entries: &[Entry]) -> Result<Vec<Result<Reported>>> {
    let now = shared.now();
    let mut tx = shared.catalog.begin().await?;
    // Before the first part that may be undone, and with it what it has locked.
    tx.decide_alone().await?;
    let nodes: BTreeSet<NodeId> = entries.iter().map(|entry| entry.node).collect();
    for node in nodes {
        tx.node_seen(node, now).await?;
    }
    let mut answers = Vec::with_capacity(entries.len());
    for entry in entries {
        answers.push(match &entry.said {
            Said::Here => Ok(Reported::default()),
            Said::Report(task, report) => {
                let begun = tx.begin_part().await?;
                let noted = one(shared, &mut tx, entry.node, *task, report, now).await;
                match noted.is_ok() {
                    true => tx.end_part(begun).await?,
                    false => tx.undo_part(begun).await?,
                }
                noted
            }
        });
    }
    tx.commit().await?;
    Ok(answers)
}

async fn one(
    shared: &Shared,
    tx: &mut Tx,
    node: NodeId,
    task: TaskId,
    report: &Report,
    now: u64,
) -> Result<Reported> {
    let progress = report.progress.as_ref().map(progress);
    let until = now + shared.lease_ms;
    let renewed = tx.renew(task, node, report.attempt, progress.as_ref(), until).await;
    let renewed = renewed?;
    let lines: Vec<_> =
        report.log.iter().map(|entry| (entry.level.clone(), entry.line.clone())).collect();
    tx.log(task, report.attempt, &lines, now).await?;
    let (allowance, refused) = match &report.progress {
        Some(line) => (
            allowance::under_way(tx, &renewed, line, now).await?,
            front_end::under_way(tx, &renewed, line).await?,
        ),
        None => (None, false),
    };
    if let Some(finished) = &report.finished {
        dispatch::finish(tx, (task, node, report.attempt), finished, now).await?;
    }
    Ok(Reported { cancel: renewed.cancel_requested || refused, allowance })
}

/// A line of progress, as it is kept.
fn progress(line: &Value) -> Progress {
    let number = |name: &str| line[name].as_u64().unwrap_or(0);
    Progress {
        phase: line["phase"].as_str().unwrap_or_default().to_owned(),
        total: number("total"),
        done: number("done"),
        rate: number("rate"),
        eta: line["eta"].as_u64(),
    }
}

impl Said {
    fn is_end(&self) -> bool {
        matches!(self, Self::Report(_, report) if report.finished.is_some())
    }
}

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};
use sluice_destination::wrap::{OperationCount, Snapshot as Counts};
use sluice_engine::{Phase, Snapshot};
use sluice_repository::collect::{
    CollectOptions, CollectPhase, CollectProgress, CollectReport, CollectionPlan,
};
use sluice_repository::{Repository, rfc3339};

use crate::args::CollectArgs;
use crate::context::Context;
use crate::cost::{self, Prices};
use crate::error::Exit;
use crate::interrupt;
use crate::output::progress::{Shower, Shown};
use crate::output::{self, bytes, count, local, note, seconds, warn};

/// Gives back the space of what nothing needs.
pub(crate) async fn run(context: &Context, args: &CollectArgs) -> Result<Exit> {
    let repository = context.open().await?;
    let options = CollectOptions {
        compact_below: args.compact_below,
        min_saving: args.min_saving,
        silent: args.silent,
        wait: args.wait,
        limit: args.limit,
        ..CollectOptions::default()
    };
    if args.plan {
        let prices = cost::prices(&context.global)?;
        let started = Instant::now();
        let progress = Arc::new(CollectProgress::default());
        let shower = show(context, &progress);
        let plan = repository.plan_collection(&options, &progress).await;
        drop(shower);
        let plan = plan?;
        let estimate = Estimate::of(&plan, &prices, started.elapsed(), args.limit);
        tell_plan(context, &plan, &estimate)?;
        return Ok(Exit::Done);
    }
    let report = collect(context, &repository, &options).await?;
    tell(context, &report)?;
    let all = report.waiting.is_empty() && report.failed.is_empty();
    Ok(if all { Exit::Done } else { Exit::Warnings })
}

async fn collect(
    context: &Context,
    repository: &Repository,
    options: &CollectOptions,
) -> Result<CollectReport> {
    let progress = Arc::new(CollectProgress::default());
    let cancel = interrupt::watch("stopping; the next collection goes on (again to stop at once)")?;
    let stopped = progress.clone();
    let watching = tokio::spawn(async move {
        cancel.cancelled().await;
        stopped.stop();
    });
    let shower = show(context, &progress);
    let report = repository.collect(options, &progress).await;
    drop(shower);
    watching.abort();
    Ok(report?)
}

fn show(context: &Context, progress: &Arc<CollectProgress>) -> Shower {
    let watched = progress.clone();
    Shower::watch(&context.global, Shown::Plain, move || snapshot(&watched))
}

fn snapshot(progress: &CollectProgress) -> Snapshot {
    let done = progress.done.load(Ordering::Relaxed);
    let total = progress.total.load(Ordering::Relaxed);
    let waits = matches!(progress.phase(), CollectPhase::Listing | CollectPhase::Waiting);
    Snapshot {
        phase: if waits { Phase::Preparing } else { Phase::Running },
        total,
        done,
        read: progress.moved.load(Ordering::Relaxed),
        ..Snapshot::default()
    }
}

fn document(plan: &CollectionPlan) -> Value {
    json!({
        "number": plan.number,
        "resumes": plan.resumes,
        "points": plan.points,
        "pruned_points": plan.gone,
        "packs": plan.packs,
        "stored_bytes": plan.stored,
        "live_bytes": plan.live,
        "dead_packs": plan.dead_packs,
        "compact_packs": plan.compact_packs,
        "locked_packs": plan.locked_packs,
        "locked_bytes": plan.locked_bytes,
        "locked_until": plan.locked_until.map(|(_, last)| rfc3339(last)),
        "later_packs": plan.later_packs,
        "freed_bytes": plan.freed,
        "moved_bytes": plan.moved,
        "open_sessions": plan.open_sessions,
        "memory_bytes": plan.memory,
        "planned_requests": {
            "put": plan.requests.put,
            "get": plan.requests.get,
            "list": plan.requests.list,
            "delete": plan.requests.delete,
        },
    })
}

/// What a collection would come to. It looks again at everything the plan has looked at.
struct Estimate {
    requests: Counts,
    costs: f64,
    /// What is no longer paid each month.
    saved_month: f64,
    time: Duration,
}

impl Estimate {
    fn of(plan: &CollectionPlan, prices: &Prices, planned: Duration, limit: Option<u64>) -> Self {
        let of = |requests, bytes| OperationCount { requests, failures: 0, bytes };
        // As much is read as is written.
        let work = Counts {
            put: of(plan.requests.put, plan.moved / 2),
            get: of(plan.requests.get, plan.moved / 2),
            list: of(plan.requests.list, 0),
            delete: of(plan.requests.delete, 0),
            head: of(0, 0),
        };
        let requests = cost::so_far().unwrap_or_default() + work;
        let costs = prices.of(&requests);
        Self {
            requests,
            costs: costs.at_once(),
            saved_month: prices.month(plan.freed),
            time: planned.saturating_add(prices.time(&work, limit)),
        }
    }
}

fn tell_plan(context: &Context, plan: &CollectionPlan, estimate: &Estimate) -> Result<()> {
    if context.global.json {
        let mut document = document(plan);
        document["estimate"] = json!({
            "requests": estimate.requests,
            "costs": estimate.costs,
            "saved_month": estimate.saved_month,
            "seconds": estimate.time.as_secs_f64(),
        });
        return output::json(&document);
    }
    let requests = &plan.requests;
    output::print(&format!(
        "{} on the destination ({}), {} of them needed by {}\n\
         would remove {} and compact {}: {} free, {} moved\n\
         requests: {} put, {} get, {} list, {} delete, beside looking again\n\
         estimate: {} and about {}; {} less each month\n",
        count(plan.packs, "pack"),
        bytes(plan.stored),
        bytes(plan.live),
        count(plan.points, "restore point"),
        count(plan.dead_packs, "pack"),
        count(plan.compact_packs, "pack"),
        bytes(plan.freed),
        bytes(plan.moved),
        requests.put,
        requests.get,
        requests.list,
        requests.delete,
        cost::money(estimate.costs),
        seconds(estimate.time),
        cost::money(estimate.saved_month),
    ))?;
    tell_locked(context, plan);
    tell_later(plan);
    if plan.resumes {
        note("it goes on with a collection that was interrupted");
    }
    if plan.open_sessions > 0 {
        note(format_args!("{} would be asked first", count(plan.open_sessions, "open backup")));
    }
    note("nothing was changed");
    Ok(())
}

/// Says what would go if it were not locked.
fn tell_locked(context: &Context, plan: &CollectionPlan) {
    let Some((first, last)) = plan.locked_until else { return };
    let (first, last) = (local(first, &context.zone), local(last, &context.zone));
    note(format_args!(
        "{} ({}) no longer needed, but locked: the first until {first}, the last until {last}",
        count(plan.locked_packs, "pack"),
        bytes(plan.locked_bytes),
    ));
}

/// Says what is left to the next collections.
fn tell_later(plan: &CollectionPlan) {
    if plan.later_packs > 0 {
        note(format_args!(
            "{} more could go: one collection names no more of them, the next ones go on",
            count(plan.later_packs, "pack"),
        ));
    }
}

fn tell(context: &Context, report: &CollectReport) -> Result<()> {
    for (object, problem) in &report.failed {
        warn(format_args!("{object} was not compacted and stays as it is: {problem}"));
    }
    for one in &report.waiting {
        warn(format_args!(
            "the backup of {} on {} has not answered (last sign of life {} ago)",
            one.instance,
            one.host,
            seconds(one.silent)
        ));
    }
    if context.global.json {
        let waiting: Vec<Value> = report
            .waiting
            .iter()
            .map(|one| {
                let silent = one.silent.as_secs();
                json!({"instance": one.instance, "host": one.host, "silent_s": silent})
            })
            .collect();
        let failed: Vec<Value> = report
            .failed
            .iter()
            .map(|(object, problem)| json!({"object": object, "problem": problem}))
            .collect();
        return output::json_line(&json!({
            "type": "summary",
            "plan": document(&report.plan),
            "removed_packs": report.removed_packs,
            "compacted_packs": report.compacted_packs,
            "freed_bytes": report.freed,
            "moved_bytes": report.moved,
            "rescued_packs": report.rescued,
            "fenced_sessions": report.fenced,
            "finished": report.waiting.is_empty(),
            "waiting": waiting,
            "failed": failed,
        }));
    }
    if !report.waiting.is_empty() {
        note(
            "nothing was removed; run the collection again when these backups are over. One whose \
             node is lost is declared dead after a day (--silent)",
        );
        return Ok(());
    }
    if context.global.quiet {
        return Ok(());
    }
    output::print(&format!(
        "{} removed, {} compacted: {} free, {} moved\n",
        count(report.removed_packs, "pack"),
        count(report.compacted_packs, "pack"),
        bytes(report.freed),
        bytes(report.moved),
    ))?;
    tell_locked(context, &report.plan);
    tell_later(&report.plan);
    if report.rescued > 0 {
        note(format_args!("{} still needed after all", count(report.rescued, "condemned pack")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_estimate_has_the_work_and_the_time_of_planning() {
        let mut plan = CollectionPlan { moved: 200 << 20, freed: 10 << 30, ..Default::default() };
        plan.requests.put = 10;
        plan.requests.get = 90;
        let prices = Prices { get: 2e6, received_gib: 1.0, ..Prices::default() };
        let planned = Duration::from_secs(7);
        let estimate = Estimate::of(&plan, &prices, planned, Some(50 << 20));
        assert_eq!(
            (estimate.requests.put.bytes, estimate.requests.get.bytes),
            (100 << 20, 100 << 20)
        );
        assert!((estimate.costs - (180.0 + 0.00005 + 100.0 / 1024.0)).abs() < 1e-9);
        assert!((estimate.saved_month - 0.23).abs() < 1e-9);
        // 100 requests of 30 ms, and 200 MiB at 50 MiB/s.
        assert!((estimate.time.as_secs_f64() - (7.0 + 3.0 + 4.0)).abs() < 1e-6);
    }
}

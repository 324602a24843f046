use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::Result;
use sluice_destination::Destination;
use sluice_engine::{Phase, Snapshot};
use sluice_repository::replicate::{Means, Plan, Progress, Relation, Report, Source, plan};
use sluice_repository::{ErrorKind, Repository, RepositoryError, Unlock};

use super::Job;
use super::tell::{Outcome, Planned, copies};
use crate::error::Exit;
use crate::output::note;
use crate::output::progress::{Shower, Shown};
use crate::{interrupt, secret};

/// Copies objects as they are.
pub(super) async fn run(job: Job<'_>, relation: Relation) -> Result<Exit> {
    let means = Means {
        clock: job.context.clock.clone(),
        throttle: job.throttle.clone(),
        progress: job.progress.clone(),
    };
    let (plan, key) = make_plan(&job, &means).await?;
    if job.args.dry_run {
        let planned = Planned {
            mode: "replica",
            points: plan.points(),
            present: plan.present(),
            packs: Some(plan.packs()),
            bytes: Some(plan.bytes()),
            damage: plan.damage(),
        };
        return planned.tell(&job);
    }
    if relation == Relation::Empty && !job.context.global.quiet {
        let place = job.ends.target.destination.location();
        note(format_args!("{place} holds nothing yet; it becomes a replica"));
    }
    let present = plan.present();
    let report = carry_out(&job, plan, means).await?;
    let copies = match job.args.tell_copies {
        true => {
            let target = &job.ends.target.destination;
            let target = open_with(&job, target, job.context.unlock(&**target).await?).await?;
            Some(copies(&target.list(None).await?.points, None, &job.args.instance))
        }
        false => None,
    };
    let unclear = !key && report.damage.iter().any(|one| one.object.starts_with(['d', 'm']));
    let outcome = Outcome {
        mode: "replica",
        points: report.points,
        present,
        gone: report.gone,
        pruned: report.pruned,
        kept: report.kept,
        kept_slots: report.kept_slots,
        with_key: key,
        packs: Some(report.packs),
        bytes: Some(report.bytes),
        repaired: report.repaired,
        damage: report.damage,
        copies,
        help: unclear.then_some(
            "without the key nobody can tell which restore points need a damaged pack, so none \
             was copied; give the passphrase to copy those that do not",
        ),
    };
    outcome.tell(&job)
}

/// The plan, and whether it was made with the key.
async fn make_plan(job: &Job<'_>, means: &Means) -> Result<(Plan, bool)> {
    let destination = &job.ends.source.destination;
    let mut key = open(job, job.options.need_key()).await?;
    loop {
        let source = Source { destination: destination.clone(), key: key.clone() };
        let target = job.ends.target.destination.clone();
        match plan(source, target, job.options.clone(), means).await {
            // The target has pruned points of its own: it turns out that the key is needed.
            Err(error) if may_ask(&error, &key) && !job.args.without_key => {
                key = open(job, true).await?;
            }
            other => return Ok((other?, key.is_some())),
        }
    }
}

fn may_ask(error: &RepositoryError, key: &Option<Repository>) -> bool {
    error.kind() == ErrorKind::WrongKey && key.is_none()
}

/// Opens the source when the key is needed, or is there without asking anybody.
async fn open(job: &Job<'_>, needed: bool) -> Result<Option<Repository>> {
    let (context, destination) = (job.context, &job.ends.source.destination);
    if job.args.without_key {
        return Ok(None);
    }
    let is_given = context.global.recovery_key_file.is_some() || secret::is_given();
    let open = || async {
        let descriptor = Repository::peek(&**destination).await?;
        Ok::<_, RepositoryError>(descriptor.encryption == "open")
    };
    if !needed && !is_given && !open().await? {
        return Ok(None);
    }
    let unlock = context.unlock(&**destination).await?;
    open_with(job, destination, unlock).await.map(Some)
}

pub(super) async fn open_with(
    job: &Job<'_>,
    destination: &Arc<dyn Destination>,
    unlock: Unlock,
) -> Result<Repository> {
    let (clock, settings) = (job.context.clock.clone(), job.context.settings(0));
    Ok(Repository::open(destination.clone(), clock, unlock, settings).await?)
}

async fn carry_out(job: &Job<'_>, plan: Plan, means: Means) -> Result<Report> {
    let cancel = interrupt::watch("stopping; what was copied is kept (again to stop at once)")?;
    let progress = job.progress.clone();
    let stop = tokio::spawn({
        let progress = progress.clone();
        async move {
            cancel.cancelled().await;
            progress.stop();
        }
    });
    let watched = progress.clone();
    let started = Instant::now();
    let shower = Shower::watch(&job.context.global, Shown::Plain, move || snapshot(&watched));
    let report = plan.run(means).await;
    drop(shower);
    stop.abort();
    tracing::info!(elapsed = ?started.elapsed(), "replicated");
    Ok(report?)
}

fn snapshot(progress: &Progress) -> Snapshot {
    let done = progress.bytes.load(Ordering::Relaxed);
    let total = progress.total_bytes.load(Ordering::Relaxed);
    Snapshot {
        phase: if total > 0 { Phase::Running } else { Phase::Preparing },
        total,
        done,
        read: done,
        written: done,
        durable: done,
        ..Snapshot::default()
    }
}

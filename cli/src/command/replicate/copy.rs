use std::sync::Arc;

use anyhow::Result;
use sluice_destination::Destination;
use sluice_engine::replicate::plan;
use sluice_repository::replicate::Throttled;
use sluice_repository::{Repository, Unlock};

use super::Job;
use super::replica::open_with;
use super::tell::{Outcome, Planned, copies};
use crate::error::{Exit, advise, usage_error};
use crate::output::progress::{Shower, Shown};
use crate::{interrupt, secret};

/// zstd level of the blocks written anew: as of a backup.
const LEVEL: i32 = 1;

/// Copies points into a repository with other keys.
pub(super) async fn run(job: Job<'_>) -> Result<Exit> {
    if job.args.mirror_prunes {
        return Err(usage_error(
            "DEST is another repository, whose restore points are its own; --mirror-prunes is \
             for replicas, --keep-... works here",
        ));
    }
    let (source, target) = open(&job).await?;
    let plan = plan(&source, &target, &job.options).await?;
    if job.args.dry_run {
        let planned = Planned {
            mode: "copy",
            points: plan.points().iter().map(ToString::to_string).collect(),
            present: plan.present(),
            packs: None,
            bytes: None,
            damage: plan.damage().to_vec(),
        };
        return planned.tell(&job);
    }
    let present = plan.present();
    let cancel = interrupt::watch("stopping; what was copied is kept (again to stop at once)")?;
    let (cancelled, waiting) = (cancel.clone(), job.progress.clone());
    let stop = tokio::spawn(async move {
        cancelled.cancelled().await;
        waiting.stop();
    });
    let progress = sluice_engine::Progress::new();
    let shower = Shower::start(&job.context.global, progress.clone(), Shown::Backup);
    let run = Box::pin(plan.run(&job.options, LEVEL, progress, cancel)).await;
    drop(shower);
    stop.abort();
    let report = run?;
    let copies = match job.args.tell_copies {
        true => {
            let (id, points) = (source.descriptor().id()?, target.list(None).await?.points);
            Some(copies(&points, Some(id), &job.args.instance))
        }
        false => None,
    };
    let outcome = Outcome {
        mode: "copy",
        points: report.points.iter().map(|(point, _)| point.to_string()).collect(),
        present,
        gone: report.gone.iter().map(ToString::to_string).collect(),
        pruned: report.pruned.iter().map(ToString::to_string).collect(),
        kept: Vec::new(),
        kept_slots: Vec::new(),
        with_key: true,
        packs: None,
        bytes: Some(job.ends.target.counters.snapshot().put.bytes),
        repaired: 0,
        damage: report.damage,
        copies,
        help: None,
    };
    outcome.tell(&job)
}

/// Opens both: the repository as always, DEST with its own passphrase where it has one.
async fn open(job: &Job<'_>) -> Result<(Repository, Repository)> {
    let throttled = |destination: &Arc<dyn Destination>| match &job.throttle {
        Some(throttle) => {
            let (throttle, progress) = (throttle.clone(), job.progress.clone());
            Arc::new(Throttled::new(destination.clone(), throttle, progress))
        }
        None => destination.clone(),
    };
    let (source, target) = (&job.ends.source.destination, &job.ends.target.destination);
    let (repo, dest) =
        if job.ends.pull { (target, throttled(source)) } else { (source, throttled(target)) };
    // What is only read may have no secrets, whatever passphrase is there for the other one.
    let open = async |one: &Arc<dyn Destination>| {
        anyhow::Ok(Repository::peek(&**one).await?.encryption == "open")
    };
    let unlock = match job.ends.pull {
        false if open(repo).await? => Unlock::Open,
        _ => job.context.unlock(&**repo).await?,
    };
    let own = job.args.dest_passphrase_file.is_some() || secret::other_passphrase().is_some();
    let dest_open = open(&dest).await?;
    if dest_open && own && !job.ends.pull {
        return Err(secret::not_needed(&*dest));
    }
    let readable = if job.ends.pull { matches!(unlock, Unlock::Open) } else { dest_open };
    if readable && !job.args.dest_unencrypted {
        return Err(readable_by_all(&*job.ends.target.destination));
    }
    let repo = open_with(job, repo, unlock.clone()).await?;
    let unlock = match &job.args.dest_passphrase_file {
        _ if dest_open => Unlock::Open,
        Some(file) => Unlock::Passphrase(secret::passphrase_in(file)?),
        None if let Some(other) = secret::other_passphrase() => Unlock::Passphrase(other),
        None if matches!(unlock, Unlock::Open) => Unlock::Passphrase(secret::passphrase()?),
        None => unlock,
    };
    let dest = open_with(job, &dest, unlock).await?;
    Ok(if job.ends.pull { (dest, repo) } else { (repo, dest) })
}

/// Why copies are not written to a repository that says it is not encrypted unless that was said
/// beforehand: whoever can write to the destination can say so, and the repository that is read
/// may well be encrypted.
fn readable_by_all(receiver: &dyn Destination) -> anyhow::Error {
    let place = receiver.location();
    advise(
        "wrong-key",
        format!("{place} says that it is not encrypted: who reads there could read the copies"),
        "give --dest-unencrypted if it was made without encryption; if it was not, somebody has \
         changed its object `format`: do not copy to it",
    )
}

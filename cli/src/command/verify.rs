use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use serde_json::json;
use sluice_destination::wrap::Repaired;
use sluice_engine::{Phase, Snapshot};
use sluice_repository::{
    Damage, Depth, PointId, Recorded, Repository, VerifyProgress, VerifyReport,
};

use crate::args::VerifyArgs;
use crate::command::prune::MOST_TOLD;
use crate::context::Context;
use crate::error::Exit;
use crate::output::progress::{Shower, Shown};
use crate::output::{self, bytes, count, note, warn};

/// Points of a damaged object that are named; the document names all.
const NAMED: usize = 5;

/// Checks that restore points can be read.
pub(crate) async fn run(context: &Context, args: &VerifyArgs) -> Result<Exit> {
    let repository = context.open().await?;
    catch_up(&repository).await;
    let mut unreadable = Vec::new();
    let points = match (&args.point, &args.instance) {
        (Some(text), _) => Some(vec![context.point(&repository, text).await?.0]),
        (None, Some(name)) => {
            let listing = repository.list(Some(name)).await?;
            if listing.points.is_empty() && listing.damaged.is_empty() {
                context.point(&repository, name).await?; // says that there is none
            }
            unreadable = listing.damaged;
            Some(listing.points)
        }
        (None, None) => None,
    };
    let depth = match (args.data, args.sample) {
        (true, _) => Depth::Data,
        (false, Some(share)) => Depth::Sample { share, seed: context.clock.now_ms() },
        (false, None) => Depth::Structure,
    };
    let progress = Arc::new(VerifyProgress::default());
    let watched = progress.clone();
    let shower = Shower::watch(&context.global, Shown::Plain, move || snapshot(&watched));
    let report = repository.verify(points, depth, progress).await;
    drop(shower);
    let mut report = report?;
    report.damage.extend(unreadable.into_iter().map(|one| {
        let key = one.key.as_str().to_owned();
        Damage::whole(key.clone(), one.error.to_string(), [key].into())
    }));
    let recorded = repository.record_findings(&report).await?;
    if context.global.json {
        output::json_line(&document(&report, depth, recorded))?;
    } else {
        tell(context, &report)?;
        tell_recorded(context, recorded);
    }
    Ok(match (report.damage.is_empty(), report.warnings.is_empty()) {
        (false, _) => Exit::Damaged,
        (true, false) => Exit::Warnings,
        (true, true) => Exit::Done,
    })
}

/// Where an arbiter decides: what the store lacks of the copies is copied now. That fails without
/// touching what is verified.
async fn catch_up(repository: &Repository) {
    match repository.destination().repair_copies().await {
        Ok(repaired) if repaired == Repaired::default() => {}
        Ok(repaired) => note(format_args!(
            "copied {} from the arbiter to the store, and removed {} there",
            count(repaired.copied, "object"),
            count(repaired.removed, "object"),
        )),
        Err(error) => {
            warn(format_args!("copies of what the arbiter decided may be missing: {error}"));
        }
    }
}

/// How far a verification has come.
pub(super) fn snapshot(progress: &VerifyProgress) -> Snapshot {
    let done = progress.bytes.load(Ordering::Relaxed);
    let total = progress.total_bytes.load(Ordering::Relaxed);
    Snapshot {
        phase: if total > 0 { Phase::Running } else { Phase::Preparing },
        total,
        done,
        read: done,
        ..Snapshot::default()
    }
}

/// The ids of points that were looked at, instance by instance; nothing of more than can be told.
fn looked(report: &VerifyReport, most: usize) -> Option<BTreeMap<&str, Vec<String>>> {
    let ids = |ids: &[PointId]| -> Vec<String> { ids.iter().map(ToString::to_string).collect() };
    let many: usize = report.looked.values().map(Vec::len).sum();
    let all = || report.looked.iter().map(|(instance, of)| (instance.as_str(), ids(of))).collect();
    (many <= most).then(all)
}

fn document(report: &VerifyReport, depth: Depth, recorded: Recorded) -> serde_json::Value {
    let depth = match depth {
        Depth::Structure => "structure",
        Depth::Sample { .. } => "sample",
        Depth::Data => "data",
    };
    let damage: Vec<_> = report.damage.iter().map(damage_document).collect();
    let warnings: Vec<_> = report.warnings.iter().map(damage_document).collect();
    json!({
        "type": "summary",
        "depth": depth,
        "points": report.points,
        "looked": looked(report, MOST_TOLD),
        "pages": report.pages,
        "packs": report.packs,
        "chunks": report.chunks,
        "chunks_read": report.chunks_read,
        "bytes_read": report.bytes_read,
        "damaged": !report.damage.is_empty(),
        "damage": damage,
        "warnings": warnings,
        "recorded": { "bad": recorded.bad, "healed": recorded.healed },
    })
}

/// Damage of one object, with the parts of images that need it.
pub(super) fn damage_document(one: &Damage) -> serde_json::Value {
    let touched: Vec<_> = one
        .touched
        .iter()
        .map(|touched| {
            let ranges: Vec<_> = touched.ranges.iter().map(|r| [r.start, r.end]).collect();
            json!({
                "point": touched.point,
                "image": touched.image,
                "bytes": touched.bytes,
                "ranges": ranges,
            })
        })
        .collect();
    json!({
        "object": one.object,
        "problem": one.problem,
        "points": one.points,
        "touched": touched,
    })
}

/// Says what the next backups will make of it.
pub(super) fn tell_recorded(context: &Context, recorded: Recorded) {
    if recorded.bad > 0 {
        output::tell_recorded(recorded.bad);
    }
    if recorded.healed > 0 && !context.global.quiet {
        let packs = count(recorded.healed as u64, "pack");
        note(format_args!("{packs} recorded as damaged found sound again"));
    }
}

/// What is wrong with one object.
#[derive(Debug, Default, PartialEq, Eq)]
struct OfObject<'r> {
    /// Each problem, with how often it was met.
    problems: BTreeMap<&'r str, u64>,
    points: BTreeSet<&'r str>,
}

/// Damage of an object's slots is told once for the object: a lost pack has hundreds of them.
fn by_object(damage: &[Damage]) -> BTreeMap<&str, OfObject<'_>> {
    let mut objects: BTreeMap<&str, OfObject<'_>> = BTreeMap::new();
    for one in damage {
        let object = one.object.split_once(" slot ").map_or(&*one.object, |(object, _)| object);
        let found = objects.entry(object).or_default();
        *found.problems.entry(&one.problem).or_default() += 1;
        found.points.extend(one.points.iter().map(String::as_str));
    }
    objects
}

fn tell(context: &Context, report: &VerifyReport) -> Result<()> {
    let mut text = String::new();
    for (object, damage) in by_object(&report.damage) {
        for (problem, number) in damage.problems {
            let times = if number > 1 { format!(" ({number} times)") } else { String::new() };
            text += &format!("damaged: {object}: {problem}{times}\n");
        }
        for point in damage.points.iter().take(NAMED) {
            text += &format!("  needed by {point}\n");
        }
        if damage.points.len() > NAMED {
            text += &format!("  and by {} more\n", damage.points.len() - NAMED);
        }
    }
    for one in &report.warnings {
        warn(format_args!(
            "{} is damaged: {}; no restore point looked at needs it",
            one.object, one.problem
        ));
    }
    if report.damage.is_empty() {
        if context.global.quiet {
            return Ok(());
        }
        text += &format!(
            "{} sound: {}, {}, {}; {} read back ({})\n",
            count(report.points, "restore point"),
            count(report.pages, "page"),
            count(report.packs, "pack"),
            count(report.chunks, "chunk"),
            report.chunks_read,
            bytes(report.bytes_read)
        );
    }
    output::print(&text)?;
    if !report.damage.is_empty() {
        let objects = count(by_object(&report.damage).len() as u64, "damaged object");
        note(format_args!("error: the repository has {objects}"));
        note(
            "help: restore points not named here are sound; `sluice heal --from COPY` brings \
             objects back from a copy of the destination; without one, the next backup stores \
             again what its source still has",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_at_is_told_by_instance_or_not_at_all() {
        let id = PointId::new(1, [0; 10]);
        let looked_at = [("a".to_owned(), vec![id, id]), ("b".to_owned(), vec![id])];
        let report = VerifyReport { looked: looked_at.into(), ..VerifyReport::default() };
        let told = looked(&report, 3).unwrap();
        assert_eq!((told["a"].len(), &told["b"]), (2, &vec![id.to_string()]));
        assert_eq!(looked(&report, 2), None, "a part of it would be taken for all");
    }

    #[test]
    fn a_pack_with_many_bad_slots_is_one_object() {
        let damage = |object: &str, problem: &str, point: &str| Damage {
            object: object.into(),
            problem: problem.into(),
            points: BTreeSet::from([point.to_owned()]),
            place: None,
            touched: Vec::new(),
        };
        let all = [
            damage("d/1", "missing", "vm@a"),
            damage("d/1 slot 1", "cut off", "vm@a"),
            damage("d/1 slot 2", "cut off", "vm@b"),
            damage("m/2", "changed", "vm@b"),
        ];
        let objects = by_object(&all);
        assert_eq!(objects.len(), 2);
        assert_eq!(objects["d/1"].problems, BTreeMap::from([("missing", 1), ("cut off", 2)]));
        assert_eq!(objects["d/1"].points, BTreeSet::from(["vm@a", "vm@b"]));
    }
}

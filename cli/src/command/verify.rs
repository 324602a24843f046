use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use serde_json::json;
use sluice_engine::{Phase, Snapshot};
use sluice_repository::{Depth, VerifyProgress, VerifyReport};

use crate::args::VerifyArgs;
use crate::context::Context;
use crate::error::Exit;
use crate::output::progress::{Shower, Shown};
use crate::output::{self, bytes, count, note};

/// Points of a damaged object that are named; the document names all.
const NAMED: usize = 5;

/// Checks that restore points can be read.
pub(crate) async fn run(context: &Context, args: &VerifyArgs) -> Result<Exit> {
    let repository = context.open().await?;
    let points = match &args.point {
        Some(text) => Some(vec![context.point(&repository, text).await?.0]),
        None => None,
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
    let report = report?;
    if context.global.json {
        output::json_line(&document(&report))?;
    } else {
        tell(context, &report)?;
    }
    Ok(if report.damage.is_empty() { Exit::Done } else { Exit::Damaged })
}

fn snapshot(progress: &VerifyProgress) -> Snapshot {
    let done = progress.bytes.load(Ordering::Relaxed);
    let total = progress.total_bytes.load(Ordering::Relaxed);
    Snapshot {
        phase: if total > 0 { Phase::Running } else { Phase::Preparing },
        total,
        done,
        read: done,
        written: 0,
        new: 0,
        stored: 0,
        dedup: 0,
        unchanged: 0,
        zero: 0,
        durable: 0,
    }
}

fn document(report: &VerifyReport) -> serde_json::Value {
    let damage: Vec<_> = report
        .damage
        .iter()
        .map(|one| json!({"object": one.object, "problem": one.problem, "points": one.points}))
        .collect();
    json!({
        "type": "summary",
        "points": report.points,
        "pages": report.pages,
        "packs": report.packs,
        "chunks": report.chunks,
        "chunks_read": report.chunks_read,
        "bytes_read": report.bytes_read,
        "damaged": !report.damage.is_empty(),
        "damage": damage,
    })
}

fn tell(context: &Context, report: &VerifyReport) -> Result<()> {
    let mut text = String::new();
    for damage in &report.damage {
        text += &format!("damaged: {}: {}\n", damage.object, damage.problem);
        for point in damage.points.iter().take(NAMED) {
            text += &format!("  needed by {point}\n");
        }
        if damage.points.len() > NAMED {
            text += &format!("  and by {} more\n", damage.points.len() - NAMED);
        }
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
        let objects = count(report.damage.len() as u64, "object");
        note(format_args!("error: {objects} of the repository damaged"));
        note(
            "help: restore points not named here are sound; bring the objects back from a copy of \
             the destination, or run the next backup with --rescan to store what the source has",
        );
    }
    Ok(())
}

use std::sync::Arc;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sluice_repository::heal::{HealOptions, HealReport, HealedObject};
use sluice_repository::{Depth, Repository, VerifyProgress};

use crate::args::HealArgs;
use crate::command::verify::{damage_document, snapshot};
use crate::context::Context;
use crate::error::Exit;
use crate::output::progress::{Shower, Shown};
use crate::output::{self, count, note};

/// Brings damaged objects back from a copy.
pub(crate) async fn run(context: &Context, args: &HealArgs) -> Result<Exit> {
    let damaged = context.destination(false).await?.destination;
    let copy = context.destination_at(&args.from, false).await?.destination;
    let unlock = context.unlock(&*copy).await?;
    let opening = format!("opening the copy at {}", copy.location());
    let settings = context.settings(0);
    let copy = Repository::open(copy, context.clock.clone(), unlock.clone(), settings)
        .await
        .context(opening)?;
    let options = HealOptions {
        depth: if args.data { Depth::Data } else { Depth::Structure },
        dry_run: args.dry_run,
        missing_points: args.missing_points,
    };
    let progress = Arc::new(VerifyProgress::default());
    let watched = progress.clone();
    let shower = Shower::watch(&context.global, Shown::Plain, move || snapshot(&watched));
    let report = copy.heal(damaged, &unlock, options, progress).await;
    drop(shower);
    let report = report?;
    if context.global.json {
        output::json_line(&document(&report, args.dry_run))?;
    } else {
        tell(context, args, &report)?;
    }
    let left = if args.dry_run { false } else { !report.remaining.is_empty() };
    Ok(if left || !report.failed.is_empty() {
        Exit::Damaged
    } else if report.notes.is_empty() {
        Exit::Done
    } else {
        Exit::Warnings
    })
}

fn objects(list: &[HealedObject]) -> Vec<Value> {
    let object = |one: &HealedObject| json!({ "object": one.object, "problem": one.problem });
    list.iter().map(object).collect()
}

fn document(report: &HealReport, dry_run: bool) -> Value {
    json!({
        "type": "summary",
        "dry_run": dry_run,
        "healed": objects(&report.healed),
        "failed": objects(&report.failed),
        "remaining": report.remaining.iter().map(damage_document).collect::<Vec<_>>(),
        "only_in_copy": report.only_there,
        "notes": report.notes,
    })
}

fn tell(context: &Context, args: &HealArgs, report: &HealReport) -> Result<()> {
    let mut text = String::new();
    let done = if args.dry_run { "would heal" } else { "healed" };
    for one in &report.healed {
        text += &format!("{done}: {}: {}\n", one.object, one.problem);
    }
    for one in &report.failed {
        text += &format!("not healed: {}: {}\n", one.object, one.problem);
    }
    for one in &report.remaining {
        if args.dry_run || report.failed.iter().any(|failed| one.object.starts_with(&failed.object))
        {
            continue;
        }
        text += &format!("still damaged: {}: {}\n", one.object, one.problem);
    }
    if !context.global.quiet || !report.healed.is_empty() {
        let objects = count(report.healed.len() as u64, "object");
        text += &format!("{objects} {}\n", if args.dry_run { "to heal" } else { "healed" });
    }
    output::print(&text)?;
    for one in &report.notes {
        output::warn(one);
    }
    if !report.only_there.is_empty() {
        let points = count(report.only_there.len() as u64, "restore point");
        note(format_args!(
            "{points} only in the copy: pruned here, or lost; --missing-points brings them back"
        ));
    }
    if !report.remaining.is_empty() && !args.dry_run {
        note(format_args!("error: damage remains that the copy could not heal"));
        note("help: `sluice doctor` tells which restore points that touches and what can be done");
    }
    Ok(())
}

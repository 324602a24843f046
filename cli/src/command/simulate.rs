use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use sluice_repository::retention::{Schedule, Simulation, simulate};
use sluice_repository::rfc3339;

use super::prune::{policy, reasons};
use crate::args::PruneArgs;
use crate::context::Context;
use crate::error::{Exit, usage_error};
use crate::output::{self, count, local, note, table};

/// Rows that tell how the number of points develops.
const ROWS: usize = 24;
const DAY: Duration = Duration::from_secs(86_400);

/// Plays the rules over time, without a repository.
pub(super) fn run(context: &Context, args: &PruneArgs, lasts: Duration) -> Result<Exit> {
    let from_ms = match &args.from {
        Some(text) => context.moment(text)?,
        None => context.clock.now_ms(),
    };
    let schedule = Schedule { from_ms, every: args.every.unwrap_or(DAY), lasts };
    let played = simulate(&policy(context, args)?, &schedule, &context.zone)
        .map_err(|error| usage_error(error.to_string()))?;
    if context.global.json {
        let kept: Vec<_> = (played.kept.iter())
            .map(|(time, kept)| json!({"time": rfc3339(*time), "kept": kept}))
            .collect();
        let left: Vec<_> = (played.left.iter())
            .map(|(time, verdict)| json!({"created": rfc3339(*time), "reasons": reasons(verdict)}))
            .collect();
        output::json(&json!({
            "backups": played.kept.len(),
            "most": played.most(),
            "kept": kept,
            "left": left,
        }))?;
        return Ok(Exit::Done);
    }
    output::print(&course(context, &played))?;
    output::print("\n")?;
    let rows = played
        .left
        .iter()
        .map(|(time, verdict)| vec![local(*time, &context.zone), reasons(verdict).join(", ")]);
    output::print(&table(&["KEPT AT THE END", "BECAUSE"], rows.collect()))?;
    if !context.global.quiet {
        note(format_args!(
            "{}; at most {} kept at a time, {} at the end",
            count(played.kept.len() as u64, "backup"),
            count(played.most() as u64, "restore point"),
            played.left.len(),
        ));
    }
    Ok(Exit::Done)
}

/// How the number of points develops: at most [`ROWS`] moments, the first and the last among them.
fn course(context: &Context, played: &Simulation) -> String {
    let last = played.kept.len().saturating_sub(1);
    let mut places: Vec<usize> =
        (0..ROWS).map(|row| row * last / (ROWS - 1)).filter(|at| *at <= last).collect();
    places.dedup();
    let rows = places
        .into_iter()
        .filter_map(|at| played.kept.get(at))
        .map(|(time, kept)| vec![local(*time, &context.zone), kept.to_string()]);
    table(&["AFTER THE BACKUP OF", ">KEPT"], rows.collect())
}

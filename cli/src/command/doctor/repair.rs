//! Putting damaged records right.

use anyhow::Result;
use serde_json::{Value, json};
use sluice_repository::doctor::repair::{Outcome, RepairOptions, Repaired};

use crate::args::DoctorArgs;
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, seconds, warn};

/// Repairs records, and tells of each.
pub(super) async fn run(context: &Context, args: &DoctorArgs) -> Result<Exit> {
    let repository = context.open().await?;
    let (min_age, dry_run) = (args.min_age, args.dry_run);
    let options = RepairOptions { min_age, dry_run, ..RepairOptions::default() };
    let repaired = repository.repair(&options).await?;
    if context.global.json {
        let records: Vec<Value> = repaired.iter().map(document).collect();
        let dry_run = args.dry_run;
        output::json_line(&json!({"type": "summary", "dry_run": dry_run, "records": records}))?;
    } else {
        for one in &repaired {
            tell(context, one, args.dry_run)?;
        }
        if repaired.is_empty() && !context.global.quiet {
            output::print("no damaged record stops a backup or a collection\n")?;
        }
    }
    let open = |one: &Repaired| matches!(one.outcome, Outcome::Waits(_) | Outcome::NoClock);
    Ok(if repaired.iter().any(open) { Exit::Warnings } else { Exit::Done })
}

fn tell(context: &Context, one: &Repaired, dry_run: bool) -> Result<()> {
    let is = if dry_run { "would be" } else { "is" };
    let (object, problem) = (&one.flaw.object, &one.flaw.problem);
    let done = match one.outcome {
        Outcome::Restored => format!("{is} put right: one bit had flipped"),
        Outcome::Forgotten => {
            format!("{is} removed: its program has been silent for long and can do nothing more")
        }
        Outcome::Ended => format!(
            "its collection {is} ended with nothing removed; no backup refers anew to what is \
             stored now"
        ),
        Outcome::Waits(left) => {
            let left = seconds(left);
            warn(format_args!(
                "{object} ({problem}) may belong to a living program, which writes it again; if \
                 not, run this again in {left}"
            ));
            return Ok(());
        }
        Outcome::NoClock => {
            warn(format_args!(
                "{object} ({problem}): the destination does not tell when it was written; remove \
                 it by hand when no command has been running since"
            ));
            return Ok(());
        }
    };
    if context.global.quiet { Ok(()) } else { output::print(&format!("{object}: {done}\n")) }
}

fn document(one: &Repaired) -> Value {
    let (outcome, wait) = match one.outcome {
        Outcome::Restored => ("restored", None),
        Outcome::Forgotten => ("forgotten", None),
        Outcome::Ended => ("ended", None),
        Outcome::Waits(left) => ("waits", Some(left.as_secs())),
        Outcome::NoClock => ("no-clock", None),
    };
    json!({
        "object": one.flaw.object,
        "problem": one.flaw.problem,
        "outcome": outcome,
        "wait_s": wait,
    })
}

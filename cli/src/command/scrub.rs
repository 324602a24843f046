use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use sluice_engine::{Phase, Snapshot};
use sluice_repository::scrub::{ScrubOptions, ScrubProgress, ScrubReport, ScrubStatus, Scrubber};
use sluice_repository::{Recorded, Repository};

use crate::args::ScrubArgs;
use crate::command::verify::{damage_document, tell_recorded};
use crate::context::Context;
use crate::error::Exit;
use crate::interrupt;
use crate::output::progress::{Shower, Shown};
use crate::output::{self, bytes, count, fields, note, warn};

const DAY_MS: u64 = 86_400_000;

/// Reads back what lies longest unread.
pub(crate) async fn run(context: &Context, args: &ScrubArgs) -> Result<Exit> {
    let repository = if args.keyless || args.status { None } else { Some(context.open().await?) };
    let scrubber = match &repository {
        Some(repository) => repository.scrubber(),
        None => {
            let destination = context.destination(false).await?.destination;
            Scrubber::keyless(destination, context.clock.clone(), 0).await?
        }
    };
    let max_age_days = args.max_age.map(days);
    if args.status {
        return status(context, &scrubber, max_age_days).await;
    }
    let options = ScrubOptions { budget: args.budget, max_age_days };
    let report = scrub(context, &scrubber, &options).await?;
    let recorded = match &repository {
        Some(repository) => record(repository, &report).await?,
        None => Recorded::default(),
    };
    tell(context, &report, recorded)?;
    let odd = report.stopped || !report.unlocked.is_empty();
    Ok(match (report.damage.is_empty(), odd) {
        (false, _) => Exit::Damaged,
        (true, true) => Exit::Warnings,
        (true, false) => Exit::Done,
    })
}

async fn scrub(
    context: &Context,
    scrubber: &Scrubber,
    options: &ScrubOptions,
) -> Result<ScrubReport> {
    let progress = Arc::new(ScrubProgress::default());
    let cancel = interrupt::watch("stopping; what was proven is kept (again to stop at once)")?;
    let stopped = progress.clone();
    let watching = tokio::spawn(async move {
        cancel.cancelled().await;
        stopped.stop.store(true, Ordering::Relaxed);
    });
    let watched = progress.clone();
    let shower = Shower::watch(&context.global, Shown::Plain, move || snapshot(&watched));
    let report = scrubber.run(options, &progress).await;
    drop(shower);
    watching.abort();
    Ok(report?)
}

async fn record(repository: &Repository, report: &ScrubReport) -> Result<Recorded> {
    Ok(repository.record_findings(&report.findings()).await?)
}

fn days(age: Duration) -> u16 {
    u16::try_from(age.as_secs() / 86_400).unwrap_or(u16::MAX)
}

fn snapshot(progress: &ScrubProgress) -> Snapshot {
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

fn tell(context: &Context, report: &ScrubReport, recorded: Recorded) -> Result<()> {
    if context.global.json {
        let damage: Vec<Value> = report.damage.iter().map(damage_document).collect();
        return output::json_line(&json!({
            "type": "summary",
            "packs": report.packs,
            "bytes_read": report.bytes,
            "stopped": report.stopped,
            "damaged": !report.damage.is_empty(),
            "damage": damage,
            "without_lock": report.unlocked.iter().map(|key| key.as_str()).collect::<Vec<_>>(),
            "recorded": { "bad": recorded.bad, "healed": recorded.healed },
            "status": document(&report.status),
        }));
    }
    let mut text = String::new();
    for one in &report.damage {
        text += &format!("damaged: {}: {}\n", one.object, one.problem);
    }
    if !context.global.quiet {
        let packs = count(report.packs, "pack");
        text += &format!("{packs} read back ({})\n", bytes(report.bytes));
        text += &format!("{}\n", since(&report.status));
    }
    output::print(&text)?;
    tell_recorded(context, recorded);
    if let Some(first) = report.unlocked.first() {
        warn(format_args!(
            "{} without the lock they were written with, such as {first}; run `sluice lock extend \
             --recheck`",
            count(report.unlocked.len() as u64, "pack")
        ));
    }
    if report.stopped {
        warn("stopped before it was through; the next scrub goes on");
    }
    if !report.damage.is_empty() {
        note(format_args!("error: {} found", count(report.damage.len() as u64, "damaged place")));
        note("help: `sluice doctor` tells which restore points that touches and what can be done");
    }
    Ok(())
}

async fn status(context: &Context, scrubber: &Scrubber, max_age_days: Option<u16>) -> Result<Exit> {
    let status = scrubber.status().await?;
    let today = u16::try_from(context.clock.now_ms() / DAY_MS).unwrap_or(u16::MAX);
    let late = max_age_days.is_some_and(|days| status.older_than(days, today));
    if context.global.json {
        output::json(&document(&status))?;
    } else {
        let mut rows = vec![
            ("proven", since(&status)),
            ("stored", format!("{} in {}", bytes(status.bytes), count(status.packs, "pack"))),
        ];
        let ages: Vec<String> = ages(&status).collect();
        rows.push((
            "read back",
            if ages.is_empty() { "nothing yet".into() } else { ages.join(", ") },
        ));
        rows.push(("never", bytes(status.never_bytes)));
        rows.push((
            "a round takes",
            match status.round_days() {
                Some(days) => format!(
                    "{} at {} a day, the rate of the last week",
                    count(days, "day"),
                    bytes(status.per_day)
                ),
                None => "unknown: nothing was read back in the last week".into(),
            },
        ));
        output::print(&fields(rows))?;
    }
    if late && !context.global.json {
        warn("some bytes were not read back for longer than --max-age; run `sluice scrub`");
    }
    Ok(if late { Exit::Warnings } else { Exit::Done })
}

fn ages(status: &ScrubStatus) -> impl Iterator<Item = String> + '_ {
    status.by_age.iter().filter(|(_, size)| *size > 0).map(|(end, size)| match end {
        Some(1) => format!("{} today", bytes(*size)),
        Some(days) => format!("{} within {days} days", bytes(*size)),
        None => format!("{} longer ago", bytes(*size)),
    })
}

/// Since when every byte is proven, in words.
pub(super) fn since(status: &ScrubStatus) -> String {
    match status.proven_since {
        Some(day) => format!("every byte proven since {}", date(day)),
        None if status.packs == 0 => "nothing is stored yet".into(),
        None => format!("{} were never read back", bytes(status.never_bytes)),
    }
}

/// A day as people write it.
fn date(day: u16) -> String {
    let ms = i64::from(day) * DAY_MS.cast_signed();
    let time = Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH);
    time.to_zoned(TimeZone::UTC).date().to_string()
}

/// The coverage as a document.
pub(super) fn document(status: &ScrubStatus) -> Value {
    let ages: Vec<Value> = status
        .by_age
        .iter()
        .map(|(end, size)| json!({ "within_days": end, "bytes": size }))
        .collect();
    json!({
        "packs": status.packs,
        "bytes": status.bytes,
        "never_bytes": status.never_bytes,
        "proven_since": status.proven_since.map(date),
        "by_age": ages,
        "bytes_per_day": status.per_day,
        "round_days": status.round_days(),
    })
}

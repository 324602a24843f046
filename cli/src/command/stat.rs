use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::Result;
use serde_json::{Value, json};
use sluice_engine::{Phase, Snapshot};
use sluice_repository::stat::{StatOptions, StatProgress, StatReport, Usage};
use sluice_repository::{DestroyRequest, Repository, rfc3339};

use crate::args::StatArgs;
use crate::context::Context;
use crate::error::{Exit, advise};
use crate::output::progress::{Shower, Shown};
use crate::output::{self, bytes, count, fields, local, ratio, table, warn};

mod quick;

/// Counts what the repository holds.
pub(crate) async fn run(context: &Context, args: &StatArgs) -> Result<Exit> {
    let repository = context.open().await?;
    let destroy = repository.destroy_request().await?;
    if args.quick {
        return quick::run(context, &repository, destroy).await;
    }
    let options = StatOptions { name_separator: args.name_separator.clone() };
    let mut report = read(context, &repository, &options).await?;
    if let Some(instance) = &args.instance {
        only(&mut report, instance)?;
    }
    if context.global.json {
        let mut document = document(&report);
        document["repository"] = json!(repository.descriptor().id);
        document["destroy_from"] = json!(destroy.map(|request| rfc3339(request.effective_ms)));
        output::json_line(&document)?;
    } else if args.instance.is_some() {
        output::print(&report.instances.iter().map(one).collect::<String>())?;
    } else {
        warn_of_destruction(context, destroy);
        tell(&repository, &report)?;
    }
    for damage in &report.damage {
        warn(damage);
    }
    Ok(if report.damage.is_empty() { Exit::Done } else { Exit::Damaged })
}

async fn read(
    context: &Context,
    repository: &Repository,
    options: &StatOptions,
) -> Result<StatReport> {
    let progress = Arc::new(StatProgress::default());
    let watched = progress.clone();
    let shower = Shower::watch(&context.global, Shown::Plain, move || snapshot(&watched));
    let report = repository.stat(options, &progress).await;
    drop(shower);
    Ok(report?)
}

fn snapshot(progress: &StatProgress) -> Snapshot {
    let done = progress.done.load(Ordering::Relaxed);
    let total = progress.total.load(Ordering::Relaxed);
    Snapshot {
        phase: if total == 0 { Phase::Preparing } else { Phase::Running },
        // Maps that instances share are read for each.
        total: total.max(done),
        done,
        read: done,
        ..Snapshot::default()
    }
}

/// Leaves the rows of one instance, and of its project.
fn only(report: &mut StatReport, instance: &str) -> Result<()> {
    report.instances.retain(|one| one.name == instance);
    let Some(one) = report.instances.first() else {
        let text = format!("there is no restore point of {instance:?} that can be read");
        return Err(advise("not-found", text, "`sluice list` shows which instances there are"));
    };
    report.projects.retain(|project| project.project == one.project);
    Ok(())
}

fn warn_of_destruction(context: &Context, destroy: Option<DestroyRequest>) {
    if let Some(request) = destroy {
        let from = local(request.effective_ms, &context.zone);
        warn(format_args!(
            "this repository is to be destroyed, from {from} on; `sluice destroy --cancel` takes \
             it back"
        ));
    }
}

fn unique(usage: &Usage) -> u64 {
    usage.chunks.unique + usage.maps.unique
}

fn shared(usage: &Usage) -> u64 {
    usage.chunks.shared + usage.maps.shared
}

/// Stored bytes of blocks, for what they are compressed to.
fn chunks(usage: &Usage) -> u64 {
    usage.chunks.unique + usage.chunks.shared
}

fn quotient(large: u64, small: u64) -> Option<f64> {
    (small > 0).then(|| large as f64 / small as f64)
}

fn usage(row: &Usage) -> Value {
    json!({
        "instance": row.name,
        "project": row.project,
        "instances": row.instances,
        "points": row.points,
        "logical_bytes": row.logical,
        "latest_bytes": row.latest,
        "data_bytes": row.data,
        "content_bytes": row.content,
        "unique_bytes": unique(row),
        "shared_bytes": shared(row),
        "stored_bytes": unique(row) + shared(row),
        "chunks": {"unique_bytes": row.chunks.unique, "shared_bytes": row.chunks.shared},
        "maps": {"unique_bytes": row.maps.unique, "shared_bytes": row.maps.shared},
        "dedup_ratio": quotient(row.data, row.content),
        "compression_ratio": quotient(row.content, chunks(row)),
        "damaged": row.damaged,
    })
}

fn sum(rows: &[Usage], of: impl Fn(&Usage) -> u64) -> u64 {
    rows.iter().map(of).sum()
}

fn document(report: &StatReport) -> Value {
    let rows = &report.instances;
    let total = report.data_packs.bytes + report.map_packs.bytes + report.other.bytes;
    let projects = report.projects.iter().map(|project| {
        let mut row = usage(project);
        if let Some(fields) = row.as_object_mut() {
            fields.remove("instance");
        }
        row
    });
    json!({
        "type": "summary",
        "instances": rows.len(),
        "points": sum(rows, |one| one.points),
        "damaged_points": report.damaged_points,
        "logical_bytes": sum(rows, |one| one.logical),
        "latest_bytes": sum(rows, |one| one.latest),
        "data_bytes": sum(rows, |one| one.data),
        "content_bytes": report.content,
        "chunk_bytes": report.chunks,
        "map_bytes": report.maps,
        "unreferenced_bytes": report.unreferenced,
        "pending_bytes": report.pending,
        "stored_bytes": total,
        "dedup_ratio": quotient(sum(rows, |one| one.data), report.content),
        "compression_ratio": quotient(report.content, report.chunks),
        "data": {"objects": report.data_packs.count, "bytes": report.data_packs.bytes},
        "maps": {"objects": report.map_packs.count, "bytes": report.map_packs.bytes},
        "other": {"objects": report.other.count, "bytes": report.other.bytes},
        "by_instance": rows.iter().map(usage).collect::<Vec<_>>(),
        "by_project": projects.collect::<Vec<_>>(),
        "damage": report.damage,
        "memory_bytes": report.memory,
    })
}

/// One instance.
fn one(row: &Usage) -> String {
    let stored = unique(row) + shared(row);
    fields(vec![
        ("instance", row.name.clone()),
        ("project", row.project.clone().unwrap_or_else(|| "none".into())),
        ("restore points", row.points.to_string()),
        ("protected", format!("{} in the latest point", bytes(row.latest))),
        (
            "logical",
            format!("{} in all points, {} without zeroes", bytes(row.logical), bytes(row.data)),
        ),
        (
            "different",
            format!("{} ({} by deduplication)", bytes(row.content), ratio(row.data, row.content)),
        ),
        (
            "stored",
            format!("{} ({} by compression)", bytes(stored), ratio(row.content, chunks(row))),
        ),
        ("  unique", format!("{} that only it needs", bytes(unique(row)))),
        ("  shared", format!("{} that others need too", bytes(shared(row)))),
    ])
}

fn tell(repository: &Repository, report: &StatReport) -> Result<()> {
    let rows = &report.instances;
    let (data, maps, other) = (report.data_packs, report.map_packs, report.other);
    let total = data.bytes + maps.bytes + other.bytes;
    let logical = sum(rows, |one| one.logical);
    let all = sum(rows, |one| one.data);
    let descriptor = repository.descriptor();
    let mut lines = vec![
        ("repository", descriptor.id.clone()),
        ("location", repository.destination().location()),
        ("encryption", descriptor.encryption.clone()),
        ("instances", rows.len().to_string()),
        ("restore points", sum(rows, |one| one.points).to_string()),
        ("protected", format!("{} in the latest points", bytes(sum(rows, |one| one.latest)))),
        ("logical", format!("{} in all points, {} without zeroes", bytes(logical), bytes(all))),
        (
            "different",
            format!("{} ({} by deduplication)", bytes(report.content), ratio(all, report.content)),
        ),
        (
            "compressed",
            format!("{} ({})", bytes(report.chunks), ratio(report.content, report.chunks)),
        ),
        ("stored", format!("{} ({})", bytes(total), ratio(logical, total))),
        ("  data", format!("{} in {}", bytes(data.bytes), count(data.count, "pack"))),
        ("  maps", format!("{} in {}", bytes(maps.bytes), count(maps.count, "pack"))),
        ("  other", format!("{} in {}", bytes(other.bytes), count(other.count, "object"))),
        (
            "unreferenced",
            format!("{}, which `sluice collect` can free in part", bytes(report.unreferenced)),
        ),
    ];
    if report.pending > 0 {
        lines.push(("pending", format!("{} of backups that run", bytes(report.pending))));
    }
    let mut text = fields(lines);
    let tagged = report.projects.iter().any(|project| project.project.is_some());
    if !rows.is_empty() {
        text += "\n";
        text += &listing("INSTANCE", rows, tagged);
    }
    if tagged {
        text += "\n";
        text += &listing("PROJECT", &report.projects, false);
    }
    output::print(&text)
}

fn listing(what: &str, rows: &[Usage], with_project: bool) -> String {
    let mut headings = vec![what];
    headings.extend(with_project.then_some("PROJECT"));
    let figures =
        [">POINTS", ">LOGICAL", ">UNIQUE", ">SHARED", ">STORED", ">DEDUP", ">COMPRESSION"];
    headings.extend(figures);
    let rows = rows.iter().map(|row| {
        let name = if row.name.is_empty() { "(none)" } else { &row.name };
        let mut cells = vec![name.to_owned()];
        cells.extend(with_project.then(|| row.project.clone().unwrap_or_default()));
        cells.extend([
            row.points.to_string(),
            bytes(row.logical),
            bytes(unique(row)),
            bytes(shared(row)),
            bytes(unique(row) + shared(row)),
            ratio(row.data, row.content),
            ratio(row.content, chunks(row)),
        ]);
        cells
    });
    table(&headings, rows.collect())
}

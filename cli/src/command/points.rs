use anyhow::Result;
use sluice_repository::{DamagedPoint, Listing, RestorePoint};

use crate::args::{ListArgs, ShowArgs};
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, PointDocument, bytes, fields, local, note, ratio, seconds, table, warn};

/// Lists restore points.
pub(crate) async fn list(context: &Context, args: &ListArgs) -> Result<Exit> {
    let repository = context.open().await?;
    let Listing { points, damaged } = repository.list(args.instance.as_deref()).await?;
    if context.global.json {
        output::json(&output::points(&points, &damaged))?;
    } else if points.is_empty() && damaged.is_empty() {
        note(match &args.instance {
            Some(instance) => format!("there is no restore point of {instance:?}"),
            None => "there are no restore points yet; `sluice backup` makes one".into(),
        });
    } else {
        output::print(&listing(context, &points))?;
    }
    Ok(tell_damaged(&damaged))
}

/// Warns of manifests that cannot be read.
pub(in crate::command) fn tell_damaged(damaged: &[DamagedPoint]) -> Exit {
    for one in damaged {
        warn(&one.error);
    }
    if damaged.is_empty() { Exit::Done } else { Exit::Damaged }
}

fn listing(context: &Context, points: &[RestorePoint]) -> String {
    let ids = output::short_ids(points);
    let now = context.clock.now_ms();
    let kept = |point: &RestorePoint| output::kept(&point.protection, now, &context.zone);
    let any_kept = points.iter().any(|point| kept(point).is_some());
    let rows = points.iter().zip(ids).map(|(point, id)| {
        let images: Vec<&str> = point.images.iter().map(|image| image.name.as_str()).collect();
        let mut row = vec![
            format!("{}@{id}", point.instance),
            local(point.created_ms, &context.zone),
            point.method.clone(),
            images.join(","),
            bytes(point.stats.image_bytes),
            bytes(point.stats.new_bytes),
            bytes(point.stats.stored_bytes + point.stats.meta_bytes),
        ];
        row.extend(any_kept.then(|| kept(point).unwrap_or_default()));
        row
    });
    let headings = ["POINT", "TIME", "METHOD", "IMAGES", ">SIZE", ">NEW", ">STORED", "KEPT"];
    table(&headings[..if any_kept { 8 } else { 7 }], rows.collect())
}

/// Shows one restore point.
pub(crate) async fn show(context: &Context, args: &ShowArgs) -> Result<Exit> {
    let repository = context.open().await?;
    let (point, image) = context.point(&repository, &args.point).await?;
    if let Some(image) = &image {
        point.image(Some(image))?;
    }
    let point = repository.with_protection(point).await?;
    if context.global.json {
        output::json(&PointDocument::from(&point))?;
        return Ok(Exit::Done);
    }
    let stats = &point.stats;
    let parent = point.parent.map_or_else(|| "none".into(), |parent| parent.to_string());
    let kept = output::kept(&point.protection, context.clock.now_ms(), &context.zone);
    let kept = kept.unwrap_or_else(|| "until pruned".into());
    let took = std::time::Duration::from_millis(stats.duration_ms);
    let mut text = fields(vec![
        ("point", point.to_string()),
        ("time", local(point.created_ms, &context.zone)),
        ("consistency", point.consistency.clone()),
        ("method", point.method.clone()),
        ("built on", parent),
        ("kept", kept),
        ("written by", format!("{} on {}, in {}", point.tool, point.host, seconds(took))),
        ("read", bytes(stats.read_bytes)),
        (
            "new",
            format!(
                "{}, stored as {} ({})",
                bytes(stats.new_bytes),
                bytes(stats.stored_bytes),
                ratio(stats.new_bytes, stats.stored_bytes)
            ),
        ),
        (
            "known",
            format!(
                "{} unchanged, {} found elsewhere",
                bytes(stats.unchanged_bytes),
                bytes(stats.dedup_bytes)
            ),
        ),
    ]);
    let rows = point.images.iter().filter(|one| image.as_ref().is_none_or(|i| one.name == *i));
    let rows = rows.map(|image| {
        vec![
            image.name.clone(),
            bytes(image.size),
            bytes(image.data_blocks.saturating_mul(u64::from(image.block_size))),
            bytes(u64::from(image.block_size)),
            image.source.clone(),
        ]
    });
    text += "\n";
    text += &table(&["IMAGE", ">SIZE", ">DATA", ">BLOCK", "SOURCE"], rows.collect());
    if let Some(metadata) = &point.metadata {
        let value = serde_json::from_str::<serde_json::Value>(metadata).ok();
        let pretty = value.and_then(|value| serde_json::to_string_pretty(&value).ok());
        // JSON escapes control characters; other text is not shown raw.
        text += &format!("\nmetadata\n{}\n", pretty.unwrap_or_else(|| format!("{metadata:?}")));
    }
    output::print(&text)?;
    Ok(Exit::Done)
}

//! Totals from listings and manifests alone.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::json;
use sluice_destination::list_all;
use sluice_repository::{DestroyRequest, Listing, Repository, rfc3339};

use crate::command::points::tell_damaged;
use crate::context::Context;
use crate::error::Exit;
use crate::output::{self, bytes, count, fields, ratio};

/// What lies under the first part of a key.
fn room(key: &str) -> &'static str {
    match key.split('/').next() {
        Some("d") => "data",
        Some("m") => "maps",
        _ => "other",
    }
}

pub(super) async fn run(
    context: &Context,
    repository: &Repository,
    destroy: Option<DestroyRequest>,
) -> Result<Exit> {
    let Listing { points, damaged } = repository.list(None).await?;
    let logical: u64 = points.iter().map(|point| point.stats.image_bytes).sum();
    let mut latest: BTreeMap<&str, u64> = BTreeMap::new();
    for point in &points {
        latest.insert(&point.instance, point.stats.image_bytes);
    }
    let (instances, latest) = (latest.len(), latest.values().sum::<u64>());
    let mut stored: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for object in list_all(&**repository.destination(), "").await? {
        let (objects, size) = stored.entry(room(object.key.as_str())).or_default();
        (*objects, *size) = (*objects + 1, *size + object.size);
    }
    let of = |room| stored.get(room).copied().unwrap_or_default();
    let (data, maps, other) = (of("data"), of("maps"), of("other"));
    let total = data.1 + maps.1 + other.1;
    if context.global.json {
        output::json(&json!({
            "instances": instances,
            "points": points.len(),
            "damaged_points": damaged.len(),
            "logical_bytes": logical,
            "latest_bytes": latest,
            "stored_bytes": total,
            "data": {"objects": data.0, "bytes": data.1},
            "maps": {"objects": maps.0, "bytes": maps.1},
            "other": {"objects": other.0, "bytes": other.1},
            "repository": repository.descriptor().id,
            "destroy_from": destroy.map(|request| rfc3339(request.effective_ms)),
        }))?;
    } else {
        super::warn_of_destruction(context, destroy);
        let descriptor = repository.descriptor();
        output::print(&fields(vec![
            ("repository", descriptor.id.clone()),
            ("location", repository.destination().location()),
            ("encryption", descriptor.encryption.clone()),
            ("instances", instances.to_string()),
            ("restore points", points.len().to_string()),
            ("protected", format!("{} in the latest points", bytes(latest))),
            ("logical", format!("{} in all points", bytes(logical))),
            ("stored", format!("{} ({})", bytes(total), ratio(logical, total))),
            ("  data", format!("{} in {}", bytes(data.1), count(data.0, "pack"))),
            ("  maps", format!("{} in {}", bytes(maps.1), count(maps.0, "pack"))),
            ("  other", format!("{} in {}", bytes(other.1), count(other.0, "object"))),
        ]))?;
    }
    Ok(tell_damaged(&damaged))
}

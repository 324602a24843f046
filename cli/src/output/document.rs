//! Restore points as JSON. The names here are an interface: scripts read them.

use serde::Serialize;
use sluice_repository::{DamagedPoint, ImageRecord, RestorePoint, rfc3339};

use super::ProtectionDocument;

/// A restore point.
#[derive(Debug, Serialize)]
pub(crate) struct PointDocument {
    pub(crate) id: String,
    pub(crate) instance: String,
    /// INSTANCE@ID, as other commands take it.
    pub(crate) point: String,
    pub(crate) created: String,
    pub(crate) created_ms: u64,
    pub(crate) parent: Option<String>,
    pub(crate) method: String,
    pub(crate) consistency: String,
    pub(crate) hold: bool,
    pub(crate) retain_until: Option<String>,
    pub(crate) protection: ProtectionDocument,
    pub(crate) host: String,
    pub(crate) tool: String,
    pub(crate) images: Vec<ImageDocument>,
    pub(crate) stats: StatsDocument,
    pub(crate) metadata: Option<serde_json::Value>,
}

/// An image of a point.
#[derive(Debug, Serialize)]
pub(crate) struct ImageDocument {
    name: String,
    size: u64,
    block_size: u32,
    data_blocks: u64,
    root: String,
    source: String,
}

/// What a backup did, in bytes.
#[derive(Debug, Serialize)]
pub(crate) struct StatsDocument {
    image_bytes: u64,
    read_bytes: u64,
    new_bytes: u64,
    stored_bytes: u64,
    dedup_bytes: u64,
    unchanged_bytes: u64,
    zero_bytes: u64,
    meta_bytes: u64,
    duration_ms: u64,
}

impl From<&ImageRecord> for ImageDocument {
    fn from(image: &ImageRecord) -> Self {
        Self {
            name: image.name.clone(),
            size: image.size,
            block_size: image.block_size,
            data_blocks: image.data_blocks,
            root: image.root.to_string(),
            source: image.source.clone(),
        }
    }
}

impl From<&RestorePoint> for PointDocument {
    fn from(point: &RestorePoint) -> Self {
        let stats = &point.stats;
        Self {
            id: point.id.to_string(),
            instance: point.instance.clone(),
            point: point.to_string(),
            created: rfc3339(point.created_ms),
            created_ms: point.created_ms,
            parent: point.parent.map(|parent| parent.to_string()),
            method: point.method.clone(),
            consistency: point.consistency.clone(),
            hold: point.hold,
            retain_until: point.retain_until_ms.map(rfc3339),
            protection: ProtectionDocument::from(&point.protection),
            host: point.host.clone(),
            tool: point.tool.clone(),
            images: point.images.iter().map(ImageDocument::from).collect(),
            stats: StatsDocument {
                image_bytes: stats.image_bytes,
                read_bytes: stats.read_bytes,
                new_bytes: stats.new_bytes,
                stored_bytes: stats.stored_bytes,
                dedup_bytes: stats.dedup_bytes,
                unchanged_bytes: stats.unchanged_bytes,
                zero_bytes: stats.zero_bytes,
                meta_bytes: stats.meta_bytes,
                duration_ms: stats.duration_ms,
            },
            metadata: point.metadata.as_deref().map(metadata),
        }
    }
}

/// Metadata is JSON by contract; what is not is passed on as a string.
fn metadata(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// The document of a listing.
pub(crate) fn points(points: &[RestorePoint], damaged: &[DamagedPoint]) -> serde_json::Value {
    let points: Vec<PointDocument> = points.iter().map(PointDocument::from).collect();
    let damaged: Vec<serde_json::Value> = damaged
        .iter()
        .map(|one| serde_json::json!({"object": one.key.as_str(), "error": one.error.to_string()}))
        .collect();
    serde_json::json!({ "points": points, "damaged": damaged })
}

//! What a copy of another repository's point keeps of it.

use crate::format::id::RepositoryId;
use crate::format::manifest::{BackupStats, CommitPlain, ManifestBody, Origin};
use crate::points::RestorePoint;

/// What stays as it was when a point is written anew into another repository: all that tells of
/// its backup. Ids and places of what is stored are the other repository's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    origin: Origin,
    created_ms: u64,
    stats: BackupStats,
    tool: String,
    host: String,
    method: String,
}

impl Copied {
    /// A copy of this point of that repository.
    pub fn of(point: &RestorePoint, repository: RepositoryId) -> Self {
        Self {
            origin: Origin { repository, point: point.id },
            created_ms: point.created_ms,
            stats: point.stats.clone(),
            tool: point.tool.clone(),
            host: point.host.clone(),
            method: point.method.clone(),
        }
    }

    pub(crate) fn apply(self, plain: &mut CommitPlain, body: &mut ManifestBody) {
        plain.created_ms = self.created_ms;
        body.stats = self.stats;
        body.tool = self.tool;
        body.host = self.host;
        body.method = self.method;
        body.origin = Some(self.origin);
    }
}

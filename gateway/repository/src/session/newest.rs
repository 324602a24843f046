//! Where a chain ends, and whether a backup goes on from there.

use super::BackupSession;
use crate::error::{ErrorKind, Result};
use crate::format::id::ChainId;
use crate::points::RestorePoint;
use crate::repository::Shared;

/// Where a chain ends.
pub(super) struct Newest {
    /// Its newest readable point.
    pub(super) point: Option<RestorePoint>,
    /// Whether there was a newer one, which is damaged or removed.
    pub(super) overtaken: bool,
    /// The greatest time in an id there was, in ms since 1970.
    pub(super) last: u64,
}

/// A time in a name beyond this counts only where the point can be read: whoever can put objects
/// can give them any name, and what comes after the last time there is (48 bits) would sort before
/// all.
const LATEST_MS: u64 = (1 << 48) - (1 << 32);

impl Shared {
    /// The newest readable point of a chain.
    pub(super) async fn newest(&self, chain: ChainId) -> Result<Newest> {
        let (mut places, buried) = self.places(Some(chain)).await?;
        let named = places.iter().chain(&buried).map(|(_, id)| id.ms());
        let last = named.filter(|ms| *ms <= LATEST_MS).max().unwrap_or(0);
        places.retain(|place| !buried.contains(place));
        let mut overtaken = false;
        for (chain, point) in places.into_iter().rev() {
            match self.read_point(chain, point).await {
                Ok(Some(point)) => {
                    overtaken |= buried.iter().any(|(_, removed)| *removed > point.id);
                    let last = last.max(point.id.ms());
                    return Ok(Newest { point: Some(point), overtaken, last });
                }
                Ok(None) => {}
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    tracing::warn!(%error, "building on an older point");
                    overtaken = true;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Newest { point: None, overtaken, last })
    }
}

impl BackupSession {
    /// Whether a list of what changed since the last backup is one of what changed since the
    /// parent, as far as can be told: not where the newest point was removed or is damaged, nor
    /// where another backup of the instance is under way, or just was: it may have begun a new one.
    ///
    /// # Errors
    /// When the destination fails.
    pub async fn continues_the_last(&self) -> Result<bool> {
        if self.overtaken || !self.others.is_empty() {
            return Ok(false);
        }
        // Points after sessions: one that commits moves from here to there.
        let (points, buried) = self.shared.places(Some(self.record.chain)).await?;
        let parent = self.parent.as_ref().map(|parent| parent.id);
        // One that was made and removed meanwhile began a new list as well.
        if buried.iter().any(|(_, point)| Some(*point) > parent) {
            return Ok(false);
        }
        let newer = points.into_iter().filter(|(_, point)| Some(*point) > parent);
        for (chain, point) in newer {
            match self.shared.read_point(chain, point).await {
                Ok(None) => {}
                Ok(Some(_)) => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Damaged => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

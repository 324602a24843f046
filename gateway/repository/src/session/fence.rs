//! Fences: a session whose commit record is taken by an ABORT never becomes a point.

use sluice_destination::ErrorKind as DestinationKind;

use crate::error::{ErrorKind, RepositoryError, Result};
use crate::format::header::Kind;
use crate::format::id::commit_key;
use crate::format::record::SessionRecord;
use crate::repository::Shared;

/// A backup that was fenced.
pub(super) fn declared_dead() -> RepositoryError {
    let text = "this backup was declared dead while it ran, and may not commit; run it again";
    RepositoryError::new(ErrorKind::Conflict, text)
}

impl Shared {
    /// Makes sure that a session never commits, unless it has. Only a session whose process is gone
    /// can be known to send nothing more, and even its last request may still be under way.
    pub(crate) async fn fence(&self, record: &SessionRecord) -> Result<()> {
        let key = commit_key(record.chain, record.point);
        let abort = self.seal_record(Kind::Abort, record.point.0, &[], b"\xa0")?;
        match self.put_new_in_need(&key, abort).await {
            Err(error) if error.kind() != DestinationKind::AlreadyExists => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Whether a session has committed, or can never: its commit record is there.
    pub(crate) async fn is_settled(&self, record: &SessionRecord) -> Result<bool> {
        match self.destination.head(&commit_key(record.chain, record.point)).await {
            Err(error) if error.kind() == DestinationKind::NotFound => Ok(false),
            other => Ok(other.map(|_| true)?),
        }
    }
}

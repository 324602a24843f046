//! A session's record on the destination: its sign of life, and what it knows of collections.
//!
//! A collection removes nothing before every open session has said that it knows what is condemned
//! (`docs/decisions/`, the collection protocol). So a session looks for collections when it
//! begins, with every sign of life, and right before it commits.

use std::sync::Arc;

use sluice_destination::ErrorKind as DestinationKind;
use tokio::sync::Mutex;

use super::fence::declared_dead;
use crate::chunk_writer::ChunkWriter;
use crate::error::{ErrorKind, Result};
use crate::format::header::Kind;
use crate::format::id::session_key;
use crate::format::record::{SessionRecord, session_object, to_cbor};
use crate::repository::Shared;

#[derive(Debug)]
pub(super) struct Presence {
    shared: Arc<Shared>,
    writer: Arc<ChunkWriter>,
    record: Mutex<SessionRecord>,
}

impl Presence {
    /// The record is on the destination already.
    pub(super) fn new(
        shared: Arc<Shared>,
        writer: Arc<ChunkWriter>,
        record: SessionRecord,
    ) -> Self {
        Self { shared, writer, record: Mutex::new(record) }
    }

    /// Learns what collections have condemned, and says so on the destination when there was
    /// something to learn.
    pub(super) async fn learn(&self) -> Result<()> {
        self.renew(false).await
    }

    /// Shows a sign of life.
    async fn renew(&self, always: bool) -> Result<()> {
        let mut record = self.record.lock().await;
        let (seen, verdicts) = self.shared.verdicts_since(record.seen_gen).await?;
        // A collection does not end before all sessions have said that they know of it, unless it
        // fenced them, or had nothing to say.
        if seen.done > record.seen_gen && self.shared.is_settled(&record).await? {
            return Err(declared_dead());
        }
        // A record that could not be read may have been removed after long silence: then nobody
        // has waited for this session.
        match self.shared.destination.head(&session_key(record.session)).await {
            Err(error) if error.kind() == DestinationKind::NotFound => return Err(declared_dead()),
            other => drop(other?),
        }
        let seen = seen.newest(record.seen_gen);
        if seen == record.seen_gen && !always {
            return Ok(());
        }
        // Barred first, told second: no new reference comes in between.
        let needs = self.writer.bar(&verdicts);
        let mut next = record.clone();
        let known = next.needs.get_or_insert_default();
        known.extend(needs);
        known.sort_unstable();
        known.dedup();
        (next.seen_gen, next.heartbeat_ms) = (seen, self.shared.clock.now_ms());
        self.shared.put_session(&next).await?;
        *record = next;
        Ok(())
    }

    /// Shows signs of life until it is dropped.
    pub(super) async fn beat(self: Arc<Self>) {
        loop {
            tokio::time::sleep(self.shared.settings.heartbeat).await;
            match self.renew(true).await {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    self.writer.fail(error);
                    return;
                }
                Err(error) => tracing::warn!(%error, "the session record could not be renewed"),
            }
        }
    }
}

impl Shared {
    pub(super) async fn put_session(&self, record: &SessionRecord) -> Result<()> {
        let object = session_object(record.session.0);
        let body = self.seal_record(Kind::Session, object, &[], &to_cbor(record))?;
        Ok(self.destination.put(&session_key(record.session), body).await?)
    }
}

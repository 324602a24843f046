//! Going on with what sessions left behind that died before they committed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use sluice_destination::{ErrorKind as DestinationKind, Key, list_all};

use super::{BackupSession, HARVEST, OtherSession, SILENT, is_dead};
use crate::bounded::get_record;
use crate::error::{ErrorKind, Result};
use crate::format::header::Kind;
use crate::format::id::{PackId, PackKind, SessionId, session_key};
use crate::format::pack::SlotEntry;
use crate::format::record::{SessionRecord, from_cbor, session_object};
use crate::host;
use crate::repository::parse_error;

/// A pack, and its generation and table when it is there.
type FoundTable = (PackId, Result<Option<(u32, Vec<SlotEntry>)>>);

impl BackupSession {
    /// Looks at the other sessions of the chain: what they stored need not be stored again.
    pub(super) async fn take_over_dead_sessions(&mut self) -> Result<()> {
        let now = self.shared.clock.now_ms();
        let objects = list_all(&*self.shared.destination, "s/").await?;
        // By the destination's clock, where it tells: hosts may be days apart.
        let own = session_key(self.record.session);
        let here = objects.iter().find(|object| object.key == own).and_then(|own| own.modified);
        for object in objects {
            let Some(record) = self.read_session(&object.key).await? else { continue };
            if record.chain != self.record.chain || record.session == self.record.session {
                continue;
            }
            let silent = match (here, object.modified) {
                (Some(now), Some(then)) => now.duration_since(then).unwrap_or_default(),
                _ => Duration::from_millis(now.saturating_sub(record.heartbeat_ms)),
            };
            let dead = silent > SILENT || is_dead(&record);
            if dead {
                self.inherited.push(record.clone());
            } else {
                self.others.push(OtherSession {
                    host: host::display(&record.host),
                    started_ms: record.started_ms,
                    heartbeat_ms: record.heartbeat_ms,
                });
            }
            let bytes = self.harvest(record.session).await?;
            // What somebody stores who is alive is charged there.
            if dead {
                let bytes = bytes + self.pages_left(record.session).await?;
                self.resumed_bytes += bytes;
                self.counters().charged.fetch_add(bytes, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    async fn read_session(&self, key: &Key) -> Result<Option<SessionRecord>> {
        let id = key.as_str().trim_start_matches("s/");
        let Ok(id) = SessionId::parse(id) else { return Ok(None) };
        let bytes = match get_record(&*self.shared.destination, key).await {
            Err(error) if error.kind() == DestinationKind::NotFound => return Ok(None),
            other => other?,
        };
        let object = session_object(id.0);
        let parsed = self.shared.open_record(key, Kind::Session, object, &bytes);
        let parsed =
            parsed.and_then(|body| from_cbor(&body).map_err(|error| parse_error(key, error)));
        match parsed {
            Ok(record) => Ok(Some(record)),
            Err(error) => {
                tracing::warn!(%error, "skipping a session record");
                Ok(None)
            }
        }
    }

    /// Takes in the chunks that a session made durable. Returns how many bytes they take.
    async fn harvest(&mut self, session: SessionId) -> Result<u64> {
        let (mut serial, mut bytes) = (0, 0);
        loop {
            let tables = self.tables(PackKind::Data, session, serial).await;
            let mut found = false;
            for (pack, table) in tables {
                match table {
                    Ok(Some((generation, table))) => {
                        bytes += self.writer.adopt(pack, generation, &table);
                        (found, self.resumed_packs) = (true, self.resumed_packs + 1);
                    }
                    Ok(None) => {}
                    Err(error) if error.kind() == ErrorKind::Damaged => {
                        tracing::warn!(%error, "not reusing a pack of an interrupted backup");
                    }
                    Err(error) => return Err(error),
                }
            }
            if !found {
                return Ok(bytes);
            }
            serial += HARVEST;
            self.ready().await?;
        }
    }

    /// How many bytes the pages take that a dead session made durable. Nobody refers to them, and
    /// this session makes its own; but until they are collected they lie there.
    async fn pages_left(&self, session: SessionId) -> Result<u64> {
        let (mut serial, mut bytes) = (0, 0);
        loop {
            let mut found = false;
            for (_, table) in self.tables(PackKind::Meta, session, serial).await {
                match table {
                    Ok(Some((_, table))) => {
                        bytes += table.iter().map(|slot| u64::from(slot.stored_len)).sum::<u64>();
                        found = true;
                    }
                    Ok(None) => {}
                    Err(error) if error.kind() == ErrorKind::Damaged => {
                        tracing::warn!(%error, "not counting pages of an interrupted backup");
                        found = true;
                    }
                    Err(error) => return Err(error),
                }
            }
            if !found {
                return Ok(bytes);
            }
            serial += HARVEST;
        }
    }

    /// The tables of some packs of a session, from one number on; nothing where there is no pack.
    async fn tables(&self, kind: PackKind, session: SessionId, serial: u32) -> Vec<FoundTable> {
        let shared = &self.shared;
        stream::iter(serial..serial.saturating_add(HARVEST))
            .map(|serial| async move {
                let pack = PackId::new(session, serial);
                (pack, shared.pack_table(kind, pack).await)
            })
            .buffered(HARVEST as usize)
            .collect()
            .await
    }
}

//! Up to when schedules of work on destinations were decided, and whether it is under way.

use std::collections::BTreeMap;

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, number};
use crate::error::Result;
use crate::id::DestinationId;

impl Tx {
    /// Up to when each schedule of work on a destination was decided, in milliseconds since 1970.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn maintenance_marks(&mut self) -> Result<BTreeMap<(DestinationId, String), u64>> {
        let sql = "SELECT destination_id, schedule, last_due_ms FROM maintenance_marks";
        let rows = self.all(sqlx::query(sql)).await?;
        let read = |row: &AnyRow| {
            Ok(((row.id("destination_id")?, row.text("schedule")?), row.count("last_due_ms")?))
        };
        rows.iter().map(read).collect()
    }

    /// Sets up to when a schedule was decided.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when the destination is gone.
    pub async fn set_maintenance_mark(
        &mut self,
        destination: DestinationId,
        schedule: &str,
        at_ms: u64,
    ) -> Result<()> {
        let sql = "INSERT INTO maintenance_marks (destination_id, schedule, last_due_ms) \
                   VALUES ($1, $2, $3) ON CONFLICT (destination_id, schedule) DO UPDATE SET \
                   last_due_ms = excluded.last_due_ms";
        let set = sqlx::query(sql).bind(destination.to_string()).bind(schedule.to_owned());
        self.run(set.bind(number(at_ms))).await.map(drop)
    }

    /// Whether a task of a kind waits or runs for a destination as a whole.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_maintained(&mut self, destination: DestinationId, kind: &str) -> Result<bool> {
        let sql = "SELECT id FROM tasks WHERE state IN ('queued', 'running') \
                   AND kind || '' = $1 AND destination_id || '' = $2 \
                   AND instance_id || '' = '' LIMIT 1";
        let select = sqlx::query(sql).bind(kind.to_owned()).bind(destination.to_string());
        Ok(self.maybe(select).await?.is_some())
    }
}

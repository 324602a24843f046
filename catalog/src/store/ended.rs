//! The end of history: what ended long ago is removed, a part at a time.
//!
//! Tasks go with their logs, and so do mounts and snapshots that are gone and runs of plans. What
//! they have done is told by others, which stay: restore points, the ledger, restore tests, the
//! audit log.

use crate::db::{Tx, number, query};
use crate::error::Result;

/// What is removed at a time of each, at most: others want to write as well.
const MOST: u64 = 500;

impl Tx {
    /// Removes some of the tasks, mounts, snapshots and runs of plans that ended before a time,
    /// those of the longest ago first. Returns whether there may be more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_ended(&mut self, before_ms: u64) -> Result<bool> {
        let mut more = false;
        for (table, ended, at) in [
            ("tasks", "state NOT IN ('queued', 'running')", "finished_ms"),
            ("mounts", "state = 'gone'", "updated_ms"),
            ("snapshots", "state = 'gone'", "updated_ms"),
            ("plan_runs", "state <> 'running'", "finished_ms"),
        ] {
            let sql = format!(
                "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} \
                 WHERE {at} < $1 AND {at} IS NOT NULL AND {ended} ORDER BY {at} LIMIT {MOST})"
            );
            let delete = query(sql).bind(number(before_ms));
            more |= self.run(delete).await? >= MOST;
        }
        Ok(more)
    }
}

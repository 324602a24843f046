//! Whether work on destinations is under way.

use crate::db::Tx;
use crate::error::Result;
use crate::id::DestinationId;

impl Tx {
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

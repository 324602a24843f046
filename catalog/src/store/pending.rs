//! What backups have stored without being restore points yet: a figure for each instance at each
//! destination. It grows while a backup runs; it stays when the backup fails, for what was stored
//! stays for the next one; and it ends when there is a restore point, which is [held] from then on.
//!
//! [held]: crate::Held

use crate::db::{Columns, Tx, number};
use crate::error::Result;
use crate::id::{DestinationId, InstanceId, ProjectId};

impl Tx {
    /// Notes how many bytes a backup of an instance has stored, what earlier ones left included.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_pending(
        &mut self,
        (instance, destination): (InstanceId, DestinationId),
        project: ProjectId,
        stored_bytes: u64,
        now_ms: u64,
    ) -> Result<()> {
        let sql = "INSERT INTO pending (instance_id, destination_id, project_id, stored_bytes, \
                   at_ms) VALUES ($1, $2, $3, $4, $5) \
                   ON CONFLICT (instance_id, destination_id) DO UPDATE SET \
                   project_id = excluded.project_id, stored_bytes = excluded.stored_bytes, \
                   at_ms = excluded.at_ms";
        let upsert = sqlx::query(sql)
            .bind(instance.to_string())
            .bind(destination.to_string())
            .bind(project.to_string())
            .bind(number(stored_bytes))
            .bind(number(now_ms));
        self.run(upsert).await.map(drop)
    }

    /// How many bytes backups of an instance have stored that are no restore points.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn pending(
        &mut self,
        (instance, destination): (InstanceId, DestinationId),
    ) -> Result<u64> {
        let sql = "SELECT stored_bytes FROM pending \
                   WHERE instance_id = $1 AND destination_id = $2";
        let select = sqlx::query(sql).bind(instance.to_string()).bind(destination.to_string());
        let row = self.maybe(select).await?;
        Ok(row.map(|row| row.count("stored_bytes")).transpose()?.unwrap_or(0))
    }

    /// Forgets them: there is a restore point now.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_pending(
        &mut self,
        (instance, destination): (InstanceId, DestinationId),
    ) -> Result<()> {
        let sql = "DELETE FROM pending WHERE instance_id = $1 AND destination_id = $2";
        let delete = sqlx::query(sql).bind(instance.to_string()).bind(destination.to_string());
        self.run(delete).await.map(drop)
    }

    /// Forgets those at a destination that were stored before a time: they are gone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn forget_pending(
        &mut self,
        destination: DestinationId,
        before_ms: u64,
    ) -> Result<u64> {
        let sql = "DELETE FROM pending WHERE destination_id = $1 AND at_ms < $2";
        self.run(sqlx::query(sql).bind(destination.to_string()).bind(number(before_ms))).await
    }
}

//! Sources and destinations that somebody of the system has allowed, wherever they are.

use crate::db::{Columns, Tx};
use crate::error::Result;
use crate::id::{DestinationId, InstanceId};

impl Tx {
    /// Notes whether the source of an instance was named by somebody who may name any path.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn trust_source(&mut self, instance: InstanceId, trusted: bool) -> Result<()> {
        let sql = match trusted {
            true => {
                "INSERT INTO trusted_sources (instance_id, folder) VALUES ($1, '') \
                 ON CONFLICT (instance_id) DO UPDATE SET folder = ''"
            }
            false => "DELETE FROM trusted_sources WHERE instance_id = $1",
        };
        self.run(sqlx::query(sql).bind(instance.to_string())).await.map(drop)
    }

    /// Notes that the source of an instance was found or made in a folder that somebody named who
    /// may name any path: it is trusted as long as it really lies there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn trust_source_within(&mut self, instance: InstanceId, folder: &str) -> Result<()> {
        let sql = "INSERT INTO trusted_sources (instance_id, folder) VALUES ($1, $2) \
                   ON CONFLICT (instance_id) DO UPDATE SET folder = excluded.folder";
        let note = sqlx::query(sql).bind(instance.to_string()).bind(folder.to_owned());
        self.run(note).await.map(drop)
    }

    /// The folder in which the source of an instance must really lie, if it was found or made
    /// there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn source_bound(&mut self, instance: InstanceId) -> Result<Option<String>> {
        let sql = "SELECT folder FROM trusted_sources WHERE instance_id = $1 AND folder <> ''";
        let row = self.maybe(sqlx::query(sql).bind(instance.to_string())).await?;
        row.map(|row| row.text("folder")).transpose()
    }

    /// Whether the source of an instance was named by somebody who may name any path.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn source_is_trusted(&mut self, instance: InstanceId) -> Result<bool> {
        let sql = "SELECT instance_id FROM trusted_sources WHERE instance_id = $1";
        let row = self.maybe(sqlx::query(sql).bind(instance.to_string())).await?;
        row.map(|row| row.text("instance_id")).transpose().map(|found| found.is_some())
    }

    /// Notes whether a destination was written by somebody who may name any folder, file and
    /// identity of nodes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn trust_destination(&mut self, id: DestinationId, trusted: bool) -> Result<()> {
        let sql = match trusted {
            true => {
                "INSERT INTO trusted_destinations (destination_id) VALUES ($1) \
                 ON CONFLICT (destination_id) DO NOTHING"
            }
            false => "DELETE FROM trusted_destinations WHERE destination_id = $1",
        };
        self.run(sqlx::query(sql).bind(id.to_string())).await.map(drop)
    }

    /// Whether a destination was written by somebody who may name any folder, file and identity
    /// of nodes.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn destination_is_trusted(&mut self, id: DestinationId) -> Result<bool> {
        let sql = "SELECT destination_id FROM trusted_destinations WHERE destination_id = $1";
        Ok(self.maybe(sqlx::query(sql).bind(id.to_string())).await?.is_some())
    }
}

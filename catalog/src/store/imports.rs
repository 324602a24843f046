//! Restore points that are becoming instances.

use std::collections::BTreeSet;

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, document};
use crate::error::Result;
use crate::found::Found;
use crate::id::{InstanceId, TaskId};

/// An import whose end was not noted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    /// The task that does it.
    pub task: TaskId,
    /// The instance that it makes, which counts as absent until then.
    pub instance: InstanceId,
    /// The tags that the instance is to have.
    pub tags: BTreeSet<String>,
}

impl Tx {
    /// Adds an import.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_import(&mut self, import: &Import) -> Result<()> {
        let sql = "INSERT INTO imports (task_id, instance_id, tags) VALUES ($1, $2, $3)";
        let insert = sqlx::query(sql)
            .bind(import.task.to_string())
            .bind(import.instance.to_string())
            .bind(document(&import.tags));
        self.run(insert).await.map(drop)
    }

    /// Imports whose task has ended, or is not known any more. Those that cannot be read are apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn imports_to_settle(&mut self) -> Result<Found<Import>> {
        let sql = "SELECT task_id AS id, instance_id, tags FROM imports WHERE NOT EXISTS \
                   (SELECT 1 FROM tasks t WHERE t.id = imports.task_id \
                   AND t.state IN ('queued', 'running')) ORDER BY task_id";
        let read = |row: &AnyRow| {
            let (task, instance) = (row.id("id")?, row.id("instance_id")?);
            Ok(Import { task, instance, tags: row.json("tags")? })
        };
        Found::apart(&self.all(sqlx::query(sql)).await?, read)
    }

    /// Notes the end of an import; returns whether nobody else did before.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn import_settled(&mut self, task: TaskId) -> Result<bool> {
        let delete = sqlx::query("DELETE FROM imports WHERE task_id = $1");
        Ok(self.run(delete.bind(task.to_string())).await? > 0)
    }
}

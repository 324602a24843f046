//! The line of tasks: who waits, who runs, and whose time is over.

use std::collections::BTreeMap;

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, number};
use crate::error::{ErrorKind, Result};
use crate::id::{DestinationId, InstanceId, NodeId, PolicyId, TaskId};
use crate::model::instance::Instance;
use crate::model::inventory::Inventory;
use crate::model::serves::Placed;
use crate::model::task::{InLine, Task};
use crate::visible::Visible;

const COLUMNS: &str = "id, node_id, project_id, instance_id, destination_id, wanted_node, kind, \
                       priority, created_ms, not_before_ms, from_id, needs";

impl InLine {
    fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            id: row.id("id")?,
            node: row.maybe_id("node_id")?,
            project: row.maybe_id("project_id")?,
            instance: row.maybe_id("instance_id")?,
            destination: row.maybe_id("destination_id")?,
            from: row.maybe_id("from_id")?,
            wanted_node: row.maybe_id("wanted_node")?,
            kind: row.text("kind")?,
            needs: row
                .text("needs")?
                .split(',')
                .filter(|w| !w.is_empty())
                .map(Into::into)
                .collect(),
            priority: u32::try_from(row.count("priority")?).unwrap_or(u32::MAX),
            created_ms: row.count("created_ms")?,
            not_before_ms: row.count("not_before_ms")?,
        })
    }
}

impl Tx {
    /// Waits until no other server decides who goes first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn decide_alone(&mut self) -> Result<()> {
        self.lock("lock-dispatch").await
    }

    /// All tasks that wait, oldest first, and all that run.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn line(&mut self) -> Result<(Vec<InLine>, Vec<InLine>)> {
        let mut both = [Vec::new(), Vec::new()];
        for (state, line) in ["queued", "running"].into_iter().zip(&mut both) {
            let sql = format!("SELECT {COLUMNS} FROM tasks WHERE state = '{state}' ORDER BY id");
            let rows = self.all(crate::db::query(sql)).await?;
            *line = rows.iter().map(InLine::read).collect::<Result<_>>()?;
        }
        let [waiting, running] = both;
        Ok((waiting, running))
    }

    /// The instances of tasks that wait or run: where they come from, and who serves them.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn instances_in_line(&mut self) -> Result<BTreeMap<InstanceId, Placed>> {
        let sql = "SELECT i.id, i.name, i.body, p.name AS project FROM instances i \
                   LEFT JOIN projects p ON p.id = i.project_id \
                   WHERE i.id IN (SELECT instance_id FROM tasks \
                   WHERE state IN ('queued', 'running') AND instance_id <> '')";
        let mut placed = BTreeMap::new();
        for row in self.all(sqlx::query(sql)).await? {
            // One that cannot be read is no reason to start nothing: its own task will say so.
            let Ok(Instance { tags, manager, cluster, host, .. }) = row.json("body") else {
                continue;
            };
            let own = row.text("name")?;
            let name = match row.maybe_text("project")? {
                Some(project) => format!("{project}/{own}"),
                None => own,
            };
            placed.insert(row.id("id")?, Placed { name, tags, manager, cluster, host });
        }
        Ok(placed)
    }

    /// Where the inventories look whose tasks wait, by task: what they find there is their
    /// project's, and has their tags, manager and cluster.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn inventories_in_line(&mut self) -> Result<BTreeMap<TaskId, Placed>> {
        // Few tasks wait, and many were inventories once: their state is what is followed.
        let sql = "SELECT id, spec FROM tasks WHERE state = 'queued' AND kind || '' = 'inventory'";
        let mut placed = BTreeMap::new();
        for row in self.all(sqlx::query(sql)).await? {
            let Ok(spec) = row.json::<serde_json::Value>("spec") else { continue };
            if let Some(place) = self.place_of_inventory(&spec).await? {
                placed.insert(row.id("id")?, place);
            }
        }
        Ok(placed)
    }

    /// Where the inventory looks that the spec of a task names, if it can be read.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn place_of_inventory(&mut self, spec: &serde_json::Value) -> Result<Option<Placed>> {
        let named = spec["look"]["inventory"].as_str().and_then(|id| id.parse().ok());
        let Some(id) = named else { return Ok(None) };
        match self.get::<Inventory>(id, &Visible::All).await {
            Ok(record) => {
                let name = match &record.project_name {
                    Some(project) => format!("{project}/{}", record.name),
                    None => record.name,
                };
                let Inventory { tags, manager, cluster, .. } = record.body;
                Ok(Some(Placed { name, tags, manager, cluster, host: None }))
            }
            Err(error) if [ErrorKind::NotFound, ErrorKind::Damaged].contains(&error.kind()) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// A task that was not started by then is not started any more.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_start_by(&mut self, id: TaskId, start_by_ms: u64) -> Result<()> {
        let sql = "UPDATE tasks SET start_by_ms = $1 WHERE id = $2";
        let update = sqlx::query(sql).bind(number(start_by_ms));
        self.run(update.bind(id.to_string())).await.map(drop)
    }

    /// Whether the start window of a task that waits is over. Cheap, and takes no lock.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn any_window_over(&mut self, now_ms: u64) -> Result<bool> {
        let sql = "SELECT id FROM tasks WHERE state = 'queued' AND attempt = 0 \
                   AND start_by_ms <= $1 LIMIT 1";
        Ok(self.maybe(sqlx::query(sql).bind(number(now_ms))).await?.is_some())
    }

    /// Ends the tasks whose start window is over, and returns those that can be read as they were.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn end_late(&mut self, message: &str, now_ms: u64) -> Result<Vec<Task>> {
        self.lock("lock-dispatch").await?;
        let sql = "SELECT id FROM tasks WHERE state = 'queued' AND attempt = 0 \
                   AND start_by_ms <= $1 ORDER BY id";
        let rows = self.all(sqlx::query(sql).bind(number(now_ms))).await?;
        let mut ended = Vec::new();
        for row in rows {
            let id = row.id("id")?;
            match self.task(id, &Visible::All).await {
                Ok(task) => ended.push(task),
                // It ends as the others do.
                Err(error) if error.kind() == ErrorKind::Damaged => {}
                Err(error) => return Err(error),
            }
            self.refuse(id, message, now_ms).await?;
        }
        Ok(ended)
    }

    /// Ends a task that has not run, as failed.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn refuse(&mut self, id: TaskId, message: &str, now_ms: u64) -> Result<()> {
        self.lock("lock-dispatch").await?;
        let sql = "UPDATE tasks SET state = 'failed', message = $1, finished_ms = $2, \
                   revision = revision + 1 WHERE id = $3 AND state = 'queued'";
        let update = sqlx::query(sql).bind(message.to_owned()).bind(number(now_ms));
        self.run(update.bind(id.to_string())).await.map(drop)
    }

    /// Takes back a lease that its node was never told of: the task waits as it did before.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn hand_back(&mut self, lease: (TaskId, NodeId, u32)) -> Result<()> {
        self.lock("lock-dispatch").await?;
        let sql = "UPDATE tasks SET state = 'queued', node_id = '', attempt = attempt - 1, \
                   started_ms = NULL, revision = revision + 1 \
                   WHERE id = $1 AND node_id = $2 AND attempt = $3 AND state = 'running'";
        let update = sqlx::query(sql).bind(lease.0.to_string()).bind(lease.1.to_string());
        self.run(update.bind(i64::from(lease.2))).await.map(drop)
    }

    /// Whether a backup of an instance by that policy to that destination waits or runs.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn still_active(
        &mut self,
        instance: InstanceId,
        policy: PolicyId,
        destination: DestinationId,
    ) -> Result<bool> {
        let sql = "SELECT id FROM tasks WHERE instance_id = $1 AND state IN ('queued', 'running') \
                   AND policy_id || '' = $2 AND destination_id || '' = $3 \
                   AND kind || '' = 'backup' LIMIT 1";
        let select = sqlx::query(sql).bind(instance.to_string()).bind(policy.to_string());
        Ok(self.maybe(select.bind(destination.to_string())).await?.is_some())
    }
}

//! Counts of everything, for those who look at the whole: added up by the database.

use crate::db::{Columns, Tx, number, query};
use crate::error::Result;
use crate::model::overview::{AtDestination, Heard, Protected, TaskCount};
use crate::store::usage::with;
use crate::visible::{OF_TASK, Visible, Whose};

/// What a document says whose source is gone. Quotation marks within texts stand behind a
/// backslash, so this is found nowhere else.
const ABSENT: &str = "%\"present\":false%";

impl Tx {
    /// Tasks that wait or run, by kind and state.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tasks_open(&mut self, visible: &Visible) -> Result<Vec<TaskCount>> {
        let (may, values) = visible.sieve(&OF_TASK, 1);
        let sql = format!(
            "SELECT kind, state, COUNT(*) AS tasks, CAST(0 AS BIGINT) AS ran_ms FROM tasks \
             WHERE state IN ('queued', 'running') AND {may} GROUP BY kind, state"
        );
        self.counts(with(query(sql), values)).await
    }

    /// Tasks that ended since, by kind and state.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn tasks_ended(
        &mut self,
        visible: &Visible,
        since_ms: u64,
    ) -> Result<Vec<TaskCount>> {
        let (may, values) = visible.sieve(&OF_TASK, 2);
        // Rows of one kind lie together in another index: all tasks there are.
        let sql = format!(
            "SELECT kind || '' AS kind, state, COUNT(*) AS tasks, \
             CAST(SUM(finished_ms - COALESCE(started_ms, finished_ms)) AS BIGINT) AS ran_ms \
             FROM tasks WHERE finished_ms >= $1 AND {may} GROUP BY kind || '', state"
        );
        self.counts(with(query(sql).bind(number(since_ms)), values)).await
    }

    async fn counts(&mut self, select: crate::db::Query) -> Result<Vec<TaskCount>> {
        let rows = self.all(select).await?;
        rows.iter()
            .map(|row| {
                Ok(TaskCount {
                    kind: row.text("kind")?,
                    state: row.text("state")?,
                    tasks: row.count("tasks")?,
                    ran_ms: row.count("ran_ms")?,
                })
            })
            .collect()
    }

    /// When the task that has waited longest was made, in milliseconds since 1970, of those that
    /// might run.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn oldest_waiting(&mut self, now_ms: u64) -> Result<Option<u64>> {
        let sql = "SELECT MIN(created_ms) AS oldest FROM tasks \
                   WHERE state = 'queued' AND not_before_ms <= $1";
        let row = self.maybe(sqlx::query(sql).bind(number(now_ms))).await?;
        row.map_or(Ok(None), |row| row.maybe_count("oldest"))
    }

    /// How many instances have a good backup that is not older than a time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn protected(&mut self, visible: &Visible, since_ms: u64) -> Result<Protected> {
        let whose = Whose { resources: &[("instance", "id")], ..Whose::OF_INSTANCE };
        let (may, values) = visible.condition(&whose, 3);
        let sql = format!(
            "SELECT COUNT(*) AS total, \
             CAST(COALESCE(SUM(CASE WHEN last = 0 THEN 1 ELSE 0 END), 0) AS BIGINT) AS never, \
             CAST(COALESCE(SUM(CASE WHEN last > 0 AND last < $1 THEN 1 ELSE 0 END), 0) \
             AS BIGINT) AS late FROM (SELECT COALESCE((SELECT MAX(h.last_good_ms) FROM held h \
             WHERE h.instance_id = i.id), 0) AS last FROM instances i \
             WHERE body NOT LIKE $2 AND {may}) AS seen"
        );
        let select = query(sql).bind(number(since_ms)).bind(ABSENT);
        let Some(row) = self.maybe(with(select, values)).await? else {
            return Ok(Protected::default());
        };
        Ok(Protected {
            total: row.count("total")?,
            never: row.count("never")?,
            late: row.count("late")?,
        })
    }

    /// What there is at each destination.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn at_destinations(&mut self, visible: &Visible) -> Result<Vec<AtDestination>> {
        let (may, values) = visible.condition(&Whose::OF_INSTANCE, 1);
        let sql = format!(
            "SELECT destination_id, COUNT(*) AS instances, \
             CAST(SUM(stored_bytes) AS BIGINT) AS stored_bytes FROM held WHERE {may} \
             GROUP BY destination_id ORDER BY destination_id"
        );
        let rows = self.all(with(query(sql), values)).await?;
        rows.iter()
            .map(|row| {
                Ok(AtDestination {
                    destination: row.id("destination_id")?,
                    instances: row.count("instances")?,
                    stored_bytes: row.count("stored_bytes")?,
                })
            })
            .collect()
    }

    /// Bytes of what is protected, each instance once.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn front_end_bytes(&mut self, visible: &Visible) -> Result<u64> {
        let (may, values) = visible.condition(&Whose::OF_INSTANCE, 1);
        let sql = format!(
            "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) AS size FROM (SELECT \
             MAX(front_end_bytes) AS size FROM held WHERE {may} GROUP BY instance_id) AS sizes"
        );
        let row = self.maybe(with(query(sql), values)).await?;
        row.map_or(Ok(0), |row| row.count("size"))
    }

    /// All nodes, and when they were heard of last.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn heard(&mut self) -> Result<Vec<Heard>> {
        let sql = "SELECT p.node_id, n.name, p.last_seen_ms FROM node_presence p \
                   JOIN nodes n ON n.id = p.node_id ORDER BY p.node_id";
        let rows = self.all(sqlx::query(sql)).await?;
        rows.iter()
            .map(|row| {
                Ok(Heard {
                    node: row.id("node_id")?,
                    name: row.text("name")?,
                    last_seen_ms: row.count("last_seen_ms")?,
                })
            })
            .collect()
    }

    /// Bytes that were moved since the ledger began, by kind of task: put to or got from
    /// destinations.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn moved_ever(&mut self) -> Result<Vec<(String, u64, u64)>> {
        let sql = "SELECT kind, CAST(SUM(logical_bytes) AS BIGINT) AS logical, \
                   CAST(SUM(transferred_bytes) AS BIGINT) AS moved FROM usage_days \
                   GROUP BY kind ORDER BY kind";
        let rows = self.all(sqlx::query(sql)).await?;
        rows.iter()
            .map(|row| Ok((row.text("kind")?, row.count("logical")?, row.count("moved")?)))
            .collect()
    }
}

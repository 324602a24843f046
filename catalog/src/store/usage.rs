//! Quotas, and the ledger of what was used.

use sqlx::any::AnyRow;

use crate::db::{Columns, Query, Tx, number, query, text_of};
use crate::error::Result;
use crate::id::{DestinationId, InstanceId, ProjectId};
use crate::model::usage::{Held, InUse, Level, Transfer};
use crate::store::summed::{Summed, parts};
use crate::visible::{Visible, Whose};

const TRANSFER: &str = "task_id, at_ms, project_id, instance_id, policy_id, destination_id, kind, \
                        logical_bytes, unique_bytes, shared_bytes, transferred_bytes";
const LEVEL: &str = "instance_id, destination_id, policy_id, at_ms, project_id, stored_bytes, \
                     front_end_bytes";
const HELD: &str = "instance_id, destination_id, project_id, policy_id, stored_bytes, \
                    front_end_bytes, last_good_ms";

impl Transfer {
    fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            task: row.id("task_id")?,
            at_ms: row.count("at_ms")?,
            project: row.maybe_id("project_id")?,
            instance: row.maybe_id("instance_id")?,
            policy: row.maybe_id("policy_id")?,
            destination: row.maybe_id("destination_id")?,
            kind: row.text("kind")?,
            logical_bytes: row.count("logical_bytes")?,
            unique_bytes: row.count("unique_bytes")?,
            shared_bytes: row.count("shared_bytes")?,
            transferred_bytes: row.count("transferred_bytes")?,
        })
    }
}

impl Level {
    fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            at_ms: row.count("at_ms")?,
            project: row.maybe_id("project_id")?,
            instance: row.id("instance_id")?,
            policy: row.maybe_id("policy_id")?,
            destination: row.maybe_id("destination_id")?,
            stored_bytes: row.count("stored_bytes")?,
            front_end_bytes: row.count("front_end_bytes")?,
        })
    }
}

impl Held {
    fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            instance: row.id("instance_id")?,
            destination: row.id("destination_id")?,
            project: row.maybe_id("project_id")?,
            policy: row.maybe_id("policy_id")?,
            stored_bytes: row.count("stored_bytes")?,
            front_end_bytes: row.count("front_end_bytes")?,
            last_good_ms: row.count("last_good_ms")?,
        })
    }
}

pub(super) fn with(mut select: Query, values: Vec<String>) -> Query {
    for value in values {
        select = select.bind(value);
    }
    select
}

impl Tx {
    /// The quota of a project, as a document.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn quota(&mut self, project: ProjectId) -> Result<Option<serde_json::Value>> {
        let select = sqlx::query("SELECT body FROM quotas WHERE project_id = $1");
        let row = self.maybe(select.bind(project.to_string())).await?;
        row.map(|row| row.json("body")).transpose()
    }

    /// Sets the quota of a project.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Conflict`] when there is no such project.
    pub async fn set_quota(
        &mut self,
        project: ProjectId,
        quota: &serde_json::Value,
        now_ms: u64,
    ) -> Result<()> {
        let sql = "INSERT INTO quotas (project_id, updated_ms, body) VALUES ($1, $2, $3) \
                   ON CONFLICT (project_id) DO UPDATE SET \
                   updated_ms = excluded.updated_ms, body = excluded.body";
        let set = sqlx::query(sql).bind(project.to_string()).bind(number(now_ms));
        self.run(set.bind(quota.to_string())).await.map(drop)
    }

    /// When tasks of a kind began after a time, of a project or of one of its instances, in
    /// milliseconds since 1970. Those that wait count by when they were made, those that ended
    /// without ever having run do not.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn began(
        &mut self,
        project: ProjectId,
        instance: Option<InstanceId>,
        kind: &str,
        after_ms: u64,
    ) -> Result<Vec<u64>> {
        let sql = "SELECT created_ms FROM tasks WHERE project_id = $1 AND kind = $2 \
                   AND created_ms > $3 AND ($4 = '' OR instance_id = $4) \
                   AND (started_ms IS NOT NULL OR state = 'queued') ORDER BY created_ms";
        let select = sqlx::query(sql)
            .bind(project.to_string())
            .bind(kind.to_owned())
            .bind(number(after_ms))
            .bind(text_of(instance));
        self.all(select).await?.iter().map(|row| row.count("created_ms")).collect()
    }

    /// What a project, or one of its instances, has in use: with what backups have stored that are
    /// no restore points, and with the sizes that running ones have told.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn in_use(
        &mut self,
        project: ProjectId,
        instance: Option<InstanceId>,
    ) -> Result<InUse> {
        let sql = "SELECT CAST(COALESCE(SUM(size), 0) AS BIGINT) AS front_end_bytes, \
                   CAST(COALESCE(SUM(stored), 0) AS BIGINT) AS stored_bytes FROM (SELECT \
                   MAX(size) AS size, SUM(stored) AS stored FROM (SELECT \
                   instance_id, front_end_bytes AS size, stored_bytes AS stored FROM held \
                   WHERE project_id = $1 AND ($2 = '' OR instance_id = $2) UNION ALL SELECT \
                   instance_id, 0 AS size, stored_bytes AS stored FROM pending \
                   WHERE project_id = $1 AND ($2 = '' OR instance_id = $2) UNION ALL SELECT \
                   instance_id, size_bytes AS size, 0 AS stored FROM tasks \
                   WHERE state = 'running' AND kind || '' = 'backup' AND size_bytes > 0 \
                   AND project_id = $1 AND ($2 = '' OR instance_id = $2)) AS parts \
                   GROUP BY instance_id) AS instances";
        let select = sqlx::query(sql).bind(project.to_string()).bind(text_of(instance));
        let Some(row) = self.maybe(select).await? else { return Ok(InUse::default()) };
        let (front_end_bytes, stored_bytes) =
            (row.count("front_end_bytes")?, row.count("stored_bytes")?);
        Ok(InUse { front_end_bytes, stored_bytes })
    }

    /// How many bytes a project, or one of its instances, has stored: what [`Tx::in_use`] tells,
    /// without the size of what is protected, for which instances would have to be grouped.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn stored_in_use(
        &mut self,
        project: ProjectId,
        instance: Option<InstanceId>,
    ) -> Result<u64> {
        let (only, value) = match instance {
            Some(instance) => ("instance_id = $2 AND project_id = $1", instance.to_string()),
            None => ("project_id = $1 AND $2 = ''", String::new()),
        };
        let sum =
            |table| format!("(SELECT COALESCE(SUM(stored_bytes), 0) FROM {table} WHERE {only})");
        let sql = format!("SELECT CAST({} + {} AS BIGINT) AS stored", sum("held"), sum("pending"));
        let row = self.maybe(query(sql).bind(project.to_string()).bind(value)).await?;
        row.map_or(Ok(0), |row| row.count("stored"))
    }

    /// What there is of each instance that the caller may know of, at each destination.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn held(&mut self, visible: &Visible) -> Result<Vec<Held>> {
        let (condition, values) = visible.condition(&Whose::OF_INSTANCE, 1);
        let sql = format!(
            "SELECT {HELD} FROM held WHERE {condition} ORDER BY instance_id, destination_id"
        );
        self.all(with(query(sql), values)).await?.iter().map(Held::read).collect()
    }

    /// What there is of an instance at a destination.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn held_at(
        &mut self,
        instance: InstanceId,
        destination: DestinationId,
    ) -> Result<Option<Held>> {
        let sql = format!("SELECT {HELD} FROM held WHERE instance_id = $1 AND destination_id = $2");
        let select = query(sql).bind(instance.to_string()).bind(destination.to_string());
        self.maybe(select).await?.map(|row| Held::read(&row)).transpose()
    }

    /// Notes what there is of an instance at a destination now, and the levels that follow.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_held(&mut self, held: &Held, now_ms: u64) -> Result<()> {
        let before = self.held_at(held.instance, held.destination).await?;
        let sql = format!(
            "INSERT INTO held ({HELD}) VALUES ($1, $2, $3, $4, $5, $6, $7) \
             ON CONFLICT (instance_id, destination_id) DO UPDATE SET \
             project_id = excluded.project_id, policy_id = excluded.policy_id, \
             stored_bytes = excluded.stored_bytes, \
             front_end_bytes = excluded.front_end_bytes, last_good_ms = excluded.last_good_ms"
        );
        let insert = query(sql)
            .bind(held.instance.to_string())
            .bind(held.destination.to_string())
            .bind(text_of(held.project))
            .bind(text_of(held.policy))
            .bind(number(held.stored_bytes))
            .bind(number(held.front_end_bytes))
            .bind(number(held.last_good_ms));
        self.run(insert).await?;
        let stored = Level {
            at_ms: now_ms,
            project: held.project,
            instance: held.instance,
            policy: held.policy,
            destination: Some(held.destination),
            stored_bytes: held.stored_bytes,
            front_end_bytes: 0,
        };
        // Another policy answers for it from now on.
        if let Some(before) = before.filter(|before| before.policy != held.policy) {
            let none = Level { policy: before.policy, stored_bytes: 0, ..stored.clone() };
            self.add_level(&none).await?;
        }
        self.add_level(&stored).await?;
        let front_end_bytes = held.front_end_bytes;
        let (policy, destination, stored_bytes) = (None, None, 0);
        let size = Level { policy, destination, stored_bytes, front_end_bytes, ..stored };
        self.add_level(&size).await
    }

    /// Notes a level. One that would be older than the last one (a clock was set back) holds from
    /// that one's time on.
    async fn add_level(&mut self, level: &Level) -> Result<()> {
        let key = [
            level.instance.to_string(),
            text_of(level.destination),
            text_of(level.policy),
            text_of(level.project),
        ];
        let sql = "SELECT at_ms, stored_bytes, sum_high, sum_low FROM series \
                   WHERE instance_id = $1 AND destination_id = $2 AND policy_id = $3";
        let row = self.maybe(with(sqlx::query(sql), key[..3].to_vec())).await?;
        let before = row.map(|row| Summed::read(&row)).transpose()?;
        let at_ms = before.map_or(level.at_ms, |before| before.at_ms.max(level.at_ms));
        let (high, low) = parts(before.map_or(0, |before| before.until(at_ms)));
        let sql = format!(
            "INSERT INTO levels ({LEVEL}, sum_high, sum_low) \
             VALUES ($1, $2, $3, $5, $4, $6, $7, $8, $9) \
             ON CONFLICT (instance_id, destination_id, policy_id, at_ms) DO UPDATE SET \
             stored_bytes = excluded.stored_bytes, front_end_bytes = excluded.front_end_bytes"
        );
        let insert = with(query(sql), key.to_vec())
            .bind(number(at_ms))
            .bind(number(level.stored_bytes))
            .bind(number(level.front_end_bytes));
        self.run(insert.bind(high).bind(low)).await?;
        let sql = "INSERT INTO series (instance_id, destination_id, policy_id, project_id, at_ms, \
                   stored_bytes, sum_high, sum_low) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
                   ON CONFLICT (instance_id, destination_id, policy_id) DO UPDATE SET \
                   project_id = excluded.project_id, at_ms = excluded.at_ms, \
                   stored_bytes = excluded.stored_bytes, sum_high = excluded.sum_high, \
                   sum_low = excluded.sum_low";
        let upsert = with(sqlx::query(sql), key.to_vec()).bind(number(at_ms));
        let upsert = upsert.bind(number(level.stored_bytes)).bind(high).bind(low);
        self.run(upsert).await.map(drop)
    }

    /// Notes what a task moved; once for each task.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_transfer(&mut self, transfer: &Transfer) -> Result<()> {
        let sql = format!(
            "INSERT INTO transfers ({TRANSFER}) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) \
             ON CONFLICT (task_id) DO NOTHING"
        );
        let insert = query(sql)
            .bind(transfer.task.to_string())
            .bind(number(transfer.at_ms))
            .bind(text_of(transfer.project))
            .bind(text_of(transfer.instance))
            .bind(text_of(transfer.policy))
            .bind(text_of(transfer.destination))
            .bind(transfer.kind.clone())
            .bind(number(transfer.logical_bytes))
            .bind(number(transfer.unique_bytes))
            .bind(number(transfer.shared_bytes))
            .bind(number(transfer.transferred_bytes));
        if self.run(insert).await? == 0 {
            return Ok(());
        }
        self.add_to_day(transfer).await
    }

    /// What was moved within a time, of what the caller may know of.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn transfers(
        &mut self,
        visible: &Visible,
        from_ms: u64,
        until_ms: u64,
    ) -> Result<Vec<Transfer>> {
        let (condition, values) = visible.condition(&Whose::OF_INSTANCE, 3);
        let sql = format!(
            "SELECT {TRANSFER} FROM transfers WHERE at_ms >= $1 AND at_ms < $2 AND {condition} \
             ORDER BY at_ms, task_id"
        );
        let select = query(sql).bind(number(from_ms)).bind(number(until_ms));
        self.all(with(select, values)).await?.iter().map(Transfer::read).collect()
    }

    /// The levels that hold within a time, of what the caller may know of: those that began
    /// within it, and of each the last one before.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn levels(
        &mut self,
        visible: &Visible,
        from_ms: u64,
        until_ms: u64,
    ) -> Result<Vec<Level>> {
        let (condition, values) = visible.condition(&Whose::OF_INSTANCE, 3);
        let sql = format!(
            "SELECT {LEVEL} FROM levels l WHERE at_ms < $2 AND {condition} AND (at_ms >= $1 OR \
             at_ms = (SELECT MAX(b.at_ms) FROM levels b WHERE b.instance_id = l.instance_id \
             AND b.destination_id = l.destination_id AND b.policy_id = l.policy_id \
             AND b.at_ms < $1)) ORDER BY at_ms"
        );
        let select = query(sql).bind(number(from_ms)).bind(number(until_ms));
        self.all(with(select, values)).await?.iter().map(Level::read).collect()
    }
}

//! Snapshots at their sources: what is wanted, and what nodes told of them.
//!
//! A state is changed by a statement that names the state it comes from, so that of two who change
//! it at the same time one finds it changed.

use std::collections::BTreeMap;

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, document, number, query, text_of};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::found::Found;
use crate::id::{InstanceId, NodeId, PolicyId, SnapshotId, TaskId};
use crate::listed::Listed;
use crate::model::grant::Resource;
use crate::model::snapshot::{
    InstanceSnapshot, NewSnapshot, SnapshotFilter, SnapshotImage, SnapshotState,
};
use crate::record::Page;
use crate::visible::{Visible, Whose};

const COLUMNS: &str = "id, project_id, instance_id, node_id, policy_id, rule, task_id, state, \
    made_ms, expires_ms, revision, created_ms, updated_ms, images, message";
/// Whose snapshot it is that a rule has made: the instance, the policy, and the rule's name.
pub type OfRule = (InstanceId, PolicyId, String);
/// Snapshots that are looked at in one go.
const LOOKED_AT: i64 = 500;

impl InstanceSnapshot {
    fn read(row: &AnyRow) -> Result<Self> {
        let state = SnapshotState::from_word(&row.text("state")?)
            .ok_or_else(|| CatalogError::new(ErrorKind::Damaged, "a snapshot of unknown state"))?;
        Ok(Self {
            id: row.id("id")?,
            new: NewSnapshot {
                project: row.maybe_id("project_id")?,
                instance: row.id("instance_id")?,
                policy: row.maybe_id("policy_id")?,
                rule: row.text("rule")?,
                task: row.id("task_id")?,
                expires_ms: row.count("expires_ms")?,
            },
            node: row.maybe_id("node_id")?,
            state,
            made_ms: row.count("made_ms")?,
            images: row.json("images")?,
            message: row.text("message")?,
            revision: row.count("revision")?,
            created_ms: row.count("created_ms")?,
            updated_ms: row.count("updated_ms")?,
        })
    }
}

impl Tx {
    /// Adds a snapshot that is requested.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_snapshot(
        &mut self,
        id: SnapshotId,
        new: &NewSnapshot,
        now_ms: u64,
    ) -> Result<()> {
        let sql = format!(
            "INSERT INTO snapshots ({COLUMNS}) VALUES ($1, $2, $3, '', $4, $5, $6, 'requested', \
             0, $7, 1, $8, $8, '[]', '')"
        );
        let insert = query(sql)
            .bind(id.to_string())
            .bind(text_of(new.project))
            .bind(new.instance.to_string())
            .bind(text_of(new.policy))
            .bind(new.rule.clone())
            .bind(new.task.to_string())
            .bind(number(new.expires_ms))
            .bind(number(now_ms));
        self.run(insert).await.map(drop)
    }

    /// A snapshot, if the caller may know of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, or the caller may not know.
    pub async fn instance_snapshot(
        &mut self,
        id: SnapshotId,
        visible: &Visible,
    ) -> Result<InstanceSnapshot> {
        let sql = format!("SELECT {COLUMNS} FROM snapshots WHERE id = $1");
        let row = self.maybe(query(sql).bind(id.to_string())).await?;
        let found = row.map(|row| InstanceSnapshot::read(&row)).transpose()?;
        found
            .filter(|one| visible.sees(one.new.project, Some(Resource::Instance(one.new.instance))))
            .ok_or_else(|| CatalogError::not_found(format_args!("snapshot {id}")))
    }

    /// The snapshots that the caller may know of, newest first. `page.after` is the oldest one
    /// shown so far. Those that cannot be read are apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn snapshots(
        &mut self,
        visible: &Visible,
        filter: &SnapshotFilter,
        page: &Page,
    ) -> Result<Found<InstanceSnapshot>> {
        let list = Listed::newest("snapshots", COLUMNS).of("instance_id", text_of(filter.instance));
        let list = match filter.state {
            Some(state) => list.with("state", state.word().to_owned()),
            None => list.only("state <> 'gone'"),
        };
        let rows = self.page(list, (visible, &Whose::OF_INSTANCE), page).await?;
        Found::by_id(&rows, page.limit, InstanceSnapshot::read)
    }

    /// Snapshots that the server must look at, with their revisions: those whose task has ended and
    /// has not told what became of them, and those whose time is over. Whoever does something about
    /// one reads it again, where nobody else decides: it may be another's by then.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn snapshots_to_settle(&mut self, now_ms: u64) -> Result<Vec<(SnapshotId, u64)>> {
        let read = |row: &AnyRow| Ok((row.id("id")?, row.count("revision")?));
        let untold = format!(
            "SELECT id, revision FROM snapshots WHERE state IN ('requested', 'removing') AND NOT \
             EXISTS (SELECT 1 FROM tasks t WHERE t.id = snapshots.task_id \
             AND t.state IN ('queued', 'running')) ORDER BY id LIMIT {LOOKED_AT}"
        );
        let mut found = self.each(query(untold), read).await?;
        let over = format!(
            "SELECT id, revision FROM snapshots WHERE state = 'ready' AND expires_ms > 0 \
             AND expires_ms <= $1 ORDER BY expires_ms LIMIT {LOOKED_AT}"
        );
        found.extend(self.each(query(over).bind(number(now_ms)), read).await?);
        Ok(found)
    }

    /// The snapshots that rules of policies have made and that are there, by instance, policy and
    /// rule, each with the moment that it holds.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn snapshots_of_rules(&mut self) -> Result<BTreeMap<OfRule, Vec<(SnapshotId, u64)>>> {
        let sql = "SELECT id, instance_id, policy_id, rule, made_ms FROM snapshots \
                   WHERE state = 'ready' AND policy_id <> '' ORDER BY id";
        let mut all: BTreeMap<OfRule, Vec<(SnapshotId, u64)>> = BTreeMap::new();
        let add = |row: &AnyRow| {
            let of = (row.id("instance_id")?, row.id("policy_id")?, row.text("rule")?);
            let one = (row.id("id")?, row.count("made_ms")?);
            all.entry(of).or_default().push(one);
            Ok(())
        };
        self.each(sqlx::query(sql), add).await?;
        Ok(all)
    }

    /// Whether a rule has a snapshot of an instance under way.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn snapshot_pending(
        &mut self,
        instance: InstanceId,
        policy: PolicyId,
        rule: &str,
    ) -> Result<bool> {
        let sql = "SELECT id FROM snapshots WHERE instance_id = $1 AND state = 'requested' \
                   AND policy_id = $2 AND rule = $3 LIMIT 1";
        let select = sqlx::query(sql).bind(instance.to_string()).bind(policy.to_string());
        Ok(self.maybe(select.bind(rule.to_owned())).await?.is_some())
    }

    /// Whether a backup that has not ended is made from a snapshot.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn snapshot_used(&mut self, snapshot: &InstanceSnapshot) -> Result<bool> {
        let sql = "SELECT spec FROM tasks WHERE instance_id = $1 AND kind || '' = 'backup' \
                   AND state IN ('queued', 'running')";
        let select = sqlx::query(sql).bind(snapshot.new.instance.to_string());
        let id = snapshot.id.to_string();
        for row in self.all(select).await? {
            let spec: serde_json::Value = row.json("spec")?;
            if spec["snapshot"]["kept"] == id.as_str() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lets a task go on at no other node than this.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn bind_to_node(&mut self, task: TaskId, node: NodeId) -> Result<()> {
        let update = sqlx::query("UPDATE tasks SET wanted_node = $1 WHERE id = $2");
        self.run(update.bind(node.to_string()).bind(task.to_string())).await.map(drop)
    }

    /// Notes that a snapshot is there, if it was requested; returns whether it was.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn snapshot_made(
        &mut self,
        id: SnapshotId,
        node: NodeId,
        (made_ms, images): (u64, &[SnapshotImage]),
        now_ms: u64,
    ) -> Result<bool> {
        let sql = "UPDATE snapshots SET state = 'ready', node_id = $1, made_ms = $2, \
                   images = $3, message = '', updated_ms = $4, revision = revision + 1 \
                   WHERE id = $5 AND state = 'requested'";
        let update = sqlx::query(sql)
            .bind(node.to_string())
            .bind(number(made_ms))
            .bind(document(&images))
            .bind(number(now_ms))
            .bind(id.to_string());
        Ok(self.run(update).await? > 0)
    }

    /// Notes that a snapshot is to go, by this task on this node; returns whether it was as it was
    /// read: of two who want it removed, one is told so.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn snapshot_goes(
        &mut self,
        one: &InstanceSnapshot,
        (node, task): (NodeId, TaskId),
        message: &str,
        now_ms: u64,
    ) -> Result<bool> {
        let sql = "UPDATE snapshots SET state = 'removing', node_id = $1, task_id = $2, \
                   message = $3, updated_ms = $4, revision = revision + 1 \
                   WHERE id = $5 AND state = $6 AND task_id = $7 AND state <> 'gone'";
        let update = sqlx::query(sql)
            .bind(node.to_string())
            .bind(task.to_string())
            .bind(message.to_owned())
            .bind(number(now_ms))
            .bind(one.id.to_string())
            .bind(one.state.word())
            .bind(one.new.task.to_string());
        Ok(self.run(update).await? > 0)
    }

    /// Notes that nothing of a snapshot is left; with a message, why.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn snapshot_gone(
        &mut self,
        id: SnapshotId,
        message: Option<&str>,
        now_ms: u64,
    ) -> Result<()> {
        let sql = "UPDATE snapshots SET state = 'gone', message = COALESCE($1, message), \
                   updated_ms = $2, revision = revision + 1 WHERE id = $3 AND state <> 'gone'";
        let update = sqlx::query(sql).bind(message.map(str::to_owned)).bind(number(now_ms));
        self.run(update.bind(id.to_string())).await.map(drop)
    }
}

//! Mounted restore points: what is wanted, and what the nodes told of it.
//!
//! A state is changed by a statement that names the states it may come from, so that of two who
//! change it at the same time one finds it changed.

use serde_json::Value;
use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, document, number, query, text_of};
use crate::error::{CatalogError, ErrorKind, Result};
use crate::found::Found;
use crate::id::{MountId, NodeId, TaskId};
use crate::listed::Listed;
use crate::model::grant::Resource;
use crate::model::mount::{Mount, MountFilter, MountState, NewMount};
use crate::record::Page;
use crate::visible::{Visible, Whose};

const COLUMNS: &str = "id, project_id, instance_id, point_id, destination_id, node_id, task_id, \
    state, lease_end_ms, revision, created_ms, updated_ms, spec, place, message";
/// Mounts that are looked at in one go.
const LOOKED_AT: i64 = 500;

impl Mount {
    fn read(row: &AnyRow) -> Result<Self> {
        let state = MountState::from_word(&row.text("state")?)
            .ok_or_else(|| CatalogError::new(ErrorKind::Damaged, "a mount of unknown state"))?;
        Ok(Self {
            id: row.id("id")?,
            new: NewMount {
                project: row.maybe_id("project_id")?,
                instance: row.id("instance_id")?,
                point: row.id("point_id")?,
                destination: row.id("destination_id")?,
                node: row.id("node_id")?,
                lease_end_ms: row.count("lease_end_ms")?,
                spec: row.json("spec")?,
            },
            state,
            task: row.maybe_id("task_id")?,
            place: row.json("place")?,
            message: row.text("message")?,
            revision: row.count("revision")?,
            created_ms: row.count("created_ms")?,
            updated_ms: row.count("updated_ms")?,
        })
    }
}

impl Tx {
    /// Adds a mount that is requested.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_mount(&mut self, id: MountId, new: &NewMount, now_ms: u64) -> Result<()> {
        let sql = format!(
            "INSERT INTO mounts ({COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6, '', 'requested', $7, \
             1, $8, $8, $9, 'null', '')"
        );
        let insert = query(sql)
            .bind(id.to_string())
            .bind(text_of(new.project))
            .bind(new.instance.to_string())
            .bind(new.point.to_string())
            .bind(new.destination.to_string())
            .bind(new.node.to_string())
            .bind(number(new.lease_end_ms))
            .bind(number(now_ms))
            .bind(document(&new.spec));
        self.run(insert).await.map(drop)
    }

    /// A mount, if the caller may know of it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when there is none, or the caller may not know.
    pub async fn mount(&mut self, id: MountId, visible: &Visible) -> Result<Mount> {
        let sql = format!("SELECT {COLUMNS} FROM mounts WHERE id = $1");
        let row = self.maybe(query(sql).bind(id.to_string())).await?;
        let mount = row.map(|row| Mount::read(&row)).transpose()?;
        mount
            .filter(|mount| {
                visible.sees(mount.new.project, Some(Resource::Instance(mount.new.instance)))
            })
            .ok_or_else(|| CatalogError::not_found(format_args!("mount {id}")))
    }

    /// The mounts that the caller may know of, newest first. `page.after` is the oldest one shown
    /// so far.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn mounts(
        &mut self,
        visible: &Visible,
        filter: &MountFilter,
        page: &Page,
    ) -> Result<Vec<Mount>> {
        self.mounts_found(visible, filter, page).await?.whole()
    }

    /// The same, with those that cannot be read apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn mounts_found(
        &mut self,
        visible: &Visible,
        filter: &MountFilter,
        page: &Page,
    ) -> Result<Found<Mount>> {
        let visible = visible.of_project(filter.project);
        let list = match filter.oldest_first {
            true => Listed::oldest("mounts", COLUMNS),
            false => Listed::newest("mounts", COLUMNS),
        };
        let list = list
            .of("instance_id", text_of(filter.instance))
            .also("node_id", text_of(filter.node))
            .also("destination_id", text_of(filter.destination))
            .also("project_id", text_of(filter.project));
        let list = match filter.state {
            Some(state) => list.with("state", state.word().to_owned()),
            None => list.only("state <> 'gone'"),
        };
        let whose = (&visible, &Whose::OF_INSTANCE);
        let rows = self.page_within(list, whose, page, &filter.added).await?;
        Found::by_id(&rows, page.limit, Mount::read)
    }

    /// What a node has, or is to have: all that is not gone. Those that cannot be read are apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn mounts_of_node(&mut self, node: NodeId) -> Result<Found<Mount>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM mounts WHERE node_id = $1 AND state <> 'gone' ORDER BY id"
        );
        let rows = self.all(query(sql).bind(node.to_string())).await?;
        Found::apart(&rows, Mount::read)
    }

    /// Mounts that the server must look at: those that are on their way to be there or to be
    /// gone, and those whose lease is over. Those that cannot be read are apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn mounts_to_settle(&mut self, now_ms: u64) -> Result<Found<Mount>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM mounts WHERE state IN ('requested', 'releasing') \
             OR (state IN ('ready', 'failed') AND lease_end_ms <= $1) ORDER BY id LIMIT {LOOKED_AT}"
        );
        let rows = self.all(query(sql).bind(number(now_ms))).await?;
        Found::apart(&rows, Mount::read)
    }

    /// Changes the state of a mount, if it is in one of `from`; returns whether it was. What the
    /// node told of its `place` stays where there is nothing new.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn change_mount(
        &mut self,
        id: MountId,
        from: &[MountState],
        to: MountState,
        place: Option<&Value>,
        message: &str,
        now_ms: u64,
    ) -> Result<bool> {
        let places: Vec<String> = (6..6 + from.len()).map(|n| format!("${n}")).collect();
        let sql = format!(
            "UPDATE mounts SET state = $1, place = COALESCE($2, place), message = $3, \
             updated_ms = $4, revision = revision + 1 WHERE id = $5 AND state IN ({})",
            places.join(", ")
        );
        let mut update = query(sql)
            .bind(to.word())
            .bind(place.map(document))
            .bind(message.to_owned())
            .bind(number(now_ms))
            .bind(id.to_string());
        for state in from {
            update = update.bind(state.word());
        }
        Ok(self.run(update).await? > 0)
    }

    /// Notes the task that makes or ends a mount.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_mount_task(&mut self, id: MountId, task: TaskId) -> Result<()> {
        let update = sqlx::query("UPDATE mounts SET task_id = $1 WHERE id = $2");
        self.run(update.bind(task.to_string()).bind(id.to_string())).await.map(drop)
    }

    /// Gives a mount another end.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] when it is ending or has ended.
    pub async fn renew_mount(&mut self, id: MountId, end_ms: u64, now_ms: u64) -> Result<()> {
        let sql = "UPDATE mounts SET lease_end_ms = $1, updated_ms = $2, revision = revision + 1 \
                   WHERE id = $3 AND state IN ('requested', 'ready', 'failed')";
        let update = sqlx::query(sql).bind(number(end_ms)).bind(number(now_ms));
        if self.run(update.bind(id.to_string())).await? == 0 {
            let text = "this mount is ending, or has ended";
            return Err(CatalogError::new(ErrorKind::Conflict, text));
        }
        Ok(())
    }
}

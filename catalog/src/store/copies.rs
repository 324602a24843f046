//! Copies of restore points: which there are, and the tasks that make them.

use std::collections::BTreeSet;

use crate::db::{Columns, Tx, number, query};
use crate::error::Result;
use crate::id::{DestinationId, InstanceId, PointId, TaskId};
use crate::model::point::Point;

/// Values in one statement.
const AT_ONCE: usize = 500;

impl Tx {
    /// Says where a task reads beside its destination.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_from(&mut self, id: TaskId, from: DestinationId) -> Result<()> {
        let sql = "UPDATE tasks SET from_id = $1 WHERE id = $2";
        let update = sqlx::query(sql).bind(from.to_string()).bind(id.to_string());
        self.run(update).await.map(drop)
    }

    /// Whether a copy of an instance's restore points from one destination to another waits to be
    /// begun.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn copy_waits(
        &mut self,
        instance: InstanceId,
        (from, to): (DestinationId, DestinationId),
    ) -> Result<bool> {
        let sql = "SELECT id FROM tasks WHERE instance_id = $1 AND state = 'queued' \
                   AND kind || '' = 'copy' AND destination_id || '' = $2 AND from_id = $3 LIMIT 1";
        let select = sqlx::query(sql).bind(instance.to_string()).bind(to.to_string());
        Ok(self.maybe(select.bind(from.to_string())).await?.is_some())
    }

    /// A restore point by its name at a destination, also if it is gone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn point_named(
        &mut self,
        destination: DestinationId,
        name: &str,
    ) -> Result<Option<Point>> {
        let sql = format!(
            "SELECT {} FROM points WHERE destination_id = $1 AND point = $2",
            Point::COLUMNS
        );
        let select = query(sql).bind(destination.to_string()).bind(name.to_owned());
        self.maybe(select).await?.map(|row| Point::read(&row)).transpose()
    }

    /// Notes of which restore point another one is a copy.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_copy_of(
        &mut self,
        destination: DestinationId,
        name: &str,
        original: PointId,
    ) -> Result<()> {
        let sql = "UPDATE points SET copy_of = $1 WHERE destination_id = $2 AND point = $3";
        let update = sqlx::query(sql).bind(original.to_string()).bind(destination.to_string());
        self.run(update.bind(name.to_owned())).await.map(drop)
    }

    /// All that holds the same as a restore point and is there: itself first, then the original,
    /// then copies, oldest first.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn holders(&mut self, point: &Point) -> Result<Vec<Point>> {
        let original = point.copy_of.unwrap_or(point.id).to_string();
        let sql = format!(
            "SELECT {} FROM points WHERE (id = $1 OR (copy_of = $1 AND copy_of <> '')) \
             AND removed_ms IS NULL ORDER BY copy_of, id",
            Point::COLUMNS
        );
        let rows = self.all(query(sql).bind(original)).await?;
        let mut found = rows.iter().map(Point::read).collect::<Result<Vec<_>>>()?;
        found.sort_by_key(|one| one.id != point.id);
        Ok(found)
    }

    /// The copies of restore points that are there.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn copies_of(&mut self, originals: &[PointId]) -> Result<Vec<Point>> {
        let mut found = Vec::new();
        for part in originals.chunks(AT_ONCE) {
            let places: Vec<String> = (1..=part.len()).map(|at| format!("${at}")).collect();
            let sql = format!(
                "SELECT {} FROM points WHERE copy_of IN ({}) AND copy_of <> '' \
                 AND removed_ms IS NULL ORDER BY id",
                Point::COLUMNS,
                places.join(", ")
            );
            let select = part.iter().fold(query(sql), |query, id| query.bind(id.to_string()));
            for row in self.all(select).await? {
                found.push(Point::read(&row)?);
            }
        }
        Ok(found)
    }

    /// Notes that of the copies of an instance's restore points at a destination only these are
    /// left. Other restore points of it there are not looked at.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn copies_left(
        &mut self,
        destination: DestinationId,
        instance: InstanceId,
        left: &BTreeSet<String>,
        now_ms: u64,
    ) -> Result<u64> {
        let sql = "SELECT point FROM points WHERE instance_id = $1 AND destination_id || '' = $2 \
                   AND copy_of <> '' AND removed_ms IS NULL";
        let select = sqlx::query(sql).bind(instance.to_string()).bind(destination.to_string());
        let mut gone = Vec::new();
        for row in self.all(select).await? {
            gone.extend(Some(row.text("point")?).filter(|name| !left.contains(name)));
        }
        if gone.is_empty() {
            return Ok(0);
        }
        self.points_removed(destination, &gone, now_ms).await
    }

    /// What moment the oldest restore point at a destination holds that is later than another
    /// moment, both in milliseconds since 1970.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn first_point_after(
        &mut self,
        instance: InstanceId,
        destination: DestinationId,
        after_ms: u64,
    ) -> Result<Option<u64>> {
        let sql = "SELECT taken_ms FROM points WHERE instance_id = $1 AND taken_ms > $2 \
                   AND destination_id || '' = $3 AND removed_ms IS NULL \
                   ORDER BY taken_ms LIMIT 1";
        let select = sqlx::query(sql).bind(instance.to_string()).bind(number(after_ms));
        let row = self.maybe(select.bind(destination.to_string())).await?;
        row.map(|row| row.count("taken_ms")).transpose()
    }

    /// Lets a mount show what another destination holds of the same.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn move_mount(&mut self, id: crate::MountId, to: &Point) -> Result<()> {
        let mut mount = self.mount(id, &crate::Visible::All).await?;
        mount.new.spec.point.clone_from(&to.new.point);
        let sql = "UPDATE mounts SET point_id = $1, destination_id = $2, spec = $3, \
                   revision = revision + 1 WHERE id = $4";
        let update = sqlx::query(sql)
            .bind(to.id.to_string())
            .bind(to.new.destination.to_string())
            .bind(crate::db::document(&mount.new.spec))
            .bind(id.to_string());
        self.run(update).await.map(drop)
    }
}

//! How restore points were made, and what verifications found of them.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::any::AnyRow;

use crate::db::{Columns, Query, Tx, number, query, text_of};
use crate::error::Result;
use crate::found::Found;
use crate::id::{DestinationId, InstanceId, PointId, ProjectId};
use crate::model::point::Point;
use crate::model::proof::{BackupType, VerifyDepth};
use crate::visible::{Visible, Whose};

/// Restore points that are named in one statement.
const AT_ONCE: usize = 500;
/// Damage that is told of at a time: nobody reads more.
const TOLD: u32 = 1000;

/// What a verification looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked<'a> {
    /// Where.
    pub destination: DestinationId,
    /// The only instance; all without.
    pub instance: Option<InstanceId>,
    /// The only restore point; all without.
    pub point: Option<&'a str>,
    /// How deep.
    pub depth: VerifyDepth,
    /// What is younger was not looked at, in milliseconds since 1970.
    pub before_ms: u64,
    /// The names of all that was there and was looked at. When that is not known, nothing is
    /// proven but the only restore point.
    pub seen: Option<&'a BTreeSet<String>>,
}

impl Checked<'_> {
    /// Those that it was to look at: four values. Of one instance, these are found by it.
    fn scope(&self) -> String {
        let of = match self.instance {
            Some(_) => "destination_id || '' = $1 AND instance_id = $2",
            None => "destination_id = $1 AND $2 = ''",
        };
        format!("{of} AND ($3 = '' OR point = $3) AND id < $4 AND removed_ms IS NULL")
    }

    /// With the values of [`Checked::scope`].
    fn scoped(&self, statement: Query, before: &str) -> Query {
        statement
            .bind(self.destination.to_string())
            .bind(text_of(self.instance))
            .bind(self.point.unwrap_or_default().to_owned())
            .bind(before.to_owned())
    }
}

/// Places for so many values.
fn places(first: usize, many: usize) -> String {
    let all: Vec<String> = (first..first + many).map(|at| format!("${at}")).collect();
    all.join(", ")
}

impl Tx {
    /// Notes what a restore point's backup took for granted.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_backup_type(
        &mut self,
        destination: DestinationId,
        point: &str,
        backup_type: BackupType,
    ) -> Result<()> {
        let sql = "UPDATE points SET backup_type = $1 WHERE destination_id = $2 AND point = $3";
        let update = sqlx::query(sql).bind(backup_type.word()).bind(destination.to_string());
        self.run(update.bind(point.to_owned())).await.map(drop)
    }

    /// Notes what a verification found: what it looked at and did not find damaged is sound, and
    /// what it should have looked at and did not is unproven. Damage is gone where as much was
    /// read again: after a sample or all data, all data; after a look at the structure, anything.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn set_proofs(
        &mut self,
        looked: Checked<'_>,
        damaged: &BTreeSet<String>,
        now_ms: u64,
    ) -> Result<()> {
        for point in damaged {
            let sql = "UPDATE points SET proof_ms = CASE WHEN proof = 'damaged' THEN proof_ms \
                       ELSE $1 END, proof_depth = CASE WHEN proof = 'damaged' AND \
                       proof_depth <> 'structure' THEN proof_depth ELSE $2 END, proof = 'damaged' \
                       WHERE destination_id = $3 AND point = $4";
            let update = sqlx::query(sql)
                .bind(number(now_ms))
                .bind(looked.depth.word())
                .bind(looked.destination.to_string());
            self.run(update.bind(point.clone())).await?;
        }
        // Ids begin with the time, to the millisecond.
        let before = PointId::new(looked.before_ms).to_string()[..13].to_owned();
        self.unprove(&looked, &before).await?;
        // What was found damaged just now stays so.
        let sound: Vec<&str> = match (looked.seen, looked.point) {
            (Some(seen), _) => seen.difference(damaged).map(String::as_str).collect(),
            (None, Some(point)) if !damaged.contains(point) => vec![point],
            (None, _) => Vec::new(),
        };
        let heals = match looked.depth {
            VerifyDepth::Data => "",
            _ => "AND (proof <> 'damaged' OR proof_depth = 'structure')",
        };
        for part in sound.chunks(AT_ONCE) {
            let sql = format!(
                "UPDATE points SET proof = 'sound', proof_depth = $5, proof_ms = $6 \
                 WHERE {} AND point IN ({}) {heals}",
                looked.scope(),
                places(7, part.len())
            );
            let update = looked.scoped(query(sql), &before);
            let update = update.bind(looked.depth.word()).bind(number(now_ms));
            let update = part.iter().fold(update, |update, point| update.bind((*point).to_owned()));
            self.run(update).await?;
        }
        Ok(())
    }

    /// Takes back what was known of restore points that should have been looked at and were not
    /// there. Damage stays noted.
    async fn unprove(&mut self, looked: &Checked<'_>, before: &str) -> Result<()> {
        let Some(seen) = looked.seen else { return Ok(()) };
        let sql = format!("SELECT point FROM points WHERE {} AND proof = 'sound'", looked.scope());
        let mut lost = Vec::new();
        for row in self.all(looked.scoped(query(sql), before)).await? {
            lost.extend(Some(row.text("point")?).filter(|point| !seen.contains(point)));
        }
        for part in lost.chunks(AT_ONCE) {
            let sql = format!(
                "UPDATE points SET proof = '', proof_depth = '', proof_ms = NULL \
                 WHERE {} AND point IN ({})",
                looked.scope(),
                places(5, part.len())
            );
            let update = looked.scoped(query(sql), before);
            let update = part.iter().fold(update, |update, point| update.bind(point.clone()));
            self.run(update).await?;
        }
        Ok(())
    }

    /// The names of restore points at a destination by what stands behind the `@` of them: of one
    /// whose record cannot be read nothing else is known.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn points_with_id(
        &mut self,
        destination: DestinationId,
        id: &str,
    ) -> Result<Vec<String>> {
        let sql = "SELECT point FROM points WHERE destination_id = $1 AND removed_ms IS NULL \
                   AND substr(point, length(point) - length($2) + 1) = $2";
        let select = sqlx::query(sql).bind(destination.to_string()).bind(format!("@{id}"));
        self.all(select).await?.iter().map(|row| row.text("point")).collect()
    }

    /// The restore points that are damaged and that the caller may know of, oldest record first; of
    /// one project when it is named.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn damaged_points(
        &mut self,
        visible: &Visible,
        project: Option<ProjectId>,
    ) -> Result<Vec<Point>> {
        let (may, values) = visible.sieve(&Whose::OF_INSTANCE, 2);
        // Put in order by the database, all restore points would be read in that order.
        let sql = format!(
            "SELECT {} FROM points WHERE proof = 'damaged' AND proof_ms >= 0 \
             AND removed_ms IS NULL AND ($1 = '' OR project_id = $1) AND {may}",
            Point::COLUMNS
        );
        let select = query(sql).bind(text_of(project));
        let rows = self.all(values.into_iter().fold(select, Query::bind)).await?;
        let mut points = rows.iter().map(Point::read).collect::<Result<Vec<_>>>()?;
        points.sort_unstable_by_key(|point| point.id);
        Ok(points)
    }

    /// The restore points that were found damaged since a time, in the order in which they were, as
    /// many as are told of at a time; with those that cannot be read apart.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn damaged_since(&mut self, since_ms: u64) -> Result<Found<Point>> {
        let sql = format!(
            "SELECT {} FROM points WHERE proof = 'damaged' AND removed_ms IS NULL \
             AND proof_ms >= $1 ORDER BY proof_ms LIMIT {TOLD}",
            Point::COLUMNS
        );
        let rows = self.all(query(sql).bind(number(since_ms))).await?;
        Found::apart(&rows, Point::read)
    }

    /// All restore points of these instances that hold the latest moment of theirs: the newest, and
    /// its copies.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn newest_held(&mut self, instances: &[InstanceId]) -> Result<Vec<Point>> {
        let mut found = Vec::with_capacity(instances.len());
        for part in instances.chunks(AT_ONCE) {
            let sql = format!(
                "SELECT {} FROM points WHERE instance_id IN ({}) AND removed_ms IS NULL \
                 AND taken_ms = (SELECT MAX(one.taken_ms) FROM points one \
                 WHERE one.instance_id = points.instance_id AND one.removed_ms IS NULL) \
                 ORDER BY id",
                Point::COLUMNS,
                places(1, part.len())
            );
            let select = part.iter().fold(query(sql), |select, id| select.bind(id.to_string()));
            for row in self.all(select).await? {
                found.push(Point::read(&row)?);
            }
        }
        Ok(found)
    }

    /// Of each of these instances the restore point at a destination that holds the latest moment.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn newest_points(
        &mut self,
        destination: DestinationId,
        instances: &[InstanceId],
    ) -> Result<Vec<Point>> {
        let mut found = Vec::with_capacity(instances.len());
        for part in instances.chunks(AT_ONCE) {
            let sql = format!(
                "SELECT {} FROM points WHERE id IN (SELECT (SELECT one.id FROM points one \
                 WHERE one.instance_id = instances.id AND one.destination_id || '' = $1 \
                 AND one.removed_ms + 0 IS NULL \
                 ORDER BY one.taken_ms DESC, one.copy_of, one.id DESC LIMIT 1) FROM instances \
                 WHERE instances.id IN ({}))",
                Point::COLUMNS,
                places(2, part.len())
            );
            let select = query(sql).bind(destination.to_string());
            let select = part.iter().fold(select, |select, id| select.bind(id.to_string()));
            for row in self.all(select).await? {
                found.push(Point::read(&row)?);
            }
        }
        Ok(found)
    }

    /// Those of these instances of which any restore point at a destination was proven sound.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn proven_of(
        &mut self,
        destination: DestinationId,
        instances: &[InstanceId],
    ) -> Result<BTreeSet<InstanceId>> {
        let mut proven = BTreeSet::new();
        for part in instances.chunks(AT_ONCE) {
            let sql = format!(
                "SELECT id FROM instances WHERE id IN ({}) AND EXISTS (SELECT 1 FROM points \
                 WHERE points.instance_id = instances.id AND destination_id || '' = $1 \
                 AND proof = 'sound' AND removed_ms IS NULL)",
                places(2, part.len())
            );
            let select = query(sql).bind(destination.to_string());
            let select = part.iter().fold(select, |select, id| select.bind(id.to_string()));
            for row in self.all(select).await? {
                proven.insert(row.id("id")?);
            }
        }
        Ok(proven)
    }

    /// What moment the newest restore point holds of each instance whose backup took nothing for
    /// granted, in milliseconds since 1970: of those that the caller may know of, and of one
    /// project when it is named.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn last_full(
        &mut self,
        visible: &Visible,
        project: Option<ProjectId>,
    ) -> Result<BTreeMap<InstanceId, u64>> {
        let (may, values) = visible.sieve(&Whose::OF_INSTANCE, 2);
        let sql = format!(
            "SELECT instance_id, MAX(taken_ms) AS at_ms FROM points WHERE backup_type = 'full' \
             AND removed_ms IS NULL AND ($1 = '' OR project_id = $1) AND {may} \
             GROUP BY instance_id"
        );
        let select = query(sql).bind(text_of(project));
        let read = |row: &AnyRow| Ok((row.id("instance_id")?, row.count("at_ms")?));
        self.all(values.into_iter().fold(select, Query::bind)).await?.iter().map(read).collect()
    }

    /// Whether a verification of an instance's restore points waits or runs that became due by a
    /// key which begins like this.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_verified(&mut self, instance: InstanceId, due_key: &str) -> Result<bool> {
        let sql = "SELECT id FROM tasks WHERE instance_id = $1 AND state IN ('queued', 'running') \
                   AND kind || '' = 'verify' AND substr(due_key, 1, length($2)) = $2 LIMIT 1";
        let select = sqlx::query(sql).bind(instance.to_string()).bind(due_key.to_owned());
        Ok(self.maybe(select).await?.is_some())
    }
}

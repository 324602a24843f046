//! The mirror of restore points.

use std::collections::BTreeSet;

use sqlx::any::AnyRow;

use crate::db::{Columns, Query, Tx, number, query, text_of};
use crate::error::{CatalogError, Result};
use crate::found::{Found, Span};
use crate::id::{DestinationId, InstanceId, PointId, ProjectId};
use crate::listed::Listed;
use crate::model::grant::Resource;
use crate::model::point::{NewPoint, Point, PointFilter};
use crate::model::proof::{BackupType, Proof, ProofState, VerifyDepth};
use crate::record::Page;
use crate::visible::{Visible, Whose};

const COLUMNS: &str = Point::COLUMNS;

impl Point {
    pub(crate) const COLUMNS: &str = "id, project_id, instance_id, destination_id, task_id, \
        point, taken_ms, image_bytes, new_bytes, stored_bytes, removed_ms, copy_of, backup_type, \
        proof, proof_depth, proof_ms";

    pub(crate) fn read(row: &AnyRow) -> Result<Self> {
        Ok(Self {
            id: row.id("id")?,
            instance: row.id("instance_id")?,
            project: row.maybe_id("project_id")?,
            new: NewPoint {
                destination: row.id("destination_id")?,
                task: row.maybe_id("task_id")?,
                point: row.text("point")?,
                taken_ms: row.count("taken_ms")?,
                image_bytes: row.count("image_bytes")?,
                new_bytes: row.count("new_bytes")?,
                stored_bytes: row.count("stored_bytes")?,
            },
            copy_of: row.maybe_id("copy_of")?,
            backup_type: BackupType::from_word(&row.text("backup_type")?),
            proof: proof(row)?,
            removed_ms: row.maybe_count("removed_ms")?,
        })
    }
}

/// What was found of a restore point, as far as this release knows the words.
fn proof(row: &AnyRow) -> Result<Option<Proof>> {
    let state = ProofState::from_word(&row.text("proof")?);
    let depth = VerifyDepth::from_word(&row.text("proof_depth")?);
    let found = state.zip(depth).zip(row.maybe_count("proof_ms")?);
    Ok(found.map(|((state, depth), at_ms)| Proof { state, depth, at_ms }))
}

/// A list of what is there of what is asked for: that of an instance is narrowest.
pub(crate) fn listed(list: Listed, filter: &PointFilter) -> Listed {
    let list = list.only("removed_ms IS NULL").of_first(&[
        ("instance_id", text_of(filter.instance)),
        ("destination_id", text_of(filter.destination)),
    ]);
    match list.is_narrow() {
        true => list.also("project_id", text_of(filter.project)),
        false => list.with("project_id", text_of(filter.project)),
    }
}

/// Where a list in the order of moments begins: behind a moment and an id.
fn begin(after: &str) -> Result<(u64, String)> {
    let parts = after.split_once('.').and_then(|(ms, id)| Some((ms.parse().ok()?, id.to_owned())));
    parts.ok_or_else(|| CatalogError::invalid("after is what next of the part before says"))
}

impl Tx {
    /// Notes a restore point; one that is known already stays as it is.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn add_point(
        &mut self,
        instance: InstanceId,
        project: Option<ProjectId>,
        new: &NewPoint,
        now_ms: u64,
    ) -> Result<()> {
        let sql = format!(
            "INSERT INTO points ({COLUMNS}) VALUES \
             ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, NULL, '', '', '', '', NULL) \
             ON CONFLICT (destination_id, point) DO NOTHING"
        );
        let insert = query(sql)
            .bind(PointId::new(now_ms).to_string())
            .bind(text_of(project))
            .bind(instance.to_string())
            .bind(new.destination.to_string())
            .bind(text_of(new.task))
            .bind(new.point.clone())
            .bind(number(new.taken_ms))
            .bind(number(new.image_bytes))
            .bind(number(new.new_bytes))
            .bind(number(new.stored_bytes));
        self.run(insert).await.map(drop)
    }

    /// The restore points that the caller may know of, oldest record first; those of one instance
    /// when it is named. What was removed is left out.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn points(
        &mut self,
        visible: &Visible,
        instance: Option<InstanceId>,
        page: &Page,
    ) -> Result<Vec<Point>> {
        let filter = PointFilter { instance, ..PointFilter::default() };
        self.points_found(visible, &filter, page).await?.whole()
    }

    /// The restore points that the caller may know of, by more than their instance, with those
    /// that cannot be read apart. What was removed is left out.
    ///
    /// # Errors
    /// Those of the database, and [`crate::ErrorKind::Invalid`] when the page begins nowhere.
    pub async fn points_found(
        &mut self,
        visible: &Visible,
        filter: &PointFilter,
        page: &Page,
    ) -> Result<Found<Point>> {
        let visible = visible.of_project(filter.project);
        let whose = (&visible, &Whose::OF_INSTANCE);
        let timed = filter.taken != Span::default() || filter.destination.is_some();
        if filter.newest_first.is_none() && !timed {
            let list = listed(Listed::oldest("points", COLUMNS), filter);
            let rows = self.page(list, whose, page).await?;
            return Found::by_id(&rows, page.limit, Point::read);
        }
        let newest_first = filter.newest_first == Some(true);
        let (after_ms, after_id) = match &page.after {
            Some(after) => begin(after)?,
            None if newest_first => (filter.taken.until_ms.unwrap_or(u64::MAX), String::new()),
            None => (filter.taken.since_ms.unwrap_or(0), String::new()),
        };
        let list = match newest_first {
            true => Listed::newest("points", COLUMNS),
            false => Listed::oldest("points", COLUMNS),
        };
        let mut list = listed(list.by_time("taken_ms", after_id), filter);
        let bounds = [(">=", filter.taken.since_ms), ("<", filter.taken.until_ms)];
        for (sign, bound) in bounds {
            if let Some(bound) = bound {
                let condition = format!("taken_ms {sign} CAST(? AS BIGINT)");
                list = list.holds(&condition, number(bound).to_string());
            }
        }
        let after = |select: Query| select.bind(number(after_ms));
        let rows = self.page_after(list, whose, after, page.limit).await?;
        Found::of(&rows, page.limit, Point::read, |row| {
            Ok(format!("{}.{}", row.count("taken_ms")?, row.text("id")?))
        })
    }

    /// A restore point, if the caller may know of it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::NotFound`] when there is none, or the caller may not know.
    pub async fn point(&mut self, id: PointId, visible: &Visible) -> Result<Point> {
        let sql = format!("SELECT {COLUMNS} FROM points WHERE id = $1");
        let row = self.maybe(query(sql).bind(id.to_string())).await?;
        let point = row.map(|row| Point::read(&row)).transpose()?;
        point
            .filter(|point| visible.sees(point.project, Some(Resource::Instance(point.instance))))
            .ok_or_else(|| CatalogError::not_found(format_args!("restore point {id}")))
    }

    /// Whether a restore point of a destination is noted, also if it is gone.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn point_known(&mut self, destination: DestinationId, point: &str) -> Result<bool> {
        let sql = "SELECT id FROM points WHERE destination_id = $1 AND point = $2";
        let select = sqlx::query(sql).bind(destination.to_string()).bind(point.to_owned());
        Ok(self.maybe(select).await?.is_some())
    }

    /// Notes that restore points are gone from a destination.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn points_removed(
        &mut self,
        destination: DestinationId,
        points: &[String],
        now_ms: u64,
    ) -> Result<u64> {
        let mut removed = 0;
        for point in points {
            let sql = "UPDATE points SET removed_ms = $1 \
                       WHERE destination_id = $2 AND point = $3 AND removed_ms IS NULL";
            let update = sqlx::query(sql).bind(number(now_ms)).bind(destination.to_string());
            removed += self.run(update.bind(point.clone())).await?;
        }
        self.last_good_again(destination, now_ms).await?;
        Ok(removed)
    }

    /// Notes that of the restore points at a destination, those of one instance or of all, that
    /// were known before a time, only these are left. Names of instances of which nothing is left
    /// say nothing: they may not have been looked at.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn points_left(
        &mut self,
        (destination, instance): (DestinationId, Option<InstanceId>),
        left: &BTreeSet<String>,
        known_before_ms: u64,
        now_ms: u64,
    ) -> Result<u64> {
        let chain = |point: &str| point.split('@').next().unwrap_or_default().to_owned();
        let chains: BTreeSet<String> = left.iter().map(|point| chain(point)).collect();
        let of = if instance.is_some() { "AND instance_id = $3" } else { "AND $3 = ''" };
        let sql = format!(
            "SELECT point FROM points WHERE destination_id = $1 AND removed_ms IS NULL \
             AND id < $2 {of}"
        );
        // Ids begin with the time, to the millisecond; what is of the same one stays.
        let before = PointId::new(known_before_ms).to_string()[..13].to_owned();
        let select = query(sql).bind(destination.to_string()).bind(before).bind(text_of(instance));
        let mut gone = Vec::new();
        for row in self.all(select).await? {
            let point = row.text("point")?;
            if chains.contains(&chain(&point)) && !left.contains(&point) {
                gone.push(point);
            }
        }
        self.points_removed(destination, &gone, now_ms).await
    }

    /// What is the last good backup now?
    async fn last_good_again(&mut self, destination: DestinationId, now_ms: u64) -> Result<()> {
        let sql = "UPDATE held SET last_good_ms = COALESCE((SELECT MAX(p.taken_ms) FROM points p \
                   WHERE p.instance_id = held.instance_id \
                   AND p.destination_id || '' = held.destination_id \
                   AND p.removed_ms IS NULL), 0) \
                   WHERE destination_id = $1 AND instance_id IN (SELECT instance_id FROM points \
                   WHERE removed_ms = $2)";
        let update = sqlx::query(sql).bind(destination.to_string()).bind(number(now_ms));
        self.run(update).await.map(drop)
    }
}

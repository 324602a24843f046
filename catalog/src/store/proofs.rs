//! How restore points were made, and what verifications found of them.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::any::AnyRow;

use crate::db::{Columns, Tx, number, query, text_of};
use crate::error::Result;
use crate::id::{DestinationId, InstanceId, PointId};
use crate::model::point::Point;
use crate::model::proof::{BackupType, VerifyDepth};

/// Damaged restore points that are named in one statement. Where there are more, nothing is taken
/// for healed.
const MOST_NAMED: usize = 1000;

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

    /// Notes what a verification found. Damage is gone where as much was read again: after a
    /// sample or all data, all data; after a look at the structure, anything.
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
        // What was found damaged just now stays so.
        let many = damaged.len() > MOST_NAMED;
        let named: Vec<&String> = damaged.iter().filter(|_| !many).collect();
        let heals = match looked.depth {
            _ if many => "AND proof <> 'damaged'",
            VerifyDepth::Data => "",
            _ => "AND (proof <> 'damaged' OR proof_depth = 'structure')",
        };
        let places: Vec<String> = (0..named.len()).map(|at| format!("${}", at + 7)).collect();
        let others = match places.is_empty() {
            true => String::new(),
            false => format!("AND point NOT IN ({})", places.join(", ")),
        };
        let sql = format!(
            "UPDATE points SET proof = 'sound', proof_depth = $1, proof_ms = $2 \
             WHERE destination_id = $3 AND ($4 = '' OR instance_id = $4) \
             AND ($5 = '' OR point = $5) AND id < $6 AND removed_ms IS NULL {others} {heals}"
        );
        // Ids begin with the time, to the millisecond.
        let before = PointId::new(looked.before_ms).to_string()[..13].to_owned();
        let update = query(sql)
            .bind(looked.depth.word())
            .bind(number(now_ms))
            .bind(looked.destination.to_string())
            .bind(text_of(looked.instance))
            .bind(looked.point.unwrap_or_default().to_owned())
            .bind(before);
        let update = named.into_iter().fold(update, |update, point| update.bind(point.clone()));
        self.run(update).await.map(drop)
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

    /// The restore points of an instance that are damaged, oldest record first; at one destination
    /// when it is named.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn damaged_points(
        &mut self,
        instance: Option<InstanceId>,
        destination: Option<DestinationId>,
    ) -> Result<Vec<Point>> {
        let sql = format!(
            "SELECT {} FROM points WHERE proof = 'damaged' AND removed_ms IS NULL \
             AND ($1 = '' OR instance_id = $1) AND ($2 = '' OR destination_id = $2) ORDER BY id",
            Point::COLUMNS
        );
        let select = query(sql).bind(text_of(instance)).bind(text_of(destination));
        let rows = self.all(select).await?;
        rows.iter().map(Point::read).collect()
    }

    /// What moment the newest restore point holds of each instance whose backup took nothing for
    /// granted, in milliseconds since 1970.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn last_full(&mut self) -> Result<BTreeMap<InstanceId, u64>> {
        let sql = "SELECT instance_id, MAX(taken_ms) AS at_ms FROM points \
                   WHERE backup_type = 'full' AND removed_ms IS NULL GROUP BY instance_id";
        let read = |row: &AnyRow| Ok((row.id("instance_id")?, row.count("at_ms")?));
        self.all(sqlx::query(sql)).await?.iter().map(read).collect()
    }

    /// Whether a verification of an instance's restore points at a destination waits or runs.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_verified(
        &mut self,
        instance: InstanceId,
        destination: DestinationId,
    ) -> Result<bool> {
        let sql = "SELECT id FROM tasks WHERE instance_id = $1 AND state IN ('queued', 'running') \
                   AND kind = 'verify' AND destination_id = $2 LIMIT 1";
        let select = sqlx::query(sql).bind(instance.to_string()).bind(destination.to_string());
        Ok(self.maybe(select).await?.is_some())
    }

    /// Whether any restore point of an instance at a destination was proven sound.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn any_proven(
        &mut self,
        instance: InstanceId,
        destination: DestinationId,
    ) -> Result<bool> {
        let sql = "SELECT id FROM points WHERE instance_id = $1 AND destination_id = $2 \
                   AND proof = 'sound' AND removed_ms IS NULL LIMIT 1";
        let select = sqlx::query(sql).bind(instance.to_string()).bind(destination.to_string());
        Ok(self.maybe(select).await?.is_some())
    }
}
